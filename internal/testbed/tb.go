package testbed

import "context"

// TB is what this package needs of a test: the part of testing.TB that it uses.
// The demo links this package, and a program does not link package testing.
type TB interface {
	Helper()
	Cleanup(f func())
	Context() context.Context
	TempDir() string
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}
