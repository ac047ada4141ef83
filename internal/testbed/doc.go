// Package testbed runs the real servers that tests, the demo and benchmarks
// need, on free loopback ports and in directories of their own.
//
// Each server is a plain type with Start, Stop, Kill and Restart, usable
// without package testing; beside it stands a helper for tests that starts one,
// stops it at cleanup and skips, loudly, when the program is not installed.
//
// Every process started here is a child of the caller, is waited for, and dies
// with the caller's process where the system can arrange that.
package testbed
