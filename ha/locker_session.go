package ha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

// maxProof is how many leases are proven by one transaction at most. A store that
// takes fewer conditions (etcd 128 by default) says so, and gets fewer from then
// on.
const maxProof = 512

// errDoubtful ends a session on which nothing is held, and under which a write
// with an unknown outcome may still land: closing it makes that impossible.
var errDoubtful = errors.New("given up, so that no lost write can land under it")

// lockerSession is one session of a Locker with the leases under it. It has two
// goroutines: a watchdog without I/O, which ends it when its time is up, and a
// renewer, which can do nothing but move that time forward.
type lockerSession struct {
	locker *Locker
	remote dcs.Session
	id     dcs.SessionID
	window time.Duration   // what one renewal buys, counted from before it was sent
	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	proof  int // how many leases one transaction proves; the renewer's own

	// Guarded by locker.mu.
	sent      instant        // the moment before the last successful renewal was sent
	trouble   error          // why the last attempt to renew failed, nil if it did not
	ended     bool           // final: no lease under it is in force
	finishing bool           // somebody closes it at the store, or has tried
	closed    bool           // closed at the store: none of its keys exists
	leases    []*Lease       // not released yet; those of an ended session have ended
	claims    []*acquisition // under way
	orphans   []orphan
}

// orphan is a key that may exist under this session without a lease on it.
type orphan struct {
	key string
	// token is the incarnation to delete. Zero: a write with an unknown outcome
	// may still create the key, at any time while the session lives.
	token dcs.Revision
	// adopted is the token of the holding that an adoption with an unknown
	// outcome may still bring, or has brought, under this session. So that the
	// adoption can be repeated the next sweep spares it, and the session is not
	// closed when it has ended.
	adopted dcs.Revision
	spared  bool // by one sweep
}

// note keeps a line for the log until mu is free. The caller holds mu.
func (l *Locker) note(line func(*slog.Logger)) { l.notes = append(l.notes, line) }

// unlock releases mu and then logs what happened under it.
func (l *Locker) unlock() {
	notes := l.notes
	l.notes = nil
	l.mu.Unlock()
	for _, line := range notes {
		line(l.log)
	}
}

// inSession calls use with the session in force, opening one if there is none.
// The lock mu is held while use runs.
func (l *Locker) inSession(ctx context.Context, use func(*lockerSession) error) error {
	for {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("nothing was sent: %w: %w", dcs.ErrUnavailable, cause)
		}
		l.mu.Lock()
		switch {
		case l.closing.Err() != nil:
			l.unlock()
			return ErrClosed
		case l.session != nil && l.session.expireIfDue() > 0:
			err := use(l.session)
			l.unlock()
			return err
		case l.opening != nil:
			opened := l.opening
			l.unlock()
			select {
			case <-opened:
			case <-ctx.Done():
			}
		default:
			l.opening = make(chan struct{})
			l.unlock()
			if err := l.open(ctx); err != nil {
				return err
			}
		}
	}
}

// open opens a session. The caller has set l.opening.
func (l *Locker) open(ctx context.Context) error {
	sent := l.now()
	remote, err := l.newSession(ctx)
	if err == nil {
		err = l.timing.validateLease(remote.TTL())
		if err != nil {
			err = fmt.Errorf("granted by the store: %w: %w", err, dcs.ErrInvalid)
		}
	}
	l.mu.Lock()
	if err == nil {
		err = l.install(remote, sent)
	}
	close(l.opening)
	l.opening = nil
	l.unlock()
	if err != nil && remote != nil {
		_ = l.insist(context.WithoutCancel(ctx), "closing session "+string(remote.ID()), remote.Close)
	}
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	return nil
}

func (l *Locker) newSession(ctx context.Context) (dcs.Session, error) {
	ctx, cancel := timectx.With(ctx, l.cfg.Clock, l.timing.Request, "opening a session")
	defer cancel()
	remote, err := l.cfg.Store.NewSession(ctx, l.timing.TTL)
	if errors.Is(err, dcs.ErrAmbiguous) {
		// A session that nobody knows of holds nothing and expires.
		return nil, fmt.Errorf("%w: %v", dcs.ErrUnavailable, err) //nolint:errorlint // not an unknown outcome for the caller
	}
	if err != nil {
		return nil, err
	}
	return remote, nil
}

// install makes remote the session in force and starts its goroutines. The
// caller holds mu.
func (l *Locker) install(remote dcs.Session, sent instant) error {
	if !l.workers.join() {
		return ErrClosed
	}
	if !l.workers.join() {
		l.workers.leave()
		return ErrClosed
	}
	s := &lockerSession{
		locker: l,
		remote: remote,
		id:     remote.ID(),
		window: l.timing.window(remote.TTL()),
		proof:  maxProof,
		sent:   sent,
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	l.session = s
	l.sessions = append(l.sessions, s)
	l.note(func(log *slog.Logger) { log.Info("session opened", "session", s.id, "ttl", remote.TTL()) })
	go s.guardTime()
	go s.keepAlive(sent)
	return nil
}

// guardTime is the watchdog. It wakes more often than the clock alone demands,
// to notice what only the time of day shows.
func (s *lockerSession) guardTime() {
	l := s.locker
	defer l.workers.leave()
	look := max(l.timing.Margin/2, l.timing.RenewEvery/8, 1)
	for {
		l.mu.Lock()
		left := s.expireIfDue()
		l.unlock()
		if left <= 0 || timectx.Sleep(s.ctx, l.cfg.Clock, min(left, look)) != nil {
			return
		}
	}
}

// keepAlive is the renewer. When the session has ended it closes it, unless a
// lease has not been released: then the work under that may go on, and whoever
// releases it closes the session.
func (s *lockerSession) keepAlive(opened instant) {
	l := s.locker
	defer l.workers.leave()
	pause := l.untilNext(opened)
	for try := 1; timectx.Sleep(s.ctx, l.cfg.Clock, pause) == nil; try++ {
		sent, err := s.renew()
		l.mu.Lock()
		s.trouble = err
		ended := s.ended
		l.unlock()
		if ended {
			break
		}
		if err == nil {
			s.sweep()
			pause = l.untilNext(sent)
			continue
		}
		pause = l.jittered(l.timing.RenewEvery/3, "", try)
		l.log.Warn("lease not renewed", "session", s.id, "error", err)
	}
	l.mu.Lock()
	finish := s.claimFinish()
	l.unlock()
	if !finish {
		return
	}
	if err := s.finish(context.Background()); err != nil {
		l.log.Warn("session not closed, it expires", "session", s.id, "error", err)
	}
}

// untilNext is the pause before the renewal after the one that was sent at sent.
func (l *Locker) untilNext(sent instant) time.Duration {
	return max(l.timing.RenewEvery-l.since(sent), l.timing.RenewEvery/4)
}

// renew makes one attempt to move the session's time forward. It has moved only
// if the store has both renewed the session and proven all leases in force.
func (s *lockerSession) renew() (sent instant, err error) {
	l := s.locker
	l.mu.Lock()
	left := s.expireIfDue()
	l.unlock()
	if left <= 0 {
		return instant{}, context.Cause(s.ctx)
	}
	if err := l.askGate(s.ctx); err != nil {
		return instant{}, err
	}
	sent = l.now()
	if err := s.renewAndProve(); err != nil {
		s.endIfLost(err)
		return sent, err
	}
	l.mu.Lock()
	defer l.unlock()
	if s.expireIfDue() > 0 && sent.clock.After(s.sent.clock) {
		s.sent = sent
		for _, ls := range s.leases {
			if ls.renewed != nil {
				ls.renewed()
			}
		}
	}
	return sent, nil
}

// renewAndProve renews the session and asks the store whether the keys of all
// leases in force are still what they were. It ends those of which they are not.
// As long as nobody writes to them that is one renewal and one transaction.
func (s *lockerSession) renewAndProve() error {
	what := "renewing session " + string(s.id)
	prover, proves := s.remote.(dcs.Prover)
	if !proves {
		if err := s.call(s.ctx, what, s.remote.Renew); err != nil {
			return err
		}
		held, guards := s.inForce()
		return s.fenceIf(s.check(guards, len(held)), held)
	}
	for held, guards := s.inForce(); ; {
		some := guards[:min(s.proof, len(guards))]
		err := s.call(s.ctx, what, func(ctx context.Context) error { return prover.RenewIf(ctx, some) })
		if errors.Is(err, dcs.ErrInvalid) && len(some) > 1 {
			s.proof = len(some) / 2
			continue
		}
		if err == nil {
			err = s.check(guards[len(some):], len(held)-len(some))
		}
		return s.fenceIf(err, held)
	}
}

// inForce lists the leases in force, and what proves them: nothing was written
// to their keys since. A guard by the token would not do: where a store keeps the
// token of a key that is moved, it holds as well for a key that vanishes with
// another session. The guards of the twins, which come after those of the keys, are
// no part of the proof: they show that a twin was deleted by hand, as long as the
// key is still there to write it again.
func (s *lockerSession) inForce() (held []*Lease, guards []dcs.Guard) {
	s.locker.mu.Lock()
	defer s.locker.unlock()
	var twins []dcs.Guard
	for _, ls := range s.leases {
		if !ls.ended {
			held = append(held, ls)
			guards = append(guards, dcs.Guard{Key: ls.key, Revision: ls.revision})
			twins = append(twins, dcs.Guard{Key: ls.key + TwinSuffix, Revision: ls.twin})
		}
	}
	return held, append(guards, twins...)
}

// check is nil if the first guards hold, as many as are needed, dcs.ErrConflict if
// not. It asks in as few transactions as the store puts up with; further guards are
// looked at where there is room for them.
func (s *lockerSession) check(guards []dcs.Guard, needed int) error {
	for needed > 0 {
		some := guards[:min(s.proof, len(guards))]
		err := s.call(s.ctx, "proving the locks of session "+string(s.id), func(ctx context.Context) error {
			_, err := s.locker.cfg.Store.Commit(ctx, dcs.Txn{If: some})
			return err
		})
		switch {
		case errors.Is(err, dcs.ErrInvalid) && len(some) > 1:
			s.proof = len(some) / 2
		case err != nil:
			return err
		default:
			guards, needed = guards[len(some):], needed-len(some)
		}
	}
	return nil
}

// fenceIf is what a proof of these leases has come to.
func (s *lockerSession) fenceIf(err error, held []*Lease) error {
	if errors.Is(err, dcs.ErrConflict) {
		return s.fence(held)
	}
	return err
}

// fence reads the keys of the leases, which proves those that are still there,
// and ends the others: their key is gone, another incarnation, or bound to
// another session. A key that somebody has unbound is still the lease's.
//
// What has ended so is not forgotten: its twin keeps the lock until the lease is
// released, or everything that it protects must have stopped.
func (s *lockerSession) fence(held []*Lease) error {
	l := s.locker
	for _, ls := range held {
		kv, err := s.get(s.ctx, ls.key)
		if err != nil && !errors.Is(err, dcs.ErrNotFound) {
			return err
		}
		twin, stands := dcs.Revision(0), err == nil && kv.Created == ls.token && !elsewhere(kv, s.id)
		if stands {
			if twin, err = s.mendTwin(kv); err != nil {
				return err
			}
		}
		l.mu.Lock()
		if stands {
			ls.revision, ls.twin = kv.Revision, twin
		} else {
			ls.end(ErrFenced)
		}
		l.unlock()
	}
	return nil
}

// mendTwin is the revision of the twin of a key that stands, which is written again
// if it does not stand under the session any more.
func (s *lockerSession) mendTwin(kv dcs.KV) (dcs.Revision, error) {
	twin, err := s.get(s.ctx, kv.Key+TwinSuffix)
	if err == nil && twin.Session == s.id {
		return twin.Revision, nil
	}
	if err != nil && !errors.Is(err, dcs.ErrNotFound) {
		return 0, err
	}
	var written dcs.Revision
	err = s.call(s.ctx, "writing the twin of "+kv.Key, func(ctx context.Context) error {
		written, err = s.locker.cfg.Store.Commit(ctx, dcs.Txn{
			If:   []dcs.Guard{{Key: kv.Key, Created: kv.Created, Revision: kv.Revision}},
			Then: []dcs.Op{{Key: kv.Key + TwinSuffix, Value: kv.Value, Session: s.id}},
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("the twin of %s was deleted, and is not there again: %w", kv.Key, err)
	}
	s.locker.log.Warn("the twin of a lock had been deleted, and was written again", "key", kv.Key)
	return written, nil
}

// elsewhere reports whether a key is bound to another session.
func elsewhere(kv dcs.KV, id dcs.SessionID) bool { return kv.Session != "" && kv.Session != id }

// sweep deletes keys that exist under this session without a lease. It is best
// effort: what it does not reach now it finds at the next renewal.
func (s *lockerSession) sweep() {
	l := s.locker
	l.mu.Lock()
	orphans, over := slices.Clone(s.orphans), s.over()
	l.unlock()
	for _, ls := range over {
		if err := s.release(s.ctx, ls); err != nil {
			l.log.Debug("lock that was lost not released", "key", ls.key, "error", err)
		}
	}
	for _, o := range orphans {
		if o.adopted != 0 {
			s.spare(o)
			continue
		}
		gone, err := s.remove(o)
		if err != nil {
			l.log.Debug("orphaned lock not deleted", "key", o.key, "error", err)
		}
		if gone && o.token != 0 {
			l.mu.Lock()
			s.forgetOrphan(o)
			l.unlock()
		}
	}
	l.mu.Lock()
	defer l.unlock()
	s.settle()
}

// over lists the leases that were fenced and not released, and whose work must have
// stopped by now. The caller holds mu.
func (s *lockerSession) over() (over []*Lease) {
	for _, ls := range s.leases {
		if ls.ended && !ls.working && ls.left()+s.locker.timing.Margin <= 0 {
			over = append(over, ls)
		}
	}
	return over
}

// spare lets an orphan be for this time, and makes it like any other if that
// was done before. While it is in use it is nobody's orphan.
func (s *lockerSession) spare(o orphan) {
	s.locker.mu.Lock()
	defer s.locker.unlock()
	switch {
	case s.user(o.key) != nil || !slices.Contains(s.orphans, o):
		return
	case o.spared:
		s.forgetOrphan(o)
		s.doubt(orphan{key: o.key})
	default:
		s.forgetOrphan(o)
		s.doubt(orphan{key: o.key, adopted: o.adopted, spared: true})
	}
}

// remove deletes an orphan as it stands there now, and reports whether it has
// found that there is none, or has deleted it.
func (s *lockerSession) remove(o orphan) (gone bool, err error) {
	kv, err := s.get(s.ctx, o.key)
	switch {
	case errors.Is(err, dcs.ErrNotFound):
		return s.removeTwin(o.key)
	case err != nil:
		return false, err
	case o.token == 0 && kv.Session != s.id, o.token != 0 && (kv.Created != o.token || elsewhere(kv, s.id)):
		return s.removeTwin(o.key)
	case o.token == 0 && s.wanted(o.key):
		return false, nil
	}
	l := s.locker
	ctx, cancel := timectx.With(s.ctx, l.cfg.Clock, l.timing.Request, "deleting "+o.key)
	defer cancel()
	if err := l.deleteAt(ctx, kv, deletions(kv.Key)...); err != nil {
		return false, err
	}
	return true, nil
}

// removeTwin deletes the twin of an orphan whose key is not there, and reports
// whether nothing of the orphan is left.
func (s *lockerSession) removeTwin(key string) (gone bool, err error) {
	err = s.call(s.ctx, "deleting the twin of "+key, func(ctx context.Context) error { return s.deleteTwin(ctx, key, nil) })
	return err == nil, err
}

// wantedBy reports whether a lease or an acquisition other than ls uses the key.
func (s *lockerSession) wantedBy(key string, ls *Lease) bool {
	s.locker.mu.Lock()
	defer s.locker.unlock()
	return slices.ContainsFunc(s.leases, func(other *Lease) bool { return other != ls && other.key == key }) ||
		slices.ContainsFunc(s.claims, func(a *acquisition) bool { return a.key == key })
}

// wanted reports whether the key is held or being acquired, or may be adopted
// again: then what stands there may be no orphan.
func (s *lockerSession) wanted(key string) bool {
	s.locker.mu.Lock()
	defer s.locker.unlock()
	return s.user(key) != nil || s.adopting(key, 0)
}

// user says who holds or acquires the key under this session, as the error for
// anybody else, or nil. The caller holds mu.
func (s *lockerSession) user(key string) *HeldError {
	for _, ls := range s.leases {
		if ls.key == key && !ls.yields {
			return &HeldError{Key: key, Holder: dcs.KV{
				Key: key, Value: slices.Clone(ls.value), Revision: ls.token, Created: ls.token, Session: s.id,
			}}
		}
	}
	for _, a := range s.claims {
		if a.key == key {
			return &HeldError{Key: key}
		}
	}
	return nil
}

// doubted reports whether a write with an unknown outcome may have brought the
// key under this session, or may do so yet. The caller holds mu.
func (s *lockerSession) doubted(key string) bool {
	return slices.ContainsFunc(s.orphans, func(o orphan) bool { return o.key == key && o.token == 0 })
}

// doubt remembers an orphan. The caller holds mu.
func (s *lockerSession) doubt(o orphan) {
	if !slices.Contains(s.orphans, o) {
		s.orphans = append(s.orphans, o)
		slices.SortStableFunc(s.orphans, func(a, b orphan) int { return strings.Compare(a.key, b.key) })
	}
}

// forgetOrphan is the opposite of doubt. The caller holds mu.
func (s *lockerSession) forgetOrphan(o orphan) {
	s.orphans = slices.DeleteFunc(s.orphans, func(other orphan) bool { return other == o })
}

// adopting reports whether an adoption ended in doubt under this session, of
// this key and token; of any, if that is zero. The caller holds mu.
func (s *lockerSession) adopting(key string, token dcs.Revision) bool {
	return slices.ContainsFunc(s.orphans, func(o orphan) bool { return o.adoption(key, token) })
}

// forgetAdoptions drops them: none of them can land any more, and what they
// brought is known. The caller holds mu.
func (s *lockerSession) forgetAdoptions(key string, token dcs.Revision) {
	s.orphans = slices.DeleteFunc(s.orphans, func(o orphan) bool { return o.adoption(key, token) })
}

// adoption reports whether an adoption of this key and token has left the
// orphan; of any, if that is zero.
func (o orphan) adoption(key string, token dcs.Revision) bool {
	return o.adopted != 0 && (key == "" || o.key == key) && (token == 0 || o.adopted == token)
}

// settle ends the session if it has orphans and nothing to lose. An adoption
// that may be repeated is something to lose. The caller holds mu.
func (s *lockerSession) settle() {
	if len(s.orphans) > 0 && !s.adopting("", 0) && len(s.leases) == 0 && len(s.claims) == 0 {
		s.end(errDoubtful)
	}
}

// release deletes the key of a lease that has ended.
func (s *lockerSession) release(ctx context.Context, ls *Lease) error {
	l := s.locker
	l.mu.Lock()
	kv := dcs.KV{Key: ls.key, Created: ls.token, Revision: ls.revision, Session: s.id}
	l.unlock()
	err := s.deleteKey(ctx, kv, ls)
	l.mu.Lock()
	ls.gone = err == nil || s.closed
	s.drop(ls)
	if !ls.gone {
		s.doubt(orphan{key: ls.key, token: ls.token})
	}
	s.settle()
	finish := s.claimFinish()
	l.unlock()
	if finish && s.finish(ctx) == nil {
		return nil
	}
	return err
}

// drop forgets a lease. The caller holds mu.
func (s *lockerSession) drop(ls *Lease) {
	s.leases = slices.DeleteFunc(s.leases, func(other *Lease) bool { return other == ls })
}

// expireIfDue ends the session if its time is up by either clock, and returns
// the time left; zero or less if it has ended. The caller holds mu.
func (s *lockerSession) expireIfDue() time.Duration {
	if s.ended {
		return 0
	}
	left := s.window - s.locker.since(s.sent)
	if left > 0 {
		return left
	}
	switch {
	case errors.Is(s.trouble, ErrGated):
		s.end(s.trouble)
	case s.trouble != nil:
		s.end(fmt.Errorf("%w; the last attempt to renew it: %v", ErrExpired, s.trouble)) //nolint:errorlint // the cause is one of the documented ones
	default:
		s.end(ErrExpired)
	}
	return 0
}

// endIfLost ends the session if err says that the store does not know it any
// more. Its keys have gone with it.
func (s *lockerSession) endIfLost(err error) {
	if !errors.Is(err, dcs.ErrSessionLost) {
		return
	}
	s.locker.mu.Lock()
	defer s.locker.unlock()
	s.end(err)
	for _, ls := range s.leases {
		ls.gone = true
	}
	s.leases, s.orphans = nil, nil
}

// end ends the session and the leases under it, once. The caller holds mu.
func (s *lockerSession) end(cause error) {
	if s.ended {
		return
	}
	l := s.locker
	s.ended = true
	if l.session == s {
		l.session = nil
	}
	for _, ls := range s.leases {
		ls.end(cause)
	}
	s.cancel(cause)
	l.note(func(log *slog.Logger) { log.Info("session ended", "session", s.id, "cause", cause) })
}

// claimFinish reports whether the caller has to call finish: the session has
// ended and nothing under it is unreleased, or may be adopted from it. The
// caller holds mu.
func (s *lockerSession) claimFinish() bool {
	if !s.ended || s.finishing || len(s.leases) > 0 || s.adopting("", 0) {
		return false
	}
	s.finishing = true
	return true
}

// finish closes the session at the store.
func (s *lockerSession) finish(ctx context.Context) error {
	l := s.locker
	err := l.insist(ctx, "closing session "+string(s.id), s.remote.Close)
	if errors.Is(err, dcs.ErrSessionLost) {
		err = nil
	}
	l.mu.Lock()
	defer l.unlock()
	s.closed = err == nil
	l.sessions = slices.DeleteFunc(l.sessions, func(other *lockerSession) bool { return other == s })
	if err != nil {
		return fmt.Errorf("close session %s: %w", s.id, err)
	}
	return nil
}

// get reads one key within the session's time.
func (s *lockerSession) get(ctx context.Context, key string) (kv dcs.KV, err error) {
	err = s.call(ctx, "reading "+key, func(ctx context.Context) error {
		kv, err = s.locker.cfg.Store.Get(ctx, key)
		return err
	})
	return kv, err
}

// call does one call to the store under the deadline of a request, and within
// the session's time. It does not begin when nothing is left. Both can end it:
// a session that has less time left than a request may take can be renewed
// meanwhile, and must not keep a call alive for which no reply comes. Nothing
// ends by a timer here at the instant at which the watchdog ends the session:
// which of the two came first would be left to chance.
func (s *lockerSession) call(ctx context.Context, what string, do func(context.Context) error) error {
	l := s.locker
	l.mu.Lock()
	left := s.expireIfDue()
	l.unlock()
	if left <= 0 {
		return fmt.Errorf("%s: %w: %w", what, dcs.ErrUnavailable, context.Cause(s.ctx))
	}
	limit := l.timing.Request
	if limit == left {
		limit++
	}
	ctx, stop := timectx.With(ctx, l.cfg.Clock, limit, what)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
	return do(ctx)
}

// insist repeats a call that may be repeated, each time under the deadline of a
// request, until it succeeds or there is no hope.
func (l *Locker) insist(ctx context.Context, what string, do func(context.Context) error) error {
	for try := 1; ; try++ {
		err := func() error {
			ctx, cancel := timectx.With(ctx, l.cfg.Clock, l.timing.Request, what)
			defer cancel()
			return do(ctx)
		}()
		if err == nil || try == attempts || ctx.Err() != nil || permanent(err) || errors.Is(err, dcs.ErrSessionLost) {
			return err
		}
		if timectx.Sleep(ctx, l.cfg.Clock, l.jittered(l.timing.Request/4, what, try)) != nil {
			return err
		}
	}
}

// deleteKey deletes a lock's key if it still is the incarnation of kv, whatever
// has been written to it since, and not bound to another session than kv: that
// would be a holding that was adopted there. Its twin goes with it, and alone if
// the key is not there. Nil proves that neither is there any more as that of ls.
//
// Each deletion is bound to the revision that was read: one that gets lost, and
// lands after the holding was adopted, finds another revision.
func (s *lockerSession) deleteKey(ctx context.Context, kv dcs.KV, ls *Lease) error {
	l := s.locker
	return l.insist(ctx, "deleting "+kv.Key, func(ctx context.Context) error {
		err := l.deleteAt(ctx, kv, deletions(kv.Key)...)
		if !errors.Is(err, dcs.ErrConflict) {
			return err
		}
		now, err := l.cfg.Store.Get(ctx, kv.Key)
		switch {
		case errors.Is(err, dcs.ErrNotFound):
			return s.deleteTwin(ctx, kv.Key, ls)
		case err != nil:
			return err
		case now.Created != kv.Created || elsewhere(now, kv.Session):
			return s.deleteTwin(ctx, kv.Key, ls)
		}
		kv.Revision = now.Revision
		return l.deleteAt(ctx, kv, deletions(kv.Key)...)
	})
}

// deleteTwin deletes the twin of a key that is not that of ls any more, if it stands
// under this session and is not wanted by anybody but ls. Whoever begins to want it
// after that was asked writes it anew.
func (s *lockerSession) deleteTwin(ctx context.Context, key string, ls *Lease) error {
	twin, err := s.locker.cfg.Store.Get(ctx, key+TwinSuffix)
	switch {
	case errors.Is(err, dcs.ErrNotFound):
		return nil
	case err != nil:
		return err
	case twin.Session != s.id || s.wantedBy(key, ls):
		return nil
	}
	return s.locker.deleteAt(ctx, twin, dcs.Op{Key: twin.Key, Delete: true})
}

// deleteAt carries out deletions if nothing has been written to a key since kv. The
// error is dcs.ErrConflict if something has.
func (l *Locker) deleteAt(ctx context.Context, kv dcs.KV, then ...dcs.Op) error {
	_, err := l.cfg.Store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{{Key: kv.Key, Created: kv.Created, Revision: kv.Revision}},
		Then: then,
	})
	return err
}

// deletions delete a lock's key and its twin.
func deletions(key string) []dcs.Op {
	return []dcs.Op{{Key: key, Delete: true}, {Key: key + TwinSuffix, Delete: true}}
}
