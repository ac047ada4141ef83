package pgctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/internal/guard"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// deadliner is a runner that stops the server by itself when a deadline passes.
type deadliner interface {
	runner
	// setDeadline sets the deadline of the server that runs writable, or is the
	// next to: so far ahead as left then says.
	setDeadline(ctx context.Context, left func() time.Duration) error
	// mustHaveDeadline refuses if there is none ahead.
	mustHaveDeadline() error
	// declare declares the running server writable, which it is about to become.
	declare(ctx context.Context) error
}

// SetDeadline says that the server may run writable for as long as left returns,
// and no longer: the guard stops it at once when that time is over and nobody has
// set a later deadline, whatever has become of the controller and its process by
// then. It is counted from before left was called, which happens once, in the order
// in which calls take effect; left must not block. Nothing left: the right to run
// writable is revoked, and a writable server is stopped at once.
//
// It is called before StartPrimary and Promote, which refuse without a deadline
// that is ahead (pg.ErrNoWarrant), and then again and again, each time some
// seconds before the last one passes. A standby has no deadline until Promote: for
// one that runs, and while no server does, the deadline is only kept.
//
// It may be called at any time, from any goroutine, also while another operation
// runs, and returns when the guard has taken the deadline. An error leaves open
// whether it has: the one before may be what counts. errors.ErrUnsupported says
// that no guard holds this server: none is configured, or the server was started
// without one.
func (c *Controller) SetDeadline(ctx context.Context, left func() time.Duration) error {
	d, ok := c.runner.(deadliner)
	if !ok {
		return fmt.Errorf("set the deadline of PostgreSQL: no guard is configured: %w", errors.ErrUnsupported)
	}
	var told time.Duration
	err := d.setDeadline(ctx, func() time.Duration {
		told = left()
		return told
	})
	if err == nil {
		err = c.archiveDeadline(told)
	}
	if err != nil {
		return fmt.Errorf("set the deadline of PostgreSQL: %w", err)
	}
	return nil
}

// mustHaveDeadline refuses where the server would run writable under a guard that
// does not know for how long.
func (c *Controller) mustHaveDeadline() error {
	if d, ok := c.runner.(deadliner); ok {
		return d.mustHaveDeadline()
	}
	return nil
}

// declare has the guard, if there is one, know that the server becomes writable
// now.
func (c *Controller) declare(ctx context.Context) error {
	if d, ok := c.runner.(deadliner); ok {
		return d.declare(ctx)
	}
	return nil
}

func (r *guardRunner) setDeadline(ctx context.Context, left func() time.Duration) error {
	done, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	at := guard.Now()
	r.deadline = &guard.Deadline{Left: guard.Duration(left()), At: &at}
	if !r.serves() {
		return nil
	}
	if !r.served.declared {
		// PostgreSQL removes the file when it has been promoted: this may be the
		// primary of somebody who has not declared it.
		standby, err := exists(r.cfg.signalFile())
		if err != nil || standby {
			return err
		}
	}
	return r.tell(ctx)
}

func (r *guardRunner) mustHaveDeadline() error {
	done, err := r.begin(r.lifetime)
	if err != nil {
		return err
	}
	defer done()
	return r.deadlineAhead()
}

// deadlineAhead needs the turn.
func (r *guardRunner) deadlineAhead() error {
	if r.deadline == nil {
		return fmt.Errorf("%w: the guard has been given no deadline: set one before", pg.ErrNoWarrant)
	}
	if left := r.deadline.Ahead(guard.Now()); left <= 0 {
		return fmt.Errorf("%w: the deadline has passed %s ago", pg.ErrNoWarrant, -left.Round(time.Millisecond))
	}
	return nil
}

func (r *guardRunner) declare(ctx context.Context) error {
	done, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := r.deadlineAhead(); err != nil {
		return err
	}
	if !r.serves() {
		return pg.ErrNotRunning
	}
	return r.tell(ctx)
}

// serves reports whether a server runs. It needs the turn.
func (r *guardRunner) serves() bool {
	if r.served == nil {
		return false
	}
	select {
	case <-r.served.exited:
		return false
	default:
		return true
	}
}

// tell tells the guard the deadline. It needs the turn.
func (r *guardRunner) tell(ctx context.Context) error {
	ctx, cancel := timectx.With(ctx, r.cfg.Clock, guardAnswer, "answer of PostgreSQL's guard")
	defer cancel()
	err := r.connect(ctx)
	if errors.Is(err, guard.ErrNoGuard) {
		return fmt.Errorf("the running server %d has no guard, restart it under one: %w (%w)", r.served.pid, errors.ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	defer r.cfg.Effects.begin("tell guard")()
	if !r.served.declared && r.deadline.Left <= 0 {
		return r.client.Stop(ctx, guard.StopImmediate) // a primary that was never declared has no deadline to revoke
	}
	// It counts as declared whatever comes of this: the guard may have heard it.
	r.served.declared = true
	_, err = r.client.SetDeadline(ctx, *r.deadline)
	if errors.Is(err, guard.ErrState) {
		return nil // it has just ended
	}
	return err
}
