package pgtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/pghad/pghad/pg"
)

// Promote implements ha.Promoter.
func (k *Controller) Promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error) {
	ctx, done, err := k.begin(ctx, "promote")
	if err != nil {
		return pg.Promotion{}, err
	}
	defer done()
	promotion, err := k.promote(ctx, warrant, next)
	if err != nil {
		return pg.Promotion{}, fmt.Errorf("promote %s to timeline %d: %w", k.s.Name, next, err)
	}
	return promotion, nil
}

func (k *Controller) promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error) {
	if warrant == nil {
		return pg.Promotion{}, pg.ErrNoWarrant
	}
	var already pg.Timeline
	err := k.session(ctx, "look/role", func(p *process) error {
		if p.phase == phasePrimary {
			already = p.timeline
		}
		return nil
	})
	switch {
	case err != nil:
		return pg.Promotion{}, err
	case already == next:
		return k.promoted(ctx, next)
	case already != 0:
		return pg.Promotion{}, fmt.Errorf("it is a primary of timeline %d already: stop it first", already)
	}
	held, err := k.position(ctx)
	if err != nil {
		return pg.Promotion{}, err
	}
	if next <= held.Timeline {
		return pg.Promotion{}, fmt.Errorf("it holds WAL of timeline %d: the next one must be above", held.Timeline)
	}
	if err := k.forgetFuture(ctx, held, next); err != nil {
		return pg.Promotion{}, err
	}
	if err := k.configure(ctx, "promote/close-gate", func(s *settings) { s.GateOpen = false }); err != nil {
		return pg.Promotion{}, err
	}
	if err := k.effect(ctx, "promote/end-sessions", k.endClients); err != nil {
		return pg.Promotion{}, err
	}
	return k.signalPromotion(ctx, warrant, held, next)
}

// forgetFuture restarts a server that may be set on a timeline which it has heard of
// and never reached: its promotion would begin there.
func (k *Controller) forgetFuture(ctx context.Context, held pg.Position, next pg.Timeline) error {
	d := &k.s.disk
	if len(d.future(held, next)) == 0 {
		return nil
	}
	if err := k.stop(ctx, pg.StopFast); err != nil {
		return err
	}
	err := k.effect(ctx, "promote/forget", func() error {
		for _, t := range d.future(held, next) {
			delete(d.histories, t)
		}
		return nil
	})
	if err == nil {
		err = k.startStandby(ctx, pg.Upstream{})
	}
	if err != nil {
		return err
	}
	now, err := k.position(ctx)
	if err == nil && now != held {
		err = fmt.Errorf("after a restart it holds %s, and %s before", now, held)
	}
	return err
}

// future are the timelines between that there is a real history of.
func (d *disk) future(held pg.Position, next pg.Timeline) []pg.Timeline {
	var timelines []pg.Timeline
	for t := held.Timeline + 1; t < next; t++ {
		if d.hasHistory(t) && !isPlaceholder(d.histories[t]) {
			timelines = append(timelines, t)
		}
	}
	return timelines
}

// endClients ends the sessions of clients.
func (k *Controller) endClients() error {
	p := k.s.proc
	if p == nil {
		return pg.ErrNotRunning
	}
	for _, session := range p.sessions {
		session.lose()
	}
	p.sessions = nil
	return nil
}

// signalPromotion is the part from the reserved number on.
func (k *Controller) signalPromotion(ctx context.Context, warrant pg.Warrant, held pg.Position, next pg.Timeline) (pg.Promotion, error) {
	reserved := false
	err := k.effect(ctx, "promote/placeholders", func() (err error) {
		if err = check(warrant); err == nil {
			reserved, err = k.s.disk.reserve(held, next)
		}
		return err
	})
	if err == nil {
		err = k.effect(ctx, "promote/signal", func() error {
			if err := check(warrant); err != nil {
				return err
			}
			p := k.s.proc
			if p == nil || p.startup == nil {
				return pg.ErrNotRunning
			}
			p.startup.signalPromotion(p)
			return nil
		})
	}
	if err != nil {
		return pg.Promotion{}, errors.Join(err, k.unreserve(ctx, reserved))
	}
	return k.awaitPromotion(ctx, next)
}

// reserve makes the server choose next, by placeholders for the numbers below.
func (d *disk) reserve(held pg.Position, next pg.Timeline) (bool, error) {
	if d.hasHistory(next) {
		return false, fmt.Errorf("there is a history file of timeline %d already: %w", next, pg.ErrWrongTimeline)
	}
	reserved := false
	for t := held.Timeline + 1; t < next; t++ {
		if !d.hasHistory(t) {
			d.noted, reserved = true, true
			d.histories[t] = pg.History{{Timeline: held.Timeline, At: placeholderAt, Reason: placeholderReason}}
		}
	}
	return reserved, nil
}

// unreserve takes the placeholders back, and restarts the server that has seen
// them.
func (k *Controller) unreserve(ctx context.Context, reserved bool) error {
	if !reserved {
		return nil
	}
	if err := k.stop(context.WithoutCancel(ctx), pg.StopFast); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return k.startStandby(ctx, pg.Upstream{})
	}
	return nil // it starts as a standby when it is next needed
}

// awaitPromotion waits for the end of a promotion. The caller's context does not
// end it any more; a Stop and the Runner's patience do.
func (k *Controller) awaitPromotion(ctx context.Context, next pg.Timeline) (pg.Promotion, error) {
	ctx, release := k.untilStop(ctx)
	defer release()
	err := k.await(ctx, "the promotion", func() bool { return !k.s.running() || k.s.proc.phase == phasePrimary })
	if err != nil {
		// Nobody knows how far it has come: it must not become writable later.
		return pg.Promotion{}, errors.Join(err, k.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	var reached pg.Timeline
	err = k.session(ctx, "look/timeline", func(p *process) error {
		reached = p.timeline
		return nil
	})
	if err != nil {
		return pg.Promotion{}, errors.Join(err, k.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	if reached != next {
		err := fmt.Errorf("%w: it took %d", pg.ErrWrongTimeline, reached)
		return pg.Promotion{}, errors.Join(err, k.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	return k.promoted(ctx, next)
}

// untilStop is a context that ends with a Stop, not with the caller's.
func (k *Controller) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	detached, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stops > 0 {
		cancel(errStopRequested)
	} else {
		k.cancel = cancel
	}
	return detached, func() { cancel(nil) }
}

// promoted finishes a promotion that has happened. The placeholders stay: a
// standby of an older timeline asks for each history file between (X5).
func (k *Controller) promoted(ctx context.Context, next pg.Timeline) (pg.Promotion, error) {
	promotion := pg.Promotion{Timeline: next}
	err := k.effect(ctx, "promote/note", func() error {
		d := &k.s.disk
		d.noted = false
		if h := d.histories[next]; len(h) > 0 {
			promotion.SwitchAt = h[len(h)-1].At
		}
		if k.s.running() {
			k.s.proc.checkpointer.requested++
		}
		return nil
	})
	return promotion, err
}
