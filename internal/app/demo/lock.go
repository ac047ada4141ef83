package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/internal/app/clusterview"
)

// keep watches the leader's lock after what was away has come back: `before` is
// what the records said while all was well. It returns once the same node has
// held the lock for longer than a lease without a break, so that somebody must
// have renewed it, or once another node holds it, which breaks the script's
// promise, as does a lock that was not held again within the time of a lease.
func (p *play) keep(ctx context.Context, before clusterview.View) error {
	hold := holding{leader: before.Leader, need: p.timing.TTL + p.servers.late}
	back := time.Now()
	p.lock = &Lock{Leader: before.Leader, TermBefore: before.Term}
	err := until(ctx, 20*time.Millisecond, "the leader's lock to be held", func(ctx context.Context) error {
		view, err := p.view(ctx)
		if err == nil {
			p.lock.TermAfter = view.Term
		}
		return hold.look(view, err, time.Since(back))
	})
	if errors.Is(err, errMoved) {
		p.breakf("%s was to go on, and %v", before.Leader, err)
		return nil
	}
	if err != nil {
		return err
	}
	p.lock.Kept, p.lock.HeldAgainMS = true, hold.since.Milliseconds()
	if hold.since > p.timing.TTL {
		p.breakf("%s held the leader's lock again only after %d ms, more than a lease", before.Leader, p.lock.HeldAgainMS)
	}
	p.sayf("%s", p.lock)
	return nil
}

// errMoved says that the lock has become another node's.
var errMoved = errors.New("another node leads")

// holding finds out since when a node holds the lock without a break. Times count
// from one moment.
type holding struct {
	leader string
	need   time.Duration // how long it must have held it
	held   bool
	since  time.Duration
}

// look takes one look at the records, at the given time. It returns nil once the
// node has held the lock for long enough, a fatal errMoved if it is another
// node's, and else what is missing.
func (h *holding) look(view clusterview.View, err error, at time.Duration) error {
	switch {
	case err != nil:
		h.held = false
		return err
	case view.Leader != "" && view.Leader != h.leader:
		return fatal{fmt.Errorf("%w: %s", errMoved, view.Leader)}
	case view.Leader == "" || view.Term == 0:
		h.held = false
		return fmt.Errorf("nobody is in office: %s", view.Why)
	case !h.held:
		h.held, h.since = true, at
	}
	if at-h.since < h.need {
		return fmt.Errorf("%s has held it for %s", h.leader, at-h.since)
	}
	return nil
}
