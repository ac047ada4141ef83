package ha

import (
	"context"
	"errors"
	"time"

	"github.com/pghad/pghad/pg"
)

// office is this node's term, with what the node remembers of it.
type office struct {
	Office
	guarded  chan struct{} // closed when the goroutine that watches the lease has ended
	stopErr  error         // of that goroutine's stop; valid once guarded is closed
	promoted bool          // the server has been seen as the primary of Timeline
	failures int           // starts in place that failed in a row
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
// stops the server when the lease ends, whatever the loop is waiting for.
func (n *Node) enterOffice(ctx context.Context, won *Office) {
	o := &office{Office: *won, guarded: make(chan struct{}), spared: map[string]spare{}}
	n.office = o
	n.dropMembership(ctx)
	go func() {
		defer close(o.guarded)
		<-o.Lease.Context().Done()
		if cause := context.Cause(o.Lease.Context()); !errors.Is(cause, ErrReleased) {
			n.cfg.Logger.WarnContext(ctx, "lease ended, server is stopped", "term", o.Term, "cause", cause)
			o.stopErr = n.cfg.Postgres.Stop(context.WithoutCancel(ctx), pg.StopImmediate)
			if o.stopErr != nil {
				n.cfg.Logger.ErrorContext(ctx, "server not stopped", "term", o.Term, "error", o.stopErr)
			}
		}
		n.poke()
	}()
	n.writable = true
	if n.cfg.Events.Office != nil {
		n.cfg.Events.Office(OfficeInfo{Term: o.Term, Begins: true})
	}
}

// endOffice ends the term. The caller has stopped the server, or the lease has
// ended and its goroutine stops it. The lock is released when no process of the
// server is left, also when the lease has ended: its key may be there still.
func (n *Node) endOffice(ctx context.Context, cause error) {
	o := n.office
	ctx = context.WithoutCancel(ctx)
	stopped := o.Lease.Check() == nil // by the caller
	if !stopped {
		<-o.guarded
		stopped = o.stopErr == nil
	}
	if stopped {
		bounded, cancel := n.request(ctx, "release of the leader lock")
		err := n.cfg.Effects.run("office/release", func() error { return o.Lease.Release(bounded) })
		cancel()
		if err != nil {
			n.cfg.Logger.WarnContext(ctx, "leader lock not released, it will expire", "error", err)
		}
		<-o.guarded
	}
	if o.tracker != nil {
		o.tracker.Close()
	}
	n.office = nil
	n.cfg.Logger.InfoContext(ctx, "office left", "term", o.Term, "cause", cause)
	if n.cfg.Events.Office != nil {
		n.cfg.Events.Office(OfficeInfo{Term: o.Term, Cause: cause})
	}
}

// resign gives up the term because the server cannot serve: first no process of
// it is left, then the lock is released, so that the others need not wait for
// the lease.
func (n *Node) resign(ctx context.Context, cause error) error {
	n.cfg.Logger.WarnContext(ctx, "resigning", "term", n.office.Term, "cause", cause)
	if err := n.stop(ctx, pg.StopImmediate); err != nil {
		return err
	}
	n.endOffice(ctx, errors.Join(ErrResigned, cause))
	return nil
}
