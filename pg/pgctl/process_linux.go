package pgctl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// serverProcesses returns the live processes of a server on dataDir, sorted:
// those called postgres whose working directory it is. PostgreSQL's children
// are leaders of sessions of their own, so neither group nor session finds
// them. A zombie has no working directory any more and is left out.
func serverProcesses(dataDir string) ([]int, error) {
	data, err := os.Stat(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for processes of %s: %w", dataDir, err)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes of %s: %w", dataDir, err)
	}
	names, err := proc.Readdirnames(-1)
	if err = errors.Join(err, proc.Close()); err != nil {
		return nil, fmt.Errorf("look for processes of %s: %w", dataDir, err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && isProcessOf(pid, data) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// isServerProcess reports whether pid is a live process of a server on dataDir.
func isServerProcess(pid int, dataDir string) bool {
	data, err := os.Stat(dataDir)
	return err == nil && isProcessOf(pid, data)
}

func isProcessOf(pid int, data os.FileInfo) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	// The name first: the working directory of another program may lie on a
	// file system that hangs.
	name, err := os.ReadFile(filepath.Join(proc, "comm")) //nolint:gosec // a file of /proc
	if err != nil || string(bytes.TrimSpace(name)) != "postgres" {
		return false
	}
	cwd, err := os.Stat(filepath.Join(proc, "cwd"))
	return err == nil && os.SameFile(cwd, data)
}

// blockings is how often a process has gone to sleep by itself since it was
// started.
func blockings(pid int) (uint64, error) {
	const field = "voluntary_ctxt_switches:"
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("look at process %d: the kernel does not say how often it slept", pid)
}

// killGroup kills a process that leads a group, and the group.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may be gone already
