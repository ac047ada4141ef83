package ha

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/pg"
)

// Lease is one holding of one lock. It ends once and for all: whoever lost a
// lock and wants it back acquires it again and gets another Lease, with a
// greater token; or, while the key of the old holding still stands, adopts that.
//
// A lease that has ended must be released too, when everything that it
// protected has stopped: its key, or the key's twin, may well be there still.
//
// All methods are safe for use by several goroutines at once.
type Lease struct {
	locker  *Locker
	session *lockerSession
	key     string
	value   []byte
	token   dcs.Revision
	ctx     context.Context
	cancel  context.CancelCauseFunc

	// Guarded by locker.mu.
	revision dcs.Revision // of the last write of the key that this Locker knows of
	twin     dcs.Revision // of the last write of its twin
	yields   bool         // the next lease of the Locker on the key need not wait for it
	ended    bool
	sent     instant // of the last renewal, once ended
	gone     bool    // proven: the key is not this lease's any more
	working  bool    // Hold waits for its work
	renewed  func()  // is told of each renewal; does not wait; nil if nobody cares
}

var _ pg.Warrant = (*Lease)(nil)

// Key is the name of the lock.
func (ls *Lease) Key() string { return ls.key }

// Token is the fencing token: the revision at which the lock's key was created,
// greater than that of every earlier holding of the same key. A holding that
// was adopted has the same token as before, or a greater one.
func (ls *Lease) Token() dcs.Revision { return ls.token }

// Guard is the guard to put into a transaction that only the holder of the lock
// may carry out. It needs no clock.
func (ls *Lease) Guard() dcs.Guard { return dcs.Held(ls.key, ls.token) }

// Session is the session to which the lock is bound, for further keys that
// should vanish with it, and for writing the lock's own value.
func (ls *Lease) Session() dcs.SessionID { return ls.session.id }

// Context ends when the lease does, at Until at the latest. Its cause wraps
// ErrExpired, ErrFenced, ErrGated, ErrReleased or dcs.ErrSessionLost. It has
// the values, but not the end, of the context that acquired the lease.
func (ls *Lease) Context() context.Context { return ls.ctx }

// Until is when the lease ends if it is not renewed any more, by the Locker's
// clock; it moves forward with each renewal. LockerConfig.Margin later
// everything that the lease protects must have stopped.
func (ls *Lease) Until() time.Time {
	ls.locker.mu.Lock()
	defer ls.locker.unlock()
	return ls.lastSent().clock.Add(ls.session.window)
}

// Check returns nil while the lease is in force by both clocks. It is to be
// asked right before each step that cannot be undone. The error is the cause of
// Context. Check does no I/O.
func (ls *Lease) Check() error {
	ls.locker.mu.Lock()
	defer ls.locker.unlock()
	if !ls.ended {
		ls.session.expireIfDue()
	}
	return context.Cause(ls.ctx)
}

// Release ends the lease and then deletes the lock's key, if it still is this
// holding's. Everything that the lease protects must have stopped. It takes a
// context that is alive, not the lease's own, and returns after a few requests'
// deadlines at the latest.
//
// Nil proves that the key is not held by this lease any more. After an error
// the Locker goes on trying while its session lasts, and the key vanishes with
// that; Release may be called again. Releasing a released lease is nil.
func (ls *Lease) Release(ctx context.Context) error {
	l := ls.locker
	l.mu.Lock()
	ls.end(ErrReleased)
	gone := ls.gone || ls.session.closed
	l.unlock()
	if gone {
		return nil
	}
	if err := ls.session.release(ctx, ls); err != nil {
		return fmt.Errorf("release %s: it is free when its session ends at the store: %w", ls.key, err)
	}
	return nil
}

// yield lets the next acquisition of the key by this Locker take the place of a
// lease that has ended, though that was not released: what it protects goes on
// under the new one, or protects nothing.
func (ls *Lease) yield() {
	ls.locker.mu.Lock()
	defer ls.locker.unlock()
	ls.yields = ls.ended
}

// onRenewal has f told of each renewal. f must not wait.
func (ls *Lease) onRenewal(f func()) {
	ls.locker.mu.Lock()
	defer ls.locker.unlock()
	ls.renewed = f
}

// end ends the lease unless it has ended. The caller holds locker.mu.
func (ls *Lease) end(cause error) {
	if ls.ended {
		return
	}
	ls.sent = ls.session.sent
	ls.ended = true
	ls.cancel(fmt.Errorf("lock %s: %w", ls.key, cause))
	ls.locker.note(func(log *slog.Logger) {
		log.Info("lease ended", "key", ls.key, "token", uint64(ls.token), "cause", cause)
	})
}

// lastSent is when the renewal that the lease lives on was sent. The caller
// holds locker.mu.
func (ls *Lease) lastSent() instant {
	if ls.ended {
		return ls.sent
	}
	return ls.session.sent
}

// left is the time to Until, negative when that has passed. The caller holds
// locker.mu.
func (ls *Lease) left() time.Duration {
	return ls.session.window - ls.locker.since(ls.lastSent())
}
