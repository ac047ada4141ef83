package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// process is a child that is waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has been reaped
	err  error         // how it ended; valid once done is closed
}

// Child is a program that this process has started and waits for.
type Child struct{ process *process }

// StartChild starts cmd in a process group of its own. When this process dies,
// however it dies, the kernel sends onDeath to the child (on Linux); 0 sends
// nothing.
func StartChild(cmd *exec.Cmd, onDeath syscall.Signal) (*Child, error) {
	p, err := launchBound(cmd, onDeath)
	if err != nil {
		return nil, err
	}
	return &Child{process: p}, nil
}

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.process.done }

// Err is how the child ended. It may be asked once Done is closed.
func (c *Child) Err() error { return c.process.err }

// Kill ends the child without giving it a say and waits for it.
func (c *Child) Kill() error { return c.process.kill() }

// Pause stops the child where it stands, with all its connections open, as a
// frozen machine would be. It returns when every thread stands still: the signal
// alone does not wait, and a thread that runs on could answer once more.
func (c *Child) Pause() error { return c.process.pause() }

// Resume ends a Pause.
func (c *Child) Resume() error { return c.process.signal(syscall.SIGCONT) }

// launch starts cmd, which is killed when this process dies.
func launch(cmd *exec.Cmd) (*process, error) { return launchBound(cmd, syscall.SIGKILL) }

// launchBound starts cmd. One goroutine, locked to its thread, starts the child
// and waits for it: a child that gets a signal at its parent's death gets it at
// the death of the thread that started it, so that thread must not end earlier.
func launchBound(cmd *exec.Cmd, onDeath syscall.Signal) (*process, error) {
	bind(cmd, onDeath)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// stop asks the child to end, insists when ctx ends first, and waits for it.
func (p *process) stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s did not end when asked: %w", p.cmd.Path, context.Cause(ctx)), p.kill())
	}
}

// kill ends the child without giving it a say and waits for it.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	if err == nil {
		<-p.done
	}
	return err
}

// pause stops the child where it stands and waits until it does.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return awaitStopped(p.cmd.Process.Pid)
}

// signal sends sig; a child that has ended is no error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s, pid %d: %w", sig, p.cmd.Path, p.cmd.Process.Pid, err)
	}
	return nil
}

// tail returns the last lines of a log file, for an error message.
func tail(path string) string {
	const most = 6000
	f, err := os.Open(path) //nolint:gosec // The path is our own log file.
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	cut := false
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, err = f.Seek(-most, io.SeekEnd)
		cut = err == nil
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	if _, whole, found := strings.Cut(string(text), "\n"); cut && found {
		return whole
	}
	return string(text)
}
