package pgctl

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

	"golang.org/x/sys/unix"
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

// recoveringFile is the WAL file that recovery has reached, by the title that
// PostgreSQL gives its startup process; "" if there is none.
func recoveringFile(dataDir string) string {
	pids, err := serverProcesses(dataDir)
	if err != nil {
		return ""
	}
	for _, pid := range pids {
		title, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil || !bytes.HasPrefix(title, []byte("postgres: ")) {
			continue
		}
		if _, file, ok := bytes.Cut(title, []byte("startup recovering ")); ok {
			return string(bytes.Trim(file, " \x00"))
		}
	}
	return ""
}

// killOrphans kills the processes that hold a controller's lock since one was killed
// that had started them. None is killed while the controller that wrote its number
// into the lock holds it, nor one that has the lock by another descriptor than a
// program inherits it by, nor one that runs the same program as this process.
func killOrphans(lock string) error {
	held, err := os.Stat(lock)
	if err != nil {
		return fmt.Errorf("look for who holds %s: %w", lock, err)
	}
	text, err := os.ReadFile(lock) //nolint:gosec // a file of the configured directories
	if err != nil {
		return fmt.Errorf("look for who holds %s: %w", lock, err)
	}
	owner, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || owner == os.Getpid() || holds(owner, held) {
		return nil //nolint:nilerr // it has just been made: its controller lives
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("look for who holds %s: %w", lock, err)
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for who holds %s: %w", lock, err)
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil {
			continue
		}
		proc := filepath.Join("/proc", process.Name())
		inherited, err := os.Stat(filepath.Join(proc, "fd", strconv.Itoa(inheritedLock)))
		if err != nil || !os.SameFile(inherited, held) {
			continue
		}
		if program, err := os.Stat(filepath.Join(proc, "exe")); err == nil && !os.SameFile(program, self) {
			kill([]int{pid})
		}
	}
	return nil
}

// holds reports whether a process has a file open.
func holds(pid int, file os.FileInfo) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	names, err := os.ReadDir(dir)
	if err != nil {
		return false // gone, or another user's, who cannot have it
	}
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name.Name())); err == nil && os.SameFile(info, file) {
			return true
		}
	}
	return false
}

// dieWithParent makes a child end with the thread that starts it.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }

// killGroup kills a process that leads a group, and the group.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may be gone already

// openPidfd opens a process as a file that becomes readable when it has ended;
// nil, without error, where the kernel has no such files or cannot poll them.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // an old kernel, or one that does not allow it
	}
	file := os.NewFile(uintptr(fd), "pidfd "+strconv.Itoa(pid))
	if file.SetReadDeadline(time.Time{}) != nil { // it cannot be polled
		return nil, file.Close()
	}
	return file, nil
}

func signalPidfd(file *os.File, s syscall.Signal) error {
	return withFd(file, func(fd int) error { return unix.PidfdSendSignal(fd, s, nil, 0) })
}

func withFd(file *os.File, use func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var used error
	err = conn.Control(func(fd uintptr) { used = use(int(fd)) })
	return errors.Join(err, used)
}

// awaitPidfd blocks until the process has ended, or ctx ends.
func awaitPidfd(ctx context.Context, file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) }) // long ago
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		n, err := unix.Poll(ready, 0)
		return err == nil && n > 0
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// isWalsenderOf reports whether pid is a walsender and a child of postmaster: by
// the title that PostgreSQL gives its processes, whatever update_process_title
// says, and by its parent.
func isWalsenderOf(pid, postmaster int) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	title, err := os.ReadFile(filepath.Join(proc, "cmdline")) //nolint:gosec // a file of /proc
	if err != nil || !bytes.HasPrefix(title, []byte("postgres: ")) || !bytes.Contains(title, []byte("walsender ")) {
		return false
	}
	return isChildOf(pid, postmaster)
}

// isChildOf reports whether pid lives and is a child of parent.
func isChildOf(pid, parent int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	// pid (name) state parent ...; the name may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(fields) > 1 && fields[0] != "Z" && fields[1] == strconv.Itoa(parent)
}
