package testbed

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// skipped is a test that is skipped.
type skipped struct {
	TB
	said string
}

func (s *skipped) Helper()                   {}
func (s *skipped) Name() string              { return "TestOfADisk" }
func (s *skipped) Skipf(f string, _ ...any)  { s.said = f }
func (s *skipped) Errorf(f string, _ ...any) { s.said = f }

// A test that is skipped is noted for the summary.
func TestSkipf(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	t.Setenv(notTestedVariable, list)
	for range 2 {
		s := &skipped{}
		Skipf(s, "no disk of %d MB", 12)
		require.Equal(t, "NOT TESTED: %s", s.said)
	}
	text, err := os.ReadFile(list)
	require.NoError(t, err)
	require.Equal(t, "TestOfADisk: no disk of 12 MB\nTestOfADisk: no disk of 12 MB\n", string(text))
}
