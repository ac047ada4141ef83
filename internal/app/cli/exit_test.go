package cli

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/app/config"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	problem := &config.Error{Problems: []config.Problem{{Where: "f:1:2", Key: "k", Sentence: "is wrong"}}}
	tests := []struct {
		err  error
		code int
		said string
	}{
		{nil, ExitDone, ""},
		{&usageError{errors.New("unknown flag")}, ExitUsage, "pghad: unknown flag; see pghad --help\n"},
		{fmt.Errorf("load: %w", problem), ExitUsage, "f:1:2: k: is wrong\n"},
		{fmt.Errorf("node a: %w: hands off", ha.ErrForeignData), ExitUsage, "pghad: node a: data directory of another cluster: hands off\n"},
		{fmt.Errorf("write: %w", dcs.ErrAmbiguous), ExitUnknown, "pghad: write: outcome unknown\n"},
		{fmt.Errorf("write: %w", dcs.ErrConflict), ExitRefused, "pghad: write: guard did not hold\n"},
		{fmt.Errorf("read: %w", dcs.ErrUnavailable), ExitFailed, "pghad: read: store unavailable\n"},
		{fmt.Errorf("switchover %w: maintenance", ha.ErrRefused), ExitRefused, "pghad: switchover refused: maintenance\n"},
		{fmt.Errorf("write: %w: %w", dcs.ErrAmbiguous, ha.ErrRefused), ExitUnknown, "pghad: write: outcome unknown: refused\n"},
		{&outcomeError{code: ExitUnknown, err: errors.New("it goes on")}, ExitUnknown, "pghad: it goes on\n"},
		{errors.New("anything else"), ExitFailed, "pghad: anything else\n"},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		report(&out, tt.err)
		require.Equal(t, tt.said, out.String())
		require.Equal(t, tt.code, exitCode(tt.err), "%v", tt.err)
	}
}
