package ha

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/internal/timectx"
)

// deadline is how long the guard of the server may let it run writable. That is as
// long as the warrant lasts if nothing renews it; but where no election can do
// without this node, which has no limit in time, it is as long as the lease lasts:
// once there are others, they count from that. As soon as the lease is in doubt no
// others can be added, see soundLease, and the guard is told again and again.
func (w *warrant) deadline() time.Duration {
	left, _ := w.lasts()
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, alone := w.byPromises(); left <= 0 || w.maintenance || !alone {
		return left
	}
	lease, t := w.lease.remaining(), w.locker.timing
	if lease > t.doubt()-t.Request/4 {
		return lease
	}
	return t.window(t.TTL)
}

func (w *warrant) inMaintenance() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.maintenance
}

// isAlone reports whether no election can do without this node.
func (w *warrant) isAlone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, alone := w.byPromises()
	return alone
}

// soundLease is for changes of the quorum: where no election can do without this
// node, it ends when the lease is in doubt.
func (w *warrant) soundLease(ctx context.Context) (context.Context, context.CancelFunc) {
	if !w.isAlone() {
		return context.WithCancel(ctx)
	}
	left := max(w.leaseLeft()-w.locker.timing.doubt(), 0)
	return timectx.With(ctx, w.locker.cfg.Clock, left, "change of the quorum under a sound lease")
}

// doubt is what is left of a lease when its renewal is overdue.
func (t Timing) doubt() time.Duration { return t.window(t.TTL) - t.RenewEvery - t.Request/2 }

// setDeadline tells the guard of the server, if there is one, how long the warrant
// lasts.
func (n *Node) setDeadline(ctx context.Context, o *office) error {
	guarded, ok := n.cfg.Postgres.(DeadlineSetter)
	if !ok {
		return nil
	}
	ctx, cancel := n.request(ctx, "setting the deadline of the server's guard")
	defer cancel()
	var told time.Duration
	err := guarded.SetDeadline(ctx, func() time.Duration {
		told = o.warrant.deadline()
		return told
	})
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		told = unlimited
	case err != nil:
		return fmt.Errorf("deadline of the server's guard: %w", err)
	}
	o.warrant.mu.Lock()
	defer o.warrant.mu.Unlock()
	o.warrant.free = told == unlimited
	return nil
}

// keepsToMaintenance reports whether nothing on this node stops or starts a server
// any more: that includes the guard of its own.
func (n *Node) keepsToMaintenance(v look) bool {
	_, guarded := n.cfg.Postgres.(DeadlineSetter)
	switch {
	case !n.memory.State().Maintenance:
		return false
	case !guarded:
		return true
	case n.office == nil: // a primary without a term has a deadline from an earlier agent
		return v.standby() || v.stopped()
	}
	w := n.office.warrant
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.free
}

// keepDeadline keeps the deadline of the server's guard at the end of the warrant,
// as long as the term lasts. The guard does then what the goroutine that watches
// the warrant does, if this process cannot. A warrant that ends before its time
// revokes the deadline: two who stop the server are better than one.
//
// What cannot be told is told again. Until then the guard stops the server when
// the deadline passes that it knows, and that is not later.
func (n *Node) keepDeadline(o *office) {
	if _, ok := n.cfg.Postgres.(DeadlineSetter); !ok {
		return
	}
	ctx := context.WithoutCancel(o.ctx)
	said, stop := "", func() bool { return false } // of the timer that is armed: one at a time
	for range o.warrant.moved {
		stop()
		if o.warrant.hasLeft() {
			return
		}
		over := o.warrant.deadline() <= 0
		err := n.setDeadline(ctx, o)
		switch {
		case err == nil:
			said = ""
			if o.warrant.inMaintenance() {
				n.poke() // others wait to hear that the guard knows of it
			}
		case err.Error() != said:
			said = err.Error()
			n.cfg.Logger.WarnContext(ctx, "the guard is not told how long the server may run writable", "error", err)
		}
		if !over && (err != nil || o.warrant.isAlone()) {
			stop = n.cfg.Clock.AfterFunc(n.cfg.Timing.RenewEvery/3, o.warrant.poke).Stop
		}
	}
}
