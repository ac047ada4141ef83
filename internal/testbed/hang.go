package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// fifo of a node, of which one name takes the place of a file for a moment.
func (n *clusterNode) fifo() string { return filepath.Join(n.dir, "hang") }

// HangAgent lets the agent of a node hang: its next look at its server reads a file and
// does not return, as if that were on a dead disk. Nothing ends the read but WakeAgent,
// or the end of the process; everything else in the process goes on, and so does its
// server. It returns when the agent hangs.
//
// The agent finds a fifo in place of the server's postmaster.pid, which is back when
// HangAgent returns.
func (c *Cluster) HangAgent(ctx context.Context, name string) error {
	return c.onAgent(name, func(n *clusterNode) error {
		if err := n.hang(ctx); err != nil {
			return fmt.Errorf("let the agent of node %s hang: %w", name, err)
		}
		return nil
	})
}

// hang needs the lock.
func (n *clusterNode) hang(ctx context.Context) (err error) {
	file, kept, bait := filepath.Join(n.data(), "postmaster.pid"), n.fifo()+".kept", n.fifo()+".bait"
	if err := errors.Join(n.mute(), os.Link(file, kept), os.Link(n.fifo(), bait)); err != nil {
		return errors.Join(err, n.unmute(), removeAll(kept, bait))
	}
	defer func() { err = errors.Join(err, os.Rename(kept, file)) }()
	if err := os.Rename(bait, file); err != nil {
		return errors.Join(err, n.unmute(), removeAll(bait))
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !n.hangs() {
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

// mute makes the fifo, with one writer that says nothing: whoever reads it waits.
func (n *clusterNode) mute() error {
	err := syscall.Mkfifo(n.fifo(), 0o600)
	if err == nil {
		n.silent, err = os.OpenFile(n.fifo(), os.O_RDWR, 0) // alone it would wait for a reader
	}
	if err != nil {
		return fmt.Errorf("make the fifo %s: %w", n.fifo(), err)
	}
	return nil
}

// unmute lets whoever reads the fifo see its end.
func (n *clusterNode) unmute() error {
	var err error
	if n.silent != nil {
		err = n.silent.Close()
		n.silent = nil
	}
	return errors.Join(err, removeAll(n.fifo()))
}

// hangs reports whether the agent reads the fifo. It needs the lock.
func (n *clusterNode) hangs() bool {
	fifo, err := os.Stat(n.fifo())
	if err != nil || !n.runs() {
		return false
	}
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.process.cmd.Process.Pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(open, func(path string) bool {
		file, err := os.Stat(path)
		return err == nil && os.SameFile(file, fifo)
	})
}

// AgentHangs reports whether the agent of a node hangs by HangAgent.
func (c *Cluster) AgentHangs(name string) bool {
	node, err := c.node(name)
	if err != nil {
		return false
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	return node.hangs()
}

// WakeAgent lets the read return in which the agent of a node hangs.
func (c *Cluster) WakeAgent(name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if err := node.unmute(); err != nil {
		return fmt.Errorf("wake the agent of node %s: %w", name, err)
	}
	return nil
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
