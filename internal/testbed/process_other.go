//go:build !linux

package testbed

import (
	"os/exec"
	"syscall"
)

// bind does nothing: only Linux ties a child's life to its parent's.
func bind(*exec.Cmd, syscall.Signal) {}

// awaitStopped does nothing: only Linux shows the state of threads.
func awaitStopped(int) error { return nil }
