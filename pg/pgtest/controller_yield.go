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
	if to == "" {
		return pg.Position{}, errors.New("no standby was named")
	}
	y := &yielding{k: k, to: to}
	if err := y.probe(ctx); err != nil {
		return pg.Position{}, err
	}
	err := k.effect(ctx, "yield/signal", func() error {
		if k.s.proc != y.by || !y.by.writable() {
			return pg.ErrNotRunning
		}
		y.by.postmaster.stopping = pg.StopFast
		return nil
	})
	if err != nil {
		return pg.Position{}, err
	}
	if err := y.end(ctx); err != nil {
		return pg.Position{}, err
	}
	return y.position(ctx)
}

// yielding is one Yield at work.
type yielding struct {
	k    *Controller
	to   string
	by   *process
	mark *Record // every walsender that is fit has its standby flush it
}

// probe writes a record and waits until the target has flushed it; the others
// get the controller's patience.
func (y *yielding) probe(ctx context.Context) error {
	k := y.k
	err := k.session(ctx, "yield/probe", func(p *process) error {
		if !p.writable() {
			return errors.New("it is not a primary")
		}
		y.by, y.mark = p, p.insert(KindFiller, nil)
		return nil
	})
	if err != nil {
		return err
	}
	err = k.await(ctx, "the flush of the standby", func() bool {
		return k.s.proc != y.by || y.by.postmaster.stopping != "" || slices.ContainsFunc(y.by.senders, y.serves)
	})
	if err != nil {
		return err
	}
	err = k.await(ctx, "the flush of the other standbys", func() bool {
		return k.s.proc != y.by || !slices.ContainsFunc(y.by.senders, y.lags)
	})
	if errors.Is(err, ErrImpatient) {
		return nil
	}
	return err
}

// serves reports whether a walsender is the target's and its standby has flushed
// the mark.
func (y *yielding) serves(w *sender) bool { return w.name == y.to && !y.lags(w) }

func (y *yielding) lags(w *sender) bool { return !w.flushKnown || w.flush < y.mark.End }

// end waits for the end of the server, and ends the walsenders that hold it up.
func (y *yielding) end(ctx context.Context) error {
	k := y.k
	gone := func() bool { return k.s.proc != y.by }
	if err := y.endSenders(ctx, y.lags); err != nil {
		return err
	}
	err := k.await(ctx, "the end of the server", gone)
	if errors.Is(err, ErrImpatient) {
		if err := y.endSenders(ctx, func(*sender) bool { return true }); err != nil {
			return err
		}
		err = k.await(ctx, "the end of the server", gone)
	}
	if err != nil {
		return fmt.Errorf("it is still stopping: %w", err)
	}
	return nil
}

// endSenders ends walsenders, but not the target's.
func (y *yielding) endSenders(ctx context.Context, which func(*sender) bool) error {
	return y.k.effect(ctx, "yield/end-senders", func() error {
		if y.k.s.proc != y.by {
			return nil
		}
		for _, w := range y.by.senders {
			if which(w) && !y.serves(w) {
				w.terminated = true
			}
		}
		return nil
	})
}

// position is the end of the shutdown checkpoint.
func (y *yielding) position(ctx context.Context) (end pg.Position, err error) {
	err = y.k.effect(ctx, "look/yield", func() error {
		d := &y.k.s.disk
		last := d.wal.last()
		if y.k.s.proc != nil || d.control.State != stateShutDown || last == nil || last.Kind != KindShutdown || last.Start != d.control.Checkpoint {
			return fmt.Errorf("it was not shut down cleanly as a primary: %q", d.control.State)
		}
		end = pg.Position{Timeline: d.control.Timeline, LSN: last.End}
		return nil
	})
	return end, err
}
