package testbed

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill the child, or send it the signal that cmd
// names, when this process dies, however it dies: a test binary that panics
// leaves no server behind.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	cmd.SysProcAttr.Setpgid = true // an interrupt at the terminal is for the parent, which stops its servers in order
}

// endWithParent has the kernel ask the child to end when this process dies.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
