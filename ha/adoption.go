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

// Adopt takes over a holding that this same holder has under an earlier
// session: of an agent that was restarted, or of a lease that ended while the
// store was away. The holding is named by its token, never by the name in its
// value. In one transaction the key is written under the Locker's present
// session, with value, and the operations of with are carried out, if the key
// still is that holding and all guards of with hold; else nothing is. From then
// on the key does not vanish with the earlier session.
//
// The caller sees to it that nobody works under the earlier session any more,
// and that writes of its own to the lock's key are guarded by the revision of
// that key: one that got lost, and is guarded by the token alone, can land
// after the adoption, and take the key back into the earlier session.
//
// The token of the new lease is never smaller than token. It is the same where
// the store keeps it through a write under another session, and greater where
// it does not: then the old one is worth nothing any more.
//
// A lease that this Locker had on the key is forgotten: its Release does
// nothing. What was lost of this or of an earlier attempt cannot land once the
// new lease is in force, nor when that has been released.
//
// Errors: ErrHeld if a lease of this Locker on the key is in force, or is being
// acquired or released; ErrFenced if the key is gone or is another holding;
// ErrReleased if this Locker has released the holding under its present
// session and could not delete the key yet; dcs.ErrConflict if a guard of with
// did not hold; ErrGated; ErrClosed; those of dcs.
//
// dcs.ErrAmbiguous says that the move and the operations of with may have been
// carried out, or may be yet. If it comes with ErrFenced the holding is lost, and
// only what became of the operations is unknown. Otherwise Adopt may be called
// again with the same token; unless it is, the Locker lets go of the key within
// a few renewals, or it expires. After every other error nothing was carried
// out, unless with was empty: then the key may have been moved before it was
// lost with ErrFenced or dcs.ErrSessionLost.
func (l *Locker) Adopt(ctx context.Context, key string, token dcs.Revision, value []byte, with dcs.Txn) (*Lease, error) {
	a := &adoption{
		acquisition: acquisition{locker: l, key: key, value: slices.Clone(value), with: with},
		token:       token,
	}
	if err := a.txn(dcs.Held(key, token), "").Validate(); err != nil {
		return nil, fmt.Errorf("adopt %s: %w", key, err)
	}
	if l.closing.Err() != nil {
		return nil, fmt.Errorf("adopt %s: %w", key, ErrClosed)
	}
	if err := l.askGate(ctx); err != nil {
		return nil, fmt.Errorf("adopt %s: %w", key, err)
	}
	lease, err := a.run(ctx)
	if err != nil {
		if held := (*HeldError)(nil); errors.As(err, &held) {
			return nil, err
		}
		return nil, fmt.Errorf("adopt %s: %w", key, err)
	}
	return lease, nil
}

// adoption is one attempt of a Locker to move one holding of its own into its
// present session.
//
// Each of its transactions is guarded by the revision of the key as it was read
// before. So at most one of them lands, none can land once anything else was
// written to the key, and in particular none once the adoption has succeeded.
// When the key stands under this session, at another revision than was read,
// nobody but this adoption can have written it, unless an earlier one ended in
// doubt.
type adoption struct {
	acquisition
	token dcs.Revision // of the holding, under the earlier session

	repeated bool // an earlier adoption of the holding under this session ended in doubt

	from    dcs.Revision // what the key was when the last transaction was sent
	written dcs.Revision // the revision of a transaction that has surely landed
	refused error        // the conflict of a transaction that was sent at from
}

// txn is the transaction that moves the key, as g says it is, and its twin under a
// session. As long as the key is there nobody else has a twin.
func (a *adoption) txn(g dcs.Guard, id dcs.SessionID) dcs.Txn {
	return dcs.Txn{
		If:   append([]dcs.Guard{g}, a.with.If...),
		Then: append(a.writes(id), a.with.Then...),
	}
}

func (a *adoption) run(ctx context.Context) (*Lease, error) {
	if err := a.locker.inSession(ctx, a.claim); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		kv, again, err := a.attempt(ctx)
		if err == nil {
			return a.win(ctx, kv)
		}
		if !again || try == attempts {
			return nil, a.lose(ctx, err)
		}
		if a.unknown > 0 && a.session.ctx.Err() == nil && a.pause(ctx, try) != nil {
			return nil, a.lose(ctx, err)
		}
	}
}

// claim refuses what is in use, and what is about to be deleted. The caller
// holds mu.
func (a *adoption) claim(s *lockerSession) error {
	if err := a.acquisition.claim(s); err != nil {
		return err
	}
	if slices.Contains(s.orphans, orphan{key: a.key, token: a.token}) {
		a.unclaim()
		return ErrReleased
	}
	a.repeated = s.adopting(a.key, a.token)
	return nil
}

// mark remembers the adoption as one in doubt, from before it is sent: should
// the session end meanwhile nobody closes it.
func (a *adoption) mark() {
	a.locker.mu.Lock()
	defer a.locker.unlock()
	if !a.session.ended && !a.session.adopting(a.key, a.token) {
		a.session.doubt(orphan{key: a.key, adopted: a.token})
	}
}

// attempt reads the key and moves it, unless an earlier attempt has done so. It
// returns the key under our session, or why it is not there and whether another
// attempt may find out more.
func (a *adoption) attempt(ctx context.Context) (kv dcs.KV, again bool, err error) {
	kv, again, err = a.look(ctx)
	if err != nil || a.moved(kv) {
		return kv, again, err
	}
	a.from, a.refused = kv.Revision, nil
	a.mark()
	err = a.session.call(ctx, "adopting "+a.key, func(ctx context.Context) error {
		guard := dcs.Guard{Key: a.key, Created: kv.Created, Revision: kv.Revision}
		rev, err := a.locker.cfg.Store.Commit(ctx, a.txn(guard, a.session.id))
		a.written = max(a.written, rev)
		return err
	})
	switch {
	case err == nil:
		a.unknown++ // until it has been read
		return a.look(ctx)
	case errors.Is(err, dcs.ErrAmbiguous) || !dcs.SurelyNotDone(err):
		a.unknown++
		return kv, true, err
	case errors.Is(err, dcs.ErrConflict):
		a.refused = err
		return kv, true, err
	case errors.Is(err, dcs.ErrSessionLost):
		a.session.endIfLost(err)
		return kv, false, err
	}
	return kv, a.unknown > 0, err
}

// look reads the key, which is this holding, moved already or not, if the error
// is nil.
func (a *adoption) look(ctx context.Context) (kv dcs.KV, again bool, err error) {
	kv, err = a.session.get(ctx, a.key)
	switch {
	case errors.Is(err, dcs.ErrNotFound):
		return kv, false, fmt.Errorf("its key is gone: %w", ErrFenced)
	case err != nil:
		return kv, a.unknown > 0 || a.refused != nil, unread(err)
	case a.moved(kv):
		return kv, false, nil
	case a.written != 0:
		return kv, false, fmt.Errorf("its key was taken out of session %s: %w", a.session.id, ErrFenced)
	case !a.isHolding(kv):
		return kv, false, fmt.Errorf("its key was created again, at %d: %w", kv.Created, ErrFenced)
	case a.refused != nil && kv.Revision == a.from:
		return kv, false, a.refused // it was so all the time: another guard is to blame
	}
	return kv, false, nil
}

// unread is the error of a read that failed. It may be the context's own, which
// would say nothing to a caller who has asked for a write.
func unread(err error) error {
	if errors.Is(err, dcs.ErrUnavailable) || errors.Is(err, dcs.ErrClosed) || errors.Is(err, dcs.ErrInvalid) {
		return fmt.Errorf("its key could not be read: %w", err)
	}
	return fmt.Errorf("its key could not be read: %w: %w", dcs.ErrUnavailable, err)
}

// moved reports whether the key was brought under our session by this adoption.
func (a *adoption) moved(kv dcs.KV) bool {
	switch {
	case a.unknown == 0 || kv.Session != a.session.id || kv.Created < a.token:
		return false
	case a.written != 0:
		return kv.Revision >= a.written
	}
	return kv.Revision > a.from && !a.doubted
}

// isHolding reports whether the key is the holding that is to be moved: by its
// token, or because an earlier adoption has moved it, to a greater token, and
// does not know.
func (a *adoption) isHolding(kv dcs.KV) bool {
	l := a.locker
	l.mu.Lock()
	defer l.unlock()
	return kv.Created == a.token || kv.Created > a.token && slices.ContainsFunc(l.sessions, func(s *lockerSession) bool {
		return s.id == kv.Session && s.adopting(a.key, a.token) && (s != a.session || a.repeated)
	})
}

// win makes the lease, and forgets the earlier ones.
func (a *adoption) win(ctx context.Context, kv dcs.KV) (*Lease, error) {
	l, s := a.locker, a.session
	l.mu.Lock()
	a.unclaim()
	if s.expireIfDue() <= 0 {
		s.doubt(orphan{key: a.key, adopted: a.token})
		cause := context.Cause(s.ctx)
		l.unlock()
		return nil, fmt.Errorf("%w: it was moved to session %s, whose time was up when the reply came: %w", dcs.ErrAmbiguous, s.id, cause)
	}
	ls := a.lease(ctx, kv.Created, kv.Revision)
	idle := l.forget(s, a.key)
	l.note(func(log *slog.Logger) {
		log.Info("lock adopted", "key", a.key, "token", uint64(kv.Created), "before", uint64(a.token), "session", s.id)
	})
	l.unlock()
	l.closeIdle(ctx, idle)
	return ls, nil
}

// forget drops what is left of earlier holdings of the key, which has been moved
// to s. It returns the sessions that the caller has to close, since nothing else
// is unreleased under them. The caller holds mu.
func (l *Locker) forget(s *lockerSession, key string) (idle []*lockerSession) {
	for _, other := range l.sessions {
		left := len(other.leases) + len(other.orphans)
		other.forgetAdoptions(key, 0)
		if other == s {
			continue
		}
		for _, ls := range slices.Clone(other.leases) {
			if ls.key == key {
				ls.gone = true
				other.drop(ls)
			}
		}
		if len(other.leases)+len(other.orphans) < left && other.claimFinish() {
			idle = append(idle, other)
		}
	}
	return idle
}

// giveUp drops what adoptions of a holding have left that is no more. It returns
// the sessions that the caller has to close. The caller holds mu.
func (l *Locker) giveUp(key string, token dcs.Revision) (idle []*lockerSession) {
	for _, s := range l.sessions {
		left := len(s.orphans)
		s.forgetAdoptions(key, token)
		if len(s.orphans) < left && s.claimFinish() {
			idle = append(idle, s)
		}
	}
	return idle
}

// closeIdle closes sessions under which nothing is left, so that nothing that
// was lost can land there. It does not insist: they are not renewed any more,
// and the lease that was won should not wait.
func (l *Locker) closeIdle(ctx context.Context, idle []*lockerSession) {
	ctx, cancel := timectx.With(ctx, l.cfg.Clock, l.timing.Request, "closing earlier sessions")
	defer cancel()
	for _, s := range idle {
		if err := s.finish(ctx); err != nil {
			l.log.Warn("session not closed, it expires", "session", s.id, "error", err)
		}
	}
}

// lose leaves nothing behind that could harm, and words the error.
func (a *adoption) lose(ctx context.Context, err error) error {
	l, s := a.locker, a.session
	fenced := errors.Is(err, ErrFenced) // nothing can land any more
	sure := fenced || errors.Is(err, dcs.ErrSessionLost)
	var idle []*lockerSession
	l.mu.Lock()
	a.unclaim()
	switch {
	case fenced:
		idle = l.giveUp(a.key, a.token)
	case a.unknown > 0 && !sure:
		s.forgetAdoptions(a.key, 0) // counts anew for how long it is spared
		s.doubt(orphan{key: a.key, adopted: a.token})
	case !a.repeated:
		s.forgetAdoptions(a.key, a.token)
		if s.claimFinish() {
			idle = append(idle, s)
		}
	}
	s.settle()
	l.unlock()
	l.closeIdle(ctx, idle)

	switch {
	case a.unknown == 0 || sure && len(a.with.Then) == 0 || errors.Is(err, dcs.ErrAmbiguous):
		return err
	case fenced:
		return fmt.Errorf("%w: %w", dcs.ErrAmbiguous, err)
	}
	return fmt.Errorf("%w: %v", dcs.ErrAmbiguous, err) //nolint:errorlint // an unknown outcome is nothing else
}
