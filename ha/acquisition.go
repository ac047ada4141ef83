package ha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

// acquisition is one attempt of a Locker to take one lock.
//
// When the outcome of its transaction is unknown, the same transaction is sent
// again. If that succeeds, the first cannot land while this lock is held. If it
// conflicts and the key stands under this Locker's session, nobody but this
// acquisition can have written it, unless an earlier one on the same key ended
// in doubt too. What could land later is remembered as an orphan of the
// session.
type acquisition struct {
	locker *Locker
	key    string
	value  []byte
	with   dcs.Txn

	session *lockerSession
	doubted bool // an earlier acquisition of the key under this session ended in doubt
	unknown int  // how many of our transactions may have landed, or may land yet
	// twin is the revision of a twin under our session that stands without its key,
	// and without work: what a holding of this Locker has left whose key was
	// deleted by hand. Zero: there must be none.
	twin dcs.Revision
}

// txn is the transaction that takes the lock under a session.
func (a *acquisition) txn(id dcs.SessionID) dcs.Txn {
	twin := dcs.Guard{Key: a.key + TwinSuffix, Absent: a.twin == 0, Revision: a.twin}
	return dcs.Txn{
		If:   append([]dcs.Guard{{Key: a.key, Absent: true}, twin}, a.with.If...),
		Then: append(a.writes(id), a.with.Then...),
	}
}

// writes puts the lock's key and its twin under a session.
func (a *acquisition) writes(id dcs.SessionID) []dcs.Op {
	return []dcs.Op{
		{Key: a.key, Value: a.value, Session: id},
		{Key: a.key + TwinSuffix, Value: a.value, Session: id},
	}
}

func (a *acquisition) run(ctx context.Context) (*Lease, error) {
	if err := a.join(ctx); err != nil {
		return nil, err
	}
	var token dcs.Revision
	var err error
	for try := 1; ; try++ {
		var again bool
		token, again, err = a.attempt(ctx)
		if !again || try == attempts {
			break
		}
		if a.unknown > 0 && a.session.ctx.Err() == nil && a.pause(ctx, try) != nil {
			break
		}
	}
	if err != nil {
		return nil, a.lose(err)
	}
	return a.win(ctx, token)
}

// join finds the session in force, or opens one, and claims the key in it.
func (a *acquisition) join(ctx context.Context) error {
	return a.locker.inSession(ctx, a.claim)
}

// pause gives the store a moment before the same transaction is sent again.
func (a *acquisition) pause(ctx context.Context, try int) error {
	l := a.locker
	return timectx.Sleep(ctx, l.cfg.Clock, l.jittered(l.timing.Request/4, a.key, try))
}

// claim keeps other acquisitions of the key under s out. The caller holds mu.
func (a *acquisition) claim(s *lockerSession) error {
	if held := s.user(a.key); held != nil {
		return held
	}
	a.session = s
	a.doubted = s.doubted(a.key)
	s.claims = append(s.claims, a)
	return nil
}

// unclaim is the opposite of claim. The caller holds mu.
func (a *acquisition) unclaim() {
	s := a.session
	s.claims = slices.DeleteFunc(s.claims, func(other *acquisition) bool { return other == a })
}

// attempt sends the transaction once. It returns the lock's token, or why there
// is none and whether another attempt may find out more.
func (a *acquisition) attempt(ctx context.Context) (token dcs.Revision, again bool, err error) {
	err = a.session.call(ctx, "taking "+a.key, func(ctx context.Context) (err error) {
		token, err = a.locker.cfg.Store.Commit(ctx, a.txn(a.session.id))
		return err
	})
	switch {
	case err == nil:
		return token, false, nil
	case errors.Is(err, dcs.ErrAmbiguous) || !dcs.SurelyNotDone(err):
		a.unknown++
		return 0, true, err
	case errors.Is(err, dcs.ErrConflict):
		return a.afterConflict(ctx, err)
	case errors.Is(err, dcs.ErrSessionLost):
		a.session.endIfLost(err)
		return 0, false, err
	}
	return 0, a.unknown > 0, err
}

// afterConflict finds out whose the key is that was in the way.
func (a *acquisition) afterConflict(ctx context.Context, conflict error) (token dcs.Revision, again bool, err error) {
	kv, err := a.session.get(ctx, a.key)
	switch {
	case errors.Is(err, dcs.ErrNotFound):
		return a.afterTwin(ctx, conflict)
	case err != nil:
		return 0, a.unknown > 0, fmt.Errorf("a guard did not hold, and the lock could not be read: %w", err)
	case kv.Session != a.session.id:
		return 0, false, &HeldError{Key: a.key, Holder: kv}
	case a.ours(kv):
		a.unknown--
		return kv.Created, false, nil
	case !a.leftover(kv):
		return 0, false, &HeldError{Key: a.key, Holder: kv}
	}
	if err := a.session.deleteKey(ctx, kv, nil); err != nil {
		return 0, false, fmt.Errorf("a leftover of an earlier holding is in the way: %w", err)
	}
	return 0, true, conflict
}

// afterTwin finds out whose the twin is that was in the way while the key itself
// is not there. It returns conflict if another attempt may do.
func (a *acquisition) afterTwin(ctx context.Context, conflict error) (token dcs.Revision, again bool, err error) {
	kv, err := a.session.get(ctx, a.key+TwinSuffix)
	switch {
	case errors.Is(err, dcs.ErrNotFound):
		a.twin = 0
	case err != nil:
		return 0, a.unknown > 0, fmt.Errorf("a guard did not hold, and the lock's twin could not be read: %w", err)
	case kv.Session != a.session.id:
		return 0, false, &HeldError{Key: a.key, Holder: kv}
	default: // no lease under our session needs it, else claim would have refused
		a.twin = kv.Revision
	}
	return 0, true, conflict
}

// ours reports whether a key under our session was written by this acquisition:
// one of its writes may have landed, and no other write can be the one.
func (a *acquisition) ours(kv dcs.KV) bool {
	a.locker.mu.Lock()
	defer a.locker.unlock()
	return a.unknown > 0 && !a.doubted && !slices.Contains(a.session.orphans, orphan{key: a.key, token: kv.Created})
}

// leftover reports whether a key under our session, which is not ours, may be
// what an earlier holding or acquisition by this Locker has left behind.
func (a *acquisition) leftover(kv dcs.KV) bool {
	a.locker.mu.Lock()
	defer a.locker.unlock()
	return a.doubted || slices.Contains(a.session.orphans, orphan{key: a.key, token: kv.Created})
}

// win makes the lease, or gives the lock back if the time has run out on the
// way.
func (a *acquisition) win(ctx context.Context, token dcs.Revision) (*Lease, error) {
	l, s := a.locker, a.session
	l.mu.Lock()
	a.unclaim()
	if a.unknown > 0 {
		s.doubt(orphan{key: a.key})
	}
	if s.expireIfDue() <= 0 {
		l.unlock()
		return nil, a.giveBack(ctx, token)
	}
	defer l.unlock()
	l.note(func(log *slog.Logger) {
		log.Info("lock acquired", "key", a.key, "token", uint64(token), "session", s.id)
	})
	return a.lease(ctx, token, token), nil
}

// lease makes the lease, in the place of one that has made way for it. The caller
// holds mu, and the session is in force.
func (a *acquisition) lease(ctx context.Context, token, revision dcs.Revision) *Lease {
	for _, old := range slices.Clone(a.session.leases) {
		if old.key == a.key {
			old.gone = true
			a.session.drop(old)
		}
	}
	ls := &Lease{
		locker: a.locker, session: a.session, key: a.key, value: a.value, token: token, revision: revision, twin: revision,
	}
	ls.ctx, ls.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	a.session.leases = append(a.session.leases, ls)
	return ls
}

// giveBack deletes a lock that was taken too late. The session has ended, so
// that the key vanishes with it if it cannot be deleted.
func (a *acquisition) giveBack(ctx context.Context, token dcs.Revision) error {
	cause := context.Cause(a.session.ctx)
	kv := dcs.KV{Key: a.key, Created: token, Revision: token, Session: a.session.id}
	if err := a.session.deleteKey(context.WithoutCancel(ctx), kv, nil); err != nil {
		a.locker.log.Warn("lock taken too late and not given back, it expires", "key", a.key, "error", err)
	}
	if len(a.with.Then) > 0 {
		return fmt.Errorf("%w: the reply came when the time was up, and the lock was given back: %w", dcs.ErrAmbiguous, cause)
	}
	return fmt.Errorf("the reply came when the time was up: %w", cause)
}

// lose leaves nothing behind that could harm, and words the error.
func (a *acquisition) lose(err error) error {
	l, s := a.locker, a.session
	l.mu.Lock()
	defer l.unlock()
	a.unclaim()
	if a.unknown > 0 {
		s.doubt(orphan{key: a.key})
	}
	s.settle()

	alone := len(a.with.If) == 0
	held := errors.Is(err, ErrHeld) || errors.Is(err, dcs.ErrSessionLost)
	switch {
	case a.unknown > 0 && (!held || len(a.with.Then) > 0):
		if errors.Is(err, dcs.ErrAmbiguous) {
			return err
		}
		return fmt.Errorf("%w: %v", dcs.ErrAmbiguous, err) //nolint:errorlint // an unknown outcome is nothing else
	case alone && errors.Is(err, dcs.ErrConflict):
		return &HeldError{Key: a.key}
	}
	return err
}
