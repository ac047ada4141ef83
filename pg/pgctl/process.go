package pgctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/internal/timectx"
)

// handle is a process that is not a child of this one. Where the system can
// (Linux from 5.10 on) it stands for that one process, whatever becomes of its
// number, and its end is an event; elsewhere it is the number, and is polled.
type handle struct {
	pid  int
	file *os.File // a pidfd, nil where there is none
}

// openServerProcess opens a live process of a server on dataDir; os.ErrProcessDone
// if there is none of that number.
func openServerProcess(pid int, dataDir string) (*handle, error) {
	file, err := openPidfd(pid)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	h := &handle{pid: pid, file: file}
	// Only now: what is looked at is what was opened, unless that has ended.
	if !isServerProcess(pid, dataDir) {
		h.close()
		return nil, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	return h, nil
}

// signal sends a signal, except to a process that has ended.
func (h *handle) signal(s syscall.Signal) error {
	var err error
	if h.file != nil {
		err = signalPidfd(h.file, s)
	} else {
		err = syscall.Kill(h.pid, s)
	}
	if err == nil || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return fmt.Errorf("send %v to process %d: %w", s, h.pid, err)
}

// wait blocks until the process has ended, also while nobody has reaped it, or
// until ctx ends. Once for each handle.
func (h *handle) wait(ctx context.Context, clk clock.Clock, poll time.Duration, dataDir string) error {
	if h.file != nil {
		if err := awaitPidfd(ctx, h.file); err == nil || ctx.Err() != nil {
			return err
		}
	}
	for isServerProcess(h.pid, dataDir) {
		if err := timectx.Sleep(ctx, clk, poll); err != nil {
			return err
		}
	}
	return nil
}

func (h *handle) close() {
	if h.file != nil {
		_ = h.file.Close() // read only
	}
}
