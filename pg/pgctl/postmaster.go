package pgctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pghad/pghad/pg"
)

// postmaster is a running server, started by this controller or found running.
type postmaster struct {
	process
	pid   int
	gone  chan struct{} // closed when the postmaster has ended and the controller knows
	log   int64         // where its messages begin in the log file
	asked bool          // somebody called Stop; guarded by Controller.mu
}

func newPostmaster(p process) *postmaster {
	return &postmaster{process: p, pid: p.number(), gone: make(chan struct{})}
}

// running returns the server, nil if none runs.
func (c *Controller) running() *postmaster {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// spawn starts the postmaster; writable says that it will accept writes without
// having been promoted.
func (c *Controller) spawn(ctx context.Context, writable bool) (*postmaster, error) {
	return c.spawnWith(ctx, c.runner, writable)
}

// spawnWith starts it by a runner.
func (c *Controller) spawnWith(ctx context.Context, r runner, writable bool) (*postmaster, error) {
	logFile, err := c.openLog()
	if err != nil {
		return nil, err
	}
	defer logFile.Close() //nolint:errcheck // the server has its own
	size, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL's log: %w", err)
	}
	started := c.cfg.Effects.begin("start postgres")
	p, err := r.start(ctx, order{
		argv:     []string{filepath.Join(c.cfg.BinDir, "postgres"), "-D", c.cfg.DataDir},
		env:      c.env(),
		log:      logFile,
		writable: writable,
	})
	started()
	if err != nil {
		return nil, err
	}
	server := newPostmaster(p)
	server.log = size
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrive(server)
	c.confirmLocked(c.settings.revision()) // it reads what was written for it
	return server, nil
}

// adopt takes over a server that runs on the data directory without being
// known: the controller was restarted, or an operator started it.
func (c *Controller) adopt() *postmaster {
	if server := c.running(); server != nil {
		return server
	}
	pid := c.pidFile().pid
	if pid == 0 || !isServerProcess(pid, c.cfg.DataDir) {
		return nil
	}
	p, err := c.runner.adopt(c.lifetime, pid)
	if err != nil {
		return nil // it has just ended
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil || c.closed {
		p.close()
		return c.server
	}
	c.log.Info("a running PostgreSQL is taken over", "pid", pid)
	server := newPostmaster(p)
	c.arrive(server)
	return server
}

// arrive makes a server the running one until it ends. It needs c.mu.
func (c *Controller) arrive(server *postmaster) {
	c.server = server
	c.grow()
	c.tasks.Go(func() {
		defer server.close()
		if how, err := server.wait(c.lifetime); err == nil {
			c.departed(server, how)
		}
	})
}

// grow needs c.mu.
func (c *Controller) grow() {
	c.generation++
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Controller) departed(server *postmaster, reason string) {
	c.mu.Lock()
	asked := server.asked
	c.mu.Unlock()
	how := c.howEnded(asked)
	if how == pg.ProcessCrashed {
		c.log.Error("PostgreSQL has ended without having been asked to", "pid", server.pid, "reason", reason)
	} else {
		c.log.Info("PostgreSQL has ended", "pid", server.pid, "reason", reason)
	}
	c.mu.Lock()
	if c.server == server {
		c.server = nil
		c.ended = how
		c.grow()
	}
	c.mu.Unlock()
	close(server.gone)
}

// howEnded is what an absent server is: stopped if somebody asked for it or
// the control file says that it was shut down, else crashed.
func (c *Controller) howEnded(asked bool) pg.Process {
	if asked {
		return pg.ProcessStopped
	}
	control, err := c.readControlFile()
	if errors.Is(err, os.ErrNotExist) || err == nil && (control.state == stateShutDown || control.state == stateShutDownInRecovery) {
		return pg.ProcessStopped
	}
	return pg.ProcessCrashed
}

// pidFile is what postmaster.pid says.
type pidFile struct {
	pid    int
	status string // "starting", "stopping", "ready", "standby"
}

func (c *Controller) pidFile() pidFile { return readPidFile(c.cfg.DataDir) }

// readPidFile reads the postmaster.pid of a data directory; zero if there is none.
func readPidFile(dataDir string) pidFile {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid")) //nolint:gosec // a file of the configured directories
	if err != nil {
		return pidFile{}
	}
	lines := strings.Split(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 { // negative: a standalone backend
		return pidFile{}
	}
	file := pidFile{pid: pid}
	if len(lines) > 7 {
		file.status = strings.TrimSpace(lines[7])
	}
	return file
}

// removeStaleLocks removes lock files that would keep a server from starting
// although the process that they name is not one on this data directory: a
// zombie, or a number used anew. PostgreSQL takes whatever has the number for
// another postmaster. A file of a process that does not exist is left to
// PostgreSQL, which looks for its shared memory too.
func (c *Controller) removeStaleLocks() error {
	if pid := c.pidFile().pid; c.isStale(pid) {
		c.log.Warn("a stale postmaster.pid is removed", "pid", pid)
		if err := removeIfExists(c.dataPath("postmaster.pid")); err != nil {
			return err
		}
	}
	// The socket has one too. That of another data directory is not ours to judge.
	path := c.cfg.socketPath() + ".lock"
	text, err := os.ReadFile(path) //nolint:gosec // a file of the configured directories
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock file of the socket: %w", err)
	}
	lines := strings.SplitN(string(text), "\n", 3)
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || len(lines) < 2 || strings.TrimSpace(lines[1]) != c.cfg.DataDir || !c.isStale(pid) {
		return nil //nolint:nilerr // not a file of PostgreSQL: it says so itself
	}
	c.log.Warn("a stale lock file of the socket is removed", "pid", pid)
	return removeIfExists(path)
}

// isStale reports whether a process exists that has the number of a server on
// this data directory and is none.
func (c *Controller) isStale(pid int) bool {
	return pid > 1 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) && !isServerProcess(pid, c.cfg.DataDir)
}

// drain waits until no process of the server is left. Backends notice the end
// of their postmaster by themselves within milliseconds; what is left after
// KillAfter is killed.
func (c *Controller) drain(ctx context.Context) error {
	deadline := c.clock.Now().Add(c.cfg.KillAfter)
	for {
		left, err := serverProcesses(c.cfg.DataDir)
		if err != nil || len(left) == 0 {
			return err
		}
		if !c.clock.Now().Before(deadline) {
			kill(left)
		}
		if err := c.pause(ctx); err != nil {
			return fmt.Errorf("wait for %d processes of PostgreSQL to end: %w", len(left), err)
		}
	}
}

func kill(pids []int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}
}

// logName is the file in the state directory that takes the server's standard
// output and error, unless its logging collector takes them. It is opened for
// appending, so it may be rotated by copying and truncating.
const logName = "postgresql.log"

// logPlace says for people where the server has its log.
func (c *Controller) logPlace() string {
	if c.cfg.Commands != nil {
		return c.statePath(commandLogName) + " and the log of whoever runs it"
	}
	return "its log in " + c.statePath(logName)
}

func (c *Controller) openLog() (*os.File, error) {
	f, err := os.OpenFile(c.statePath(logName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL's log: %w", err)
	}
	if err := c.cfg.account.own(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("give PostgreSQL's log to its user: %w", err), f.Close())
	}
	return f, nil
}

// messages is what a server has said since it was started.
func (c *Controller) messages(server *postmaster) string {
	f, err := os.Open(c.statePath(logName))
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // read only
	return readTail(f, server.log)
}

// lastMessage is what a server said last that explains its end.
func (c *Controller) lastMessage(server *postmaster) string {
	lines := strings.Split(strings.TrimSpace(c.messages(server)), "\n")
	for _, line := range lines { // the first fatal message is the cause, later ones follow from it
		if _, session := find(line, sessionSigns); !session && (strings.Contains(line, "FATAL:") || strings.Contains(line, "PANIC:")) {
			return line
		}
	}
	return lines[len(lines)-1]
}

// readTail reads what a log says after an offset, at most its last 64 KiB.
func readTail(log *os.File, from int64) string {
	const most = 64 << 10
	if info, err := log.Stat(); err == nil {
		from = max(from, info.Size()-most)
	}
	text, err := io.ReadAll(io.NewSectionReader(log, from, most))
	if err != nil {
		return ""
	}
	return string(text)
}

// env is the environment of a program of PostgreSQL: this process's without
// what would lead libpq or the server elsewhere.
func (c *Controller) env(more ...string) []string {
	var env []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "PG") || name == "HOME" || name == "USER" || name == "LOGNAME" || name == "NOTIFY_SOCKET" ||
			len(more) > 0 && (strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE") {
			continue
		}
		env = append(env, entry)
	}
	env = append(env, "HOME="+c.cfg.account.home, "USER="+c.cfg.account.name, "LOGNAME="+c.cfg.account.name)
	return append(env, more...)
}
