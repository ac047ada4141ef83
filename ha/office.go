package ha

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// office is this node's term, with what the node remembers of it.
type office struct {
	Office
	warrant  *warrant
	ctx      context.Context // ends with the warrant
	cancel   context.CancelCauseFunc
	asking   sync.WaitGroup // the goroutines that ask for promises and keep the guard's deadline
	guarded  chan struct{}  // closed when the goroutine that watches the warrant has ended
	stopErr  error          // of that goroutine's stop; valid once guarded is closed
	promoted bool           // the server has been seen as the primary of Timeline
	failures int            // starts in place that failed in a row
	barrier  barrier
	tracker  *QuorumTracker
	tracked  uint64           // the server's generation that the tracker knows
	tracking string           // what the tracker did or waits for
	admitted bool             // clients have been admitted in this term
	lent     string           // the member that was spared for the sake of members at rest
	spared   map[string]spare // questions of members, by host
	checked  time.Time        // when the server last proved that it can write
	unwell   time.Time        // since when the server could not answer or write, zero if it can
}

// barrier is what the read gate waits for: a position read after the server of
// this generation could be written to.
type barrier struct {
	generation uint64
	lsn        pg.LSN
	since      time.Time // when the wait began
}

// spare is a member's question whether its copy is needed, and the position
// that others must have flushed for the answer "no".
type spare struct {
	nonce    string
	lsn      pg.LSN
	answered bool // it was told that its copy is not needed, and may be gone by now
}

// maxStarts is how often a crashed primary is started in place before its term
// is given up and somebody else is elected.
const maxStarts = 2

// enterOffice begins the term: from now on a goroutine that does nothing else
// stops the server when the warrant ends, whatever the loop is waiting for, and
// another one asks for promises while the lease is in doubt.
func (n *Node) enterOffice(ctx context.Context, won *Office) {
	o := &office{Office: *won, guarded: make(chan struct{}), spared: map[string]spare{}}
	o.warrant = newWarrant(n.locker, won.Lease, won.Recorded, n.promiseRequest(won))
	o.warrant.seen(false, n.memory.State().Maintenance, nil) // not only from the next look on
	o.ctx, o.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	n.office = o
	n.following = following{}
	n.dropMembership(ctx)
	go func() {
		defer close(o.guarded)
		o.stopErr = o.warrant.guard(func(cause error) error {
			o.cancel(cause)
			term := o.warrant.term() // o itself belongs to the loop
			n.cfg.Logger.WarnContext(ctx, "no warrant any more, server is stopped", "term", term, "cause", cause)
			err := n.cfg.Postgres.Stop(context.WithoutCancel(ctx), pg.StopImmediate)
			if err != nil {
				n.cfg.Logger.ErrorContext(ctx, "server not stopped", "term", term, "error", err)
			}
			return err
		})
		n.poke()
	}()
	o.asking.Go(func() { n.askPromises(o) })
	o.asking.Go(func() { n.keepDeadline(o) })
	n.writable = true
	if n.cfg.Events.Office != nil {
		n.cfg.Events.Office(OfficeInfo{Term: o.Term, Begins: true})
	}
}

// renewOffice goes on with the term under another lease, or as another term on
// the same timeline. The server is not touched.
func (n *Node) renewOffice(next *Office) {
	o := n.office
	next.Former = o.Former
	if next.Term != o.Term {
		next.Former = quorum.Member{}
		o.spared, o.lent = map[string]spare{}, ""
	}
	o.Office = *next
	o.warrant.renewed(next.Lease, next.Recorded, n.promiseRequest(next))
}

// promiseRequest is what the members are asked in a term.
func (n *Node) promiseRequest(office *Office) PromiseRequest {
	return PromiseRequest{
		Cluster: n.keys.Prefix(), Term: office.Term, Nonce: office.Nonce, Primary: n.self(), For: n.cfg.Timing.TTL,
	}
}

// endOffice ends the term. Either the caller has stopped the server, or the
// warrant has ended and its goroutine stops it. The lock is released when no
// process of the server is left, also when the lease has ended: its key may be
// there still.
func (n *Node) endOffice(ctx context.Context, stopped bool, cause error) {
	o := n.office
	ctx = context.WithoutCancel(ctx)
	if !stopped {
		<-o.guarded
		stopped = o.stopErr == nil
	}
	if stopped {
		o.warrant.leave(fmt.Errorf("term %d: %w", o.Term, cause)) // its end is no surprise
		bounded, cancel := n.request(ctx, "release of the leader lock")
		err := n.cfg.Effects.run("office/release", func() error { return o.Lease.Release(bounded) })
		cancel()
		if err != nil {
			n.cfg.Logger.WarnContext(ctx, "leader lock not released, it will expire", "error", err)
		}
	}
	n.leaveOffice(ctx, cause)
}

// leaveOffice ends the term without a look at the server, and waits for its
// goroutines.
func (n *Node) leaveOffice(ctx context.Context, cause error) {
	o := n.office
	o.warrant.leave(fmt.Errorf("term %d: %w", o.Term, cause))
	o.cancel(cause)
	<-o.guarded
	o.asking.Wait()
	if o.tracker != nil {
		o.tracker.Close()
	}
	n.coordinator.Close()
	n.office = nil
	n.cfg.Logger.InfoContext(ctx, "office left", "term", o.Term, "cause", cause)
	if n.cfg.Events.Office != nil {
		n.cfg.Events.Office(OfficeInfo{Term: o.Term, Cause: cause})
	}
}

// resign gives up the term because the server cannot serve: first no process of
// it is left, then the lock is released, so that the others need not wait for
// the lease. In maintenance nothing is given up.
func (n *Node) resign(ctx context.Context, cause error) error {
	if n.memory.State().Maintenance {
		n.why = "maintenance is on, nothing is done about: " + cause.Error()
		return nil
	}
	return n.stepDown(ctx, look{}, errors.Join(ErrResigned, cause))
}

// stepDown ends the term, also in maintenance: then a standby is left running.
func (n *Node) stepDown(ctx context.Context, v look, cause error) error {
	n.cfg.Logger.WarnContext(ctx, "the term is given up", "term", n.office.Term, "cause", cause)
	if !n.memory.State().Maintenance || !v.standby() {
		// If that fails, or hangs, others may lead when the lease has ended: the
		// server can acknowledge nothing without the quorum.
		n.stuck.Store(true)
		if err := n.stop(ctx, pg.StopImmediate); err != nil {
			return err
		}
	}
	n.endOffice(ctx, true, cause)
	return nil
}

// takeUp gives this node, whose server runs as the recorded primary, its term
// back, or a new one. A server that could not be given one is stopped at once, but
// not in maintenance, on which it rests: there the next look decides again.
func (n *Node) takeUp(ctx context.Context, v look) error {
	office, err := n.warrantAnew(ctx, v)
	switch {
	case err != nil && n.memory.State().Maintenance:
		return err
	case err != nil:
		return errors.Join(err, n.stop(ctx, pg.StopImmediate))
	}
	n.enterOffice(ctx, office)
	return nil
}

// warrantAnew takes up this node's own holding of `leader`, or returns to office
// where nobody holds it.
func (n *Node) warrantAnew(ctx context.Context, v look) (*Office, error) {
	asked, cancel := timectx.With(ctx, n.cfg.Clock, 2*n.cfg.Timing.Request, "taking up `leader`")
	defer cancel()
	if n.office != nil {
		n.office.Lease.yield() // what it protects goes on, under the next one
	}
	if mark, own := v.own(n.memory.State(), n.cfg.Name); own {
		return n.elector.TakeUp(asked, v.records, mark)
	}
	return n.elector.Return(asked, v.records)
}

// regain gets a lease again for a term that lives on promises or on maintenance,
// now that the store answers, or whose key has vanished from the store.
func (n *Node) regain(ctx context.Context, v look) (time.Duration, error) {
	o, leader := n.office, v.records.Leader
	if o.Lease.Check() == nil {
		n.release(ctx, o.Lease) // its key has vanished before its time
	}
	_, own := v.own(n.memory.State(), n.cfg.Name)
	switch {
	case leader.Held() && !own:
		return 0, n.stepDown(ctx, v, fmt.Errorf("%w: %s holds `leader`", ErrFenced, leader.Holder))
	case v.recorded().Primary != n.self():
		return 0, n.stepDown(ctx, v, fmt.Errorf("%w: the recorded primary is %s", ErrFenced, v.recorded().Primary))
	case v.primary() && v.server.Timeline == o.Timeline:
	case n.memory.State().Maintenance:
		n.why = "maintenance is on, the lease has ended, and the server does not serve in the term's timeline"
		return n.cfg.Timing.Observe, nil
	case v.server.Health == pg.HealthUnknown:
		return shortPause, errors.New("the lease has ended, and the server does not answer")
	default:
		return 0, n.stepDown(ctx, v, errors.New("the lease has ended, and the server does not serve in the term's timeline"))
	}
	if left, err := o.warrant.lasts(); left < 2*n.cfg.Timing.Request {
		// The server might be stopped before the reply comes.
		return shortPause, fmt.Errorf("too late to take `leader` again, the warrant ends in %s: %w", left.Round(time.Millisecond), err)
	}
	office, err := n.warrantAnew(ctx, v)
	if err != nil {
		return shortPause, err
	}
	old := o.Lease
	n.renewOffice(office)
	n.release(ctx, old) // its session can end now; the key is another holding's
	return 0, nil
}

// vacate deletes this node's own `leader`, which an earlier agent or an earlier
// lease has left behind: no server of that term is left, and others need not wait
// until it expires.
func (n *Node) vacate(ctx context.Context, v look) error {
	asked, cancel := n.request(ctx, "deleting the own leader lock")
	defer cancel()
	err := n.cfg.Effects.run("office/vacate", func() error {
		_, err := n.cfg.Store.Commit(asked, dcs.Txn{
			If:   []dcs.Guard{dcs.Held(n.keys.Leader(), v.records.Leader.Created)},
			Then: deletions(n.keys.Leader()),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("delete the own leader lock: %w", err)
	}
	n.cfg.Logger.InfoContext(ctx, "own leader lock of a term that is over deleted", "token", uint64(v.records.Leader.Created))
	return nil
}

// mark keeps on disk by which holding this node serves.
func (n *Node) mark() error {
	o := n.office
	mark := OfficeMark{Term: o.Term, Nonce: o.Nonce, Token: o.Lease.Token()}
	return n.memory.Update(func(s *LocalState) { s.Office = mark })
}
