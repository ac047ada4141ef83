package ha_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

var lockCases = append([]lockCase{
	{"OneHolder", "two nodes hold one lock at once.", lockOneHolder},
	{"TokenGrows", "a late write of an earlier holder passes the guard of a later one.", lockTokenGrows},
	{"GuardFences", "a former holder overwrites what the present one has written.", lockGuardFences},
	{"CountedFromSending", "with slow replies a node believes that it holds the lock when the store has given it to another.", lockCountedFromSending},
	{"ManyLocksOneSession", "each lock costs a session of its own, or losing one loses another.", lockManyLocksOneSession},
	{"IdleCost", "holders that do nothing load the store.", lockIdleCost},
	{"WaiterIsWoken", "a lock that was let go on purpose stays unused for as long as a look around takes.", lockWaiterIsWoken},
	{"HoldReleasesAfterWork", "the next holder starts while the work of the last one still runs.", lockHoldReleasesAfterWork},
	{"HeldByName", "a restarted node takes its former life's lock for its own, and loses it unnoticed.", lockHeldByName},
	{"KeyDeleted", "a holder whose lock an operator has deleted goes on for ever.", lockKeyDeleted},
	{"KeyDeletedNobodyKnows", "a lock that an operator has deleted is another's while its holder still works.", lockKeyDeletedNobodyKnows},
	{"KeyDeletedUnreleased", "a lock that an operator has deleted is another's before the work under it has stopped, or is nobody's for ever.", lockKeyDeletedUnreleased},
	{"TwinDeleted", "what protects a lock from being deleted is gone for good once it was deleted itself.", lockTwinDeleted},
	{"ReleaseAfterLoss", "the late release of a former holder frees the present holder's lock.", lockReleaseAfterLoss},
	{"SessionEnded", "a holder whose session the store has ended goes on.", lockSessionEnded},
	{"PausedHolder", "a process that stood still goes on as the holder of a lock that is another's by now.", lockPausedHolder},
	{"WallClockStep", "a machine that has slept believes that no time has passed, or a clock that was set back prolongs a lease.", lockWallClockStep},
	{"GateCloses", "a node that is not fit to lead keeps the lock.", lockGateCloses},
	{"CarriesATransaction", "a lock is taken, and what belongs to it is not written, or the other way round.", lockCarriesATransaction},
	{"Adopt", "a restarted node loses the lock that it had, or two processes rely on one holding.", lockAdopt},
	{"CancelWhileWinning", "a lock is held by nobody who knows of it, and blocks everybody.", lockCancelWhileWinning},
	{"CloseReleasesAll", "a program that ends in order blocks others as if it had crashed.", lockCloseReleasesAll},
	{"BadInput", "a mistake in the caller's program looks like an outage, or is waited for.", lockBadInput},
	{"StoreClosed", "a program waits for a store that it has closed.", lockStoreClosed},
}, append(unknownOutcomes(), overlaps()...)...)

func lockOneHolder(b *lockBench) {
	t := b.t
	a, _ := b.node(patient)
	other, _ := b.node(patient)
	lease := b.acquire(a, "a")
	require.NoError(t, lease.Check())
	require.Equal(t, b.key, lease.Key())
	b.shows(lease)
	for _, l := range []*ha.Locker{a, other} { // the holder itself included
		held := b.refused(l)
		require.Equal(t, b.key, held.Key)
		require.Equal(t, "a", string(held.Holder.Value))
		require.Equal(t, lease.Token(), held.Holder.Created)
		require.Equal(t, lease.Session(), held.Holder.Session)
	}
	kv, err := other.Holder(b.ctx, b.key)
	require.NoError(t, err)
	require.Equal(t, lease.Token(), kv.Created)
	b.renewed(lease, 2)

	require.NoError(t, lease.Release(b.ctx))
	require.ErrorIs(t, lease.Check(), ha.ErrReleased)
	require.ErrorIs(t, context.Cause(lease.Context()), ha.ErrReleased)
	require.NoError(t, lease.Release(b.ctx), "once more is nothing")
	_, err = other.Holder(b.ctx, b.key)
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.NoError(t, b.acquire(other, "other").Check())
}

func lockTokenGrows(b *lockBench) {
	t := b.t
	l, f := b.node(brief)
	ends := []struct {
		name string
		end  func(*ha.Lease)
	}{
		{"release", func(ls *ha.Lease) { require.NoError(t, ls.Release(b.ctx)) }},
		{"deletion", func(ls *ha.Lease) { b.deleteKey(ls.Key()) }},
		{"end of the session", func(*ha.Lease) { require.NoError(t, f.session().Close(b.ctx)) }},
		{"expiry", func(ls *ha.Lease) {
			f.setRule(partitioned)
			require.Error(t, b.ended(ls))
			b.gone(ls.Key())
			f.setRule(nil)
		}},
	}
	var before []*ha.Lease
	for _, by := range ends {
		lease := b.acquire(l, "a")
		for _, old := range before {
			require.Greater(t, lease.Token(), old.Token())
			b.fenced(old)
		}
		require.NoError(t, b.write(lease))
		by.end(lease)
		require.Error(t, b.ended(lease))
		before = append(before, lease)
	}
}

func lockGuardFences(b *lockBench) {
	t := b.t
	a, _ := b.node(patient)
	other, f := b.node(patient)
	old := b.acquire(a, "a")
	require.NoError(t, b.write(old))
	require.NoError(t, old.Release(b.ctx))
	b.fenced(old)
	lease := b.acquire(other, "b")
	b.fenced(old)
	require.NoError(t, b.write(lease))

	// A lock's value may be rewritten by its holder, and stays guarded as before.
	_, err := f.Commit(b.ctx, dcs.Txn{
		If: []dcs.Guard{lease.Guard()}, Then: []dcs.Op{{Key: b.key, Value: []byte("b too"), Session: lease.Session()}},
	})
	require.NoError(t, err)
	b.fenced(old)
	require.NoError(t, b.write(lease))
	b.renewed(lease, 2)
	b.shows(lease)
}

// lockCountedFromSending delays replies: a lease may be worth no more than its
// TTL from the moment at which the renewal was handed to the store.
func lockCountedFromSending(b *lockBench) {
	t := b.t
	const delay = 700 * time.Millisecond
	l, f := b.node(patient)
	var mu sync.Mutex
	var sent time.Time
	f.setRule(func(c storeCall) fault {
		mu.Lock()
		defer mu.Unlock()
		if c.kind == callOpen || c.kind == callRenew {
			sent = time.Now()
		}
		return fault{reply: delay}
	})
	check := func(lease *ha.Lease) {
		mu.Lock()
		defer mu.Unlock()
		ttl := float64(f.session().TTL())
		window := time.Duration(ttl*(1-ha.DefaultMaxDrift)/(1+ha.DefaultMaxDrift)) - patient.Margin
		require.False(t, lease.Until().After(sent.Add(window)), "%s too late", lease.Until().Sub(sent.Add(window)))
	}
	lease := b.acquire(l, "a")
	check(lease)
	for range 2 {
		b.renewed(lease, 1)
		check(lease)
	}
}

func lockManyLocksOneSession(b *lockBench) {
	t := b.t
	l, f := b.node(patient)
	leases := make([]*ha.Lease, 10)
	for i := range leases {
		var err error
		leases[i], err = l.Acquire(b.ctx, fmt.Sprintf("%s/%d", b.key, i), nil)
		require.NoError(t, err)
		require.Equal(t, f.session().ID(), leases[i].Session())
	}
	require.Equal(t, 1, f.count(callOpen))
	id, err := l.Session(b.ctx)
	require.NoError(t, err)
	require.Equal(t, f.session().ID(), id)

	require.NoError(t, leases[0].Release(b.ctx))
	b.deleteKey(leases[1].Key())
	require.ErrorIs(t, b.ended(leases[1]), ha.ErrFenced)
	b.renewed(leases[2], 1)
	for _, lease := range leases[2:] {
		require.NoError(t, lease.Check())
		b.shows(lease)
	}
	require.NoError(t, l.Close(b.ctx))
	for _, lease := range leases {
		_, exists := b.read(lease.Key())
		require.False(t, exists)
	}
}

// lockIdleCost counts what a holder of many locks sends while it does nothing.
func lockIdleCost(b *lockBench) {
	t := b.t
	l, f := b.node(patient)
	var lease *ha.Lease
	for i := range 100 {
		var err error
		lease, err = l.Acquire(b.ctx, fmt.Sprintf("%s/%d", b.key, i), nil)
		require.NoError(t, err)
	}
	b.renewed(lease, 1)
	var mu sync.Mutex
	var sent []string
	f.setRule(func(c storeCall) fault {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, c.kind)
		return fault{}
	})
	b.renewed(lease, 3)
	f.setRule(nil)
	mu.Lock()
	defer mu.Unlock()
	calls := map[string]int{}
	for _, kind := range sent {
		calls[kind]++
	}
	require.Len(t, sent, calls[callRenew]+calls[callCommit], "%v", sent)
	require.GreaterOrEqual(t, calls[callRenew], 3)
	require.LessOrEqual(t, calls[callCommit], calls[callRenew], "%v", sent)
}

// lockWaiterIsWoken: by its own clock the waiter would look again after minutes.
func lockWaiterIsWoken(b *lockBench) {
	t := b.t
	a, _ := b.node(patient)
	waiter, f := b.node(lazy)
	lease := b.acquire(a, "a")
	next := make(chan *ha.Lease, 1)
	go func() {
		got, _ := waiter.Acquire(b.ctx, b.key, []byte("b"))
		next <- got
	}()
	b.until("the waiter has seen the lock", func() bool { return f.count(callGet) > 0 })
	require.NoError(t, lease.Release(b.ctx))
	got := <-next
	require.NotNil(t, got)
	require.Greater(t, got.Token(), lease.Token())
}

// lockHoldReleasesAfterWork lets work take its time after it was told to stop:
// until the lease was renewed twice more, or is lost by a release that should
// have waited.
func lockHoldReleasesAfterWork(b *lockBench) {
	t := b.t
	a, f := b.node(patient)
	other, _ := b.node(patient)
	ctx, cancel := context.WithCancel(b.ctx)
	returned := make(chan error, 1)
	tired := errors.New("tired")
	begun, stopping := make(chan *ha.Lease, 1), make(chan struct{})
	finish, finishWork := context.WithCancel(b.ctx)
	defer finishWork()
	go func() {
		returned <- a.Hold(ctx, b.key, []byte("a"), func(ctx context.Context, ls *ha.Lease) error {
			begun <- ls
			<-ctx.Done()
			close(stopping)
			<-finish.Done()
			assert.NoError(t, ls.Check())
			return tired
		})
	}()
	lease := <-begun
	cancel()
	<-stopping
	renewals := f.count(callRenew)
	b.until("the lease is renewed twice, or lost", func() bool {
		return f.count(callRenew) >= renewals+2 || lease.Check() != nil
	})
	require.NoError(t, lease.Check(), "the lock was let go while the work runs")
	b.shows(lease)
	require.Equal(t, lease.Token(), b.refused(other).Holder.Created)
	finishWork()
	require.ErrorIs(t, <-returned, tired)
	_, exists := b.read(b.key)
	require.False(t, exists)
	require.Greater(t, b.acquire(other, "b").Token(), lease.Token())
}

// lockHeldByName: the former life of a node is not over for the store. Neither
// its name nor anything else in the lock's value makes the lock this life's.
func lockHeldByName(b *lockBench) {
	t := b.t
	former, _ := b.node(lazy)
	lease := b.acquire(former, "a")
	again, _ := b.node(patient)
	_, err := again.TryAcquire(b.ctx, b.key, []byte("a"))
	require.ErrorIs(t, err, ha.ErrHeld)
	b.shows(lease)
	require.NoError(t, lease.Release(b.ctx))

	_, err = dcs.Create(b.ctx, b.admin, b.key, []byte("a"), "") // by hand
	require.NoError(t, err)
	_, err = again.TryAcquire(b.ctx, b.key, []byte("a"))
	require.ErrorIs(t, err, ha.ErrHeld)
}

func lockKeyDeleted(b *lockBench) {
	t := b.t
	a, _ := b.node(patient)
	other, _ := b.node(patient)
	lost := b.acquire(a, "a")
	kept, err := a.Acquire(b.ctx, b.key+"-kept", nil)
	require.NoError(t, err)
	b.deleteKey(b.key)
	b.fenced(lost)
	require.ErrorIs(t, b.ended(lost), ha.ErrFenced)
	require.ErrorIs(t, lost.Check(), ha.ErrFenced)
	b.fenced(lost)
	require.NoError(t, lost.Release(b.ctx))
	next := b.acquire(other, "b")
	b.renewed(kept, 1)
	b.renewed(next, 1)
	b.shows(next)
	require.NoError(t, next.Release(b.ctx))
	require.Equal(t, kept.Session(), b.acquire(a, "a").Session(), "the session is as good as before")
}

// lockKeyDeletedNobodyKnows: nobody else gets the lock before its holder has
// noticed, and has let go of it; another lock of the same session lives on.
func lockKeyDeletedNobodyKnows(b *lockBench) {
	t := b.t
	a, _ := b.node(lazy)
	other, _ := b.node(patient)
	held := b.acquire(a, "a")
	b.deleteKey(b.key)
	for _, l := range []*ha.Locker{a, other} {
		_ = b.refused(l)
	}
	require.Equal(t, b.key+ha.TwinSuffix, b.refused(other).Holder.Key)
	holder, err := other.Holder(b.ctx, b.key)
	require.NoError(t, err)
	require.Equal(t, held.Session(), holder.Session)
	require.NoError(t, held.Check(), "it cannot know")
	require.NoError(t, held.Release(b.ctx))
	next := b.acquire(other, "b")
	require.Greater(t, next.Token(), held.Token())
	b.renewed(next, 1)
	b.shows(next)
}

// lockKeyDeletedUnreleased: the holder of a lock that was deleted does not release
// it. Somebody else gets it when everything that it protects must have stopped.
func lockKeyDeletedUnreleased(b *lockBench) {
	t := b.t
	a, _ := b.node(brief)
	other, _ := b.node(patient)
	lost := b.acquire(a, "a")
	kept, err := a.Acquire(b.ctx, b.key+"-kept", nil)
	require.NoError(t, err)
	b.deleteKey(b.key)
	next := b.acquire(other, "b")
	over := lost.Until().Add(brief.Margin)
	require.ErrorIs(t, lost.Check(), ha.ErrFenced)
	require.False(t, time.Now().Before(over), "its work may go on until %s", over)
	require.NoError(t, lost.Release(b.ctx))
	b.renewed(next, 1)
	b.shows(next)
	require.NoError(t, kept.Check())
}

// lockTwinDeleted: it is written again, and does what it is there for.
func lockTwinDeleted(b *lockBench) {
	t := b.t
	a, _ := b.node(patient)
	other, _ := b.node(patient)
	lease := b.acquire(a, "a")
	b.deleteKey(b.key + ha.TwinSuffix)
	b.until("the twin is there again", func() bool {
		kv, exists := b.read(b.key + ha.TwinSuffix)
		return exists && kv.Session == lease.Session()
	})
	b.renewed(lease, 2)
	b.shows(lease)
	b.deleteKey(b.key)
	_ = b.refused(other)
	require.ErrorIs(t, b.ended(lease), ha.ErrFenced)
	require.NoError(t, lease.Release(b.ctx))
	b.gone(b.key + ha.TwinSuffix)
	require.NoError(t, b.acquire(other, "b").Check())
}

// lockReleaseAfterLoss: the holder does not know yet that the lock is another's.
func lockReleaseAfterLoss(b *lockBench) {
	t := b.t
	a, _ := b.node(lazy)
	other, _ := b.node(patient)
	lost := b.acquire(a, "a")
	b.deleteKey(b.key)
	b.deleteKey(b.key + ha.TwinSuffix)
	next := b.acquire(other, "b")
	require.NoError(t, lost.Check(), "it cannot know")
	require.NoError(t, lost.Release(b.ctx))
	b.shows(next)
	b.renewed(next, 1)
	require.NoError(t, b.write(next))
}

func lockSessionEnded(b *lockBench) {
	t := b.t
	l, f := b.node(patient)
	leases := []*ha.Lease{b.acquire(l, "a")}
	second, err := l.Acquire(b.ctx, b.key+"-2", nil)
	require.NoError(t, err)
	leases = append(leases, second)
	require.NoError(t, f.session().Close(b.ctx))
	for _, lease := range leases {
		// It is fenced if the session ends between its renewal and the proof.
		cause := b.ended(lease)
		require.True(t, errors.Is(cause, dcs.ErrSessionLost) || errors.Is(cause, ha.ErrFenced), "%v", cause)
		require.NoError(t, lease.Release(b.ctx))
		b.fenced(lease)
	}
	again := b.acquire(l, "a")
	require.NotEqual(t, leases[0].Session(), again.Session())
	require.Greater(t, again.Token(), leases[0].Token())
	require.Equal(t, 2, f.count(callOpen))
}

// lockPausedHolder: no timer of the holder fires for longer than the TTL.
func lockPausedHolder(b *lockBench) {
	t := b.t
	a, _ := b.node(brief, func(cfg *ha.LockerConfig) {
		frozen := time.Now()
		cfg.Clock, cfg.Wall = frozenTimers{clock.New(), clock.NewMock()}, func() time.Time { return frozen }
	})
	other, _ := b.node(patient)
	paused, err := a.TryAcquire(b.ctx, b.key, []byte("a"))
	require.NoError(t, err)
	next := b.acquire(other, "b")

	require.ErrorIs(t, paused.Check(), ha.ErrExpired, "the first question after the pause")
	b.fenced(paused)
	require.Equal(t, next.Token(), b.refused(a).Holder.Created)
	require.NoError(t, paused.Release(b.ctx))
	b.shows(next)
	b.renewed(next, 1)
}

func lockWallClockStep(b *lockBench) {
	t := b.t
	wall := &steppedWall{}
	l, f := b.node(brief, func(cfg *ha.LockerConfig) { cfg.Wall = wall.now })
	lease := b.acquire(l, "a")
	wall.step(time.Hour)
	require.ErrorIs(t, lease.Check(), ha.ErrExpired)
	require.Error(t, lease.Context().Err())
	wall.step(-time.Hour)
	require.ErrorIs(t, lease.Check(), ha.ErrExpired, "and for good")
	require.NoError(t, lease.Release(b.ctx))

	again := b.acquire(l, "a")
	require.Greater(t, again.Token(), lease.Token())
	wall.step(-time.Hour)
	b.renewed(again, 1)
	f.setRule(partitioned)
	require.ErrorIs(t, b.ended(again), ha.ErrExpired, "the other clock goes on")
}

func lockGateCloses(b *lockBench) {
	t := b.t
	unfit := errors.New("disk is full")
	var mu sync.Mutex
	var verdict error
	set := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		verdict = err
	}
	l, f := b.node(brief, func(cfg *ha.LockerConfig) {
		cfg.Gate = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return verdict
		}
	})
	lease := b.acquire(l, "a")
	set(unfit)
	renewals := f.count(callRenew)
	cause := b.ended(lease)
	require.ErrorIs(t, cause, ha.ErrGated)
	require.ErrorIs(t, cause, unfit)
	require.LessOrEqual(t, f.count(callRenew), renewals+1, "one may have been under way")
	require.NoError(t, lease.Release(b.ctx))
	_, err := l.TryAcquire(b.ctx, b.key, nil)
	require.ErrorIs(t, err, ha.ErrGated)
	set(nil)
	b.acquire(l, "a")
}

func lockCarriesATransaction(b *lockBench) {
	t := b.t
	a, _ := b.node(patient)
	other, _ := b.node(patient)
	record := b.key + "-record"
	with := func(rev dcs.Revision, value string) dcs.Txn {
		return dcs.Txn{If: []dcs.Guard{dcs.At(record, rev)}, Then: []dcs.Op{{Key: record, Value: []byte(value)}}}
	}
	rev, err := dcs.Put(b.ctx, b.admin, record, []byte("0"))
	require.NoError(t, err)
	_, err = a.TryAcquireWith(b.ctx, b.key, nil, with(0, "1"))
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.NotErrorIs(t, err, ha.ErrHeld)
	_, exists := b.read(b.key)
	require.False(t, exists)

	lease, err := a.TryAcquireWith(b.ctx, b.key, nil, with(rev, "2"))
	require.NoError(t, err)
	b.shows(lease)
	kv, _ := b.read(record)
	require.Equal(t, "2", string(kv.Value))
	_, err = other.TryAcquireWith(b.ctx, b.key, nil, with(kv.Revision, "3"))
	require.ErrorIs(t, err, ha.ErrHeld)
	kv, _ = b.read(record)
	require.Equal(t, "2", string(kv.Value))
}

// lockAdopt takes a holding along from a process that is gone, which the store
// does not know yet.
func lockAdopt(b *lockBench) {
	t := b.t
	former, f := b.node(lazy)
	old := b.acquire(former, "a")
	f.setRule(partitioned)
	again, _ := b.node(patient)
	_, err := again.Adopt(b.ctx, b.key, 0, []byte("a"), dcs.Txn{})
	require.ErrorIs(t, err, dcs.ErrInvalid, "by name, never")
	_, err = again.Adopt(b.ctx, b.key, old.Token()+1, []byte("a"), dcs.Txn{})
	require.ErrorIs(t, err, ha.ErrFenced, "another token is another holding")
	record := dcs.Txn{If: []dcs.Guard{dcs.At(b.key+"-record", 0)}, Then: []dcs.Op{{Key: b.key + "-record", Value: []byte("1")}}}
	lease, err := again.Adopt(b.ctx, b.key, old.Token(), []byte("a"), record)
	require.NoError(t, err)
	require.GreaterOrEqual(t, lease.Token(), old.Token())
	b.shows(lease)
	kv, _ := b.read(b.key + "-record")
	require.Equal(t, "1", string(kv.Value))

	require.NoError(t, f.session().Close(b.ctx), "the former session ends")
	b.renewed(lease, 1)
	b.shows(lease)
	require.NoError(t, b.write(lease))
	f.setRule(nil)
	require.NoError(t, old.Release(b.ctx), "of the former life, late")
	b.shows(lease)
	require.NoError(t, lease.Release(b.ctx))
	_, exists := b.read(b.key)
	require.False(t, exists)
	_, err = again.Adopt(b.ctx, b.key, lease.Token(), nil, dcs.Txn{})
	require.ErrorIs(t, err, ha.ErrFenced)
}

// lockCancelWhileWinning: the caller gives up while its request is on the way.
func lockCancelWhileWinning(b *lockBench) {
	t := b.t
	a, f := b.node(patient)
	other, _ := b.node(patient)
	ctx, cancel := context.WithCancel(b.ctx)
	f.setRule(func(c storeCall) fault {
		if c.takes(b.key) {
			cancel()
			return fault{request: 300 * time.Millisecond}
		}
		return fault{}
	})
	_, err := a.TryAcquire(ctx, b.key, []byte("a"))
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	f.setRule(nil)
	b.until("the request has landed", func() bool { return f.answered() >= 2 })
	b.acquire(other, "b")
}

func lockCloseReleasesAll(b *lockBench) {
	t := b.t
	l, f := b.node(patient)
	plain, err := l.Acquire(b.ctx, b.key+"-plain", nil)
	require.NoError(t, err)
	returned := make(chan error, 1)
	begun := make(chan struct{})
	finish, finishWork := context.WithCancel(b.ctx)
	defer finishWork()
	go func() {
		returned <- l.Hold(b.ctx, b.key, nil, func(ctx context.Context, ls *ha.Lease) error {
			close(begun)
			<-ctx.Done()
			<-finish.Done()
			return errors.Join(context.Cause(ctx), ls.Check(), plain.Check())
		})
	}()
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- l.Close(b.ctx) }()
	renewals := f.count(callRenew)
	b.until("all is renewed while work goes on", func() bool { return f.count(callRenew) > renewals })
	finishWork()
	require.EqualError(t, <-returned, ha.ErrClosed.Error(), "both were in force until the work had returned")
	require.NoError(t, <-closed)
	require.ErrorIs(t, plain.Check(), ha.ErrReleased)
	for _, key := range []string{b.key, plain.Key()} {
		_, exists := b.read(key)
		require.False(t, exists)
	}
	_, err = l.TryAcquire(b.ctx, b.key, nil)
	require.ErrorIs(t, err, ha.ErrClosed)
	_, err = l.Acquire(b.ctx, b.key, nil)
	require.ErrorIs(t, err, ha.ErrClosed)
	require.NoError(t, l.Close(b.ctx), "idempotent")
}

// lockCalls are the calls that take a key and a value.
var lockCalls = map[string]func(ctx context.Context, l *ha.Locker, key string, value []byte) error{
	"TryAcquire": func(ctx context.Context, l *ha.Locker, key string, value []byte) error {
		_, err := l.TryAcquire(ctx, key, value)
		return err
	},
	"Acquire": func(ctx context.Context, l *ha.Locker, key string, value []byte) error {
		_, err := l.Acquire(ctx, key, value)
		return err
	},
	"Hold": func(ctx context.Context, l *ha.Locker, key string, value []byte) error {
		return l.Hold(ctx, key, value, func(context.Context, *ha.Lease) error { return errors.New("the work began") })
	},
}

func lockBadInput(b *lockBench) {
	t := b.t
	l, _ := b.node(patient)
	for key, says := range map[string]string{
		"":               `key "" does not start with a slash`,
		"leader":         `key "leader" does not start with a slash`,
		"/":              `key "/" ends with a slash`,
		"/a//b":          `key "/a//b" has an empty segment`,
		"/a/../b":        `key "/a/../b" has a segment ".."`,
		"/a\x00":         `key "/a\x00" has an unprintable character at byte 2`,
		"/\xff":          `key "/\xff" is not valid UTF-8`,
		longKey("/long"): "of 1025 bytes is longer than 1024",
	} {
		for name, call := range lockCalls {
			err := call(b.ctx, l, key, nil)
			require.ErrorIs(t, err, dcs.ErrInvalid, name)
			require.ErrorContains(t, err, says, name)
		}
		_, err := l.Holder(b.ctx, key)
		require.ErrorIs(t, err, dcs.ErrInvalid)
		_, err = l.Adopt(b.ctx, key, 1, nil, dcs.Txn{})
		require.ErrorIs(t, err, dcs.ErrInvalid)
	}
	for name, call := range lockCalls {
		err := call(b.ctx, l, b.key, make([]byte, 8<<20))
		require.ErrorIs(t, err, dcs.ErrInvalid, name)
		require.NotErrorIs(t, err, dcs.ErrAmbiguous, name)
		require.ErrorContains(t, err, b.key, name)
	}
	for _, cfg := range []ha.LockerConfig{{TTL: -time.Second}, {TTL: time.Second}, {RenewEvery: time.Hour}, {MaxDrift: 1}, {MaxDrift: -1}} {
		cfg.Store = b.admin
		_, err := ha.NewLocker(cfg)
		require.ErrorIs(t, err, dcs.ErrInvalid)
	}
	b.acquire(l, "a") // and all is well
}

func longKey(begin string) string {
	return begin + strings.Repeat("k", dcs.MaxKeyLen+1-len(begin))
}

// lockStoreClosed: the store is closed under a Locker that is in use.
func lockStoreClosed(b *lockBench) {
	t := b.t
	store := b.open()
	cfg := brief
	cfg.Store = store
	l, err := ha.NewLocker(cfg)
	require.NoError(t, err)
	lease := b.acquire(l, "a")
	other, _ := b.node(patient)
	waiting := make(chan error, 1)
	go func() {
		_, err := l.Acquire(b.ctx, b.key+"-2", nil)
		if err == nil {
			_, err = l.Acquire(b.ctx, b.key+"-2", nil) // it waits for itself
		}
		waiting <- err
	}()
	require.NoError(t, store.Close())
	require.ErrorIs(t, <-waiting, dcs.ErrClosed)
	for name, call := range lockCalls {
		err := call(b.ctx, l, b.key+"-3", nil)
		require.ErrorIs(t, err, dcs.ErrClosed, name)
	}
	require.ErrorIs(t, b.ended(lease), ha.ErrExpired)
	require.Error(t, lease.Release(b.ctx), "it expires")
	_ = l.Close(b.ctx) // returns, and perhaps says so once more
	b.acquire(other, "b")
}
