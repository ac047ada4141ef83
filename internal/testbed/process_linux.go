package testbed

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
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

// awaitStopped waits until every thread of a process is in state T.
func awaitStopped(pid int) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			return fmt.Errorf("threads of process %d: %w", pid, err)
		}
		stopped := 0
		for _, path := range stats {
			text, err := os.ReadFile(path) //nolint:gosec // of a process of our own
			// The state follows the name, which stands in parentheses.
			if _, state, ok := bytes.Cut(text, []byte(") ")); err != nil || ok && bytes.HasPrefix(state, []byte("T")) {
				stopped++
			}
		}
		if stopped == len(stats) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not stand still 10s after SIGSTOP", pid)
}
