package pgtest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pghad/pghad/pg"
)

// Yield implements ha.Yielder.
func (k *Controller) Yield(ctx context.Context, to string) (pg.Position, error) {
	ctx, done, err := k.begin(ctx, "yield")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	end, err := k.yield(ctx, to)
	if err != nil {
		return pg.Position{}, fmt.Errorf("yield %s to %s: %w", k.s.Name, to, err)
	}
	return end, nil
}

// yield needs the turn. Before the signal nothing is lost by an error: the
// primary goes on.
func (k *Controller) yield(ctx context.Context, to string) (pg.Position, error) {
	if !k.running() {
		return pg.Position{}, pg.ErrNotRunning
	}
	y := &yielding{k: k, to: to}
	if err := y.prepare(ctx); err != nil {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrNotStopped, err)
	}
	if err := y.stop(ctx); err != nil {
		return pg.Position{}, err
	}
	return y.position(ctx)
}

// yielding is one Yield at work.
type yielding struct {
	k      *Controller
	to     string
	by     *process
	mark   *Record // what a standby that is fit has flushed
	target *sender
	unfit  []*sender
}

// prepare writes a record and waits until the target has flushed it, and the
// others have, or have not for some time.
func (y *yielding) prepare(ctx context.Context) error {
	k := y.k
	err := k.session(ctx, "yield/mark", func(p *process) error {
		if !p.writable() {
			return errors.New("it is not a primary")
		}
		y.by, y.mark = p, p.insert(KindFiller, nil)
		return nil
	})
	if err != nil {
		return err
	}
	leaves := func() bool { return !slices.ContainsFunc(y.by.senders, func(w *sender) bool { return w.name == y.to }) }
	err = k.await(ctx, "the flush of the target", func() bool {
		return k.s.proc != y.by || leaves() || slices.ContainsFunc(y.by.senders, y.serves)
	})
	if err != nil {
		return err
	}
	err = k.await(ctx, "the flush of the other standbys", func() bool {
		return k.s.proc != y.by || leaves() || !slices.ContainsFunc(y.by.senders, y.lags)
	})
	if err != nil && !errors.Is(err, ErrImpatient) {
		return err
	}
	return k.effect(ctx, "look/yield", func() error {
		i := slices.IndexFunc(y.by.senders, y.serves)
		if i < 0 {
			return fmt.Errorf("%s does not stream from here", y.to)
		}
		y.target = y.by.senders[i]
		for _, w := range y.by.senders {
			if w != y.target && y.lags(w) {
				y.unfit = append(y.unfit, w)
			}
		}
		return nil
	})
}

// serves reports whether a walsender is the target's and its standby is fit.
func (y *yielding) serves(w *sender) bool { return w.name == y.to && !y.lags(w) }

func (y *yielding) lags(w *sender) bool { return !w.flushKnown || w.flush < y.mark.End }

// stop stops the server, and ends the walsenders that hold it up: those that are
// known to at once, what else is there and not the target's after some time.
func (y *yielding) stop(ctx context.Context) error {
	k := y.k
	err := k.effect(ctx, "yield/signal", func() error {
		if k.s.proc != y.by || !y.by.postmaster.alive || y.by.postmaster.stopping != "" {
			return pg.ErrNotRunning
		}
		y.by.postmaster.stopping = pg.StopFast
		return nil
	})
	if err != nil {
		return err
	}
	if len(y.unfit) > 0 {
		if err := y.end(ctx, func(w *sender) bool { return slices.Contains(y.unfit, w) }); err != nil {
			return err
		}
	}
	gone := func() bool { return k.s.proc != y.by }
	err = k.await(ctx, "the end of the server that yields", gone)
	if errors.Is(err, ErrImpatient) {
		if err := y.end(ctx, func(*sender) bool { return true }); err != nil {
			return err
		}
		err = k.await(ctx, "the end of the server", gone)
	}
	if err != nil {
		return fmt.Errorf("it is still stopping: %w", err)
	}
	return nil
}

// end ends walsenders by their process ids, but not the target's.
func (y *yielding) end(ctx context.Context, which func(*sender) bool) error {
	return y.k.effect(ctx, "yield/end-senders", func() error {
		if y.k.s.proc != y.by {
			return nil
		}
		for _, w := range y.by.senders {
			if w != y.target && which(w) {
				w.terminated = true
			}
		}
		return nil
	})
}

// position is the end of the shutdown checkpoint.
func (y *yielding) position(ctx context.Context) (end pg.Position, err error) {
	err = y.k.effect(ctx, "look/shutdown", func() error {
		d := &y.k.s.disk
		last := d.wal.last()
		if y.k.s.proc != nil || d.control.State != stateShutDown || last.Kind != KindShutdown || last.Start != d.control.Checkpoint {
			return fmt.Errorf("it was not shut down cleanly as a primary: %s", d.control.State)
		}
		end = pg.Position{Timeline: d.control.Timeline, LSN: last.End}
		return nil
	})
	return end, err
}
