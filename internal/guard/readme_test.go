package guard

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the document shows of the protocol is the protocol.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../cmd/pghad-guard/README.md")
	require.NoError(t, err)
	requests, messages := 0, 0
	for line := range strings.Lines(string(text)) {
		if request, is := strings.CutPrefix(line, "< "); is {
			requests++
			_, err := decodeRequest([]byte(request))
			require.NoError(t, err, request)
		}
		if said, is := strings.CutPrefix(line, "> "); is {
			messages++
			var m message
			decoder := json.NewDecoder(strings.NewReader(said))
			decoder.DisallowUnknownFields()
			require.NoError(t, decoder.Decode(&m), said)
			again := new(bytes.Buffer)
			encoder := json.NewEncoder(again)
			require.NoError(t, encoder.Encode(m))
			require.JSONEq(t, said, again.String())
		}
	}
	require.Equal(t, 4, requests)
	require.Equal(t, 8, messages)
	for _, refusal := range []*Error{ErrBusy, ErrDenied, ErrRequest, ErrState, ErrPassed, ErrStart, ErrWatchdog} {
		require.Contains(t, string(text), "| `"+refusal.Code+"` |")
	}
	for _, state := range []State{StateIdle, StateRunning, StateStopping, StateGone} {
		require.Contains(t, string(text), "| `"+string(state)+"` |")
	}
	for _, kind := range []EventKind{EventPassed, EventExited, EventGone} {
		require.Contains(t, string(text), string(kind))
	}
}
