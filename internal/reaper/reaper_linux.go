package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sweepEvery is how often orphans are looked for without a signal. Signals of
// the same kind merge, and an orphan may be passed over while somebody else in
// this process holds a pidfd of it.
const sweepEvery = time.Second

// Reaper reaps the orphans of this process. There should be one at a time.
type Reaper struct {
	cfg    Config
	before int // what the subreaper attribute was
	signal chan os.Signal
	quit   chan struct{}
	done   chan struct{}
	stop   sync.Once
}

// Start makes this process the subreaper of its descendants and starts reaping.
// Stop must be called.
func Start(cfg Config) (*Reaper, error) {
	if err := probe(); err != nil {
		return nil, err
	}
	before, err := subreaper()
	if err != nil {
		return nil, err
	}
	if err := setSubreaper(1); err != nil {
		return nil, err
	}
	r := &Reaper{
		cfg:    cfg,
		before: before,
		signal: make(chan os.Signal, 1),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	signal.Notify(r.signal, unix.SIGCHLD)
	go r.run()
	return r, nil
}

// Stop reaps what has already ended, ends the reaper and restores the subreaper
// attribute. It waits for the reaper's goroutine. Orphans that still run stay
// children of this process until it ends. Idempotent.
func (r *Reaper) Stop() {
	r.stop.Do(func() {
		signal.Stop(r.signal)
		close(r.quit)
		<-r.done
		_ = setSubreaper(r.before) // it has been set before, so it can be set
	})
}

func (r *Reaper) run() {
	defer close(r.done)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		r.sweep()
		select {
		case <-r.signal:
		case <-ticker.C:
		case <-r.quit:
			r.sweep()
			return
		}
	}
}

// sweep reaps every child that has ended and has no pidfd here. The order
// matters: a child of os/exec has its pidfd before it can be seen as ended, and
// loses it only after it has been reaped.
func (r *Reaper) sweep() {
	if !hasEnded() {
		return // a look at the whole process table is spared
	}
	ended := zombies(os.Getpid())
	if len(ended) == 0 {
		return
	}
	own, err := withPidfd()
	if err != nil {
		return // for example no file descriptor left; the next sweep may succeed
	}
	for _, pid := range ended {
		if own[pid] {
			continue
		}
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil && got == pid && r.cfg.Reaped != nil {
			r.cfg.Reaped(pid)
		}
	}
}

// hasEnded reports whether a child of this process has ended and is not reaped yet.
func hasEnded() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0 || errors.Is(err, unix.EINTR)
}

// zombies are the children of parent that have ended and are not reaped yet.
func zombies(parent int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var pids []int
	for _, path := range stats {
		data, err := os.ReadFile(path) //nolint:gosec // a path below /proc that was just listed
		if err != nil {
			continue // it has gone in the meantime
		}
		if pid, ppid, state, ok := parseStat(data); ok && ppid == parent && state == 'Z' {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseStat reads "pid (name) state ppid ..."; the name may hold anything.
func parseStat(data []byte) (pid, ppid int, state byte, ok bool) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 1 || end < open {
		return 0, 0, 0, false
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 2 || len(fields[0]) != 1 {
		return 0, 0, 0, false
	}
	pid, errPid := strconv.Atoi(strings.TrimSpace(string(data[:open])))
	ppid, errParent := strconv.Atoi(string(fields[1]))
	return pid, ppid, fields[0][0], errPid == nil && errParent == nil
}

// withPidfd are the processes for which this process holds a pidfd.
func withPidfd() (map[int]bool, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("list of own file descriptors: %w", err)
	}
	pids := make(map[int]bool)
	for _, fd := range fds {
		link, err := os.Readlink("/proc/self/fd/" + fd.Name())
		// "anon_inode:[pidfd]", since Linux 6.9 "pidfd:[inode]".
		if err != nil || !strings.Contains(link, "pidfd") {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue // closed in the meantime: its process has been reaped
		}
		if pid, ok := pidOf(info); ok {
			pids[pid] = true
		}
	}
	return pids, nil
}

// pidOf reads the line "Pid:	123" of a pidfd's fdinfo.
func pidOf(info []byte) (int, bool) {
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(rest))
			return pid, err == nil
		}
	}
	return 0, false
}

// probe asks whether the Go runtime holds pidfds here and whether they can be
// seen: only then can children of os/exec be told from orphans.
func probe() error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return fmt.Errorf("%w: own process: %w", ErrUnsupported, err)
	}
	defer self.Release() //nolint:errcheck // closes a descriptor that is no longer needed
	var (
		own     map[int]bool
		listErr error
	)
	if err := self.WithHandle(func(uintptr) { own, listErr = withPidfd() }); err != nil {
		return fmt.Errorf("%w: no pidfds (Linux 5.4 has them, unless a sandbox forbids it): %w", ErrUnsupported, err)
	}
	if listErr != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, listErr)
	}
	if !own[os.Getpid()] {
		return fmt.Errorf("%w: /proc does not show the process of a pidfd", ErrUnsupported)
	}
	return nil
}

func subreaper() (int, error) {
	var value int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&value)), 0, 0, 0); err != nil { //nolint:gosec // the kernel writes an int there
		return 0, fmt.Errorf("%w: read the subreaper attribute: %w", ErrUnsupported, err)
	}
	return int(value), nil
}

func setSubreaper(value int) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(value), 0, 0, 0); err != nil {
		return fmt.Errorf("%w: set the subreaper attribute: %w", ErrUnsupported, err)
	}
	return nil
}
