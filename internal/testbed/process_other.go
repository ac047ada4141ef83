//go:build !linux

package testbed

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing: only Linux ties a child's life to its parent's.
func dieWithParent(*exec.Cmd) {}

// endWithParent does nothing either.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
