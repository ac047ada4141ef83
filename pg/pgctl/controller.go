package pgctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// errClosed is what a closed controller answers.
var errClosed = errors.New("the controller is closed")

// errStopRequested is why an operation ends when Stop is called meanwhile.
var errStopRequested = errors.New("the server is being stopped")

// Controller controls one PostgreSQL server. It satisfies ha.PostgresController,
// whose comments are its contract.
//
// Operations that change the server run one at a time, a second one waits.
// Status, WaitChange, SelfCheck, SyncView and Stop may be called at any time,
// from any goroutine; Stop ends the operation that runs.
type Controller struct {
	cfg   Config
	clock clock.Clock
	log   *slog.Logger

	runner runner        // of the server's process
	turn   chan struct{} // holds a token while an operation runs
	kept   keptSession   // of the superuser
	watch  keptSession   // of MonitorUser, who asks for Status; unused without one
	remote keptRemote    // of Identify
	copies copies        // the rewind or clone under way

	// mu guards what follows. It is never held while something blocks.
	mu         sync.Mutex
	server     *postmaster             // nil if none runs
	ended      pg.Process              // how the last one ended
	generation uint64                  // grows with each start and end of a postmaster
	changed    chan struct{}           // closed and replaced when generation grows
	cancelTurn context.CancelCauseFunc // of the operation that runs, nil if none may be ended
	stops      int                     // Stop calls under way
	closed     bool
	settings   settings    // in force, or to be in force at the next start, or on their way
	confirmed  settings    // those that the server was last seen to have in force
	silence    silence     // of the server
	unwatch    *postmaster // a server that does not admit MonitorUser
	hung       hungCheck   // the last self-check, if it was given up
	archiver   string      // the archive_command or archive_library of the user's file that was warned of
	overridden string      // the managed settings that Status last found overridden
	archived   time.Time   // until when the guard lets the server archive; zero without a guard

	lock *os.File // keeps other controllers away from StateDir

	slowPromotions int // promotions in a row that exceeded their deadline; guarded by turn

	lifetime context.Context // ends at Close: of background goroutines
	end      context.CancelFunc
	tasks    sync.WaitGroup // background goroutines but those that reap children
	sideWork sideWork       // the checkpoint after a promotion
}

// New checks the configuration and the data directory, takes over a server that
// runs on it already, and returns a controller. It changes nothing but to make
// StateDir and SocketDir.
func New(config Config) (*Controller, error) {
	cfg, err := config.complete()
	if err != nil {
		return nil, err
	}
	if err := cfg.checkData(); err != nil {
		return nil, err
	}
	if err := cfg.account.makeDir(cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	if err := cfg.account.makeDir(cfg.SocketDir, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(cfg.StateDir, "lock"), cfg)
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", cfg.StateDir, err)
	}
	c := &Controller{
		cfg:        cfg,
		clock:      cfg.Clock,
		log:        cfg.Logger,
		turn:       make(chan struct{}, 1),
		kept:       newKeptSession(cfg.Superuser),
		watch:      newKeptSession(cfg.MonitorUser),
		ended:      pg.ProcessStopped,
		generation: 1,
		changed:    make(chan struct{}),
		lock:       lock,
	}
	c.lifetime, c.end = context.WithCancel(context.Background())
	c.runner = c.newRunner()
	if c.settings, _, err = c.settingsNote().read(); err == nil {
		err = errors.Join(c.writePassfile(), c.tryParameters(cfg.Parameters))
	}
	if err != nil {
		c.end()
		return nil, errors.Join(err, c.runner.close(), unlock(lock))
	}
	c.ended = c.howEnded(false)
	c.adopt()
	if err := c.endRecovery(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Check finds what New would refuse, and changes nothing. A controller that works
// there already is no problem.
func Check(config Config) error {
	config.Effects = Effects{}
	cfg, err := config.complete()
	if err != nil {
		return err
	}
	if err := cfg.checkData(); err != nil {
		return err
	}
	if len(cfg.Parameters) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "pghad-check-")
	if err != nil {
		return fmt.Errorf("try the parameters: %w", err)
	}
	defer os.RemoveAll(dir)                      //nolint:errcheck // a directory for things that may be lost
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the server's user must get to what is in it
		return fmt.Errorf("try the parameters: %w", err)
	}
	c := &Controller{cfg: cfg, clock: cfg.Clock, log: cfg.Logger, lifetime: context.Background()}
	return c.readParameters(filepath.Join(dir, "try"), cfg.Parameters)
}

// lockFile takes a lock that ends with this process and with the programs that it
// runs. Those of a controller that was killed end with it, but not what they have
// started: pg_basebackup's receiver waits for its server's next word. Such orphans
// are killed.
func lockFile(path string, cfg Config) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // a file of the configured directories
	if err != nil {
		return nil, fileFault(path, err)
	}
	deadline := cfg.Clock.Now().Add(cfg.KillAfter)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// Without room for it nobody is taken for an orphan, see killOrphans.
			_, _ = fmt.Fprintf(io.NewOffsetWriter(f, 0), "%10d\n", os.Getpid())
			return f, nil
		}
		if err := killOrphans(path); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !cfg.Clock.Now().Before(deadline) {
			return nil, errors.Join(errors.New("another controller uses it: give each server a directory of its own, or stop the other program"), f.Close())
		}
		if err := timectx.Sleep(context.Background(), cfg.Clock, cfg.Poll); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// unlock lets go of the lock also where a process that was just forked, and has not
// yet become another program, still has the file.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// Close ends the controller and leaves the server as it is, and its guard: that
// goes by the last deadline. The operations that run are ended. A goroutine that
// waits for a postmaster or guard started by this controller stays until that one
// ends, so that it does not become a zombie.
func (c *Controller) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	if c.cancelTurn != nil {
		c.cancelTurn(errClosed)
	}
	c.mu.Unlock()
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.end()
	c.kept.close()
	c.watch.close()
	c.remote.close()
	c.sideWork.end()
	c.tasks.Wait()
	return errors.Join(c.runner.close(), unlock(c.lock))
}

// begin waits for the controller's turn. The returned context ends with ctx,
// when Stop is called, and at Close; done must be called.
func (c *Controller) begin(ctx context.Context, what string) (_ context.Context, done func(), err error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("%s: wait for the operation before it: %w", what, context.Cause(ctx))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		err = errClosed
	case c.stops > 0:
		err = errStopRequested
	default:
		c.cancelTurn = cancel
		return ctx, func() {
			c.mu.Lock()
			c.cancelTurn = nil
			c.mu.Unlock()
			cancel(nil)
			<-c.turn
		}, nil
	}
	cancel(nil)
	<-c.turn
	return nil, nil, fmt.Errorf("%s: %w", what, err)
}

// beginStop ends the operation that runs and takes its place. Until done is
// called no other operation but a Stop begins.
func (c *Controller) beginStop(ctx context.Context) (_ context.Context, done func(), err error) {
	c.mu.Lock()
	c.stops++
	if c.cancelTurn != nil {
		c.cancelTurn(errStopRequested)
	}
	c.mu.Unlock()
	leave := func() {
		c.mu.Lock()
		c.stops--
		c.mu.Unlock()
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, nil, fmt.Errorf("stop PostgreSQL: wait for the operation before it: %w", context.Cause(ctx))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.cancelTurn = cancel // another Stop, perhaps a harder one, takes over
	c.mu.Unlock()
	return ctx, func() {
		c.mu.Lock()
		c.cancelTurn = nil
		c.mu.Unlock()
		leave()
		cancel(nil)
		<-c.turn
	}, nil
}

// pause waits until the next look at something that has no event.
func (c *Controller) pause(ctx context.Context) error {
	return timectx.Sleep(ctx, c.clock, c.cfg.Poll)
}

// short bounds a query of the controller.
func (c *Controller) short(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return timectx.With(ctx, c.clock, c.cfg.StatementTimeout, what)
}

func (c *Controller) dataPath(name ...string) string {
	return filepath.Join(append([]string{c.cfg.DataDir}, name...)...)
}

func (c *Controller) statePath(name string) string { return filepath.Join(c.cfg.StateDir, name) }
