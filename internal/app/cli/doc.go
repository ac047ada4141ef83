// Package cli is the command line of pghad. It reads arguments, environment and
// configuration, calls the packages that do the work, and turns what comes back
// into text and an exit code. Nothing in it is global: a test runs it with
// arguments and buffers.
package cli
