package pgctl

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/pghad/pghad/pg"
)

// runner is how the server's process is run: as a child, by the user's commands,
// or under a guard.
type runner interface {
	// start starts the postmaster. After an error none runs, or its end has been
	// seen to.
	start(ctx context.Context, o order) (process, error)
	// adopt opens the postmaster of that number, which runs already;
	// os.ErrProcessDone if it has ended.
	adopt(ctx context.Context, pid int) (process, error)
	// close ends what the runner does in the background. The server stays.
	close() error
}

// process is a running postmaster.
type process interface {
	// number is its process id.
	number() int
	// signal sends a signal to it, never to a later process of its number; to one
	// that has ended nothing is sent, without error.
	signal(s syscall.Signal) error
	// stop asks it to stop, without waiting.
	stop(mode pg.StopMode) error
	// wait blocks until it has ended, and says how if that is known, or until ctx
	// ends. Once for each process.
	wait(ctx context.Context) (how string, err error)
	// close gives it up. It runs on.
	close()
}

// order is what a runner is to start.
type order struct {
	argv     []string
	env      []string
	log      *os.File // takes standard output and error
	writable bool     // it accepts writes when it is up, and is not promoted first
}

// runner makes the runner that the configuration asks for.
func (c *Controller) newRunner() runner {
	switch {
	case c.cfg.Commands != nil:
		return newCommandRunner(c.cfg)
	case c.cfg.Guard != nil:
		return newGuardRunner(c.cfg)
	}
	return &childRunner{cfg: &c.cfg}
}

// stopSignal is what a postmaster understands.
func stopSignal(mode pg.StopMode) syscall.Signal {
	if mode == pg.StopImmediate {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// adopted is a postmaster whose parent is somebody else.
type adopted struct {
	*handle
	cfg *Config
}

// adoptProcess opens a postmaster that runs on the data directory.
func adoptProcess(cfg *Config, pid int) (*adopted, error) {
	h, err := openServerProcess(pid, cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return &adopted{handle: h, cfg: cfg}, nil
}

func (p *adopted) number() int { return p.pid }

func (p *adopted) stop(mode pg.StopMode) error { return p.signal(stopSignal(mode)) }

func (p *adopted) wait(ctx context.Context) (string, error) {
	return "", p.handle.wait(ctx, p.cfg.Clock, 2*p.cfg.Poll, p.cfg.DataDir)
}

// signalError names the receiver of a signal that could not be sent.
func signalError(s syscall.Signal, pid int, err error) error {
	return fmt.Errorf("send %v to postmaster %d: %w", s, pid, err)
}
