package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// server is the guarded server's postmaster and what it leaves behind.
type server struct {
	pid  int
	exit string // how the postmaster has ended, empty while it runs
	code int    // the exit code that tells the same
	gone bool   // no process is left
}

// signal sends a signal to the postmaster, except after its end: only then its
// number may be somebody else's.
func (s *server) signal(how syscall.Signal) {
	if s.pid != 0 && s.exit == "" {
		_ = syscall.Kill(s.pid, how) // a child, at worst a dead one
	}
}

// reap takes the exit statuses of all children that have ended.
func (s *server) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			s.gone = s.exit != ""
			return
		case err != nil || pid <= 0:
			return
		case pid == s.pid:
			s.exit, s.code = describe(status)
		}
	}
}

// describe says how a process has ended.
func describe(status syscall.WaitStatus) (text string, code int) {
	if status.Signaled() {
		return "signal: " + status.Signal().String(), 128 + int(status.Signal())
	}
	return "exit status " + strconv.Itoa(status.ExitStatus()), status.ExitStatus()
}

// spawn starts the postmaster: in a session of its own, so that a signal to the
// guard's terminal does not reach it, and bound to the life of the calling thread.
func spawn(s Start) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("start the server: %w", err)
	}
	defer null.Close() //nolint:errcheck // the child has its own
	output := os.Stderr
	if s.Log != "" {
		if output, err = openLog(s.Log, s.Credential); err != nil {
			return 0, err
		}
		defer output.Close() //nolint:errcheck // the child has its own
	}
	attr := &syscall.ProcAttr{
		Dir:   s.Dir,
		Env:   s.Env,
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGQUIT},
	}
	if attr.Dir == "" {
		attr.Dir = "/"
	}
	if c := s.Credential; c != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	}
	pid, err := syscall.ForkExec(s.Argv[0], s.Argv, attr) //nolint:gosec // what the agent, who is of this user, has asked for
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", s.Argv[0], err)
	}
	return pid, nil
}

// openLog opens the server's log, which belongs to the server's user.
func openLog(path string, owner *Credential) (*os.File, error) {
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // what the agent, who is of this user, has asked for
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	info, err := log.Stat()
	if err == nil && owner != nil && info.Mode().IsRegular() {
		err = log.Chown(int(owner.UID), int(owner.GID))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("give the server's log to its user: %w", err), log.Close())
	}
	return log, nil
}

const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER

// becomeSubreaper makes this process the parent of all descendants that lose
// theirs.
func becomeSubreaper() error {
	if _, _, errno := syscall.Syscall6(syscall.SYS_PRCTL, setChildSubreaper, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("adopt orphaned processes: %w", errno)
	}
	return nil
}

// children are the living children of this process.
func children() []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close() //nolint:errcheck // read only
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil
	}
	self := strconv.Itoa(os.Getpid())
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat") //nolint:gosec // a file of /proc
		if err == nil && isLivingChild(stat, self) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isLivingChild reads "pid (name) state parent ..."; the name may hold anything.
func isLivingChild(stat []byte, parent string) bool {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return false
	}
	fields := bytes.Fields(stat[end+1:])
	return len(fields) > 1 && string(fields[0]) != "Z" && string(fields[1]) == parent
}
