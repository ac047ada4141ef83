package ha

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
)

// TwinSuffix, after the name of a lock, is the name of its second key: see Locker.
const TwinSuffix = record.TwinSuffix

// attempts is how often a call with an unknown outcome is repeated to resolve
// it, before it is left to the session's end or to the next renewals.
const attempts = 3

// LockerConfig configures a Locker. Only Store is required; zero means the
// default. Timing has the meaning of the durations.
type LockerConfig struct {
	// Store keeps the locks. The Locker does not close it.
	Store dcs.Store

	TTL        time.Duration // default 10 s; the store may grant more
	RenewEvery time.Duration // default 3 s
	Margin     time.Duration // default 2 s
	Request    time.Duration // default 2 s, or RenewEvery if that is shorter
	MaxDrift   float64       // default 0.01

	// Gate is asked before every acquisition and every renewal. While it
	// returns an error nothing is acquired or renewed, and all leases end when
	// their time is up, with ErrGated as the cause. It must return when its
	// context ends. Nil means always open.
	Gate func(context.Context) error

	// Clock is the time by which leases end; nil means the real one, which
	// stands still while the machine sleeps.
	Clock clock.Clock
	// Wall is the time of day, without which a machine that has slept would
	// not know. Each clock alone can end a lease. Nil means that of Clock.
	Wall func() time.Time

	// Logger is told of sessions and leases that begin and end, and of
	// renewals that go wrong. Nil discards.
	Logger *slog.Logger
}

// Locker holds named locks in a distributed configuration store, all under one
// session.
//
// # Promise
//
// Of all Lockers that use the same store, at most one holds a Lease on a key
// that is in force at any instant of true time, as long as no clock's rate is
// wrong by more than MaxDrift and nobody deletes both keys of a lock or ends its
// session by hand, or adopts the lock of a holder that is alive; and work that ends
// within Margin of its lease's end never runs beside that of the next holder.
//
// What may not rely on clocks at all puts Lease.Guard into its transactions: the
// fencing token of each holding is greater than that of every earlier one.
//
// Beside each lock's key stands its twin, the key with TwinSuffix, which is written,
// moved and deleted with it: an operator who deletes the key takes the lock from its
// holder, whose lease ends with the next renewal, but gives it to nobody before the
// holder has let go of it, or must have stopped. The next holder needs both to be
// absent. A twin that is deleted is written again. The store's user needs the same
// rights on both, and whoever lists a folder of locks finds both.
//
// # Cost
//
// A holder that does nothing costs one renewal of the session and one guarded
// transaction per RenewEvery, however many locks it holds. Where the store limits
// the conditions of a transaction (etcd to 128 by default), and one does not
// suffice, it is a few.
//
// The session is opened by the first acquisition, and is renewed until Close
// even while no lock is held. When it is lost all leases end, and the next
// acquisition opens another.
//
// A Locker is safe for use by several goroutines at once. Close must be called.
type Locker struct {
	cfg    LockerConfig
	timing Timing
	log    *slog.Logger

	closing context.Context // ends with ErrClosed when Close is called
	close   context.CancelCauseFunc

	workers crew // watchdogs and renewers
	holds   crew // calls of Hold and their work

	// mu is never held across I/O, a wait, or code of the caller other than its
	// clocks. It guards the fields below, and the state of all sessions and
	// leases. It is released by unlock.
	mu       sync.Mutex
	session  *lockerSession       // in force, or nil
	sessions []*lockerSession     // all that are in force or not yet finished
	opening  chan struct{}        // closed when the opening under way has ended; nil if none is
	notes    []func(*slog.Logger) // to be logged when mu is free
}

// NewLocker checks cfg. It does not talk to the store. An error wraps
// dcs.ErrInvalid, names the fields that are wrong, and shows the arithmetic.
func NewLocker(cfg LockerConfig) (*Locker, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("locker: no Store: %w", dcs.ErrInvalid)
	}
	timing := Timing{
		TTL: cfg.TTL, RenewEvery: cfg.RenewEvery, Margin: cfg.Margin,
		Request: cfg.Request, MaxDrift: cfg.MaxDrift,
	}.Defaults()
	if err := timing.validateLocker(); err != nil {
		return nil, fmt.Errorf("locker: %w: %w", err, dcs.ErrInvalid)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.Wall == nil {
		cfg.Wall = cfg.Clock.Now
	}
	if cfg.Gate == nil {
		cfg.Gate = func(context.Context) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	closing, cancel := context.WithCancelCause(context.Background())
	return &Locker{cfg: cfg, timing: timing, log: cfg.Logger, closing: closing, close: cancel}, nil
}

// TryAcquire takes the lock if it is free, with value as what others see of
// its holder. It blocks for as long as a few calls to the store take.
//
// Errors: ErrHeld (a *HeldError) if somebody holds it, this Locker included;
// ErrGated; ErrClosed; those of dcs. dcs.ErrAmbiguous says that the attempt may
// have landed or may land yet: the Locker sees to it that this harms nobody.
// After every other error the lock surely has not been taken.
func (l *Locker) TryAcquire(ctx context.Context, key string, value []byte) (*Lease, error) {
	return l.TryAcquireWith(ctx, key, value, dcs.Txn{})
}

// TryAcquireWith is TryAcquire inside a larger transaction: the lock is taken,
// and the operations of with are carried out, if the lock is free and all
// guards of with hold; else nothing is.
//
// The errors are those of TryAcquire, and dcs.ErrConflict if a guard of with
// did not hold. After dcs.ErrAmbiguous the operations of with may have been
// carried out, or may be yet, as after any write whose outcome is unknown.
func (l *Locker) TryAcquireWith(ctx context.Context, key string, value []byte, with dcs.Txn) (*Lease, error) {
	a := &acquisition{locker: l, key: key, value: slices.Clone(value), with: with}
	if err := a.txn("").Validate(); err != nil {
		return nil, fmt.Errorf("acquire %s: %w", key, err)
	}
	if l.closing.Err() != nil {
		return nil, fmt.Errorf("acquire %s: %w", key, ErrClosed)
	}
	if err := l.askGate(ctx); err != nil {
		return nil, fmt.Errorf("acquire %s: %w", key, err)
	}
	lease, err := a.run(ctx)
	if err != nil {
		if held := (*HeldError)(nil); errors.As(err, &held) {
			return nil, err
		}
		return nil, fmt.Errorf("acquire %s: %w", key, err)
	}
	return lease, nil
}

// Acquire takes the lock as soon as it is free: it waits while somebody holds
// it, while the gate is closed and while the store cannot be used. Waiters are
// not queued. Its errors are the cause of ctx, with what the last attempt has
// come to, ErrClosed, dcs.ErrClosed and dcs.ErrInvalid.
func (l *Locker) Acquire(ctx context.Context, key string, value []byte) (*Lease, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	defer context.AfterFunc(l.closing, func() { cancel(ErrClosed) })()

	var updates <-chan dcs.Update
	var reason error
	for try := 1; ; try++ {
		switch cause := context.Cause(ctx); {
		case cause != nil && reason != nil:
			return nil, fmt.Errorf("acquire %s: %w; the last attempt: %v", key, cause, reason) //nolint:errorlint // the cause is the error
		case cause != nil:
			return nil, fmt.Errorf("acquire %s: %w", key, cause)
		}
		lease, err := l.TryAcquire(ctx, key, value)
		if err == nil || permanent(err) {
			return lease, err
		}
		if context.Cause(ctx) == nil || reason == nil {
			reason = err
		}
		l.log.Debug("waiting for lock", "key", key, "reason", err)
		pause := l.jittered(l.timing.RenewEvery, key, try)
		if !errors.Is(err, ErrHeld) {
			_ = timectx.Sleep(ctx, l.cfg.Clock, pause)
			continue
		}
		if updates == nil {
			updates = l.cfg.Store.Watch(ctx, key)
		}
		updates = l.awaitFree(ctx, key, updates, pause)
	}
}

// permanent reports whether waiting cannot help.
func permanent(err error) bool {
	return errors.Is(err, ErrClosed) || errors.Is(err, dcs.ErrClosed) || errors.Is(err, dcs.ErrInvalid)
}

// awaitFree waits until the watch shows that the key is absent, or pause has
// passed, or ctx ends. It returns the watch, or nil if that has ended. Which of
// several things that happen at one instant comes first makes no difference:
// the caller looks at ctx, and then at the lock, in any case, and nothing that
// has been delivered until then stays unread.
func (l *Locker) awaitFree(ctx context.Context, key string, updates <-chan dcs.Update, pause time.Duration) <-chan dcs.Update {
	timer := l.cfg.Clock.Timer(pause)
	defer timer.Stop()
	for {
		select {
		case u, open := <-updates:
			if !open {
				return nil
			}
			if u.Err == nil && !slices.ContainsFunc(u.KVs, func(kv dcs.KV) bool { return kv.Key == key }) {
				return updates
			}
		case <-timer.C:
			select {
			case _, open := <-updates:
				if !open {
					return nil
				}
			default:
			}
			return updates
		case <-ctx.Done():
			return updates
		}
	}
}

// Hold acquires the lock, runs work with a context that ends when the lease or
// ctx does or the Locker is closed, waits until work has returned, and only
// then releases the lock. While work winds down after the end of ctx the lease
// is still renewed.
//
// It returns the error of work, joined with the cause of the lease's end if
// that came first. If work has not returned when the lease has ended and Margin
// has passed since Lease.Until, Hold returns ErrOverrun without releasing
// anything; the work is still running then, and its goroutine with it.
func (l *Locker) Hold(ctx context.Context, key string, value []byte, work func(context.Context, *Lease) error) error {
	if !l.holds.join() {
		return fmt.Errorf("hold %s: %w", key, ErrClosed)
	}
	defer l.holds.leave()
	lease, err := l.Acquire(ctx, key, value)
	if err != nil {
		return err
	}
	workCtx, cancel := context.WithCancelCause(lease.Context())
	defer cancel(ErrReleased)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	defer context.AfterFunc(l.closing, func() { cancel(ErrClosed) })()

	workErr := ErrClosed // if it is too late to begin
	done := l.begin(lease, func() { workErr = work(workCtx, lease) })
	if !l.awaitWork(lease, done) {
		l.log.Error("work outlived its lease", "key", key, "token", uint64(lease.token), "until", lease.Until(), "margin", l.timing.Margin)
		return fmt.Errorf("hold %s: not released, since its work had not returned %s after the lease's end at %s: %w: %w",
			key, l.timing.Margin, lease.Until(), ErrOverrun, context.Cause(lease.Context()))
	}
	return errors.Join(workErr, l.letGo(ctx, lease, workErr))
}

// begin runs work on a goroutine of its own, unless the Locker's goroutines have
// been waited for already. While work runs the lease is not released.
func (l *Locker) begin(lease *Lease, work func()) <-chan struct{} {
	done := make(chan struct{})
	if !l.workers.join() {
		close(done)
		return done
	}
	l.mu.Lock()
	lease.working = true
	l.unlock()
	go func() {
		defer l.workers.leave()
		defer close(done)
		defer func() {
			l.mu.Lock()
			defer l.unlock()
			lease.working = false
		}()
		work()
	}()
	return done
}

// awaitWork waits until done, and reports false if that had not come when the
// lease had ended and the margin had passed.
func (l *Locker) awaitWork(lease *Lease, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-lease.Context().Done():
	}
	l.mu.Lock()
	left := lease.left() + l.timing.Margin
	l.unlock()
	if left > 0 {
		timer := l.cfg.Clock.Timer(left)
		defer timer.Stop()
		select {
		case <-done:
			return true
		case <-timer.C:
		}
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// letGo releases the lease of work that has returned, also when ctx has ended,
// and says what the work's own error does not say yet.
func (l *Locker) letGo(ctx context.Context, lease *Lease, workErr error) error {
	lost := context.Cause(lease.Context())
	if errors.Is(lost, ErrReleased) || lost != nil && errors.Is(workErr, lost) {
		lost = nil
	}
	if lost != nil {
		lost = fmt.Errorf("hold %s: %w", lease.key, lost)
	}
	return errors.Join(lost, lease.Release(context.WithoutCancel(ctx)))
}

// Session is the session in force, opened if there is none: for keys that are
// to vanish with it without being locks. It may be lost the next moment; a
// write under it then fails with dcs.ErrSessionLost.
func (l *Locker) Session(ctx context.Context) (dcs.SessionID, error) {
	var id dcs.SessionID
	err := l.inSession(ctx, func(s *lockerSession) error {
		id = s.id
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	return id, nil
}

// Holder reads who holds the lock: dcs.ErrNotFound proves that nobody does.
// Other errors prove nothing. It is the lock's key, or its twin where the key was
// deleted by hand.
func (l *Locker) Holder(ctx context.Context, key string) (dcs.KV, error) {
	ctx, cancel := timectx.With(ctx, l.cfg.Clock, l.timing.Request, "reading the holder of "+key)
	defer cancel()
	kv, err := l.cfg.Store.Get(ctx, key)
	if errors.Is(err, dcs.ErrNotFound) {
		kv, err = l.cfg.Store.Get(ctx, key+TwinSuffix)
	}
	if err != nil {
		return dcs.KV{}, fmt.Errorf("holder of lock %s: %w", key, err)
	}
	return kv, nil
}

// Close ends the contexts of all work under Hold and waits until that has
// returned and its locks are released; then it ends all other leases with
// ErrReleased, whose work the caller has stopped before, releases them by
// closing the session, and waits for the Locker's goroutines.
//
// It returns when ctx ends, at the latest. What it has not released by then
// expires: the locks of work under Hold that goes on are not released, and the
// error wraps ErrOverrun. It must not be called from within that work.
func (l *Locker) Close(ctx context.Context) error {
	l.close(ErrClosed)
	var errs []error
	if err := l.holds.dismiss(ctx); err != nil {
		errs = append(errs, fmt.Errorf("close locker: waiting for work to return: %w", err))
	}
	idle, busy := l.endSessions()
	for _, key := range busy {
		errs = append(errs, fmt.Errorf("close locker: lock %s was not released: %w", key, ErrOverrun))
	}
	for _, s := range idle {
		if err := s.finish(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close locker: its locks are free when they expire: %w", err))
		}
	}
	if err := l.workers.dismiss(ctx); err != nil {
		errs = append(errs, fmt.Errorf("close locker: a goroutine is still at work: %w", err))
	}
	return errors.Join(errs...)
}

// Abandon ends the Locker like Close, and releases nothing: its locks stand until
// their sessions expire, and whoever knows their tokens may adopt them until then.
func (l *Locker) Abandon(ctx context.Context) error {
	l.close(ErrClosed)
	var errs []error
	if err := l.holds.dismiss(ctx); err != nil {
		errs = append(errs, fmt.Errorf("abandon locks: waiting for work to return: %w", err))
	}
	l.mu.Lock()
	for _, s := range l.sessions {
		s.finishing = true // by nobody
		s.end(ErrReleased)
	}
	l.unlock()
	if err := l.workers.dismiss(ctx); err != nil {
		errs = append(errs, fmt.Errorf("abandon locks: a goroutine is still at work: %w", err))
	}
	return errors.Join(errs...)
}

// endSessions ends all sessions and gives up all leases but those under which
// work goes on. It returns the sessions that the caller has to finish, and the
// keys of the locks under which work goes on.
func (l *Locker) endSessions() (idle []*lockerSession, busy []string) {
	l.mu.Lock()
	defer l.unlock()
	for _, s := range slices.Clone(l.sessions) {
		s.end(ErrReleased)
		s.leases = slices.DeleteFunc(s.leases, func(ls *Lease) bool { return !ls.working })
		for _, ls := range s.leases {
			busy = append(busy, ls.key)
		}
		s.orphans = nil // they go with the session
		if s.claimFinish() {
			idle = append(idle, s)
		}
	}
	return idle, busy
}

// askGate asks the caller's gate under the deadline of a request.
func (l *Locker) askGate(ctx context.Context) error {
	ctx, cancel := timectx.With(ctx, l.cfg.Clock, l.timing.Request, "asking the gate")
	defer cancel()
	if err := l.cfg.Gate(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrGated, err)
	}
	return nil
}

// jittered is a time from half of d to d, which depends on the session, the key
// and the attempt: different for different Lockers, and the same when a run is
// repeated.
func (l *Locker) jittered(d time.Duration, key string, try int) time.Duration {
	h := fnv.New32a()
	l.mu.Lock()
	if l.session != nil {
		_, _ = h.Write([]byte(l.session.id))
	}
	l.unlock()
	_, _ = h.Write([]byte(key + "#" + strconv.Itoa(try)))
	return d/2 + time.Duration(float64(d/2)*float64(h.Sum32()%1024)/1024)
}

// instant is one moment by both clocks.
type instant struct{ clock, wall time.Time }

func (l *Locker) now() instant {
	return instant{clock: l.cfg.Clock.Now(), wall: l.cfg.Wall().Round(0)}
}

// since is how much time has passed at most: the clock stands still while the
// machine sleeps, and the time of day can be set back.
func (l *Locker) since(past instant) time.Duration {
	now := l.now()
	return max(now.clock.Sub(past.clock), now.wall.Sub(past.wall))
}

// crew counts goroutines so that they can be waited for with a context, which a
// sync.WaitGroup cannot do. The zero value is ready to use.
type crew struct {
	mu        sync.Mutex
	size      int
	dismissed bool
	gone      chan struct{} // closed when dismissed and empty
}

// join counts one more, or reports false when the crew has been dismissed.
func (c *crew) join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dismissed {
		return false
	}
	c.size++
	return true
}

func (c *crew) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size--
	if c.size == 0 && c.dismissed {
		close(c.gone)
	}
}

// dismiss lets nobody join any more and waits until all have left, or returns
// the cause of ctx.
func (c *crew) dismiss(ctx context.Context) error {
	c.mu.Lock()
	if !c.dismissed {
		c.dismissed = true
		c.gone = make(chan struct{})
		if c.size == 0 {
			close(c.gone)
		}
	}
	gone := c.gone
	c.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-gone:
		return nil
	default:
		return context.Cause(ctx)
	}
}
