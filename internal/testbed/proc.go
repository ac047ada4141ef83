package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is one line of the process table. The start time tells it from a later
// process with the same id.
type proc struct {
	pid, parent int
	state       byte
	started     string
}

// dead reports whether the process has ended. A zombie has: it only waits for
// whoever has to reap it.
func (p proc) dead() bool { return p.state == 'Z' || p.state == 'X' }

// readProc looks a process up; false if there is none.
func readProc(pid int) (proc, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return proc{}, false
	}
	_, rest, found := bytes.Cut(data, []byte("("))
	end := bytes.LastIndexByte(rest, ')') // the name may hold anything
	if !found || end < 0 {
		return proc{}, false
	}
	fields := strings.Fields(string(rest[end+1:]))
	const startTime = 19 // field 22 of stat, counted behind the name
	if len(fields) <= startTime {
		return proc{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return proc{}, false
	}
	return proc{pid: pid, parent: parent, state: fields[0][0], started: fields[startTime]}, true
}

// alive reports whether p still runs.
func (p proc) alive() bool {
	now, found := readProc(p.pid)
	return found && now.started == p.started && !now.dead()
}

// processes returns all that live, by process id.
func processes() []proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []proc
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, found := readProc(pid); found && !p.dead() {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b proc) int { return a.pid - b.pid })
	return all
}

// descendants are the children of root, their children, and so on.
func descendants(root int) []proc {
	children := make(map[int][]proc)
	for _, p := range processes() {
		children[p.parent] = append(children[p.parent], p)
	}
	var found []proc
	for next := children[root]; len(next) > 0; {
		p := next[0]
		found = append(found, p)
		next = append(next[1:], children[p.pid]...)
	}
	return found
}

// serverProcesses are all processes of the PostgreSQL server on dataDir: each
// works in it. The postmaster comes first.
func serverProcesses(dataDir string) []proc {
	resolved, err := filepath.EvalSymlinks(dataDir)
	if err != nil {
		resolved = dataDir
	}
	var found []proc
	for _, p := range processes() {
		cwd, err := os.Readlink("/proc/" + strconv.Itoa(p.pid) + "/cwd")
		if err == nil && (cwd == resolved || strings.HasPrefix(cwd, resolved+"/")) {
			found = append(found, p)
		}
	}
	own := make(map[int]bool, len(found))
	for _, p := range found {
		own[p.pid] = true
	}
	slices.SortStableFunc(found, func(a, b proc) int {
		return boolCompare(own[a.parent], own[b.parent]) // no parent among them: the postmaster
	})
	return found
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// signalAll sends sig to each that still is what it was.
func signalAll(procs []proc, sig syscall.Signal) error {
	var errs []error
	for _, p := range procs {
		if !p.alive() {
			continue
		}
		if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("send %s to process %d: %w", sig, p.pid, err))
		}
	}
	return errors.Join(errs...)
}

// killAndWait kills each and returns when none is left.
func killAndWait(ctx context.Context, procs []proc) error {
	if err := signalAll(procs, syscall.SIGKILL); err != nil {
		return err
	}
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		left := slices.IndexFunc(procs, proc.alive)
		if left < 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end though killed: %w", procs[left].pid, context.Cause(ctx))
		}
	}
}

// commandLine of the process, for people.
func (p proc) commandLine() string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/cmdline")
	if err != nil {
		return "which has ended by now"
	}
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

// processesIn are all processes that work in dir or name a path in it on their
// command line, but this one.
func processesIn(dir string) []proc {
	var found []proc
	for _, p := range processes() {
		cwd, err := os.Readlink("/proc/" + strconv.Itoa(p.pid) + "/cwd")
		inside := err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/"))
		if p.pid != os.Getpid() && (inside || strings.Contains(p.commandLine(), dir+"/")) {
			found = append(found, p)
		}
	}
	return found
}

// Running are the command lines of all processes that work in dir or name a path
// in it, but this one.
func Running(dir string) []string {
	var lines []string
	for _, p := range processesIn(dir) {
		lines = append(lines, p.commandLine())
	}
	return lines
}

// Sweep kills every process that works in dir, or was started with a path in it,
// and removes dir. It first gives them until patient ends to end by themselves.
// It is for what a caller that died has left.
func Sweep(patient context.Context, dir string) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for left := processesIn(dir); len(left) > 0; left = processesIn(dir) {
		select {
		case <-look.C:
		case <-patient.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(patient), clusterPatience)
			err := killAndWait(ctx, left)
			cancel()
			if err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	return nil
}
