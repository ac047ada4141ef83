//go:build !linux

package pgctl

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serverProcesses knows only the postmaster outside Linux, where the children
// cannot be found without a library of the system.
func serverProcesses(dataDir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return nil, nil //nolint:nilerr // no file, no server
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || !isServerProcess(pid, dataDir) {
		return nil, nil //nolint:nilerr // a torn file is written before the server runs
	}
	return []int{pid}, nil
}

func isServerProcess(pid int, _ string) bool { return pid > 1 && syscall.Kill(pid, 0) == nil }

// blockings cannot be known without a library of the system: time has to do.
func blockings(int) (uint64, error) {
	return uint64(time.Now().UnixMilli() / (2 * 100)), nil //nolint:gosec // a count that grows is all that is wanted
}

// recoveringFile cannot be known without a library of the system.
func recoveringFile(string) string { return "" }

// killOrphans cannot find them without a library of the system.
func killOrphans(string) error { return nil }

// dieWithParent does nothing where the kernel does not offer it: the child holds the
// controller's lock, and keeps the next one away until it has ended.
func dieWithParent(*syscall.SysProcAttr) {}

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may be gone already

func openPidfd(int) (*os.File, error) { return nil, nil } //nolint:nilnil // there is no such thing here

func signalPidfd(*os.File, syscall.Signal) error { return errors.ErrUnsupported }

func awaitPidfd(context.Context, *os.File) error { return errors.ErrUnsupported }

// isWalsenderOf cannot look at another process without a library of the system:
// PostgreSQL has just called it one.
func isWalsenderOf(pid, _ int) bool { return syscall.Kill(pid, 0) == nil }

// isChildOf does as well as isWalsenderOf.
func isChildOf(pid, _ int) bool { return syscall.Kill(pid, 0) == nil }
