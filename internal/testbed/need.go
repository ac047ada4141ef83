package testbed

import (
	"os"
	"os/exec"
)

// Need returns the path of a program that the test cannot do without. When it
// is not installed, the test fails if the environment says CI=true, and is
// skipped otherwise; install says how to get it.
func Need(tb TB, program, install string) string {
	tb.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	const message = "%s is not installed here; install it with: %s (%v)"
	if os.Getenv("CI") == "true" {
		tb.Fatalf("NOT TESTED: "+message, program, install, err)
	}
	Skipf(tb, message, program, install, err)
	return ""
}
