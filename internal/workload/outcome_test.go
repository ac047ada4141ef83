package workload

import (
	"errors"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// notSent is an error of a write that never left.
type notSent struct{}

func (notSent) Error() string     { return "not sent" }
func (notSent) SafeToRetry() bool { return true }

func TestClassify(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err    error
		warned bool
		want   Outcome
	}{
		"success":                          {want: Acknowledged},
		"success after a cancelled wait":   {warned: true, want: Unknown},
		"never sent":                       {err: notSent{}, want: Failed},
		"a standby refuses":                {err: &pgconn.PgError{Code: "25006"}, want: Failed},
		"shutting down or starting":        {err: &pgconn.PgError{Code: "57P03"}, want: Failed},
		"no table":                         {err: &pgconn.PgError{Code: "42P01"}, want: Failed},
		"terminated, perhaps while waited": {err: &pgconn.PgError{Code: "57P01"}, warned: true, want: Unknown},
		"crash of another backend":         {err: &pgconn.PgError{Code: "57P02"}, want: Unknown},
		"cancelled":                        {err: &pgconn.PgError{Code: "57014"}, want: Unknown},
		"the id is there already":          {err: &pgconn.PgError{Code: "23505"}, want: Unknown},
		"disk full":                        {err: &pgconn.PgError{Code: "53100"}, want: Unknown},
		"the connection breaks":            {err: io.ErrUnexpectedEOF, want: Unknown},
		"anything else":                    {err: errors.New("?"), want: Unknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome, reason := classify(test.err, test.warned)
			require.Equal(t, test.want, outcome)
			require.Equal(t, test.want == Acknowledged, reason == "")
		})
	}
}
