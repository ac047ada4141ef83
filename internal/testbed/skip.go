package testbed

import (
	"fmt"
	"os"
)

// notTestedVariable names a file that takes a line for each test that was skipped
// because something is missing. scripts/test prints it at the end: a skip is silent in
// the output of go test, and a run with skips looks like a complete one.
const notTestedVariable = "PGHAD_NOT_TESTED"

// Skipf skips a test for which something is missing, and has the summary of scripts/test
// say so.
func Skipf(tb TB, format string, args ...any) {
	tb.Helper()
	message := fmt.Sprintf(format, args...)
	if path := os.Getenv(notTestedVariable); path != "" {
		name := "a test"
		if named, ok := tb.(interface{ Name() string }); ok {
			name = named.Name()
		}
		if err := appendLine(path, name+": "+message); err != nil {
			tb.Errorf("note that %s is skipped: %v", name, err)
		}
	}
	tb.Skipf("NOT TESTED: %s", message)
}

// appendLine adds a line in one write, so that those of several processes do not mix.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644) //nolint:gosec // for people
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a note for people
	_, err = f.WriteString(line + "\n")
	return err
}
