package guard

import (
	"bytes"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzMessage: whatever stands in for a guard says, the agent hears messages or the end
// of the connection, and keeps no more of it than a line.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"hello":{"version":1,"pid":7,"status":{"state":"running","writable":true,"left":"7s"}}}` + "\n" + `{"id":1,"status":{"state":"gone"}}` + "\n"))
	f.Add([]byte(`{"event":{"kind":"exited","exit":"signal: killed"}}` + "\n"))
	f.Add([]byte(`{"id":1,"error":{"code":"state","text":"x"}}` + "\n" + `{"id":1}`))
	f.Add(bytes.Repeat([]byte("x"), maxLine+1))
	f.Fuzz(func(t *testing.T, said []byte) {
		here, there := net.Pipe()
		defer here.Close() //nolint:errcheck // a pipe
		go func() {
			_, _ = there.Write(said)
			_ = there.Close()
		}()
		lines := newScanner(here)
		heard := 0
		for {
			m, err := readMessage(lines)
			if err != nil {
				break
			}
			heard++
			if m.Status != nil || m.Error != nil {
				_, _ = m.result()
			}
		}
		require.LessOrEqual(t, heard, bytes.Count(said, []byte("\n"))+1)
	})
}
