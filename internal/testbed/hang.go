package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// fifoWait is where the kernel lets a thread wait that opens a fifo which nobody
// writes to.
const fifoWait = "wait_for_partner"

// fifo of a node, of which one name takes the place of a file for a moment.
func (n *clusterNode) fifo() string { return filepath.Join(n.dir, "hang") }

// HangAgent lets the agent of a node hang: its next look at its server ends in a call
// of the operating system that does not return, as one about a file on a dead disk
// does. Nothing can end the call but WakeAgent, or the end of the process; everything
// else in the process goes on, and so does its server. It returns when the agent hangs.
//
// The agent finds a fifo in place of the server's postmaster.pid, which is back when
// HangAgent returns.
func (c *Cluster) HangAgent(ctx context.Context, name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if !node.runs() {
		return fmt.Errorf("the agent of node %s does not run", name)
	}
	if err := node.hang(ctx); err != nil {
		return fmt.Errorf("let the agent of node %s hang: %w", name, err)
	}
	return nil
}

// hang needs the lock.
func (n *clusterNode) hang(ctx context.Context) (err error) {
	if err := syscall.Mkfifo(n.fifo(), 0o600); err != nil {
		return fmt.Errorf("make the fifo %s: %w", n.fifo(), err)
	}
	file, kept, bait := filepath.Join(n.data(), "postmaster.pid"), n.fifo()+".kept", n.fifo()+".bait"
	if err := errors.Join(os.Link(file, kept), os.Link(n.fifo(), bait)); err != nil {
		return errors.Join(err, removeAll(kept, bait, n.fifo()))
	}
	defer func() { err = errors.Join(err, os.Rename(kept, file)) }()
	if err := os.Rename(bait, file); err != nil {
		return errors.Join(err, removeAll(bait, n.fifo()))
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !hangs(n.process.cmd.Process.Pid) {
		select {
		case <-look.C:
		case <-n.process.done:
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not look at its server: %w", context.Cause(ctx))
		}
	}
	return nil
}

// AgentHangs reports whether the agent of a node hangs by HangAgent.
func (c *Cluster) AgentHangs(name string) bool {
	node, err := c.node(name)
	if err != nil {
		return false
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	return node.runs() && hangs(node.process.cmd.Process.Pid)
}

// WakeAgent lets the call return in which the agent of a node hangs.
func (c *Cluster) WakeAgent(name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	writer, err := os.OpenFile(node.fifo(), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("wake the agent of node %s: %w", name, err)
	}
	return errors.Join(writer.Close(), os.Remove(node.fifo()))
}

// hangs reports whether a thread of a process waits for somebody to write to a fifo.
func hangs(pid int) bool {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	if err != nil {
		return false
	}
	for _, path := range paths {
		where, err := os.ReadFile(path) //nolint:gosec // of a process of our own
		if err == nil && bytes.HasPrefix(where, []byte(fifoWait)) {
			return true
		}
	}
	return false
}

func removeAll(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
