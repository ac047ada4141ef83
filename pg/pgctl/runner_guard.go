package pgctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/pghad/pghad/internal/guard"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Guard runs the server under pghad-guard, which is its parent and holds the
// deadline that Controller.SetDeadline sets. It lives as long as the server, also
// without the controller, and exists on Linux only.
type Guard struct {
	// Program is the path of pghad-guard. Default: beside this program, else in
	// PATH.
	Program string
	// Watchdog is a watchdog device, which resets the machine when it is frozen
	// while the server may write; for example /dev/watchdog. Default: none.
	Watchdog string
	// WatchdogTimeout is after how long the device does so, in whole seconds. It
	// must be well below what SetDeadline leaves at least. Default: the guard's, 5 s.
	WatchdogTimeout time.Duration
	// WatchdogMargin is how long after the deadline that may be at the latest.
	// Default: the guard's, KillAfter + 1 s.
	WatchdogMargin time.Duration
}

const (
	guardName    = "pghad-guard"
	guardDir     = "guard"     // of the socket, in the state directory
	guardLogName = "guard.log" // what the guard says, in the state directory

	// guardPatience bounds the start of a guard, and the end of one whose server
	// is gone.
	guardPatience = 10 * time.Second
	// guardAnswer bounds an answer of a guard that is not frozen.
	guardAnswer = 2 * time.Second
)

func (cfg *Config) guardSocket() string { return filepath.Join(cfg.StateDir, guardDir, "socket") }

// completeGuard finds the program and checks what could not work.
func (cfg *Config) completeGuard() error {
	if cfg.Guard == nil {
		return nil
	}
	if cfg.Commands != nil {
		return errors.New("the server is run under a guard or by Commands, not by both: leave one of them out")
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("a guard needs Linux: %w", errors.ErrUnsupported)
	}
	found := *cfg.Guard
	if found.Program == "" {
		found.Program = FindGuard()
	}
	info, err := os.Stat(found.Program)
	switch {
	case found.Program == "":
		return errors.New("Guard.Program: there is no " + guardName + " beside this program nor in PATH: install it, or set its path")
	case err != nil:
		return fmt.Errorf("Guard.Program: %w: set it to the path of %s", err, guardName)
	case !filepath.IsAbs(found.Program) || info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("Guard.Program %q: set it to the absolute path of %s", found.Program, guardName)
	case found.WatchdogTimeout%time.Second != 0 || found.WatchdogTimeout < 0:
		return fmt.Errorf("Guard.WatchdogTimeout %s: a watchdog device takes whole seconds", found.WatchdogTimeout)
	}
	if path := cfg.guardSocket(); len(path) > maxSocketPath {
		return fmt.Errorf("the guard's socket %s would have %d bytes, but a unix socket's path has at most %d: set StateDir to a shorter path", path, len(path), maxSocketPath)
	}
	cfg.Guard = &found
	return nil
}

// FindGuard is the path of pghad-guard: beside this program, or in PATH; "" if
// there is none.
func FindGuard() string {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), guardName)
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	path, err := exec.LookPath(guardName)
	if err != nil {
		return ""
	}
	return path
}

// guardRunner runs the server under a guard.
type guardRunner struct {
	cfg  Config
	turn chan struct{} // holds a token while server, connection or deadline change

	// What follows is changed by who has the turn.
	deadline *guard.Deadline // the last one that was set, nil if none was
	served   *served         // the running server, or the last one; nil if none was
	client   *guard.Client   // the connection to its guard, nil if there is none

	watchers sync.WaitGroup  // one for each connection
	lifetime context.Context // ends at close
	end      context.CancelFunc
}

// served is a server and what its guard says of it.
type served struct {
	pid      int
	declared bool          // writable; changed by who has the turn
	exited   chan struct{} // closed when the postmaster is known to have ended
	how      string        // and how, by its guard; valid from then on
	ending   sync.Once
}

func newServed(pid int) *served { return &served{pid: pid, exited: make(chan struct{})} }

// ended notes how the postmaster has ended.
func (s *served) ended(how string) {
	s.ending.Do(func() {
		s.how = how
		close(s.exited)
	})
}

func newGuardRunner(cfg Config) *guardRunner {
	r := &guardRunner{cfg: cfg, turn: make(chan struct{}, 1)}
	r.lifetime, r.end = context.WithCancel(context.Background())
	return r
}

// begin waits for the turn.
func (r *guardRunner) begin(ctx context.Context) (done func(), err error) {
	select {
	case r.turn <- struct{}{}:
		if r.lifetime.Err() != nil {
			<-r.turn
			return nil, errClosed
		}
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for what the guard is asked already: %w", context.Cause(ctx))
	case <-r.lifetime.Done():
		return nil, errClosed
	}
}

func (r *guardRunner) close() error {
	r.end()
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	var err error
	if r.client != nil {
		err = r.client.Close()
	}
	r.watchers.Wait()
	return err
}

// start starts a guard and has it start the server.
func (r *guardRunner) start(ctx context.Context, o order) (process, error) {
	done, err := r.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	defer done()
	if o.writable {
		if err := r.deadlineAhead(); err != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
	if err := r.dismiss(ctx); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	ctx, cancel := timectx.With(ctx, r.cfg.Clock, guardPatience, "start of PostgreSQL under its guard")
	defer cancel()
	launched := r.cfg.Effects.begin("launch guard")
	cmd, err := r.launch(ctx)
	launched()
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL's guard: %w", err)
	}
	started := r.cfg.Effects.begin("start under guard")
	p, err := r.startUnder(ctx, o)
	started()
	if err != nil {
		// Whatever the guard has started gets its signal from the kernel.
		_ = cmd.Process.Kill() // it may have ended
		return nil, err
	}
	return p, nil
}

// launch starts a guard in a session of its own and returns when it can be
// connected to.
func (r *guardRunner) launch(ctx context.Context) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(r.cfg.StateDir, guardLogName), os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the guard has its own
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	cmd := exec.Command(r.cfg.Guard.Program, r.arguments()...) //nolint:gosec // the configured guard; it outlives any context
	// Nothing of this process's environment: the server's comes with its start.
	// More processors than it can use would only cost it memory.
	cmd.Env = []string{"GOMAXPROCS=2"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan bool, 1)
	go func() { // its owner is the guard: it ends with it
		lines := bufio.NewScanner(out)
		ready <- lines.Scan() && lines.Text() == "ready"
		_ = cmd.Wait() // closes the pipe; how it ends is in its log
	}()
	select {
	case is := <-ready:
		if is {
			return cmd, nil
		}
		err = fmt.Errorf("it has ended: %s", lastLine(readTail(log, from)))
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	_ = cmd.Process.Kill() // it may have ended
	return nil, err
}

// arguments are those of the guard.
func (r *guardRunner) arguments() []string {
	g := r.cfg.Guard
	arguments := []string{"serve", "--socket", r.cfg.guardSocket(), "--kill-after", r.cfg.KillAfter.String()}
	if g.Watchdog == "" {
		return arguments
	}
	arguments = append(arguments, "--watchdog", g.Watchdog)
	if g.WatchdogTimeout > 0 {
		arguments = append(arguments, "--watchdog-timeout", g.WatchdogTimeout.String())
	}
	if g.WatchdogMargin > 0 {
		arguments = append(arguments, "--watchdog-margin", g.WatchdogMargin.String())
	}
	return arguments
}

// realPath is where an open file is: the log may be a link to where its user wants
// it, and a guard follows none.
func realPath(f *os.File) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return f.Name()
	}
	return path
}

// startUnder has the guard that was just started start the server.
func (r *guardRunner) startUnder(ctx context.Context, o order) (process, error) {
	client, err := guard.Dial(ctx, r.cfg.guardSocket())
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	start := guard.Start{Argv: o.argv, Env: o.env, Log: realPath(o.log)}
	if a := r.cfg.account; a.change {
		start.Credential = &guard.Credential{UID: a.uid, GID: a.gid, Groups: a.groups()}
	}
	if o.writable {
		start.Deadline = r.deadline
	}
	pid, err := client.Start(ctx, start)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	h, err := openChild(pid, client.Pid())
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, errors.Join(err, client.Close())
	}
	r.served = newServed(pid)
	r.served.declared = o.writable
	r.connected(client)
	return &guarded{handle: h, cfg: &r.cfg, served: r.served}, nil
}

// adopt takes over a server, and its guard if it has one. Without one it is run
// as it is: SetDeadline says so.
func (r *guardRunner) adopt(ctx context.Context, pid int) (process, error) {
	h, err := openServerProcess(pid, r.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	done, err := r.begin(ctx)
	if err != nil {
		h.close()
		return nil, err
	}
	defer done()
	if r.served == nil || r.served.pid != pid {
		r.served = newServed(pid)
	}
	ctx, cancel := timectx.With(ctx, r.cfg.Clock, guardAnswer, "answer of PostgreSQL's guard")
	defer cancel()
	if err := r.connect(ctx); err != nil {
		r.cfg.Logger.Warn("PostgreSQL runs without a guard that can be asked", "pid", pid, "error", err.Error())
	}
	return &guarded{handle: h, cfg: &r.cfg, served: r.served}, nil
}

// connect makes sure of a connection to the guard of the server. It needs the
// turn.
func (r *guardRunner) connect(ctx context.Context) error {
	if r.client != nil {
		select {
		case <-r.client.Done():
			r.client = nil
		default:
			return nil
		}
	}
	client, err := r.dial(ctx)
	if err != nil {
		return err
	}
	found := client.Hello().Status
	if found.Pid != r.served.pid {
		return errors.Join(fmt.Errorf("the guard at %s has another server, %d: %w", r.cfg.guardSocket(), found.Pid, guard.ErrNoGuard), client.Close())
	}
	r.served.declared = found.Writable
	if found.Exit != "" {
		r.served.ended(found.Exit)
	}
	r.connected(client)
	return nil
}

// dial connects to the guard. The connection of an agent that has just ended may
// still be on its way out; and so may a guard that has no server, which hangs up.
func (r *guardRunner) dial(ctx context.Context) (*guard.Client, error) {
	for {
		client, err := guard.Dial(ctx, r.cfg.guardSocket())
		if !errors.Is(err, guard.ErrBusy) && !errors.Is(err, guard.ErrLost) {
			return client, err
		}
		if pause := timectx.Sleep(ctx, r.cfg.Clock, r.cfg.Poll); pause != nil {
			return nil, err
		}
	}
}

// connected keeps a connection, and listens to it. It needs the turn.
func (r *guardRunner) connected(client *guard.Client) {
	r.client = client
	server := r.served
	r.watchers.Go(func() { r.listen(client, server) })
}

// listen hears what the guard says until the connection ends.
func (r *guardRunner) listen(client *guard.Client, server *served) {
	gone := false
	for event := range client.Events() {
		switch event.Kind {
		case guard.EventPassed:
			r.cfg.Logger.Error("the deadline has passed and the guard stops PostgreSQL at once", "pid", server.pid, "guard", client.Pid())
		case guard.EventExited:
			server.ended(event.Exit)
		case guard.EventGone:
			gone = true
		}
	}
	if gone || r.lifetime.Err() != nil {
		return
	}
	if err := r.lost(server); err != nil && r.lifetime.Err() == nil {
		r.cfg.Logger.Error("the connection to PostgreSQL's guard has ended and there is no other", "pid", server.pid, "error", err.Error())
	}
}

// lost is what to do about a connection that has ended while the server was there:
// connect again, or see to it that the server ends with its guard. The kernel
// signals the postmaster only, and only once.
func (r *guardRunner) lost(server *served) error {
	done, err := r.begin(r.lifetime)
	if err != nil {
		return err
	}
	defer done()
	select {
	case <-server.exited:
		return nil // what it has left behind is waited for before the next start
	default:
	}
	ctx, cancel := timectx.With(r.lifetime, r.cfg.Clock, guardAnswer, "answer of PostgreSQL's guard")
	err = r.connect(ctx)
	cancel()
	if !errors.Is(err, guard.ErrNoGuard) {
		return err
	}
	r.cfg.Logger.Error("PostgreSQL has lost its guard and is stopped at once", "pid", server.pid)
	if h, err := openServerProcess(server.pid, r.cfg.DataDir); err == nil {
		err = h.signal(syscall.SIGQUIT)
		h.close()
		if err != nil {
			return err
		}
	}
	for deadline := r.cfg.Clock.Now().Add(r.cfg.KillAfter); ; {
		left, err := serverProcesses(r.cfg.DataDir)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			server.ended("killed with its guard")
			return nil
		}
		if !r.cfg.Clock.Now().Before(deadline) {
			kill(left)
		}
		if err := timectx.Sleep(r.lifetime, r.cfg.Clock, r.cfg.Poll); err != nil {
			return err
		}
	}
}

// dismiss sees to it that the guard of a former server has ended. No process of
// the server that the controller knows of is left then; if the guard has one, a
// start was cut off, and nobody waits for it any more. It needs the turn.
func (r *guardRunner) dismiss(ctx context.Context) error {
	ctx, cancel := timectx.With(ctx, r.cfg.Clock, guardPatience, "end of the former server's guard")
	defer cancel()
	for {
		client, err := r.client, error(nil)
		if client == nil {
			client, err = r.dial(ctx)
		}
		if errors.Is(err, guard.ErrNoGuard) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: look at the guard in %s", err, filepath.Dir(r.cfg.guardSocket()))
		}
		r.client = nil
		err = r.seeOff(ctx, client)
		if err := errors.Join(err, client.Close()); err != nil {
			return err
		}
	}
}

// seeOff waits for the end of a guard. One that does not end although its server
// is gone is killed.
func (r *guardRunner) seeOff(ctx context.Context, client *guard.Client) error {
	patience, cancel := timectx.With(ctx, r.cfg.Clock, r.cfg.KillAfter+guardAnswer, "end of the former server's guard")
	defer cancel()
	status, err := client.Status(patience)
	switch {
	case err == nil && status.State == guard.StateIdle:
		return timectx.Sleep(ctx, r.cfg.Clock, r.cfg.Poll) // it ends with the connection
	case err == nil:
		stop := func() error { return client.Stop(patience, guard.StopImmediate) }
		if err := r.cfg.Effects.run("stop former guard", stop); err != nil && !errors.Is(err, guard.ErrLost) {
			return err
		}
	}
	select {
	case <-client.Done():
		return nil
	case <-patience.Done():
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r.cfg.Logger.Warn("a guard that does not end is killed", "pid", client.Pid())
	process, err := os.FindProcess(client.Pid())
	if err != nil {
		return err
	}
	if err := r.cfg.Effects.run("kill guard", process.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill guard %d: %w", client.Pid(), err)
	}
	select {
	case <-client.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// guarded is a postmaster that a guard is the parent of.
type guarded struct {
	handle *handle // nil if it had ended before it could be opened
	cfg    *Config
	served *served
}

func (p *guarded) number() int { return p.served.pid }

func (p *guarded) signal(s syscall.Signal) error {
	if p.handle == nil {
		return nil
	}
	return p.handle.signal(s)
}

// stop signals the postmaster itself: a guard that is frozen would not.
func (p *guarded) stop(mode pg.StopMode) error { return p.signal(stopSignal(mode)) }

// wait goes by what the guard says, and by the process itself in case the guard
// says nothing any more.
func (p *guarded) wait(ctx context.Context) (string, error) {
	looking, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var looker sync.WaitGroup
	defer looker.Wait()
	defer cancel()
	// By its number alone a postmaster cannot be told from what it was before.
	if p.handle != nil && p.handle.file != nil {
		looker.Go(func() {
			if p.handle.wait(looking, p.cfg.Clock, 2*p.cfg.Poll, p.cfg.DataDir) == nil {
				close(ended)
			}
		})
	}
	select {
	case <-p.served.exited:
		return p.served.how, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-ended:
	}
	// Its guard is about to say how.
	moment, release := timectx.With(ctx, p.cfg.Clock, 4*p.cfg.Poll, "the guard's word of the end")
	defer release()
	select {
	case <-p.served.exited:
		return p.served.how, nil
	case <-moment.Done():
	}
	if err := context.Cause(ctx); err != nil {
		return "", err
	}
	p.served.ended("") // its guard is gone, or it never had one
	return "", nil
}

func (p *guarded) close() {
	if p.handle != nil {
		p.handle.close()
	}
}

// openChild opens a child of parent, which may not have become what it is to be.
func openChild(pid, parent int) (*handle, error) {
	file, err := openPidfd(pid)
	if err != nil {
		return nil, err
	}
	h := &handle{pid: pid, file: file}
	if !isChildOf(pid, parent) { // its number is somebody else's already
		h.close()
		return nil, os.ErrProcessDone
	}
	return h, nil
}
