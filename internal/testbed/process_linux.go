package testbed

import (
	"os/exec"
	"syscall"
)

// bind has the kernel send onDeath to the child when this process dies, however
// it dies: a test binary that panics leaves no server behind.
func bind(cmd *exec.Cmd, onDeath syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = onDeath
	cmd.SysProcAttr.Setpgid = true // an interrupt at the terminal is for the parent, which stops its servers in order
}
