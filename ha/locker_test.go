package ha_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testlog"
)

const lockKey = "/service/test/leader"

var background = context.Background()

func TestLockerOneHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		a, _ := w.node("a")
		b, _ := w.node("b")

		lease, err := a.TryAcquire(background, lockKey, []byte("a"))
		require.NoError(t, err)
		require.NoError(t, lease.Check())
		require.Equal(t, lockKey, lease.Key())

		for _, other := range []*ha.Locker{a, b} {
			_, err = other.TryAcquire(background, lockKey, []byte("b"))
			require.ErrorIs(t, err, ha.ErrHeld)
			var held *ha.HeldError
			require.ErrorAs(t, err, &held)
			require.Equal(t, "a", string(held.Holder.Value))
			require.Equal(t, lease.Token(), held.Holder.Created)
			require.Equal(t, lease.Session(), held.Holder.Session)
		}
		holder, err := b.Holder(background, lockKey)
		require.NoError(t, err)
		require.Equal(t, lease.Token(), holder.Created)

		time.Sleep(time.Hour)
		require.NoError(t, lease.Check())
		require.NoError(t, lease.Release(background))
		require.ErrorIs(t, lease.Check(), ha.ErrReleased)
		require.NoError(t, lease.Release(background), "releasing again is nothing")
		_, err = b.Holder(background, lockKey)
		require.ErrorIs(t, err, dcs.ErrNotFound)
	})
}

func TestLockerTokenGrows(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*testing.T, *lockWorld, *faultyStore, *ha.Lease){
		"release": func(t *testing.T, _ *lockWorld, _ *faultyStore, ls *ha.Lease) {
			require.NoError(t, ls.Release(background))
		},
		"expiry": func(_ *testing.T, _ *lockWorld, f *faultyStore, ls *ha.Lease) {
			f.setRule(partitioned)
			<-ls.Context().Done()
			time.Sleep(20 * time.Second)
			f.setRule(nil)
		},
		"deletion": func(t *testing.T, w *lockWorld, _ *faultyStore, ls *ha.Lease) {
			_, err := w.admin.Commit(background, dcs.Txn{Then: []dcs.Op{{Key: lockKey, Delete: true}}})
			require.NoError(t, err)
			<-ls.Context().Done()
		},
		"session": func(_ *testing.T, w *lockWorld, _ *faultyStore, ls *ha.Lease) {
			w.cluster.Expire(ls.Session())
			<-ls.Context().Done()
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				l, f := w.node("a")
				var last dcs.Revision
				for range 3 {
					lease, err := l.Acquire(background, lockKey, nil)
					require.NoError(t, err)
					require.Greater(t, lease.Token(), last)
					last = lease.Token()
					end(t, w, f, lease)
					require.Error(t, lease.Check())
					_, err = w.admin.Commit(background, dcs.Txn{If: []dcs.Guard{lease.Guard()}})
					require.ErrorIs(t, err, dcs.ErrConflict)
				}
			})
		})
	}
}

// TestLockerTermsNeverOverlap lets two nodes compete while one of them fails
// in some way, at many phases of its renewals, and orders what they did in true
// time. Their work takes the whole margin to stop.
func TestLockerTermsNeverOverlap(t *testing.T) {
	t.Parallel()
	type scenario struct {
		rates [2]float64                   // of the nodes' clocks
		first func() func(storeCall) fault // makes the rule of a node before the fault
		then  func(storeCall) fault        // rule of the holder from the fault on
	}
	same := [2]float64{1, 1}
	scenarios := map[string]scenario{
		"partition":                          {rates: same, then: partitioned},
		"half open":                          {rates: same, then: halfOpen},
		"slow replies, partition":            {rates: same, first: always(fault{reply: 1900 * time.Millisecond}), then: partitioned},
		"slow replies, half open":            {rates: same, first: always(fault{reply: 1900 * time.Millisecond}), then: halfOpen},
		"slow requests":                      {rates: same, first: always(fault{request: 1500 * time.Millisecond}), then: partitioned},
		"slow clock":                         {rates: [2]float64{0.99, 1.01}, then: partitioned},
		"slow clock and replies":             {rates: [2]float64{0.99, 1.01}, first: always(fault{reply: 1900 * time.Millisecond}), then: partitioned},
		"fast clock":                         {rates: [2]float64{1.01, 0.99}, then: halfOpen},
		"every third reply lost, then all":   {rates: same, first: everyThird(fault{mute: true}), then: partitioned},
		"locks proven, sessions not":         {rates: same, then: func(c storeCall) fault { return fault{lost: c.kind == callRenew} }},
		"sessions renewed, locks not proven": {rates: same, then: func(c storeCall) fault { return fault{mute: c.kind == callCommit} }},
	}
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for phase := range 16 {
				synctest.Test(t, func(t *testing.T) { overlap(t, sc.rates, sc.first, sc.then, time.Duration(phase)*197*time.Millisecond) })
			}
		})
	}
}

func overlap(t *testing.T, rates [2]float64, before func() func(storeCall) fault, after func(storeCall) fault, phase time.Duration) {
	if before == nil {
		before = always(fault{})
	}
	w := newLockWorld(t)
	book := &ledger{}
	ctx, cancel := context.WithCancel(background)
	stores := map[string]*faultyStore{}
	var wg sync.WaitGroup
	for i, name := range []string{"a", "b"} {
		clk := newRatedClock(rates[i])
		l, f := w.node(name, func(cfg *ha.LockerConfig) { cfg.Clock = clk })
		f.setRule(before())
		stores[name] = f
		wg.Go(func() { book.compete(ctx, l, name, lockKey, clk, ha.DefaultMargin-time.Microsecond) })
		time.Sleep(20 * time.Millisecond)
	}
	for book.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(30*time.Second + phase)
	stores["a"].setRule(after)
	time.Sleep(time.Minute)
	stores["a"].setRule(before())
	time.Sleep(time.Minute)
	stores["b"].setRule(after)
	time.Sleep(time.Minute)
	for _, f := range stores {
		f.setRule(nil)
	}
	cancel()
	wg.Wait()
	require.GreaterOrEqual(t, book.count(), 2, "the fault must end terms")
	book.requireOrder(t)
}

// always makes a rule that does the same to each call.
func always(what fault) func() func(storeCall) fault {
	return func() func(storeCall) fault { return func(storeCall) fault { return what } }
}

func everyThird(what fault) func() func(storeCall) fault {
	return func() func(storeCall) fault {
		n := 0
		return func(storeCall) fault {
			if n++; n%3 == 0 {
				return what
			}
			return fault{}
		}
	}
}

// TestLockerCountsFromSending shows the deadline itself: it does not depend on
// how long the reply took.
func TestLockerCountsFromSending(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		f.setRule(slowReplies(time.Second))
		start := time.Now()
		lease, err := l.TryAcquire(background, lockKey, nil) // two round trips
		require.NoError(t, err)
		ttl := float64(10 * time.Second)
		window := time.Duration(ttl*0.99/1.01) - 2*time.Second
		require.Equal(t, start.Add(window), lease.Until())

		time.Sleep(time.Until(start.Add(4*time.Second + 500*time.Millisecond)))
		require.Equal(t, start.Add(window), lease.Until(), "renewed, but not yet proven")
		time.Sleep(time.Second)
		renewed := lease.Until()
		require.True(t, renewed.After(start.Add(window)))

		f.setRule(partitioned)
		<-lease.Context().Done()
		require.Equal(t, renewed, time.Now(), "the context ends at Until")
		require.ErrorIs(t, context.Cause(lease.Context()), ha.ErrExpired)
		require.ErrorIs(t, lease.Check(), ha.ErrExpired)
		require.Equal(t, renewed, lease.Until(), "and Until stays where it was")
	})
}

func TestLockerHalfOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		f.setRule(halfOpen)
		until := lease.Until()
		<-lease.Context().Done()
		require.Equal(t, until, time.Now())
		require.True(t, w.exists(lockKey), "the store got the renewals, and keeps the lock")
		time.Sleep(ha.DefaultMargin)
		require.True(t, w.exists(lockKey), "and nobody closes the session while the lease is not released")
		f.setRule(nil)
		require.NoError(t, lease.Release(background))
		require.False(t, w.exists(lockKey))
	})
}

func TestLockerWallClockStep(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		step time.Duration
		ends bool
	}{
		{"forward by a second", time.Second, false},
		{"forward by an hour", time.Hour, true},
		{"back by an hour", -time.Hour, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				wall := &steppedWall{}
				l, f := w.node("a", func(cfg *ha.LockerConfig) { cfg.Wall = wall.now })
				lease, err := l.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)
				time.Sleep(time.Minute + 100*time.Millisecond)
				wall.step(tc.step)
				if tc.ends {
					require.ErrorIs(t, lease.Check(), ha.ErrExpired, "at once")
					require.Error(t, lease.Context().Err())
					wall.step(-tc.step)
					require.ErrorIs(t, lease.Check(), ha.ErrExpired, "and for good")
					require.NoError(t, lease.Release(background))
					_, err = l.TryAcquire(background, lockKey, nil)
					require.NoError(t, err, "by the new time a new lease is possible")
					return
				}
				time.Sleep(time.Minute)
				require.NoError(t, lease.Check())
				f.setRule(partitioned)
				time.Sleep(8 * time.Second)
				require.ErrorIs(t, lease.Check(), ha.ErrExpired, "the other clock goes on")
			})
		})
	}
}

// TestLockerWallClockStepIsNoticed: the context of a machine that has slept
// ends although nobody asks.
func TestLockerWallClockStepIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		wall := &steppedWall{}
		l, _ := w.node("a", func(cfg *ha.LockerConfig) { cfg.Wall = wall.now })
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		time.Sleep(10 * time.Millisecond)
		wall.step(time.Minute)
		stepped := time.Now()
		<-lease.Context().Done()
		require.LessOrEqual(t, time.Since(stepped), ha.DefaultMargin/2)
	})
}

type steppedWall struct {
	mu  sync.Mutex
	off time.Duration
}

func (w *steppedWall) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.off)
}

func (w *steppedWall) step(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off += d
}

// frozenTimers is the clock of a process that is stopped: time goes on, and no
// timer fires.
type frozenTimers struct {
	clock.Clock
	never *clock.Mock
}

func (c frozenTimers) Timer(d time.Duration) *clock.Timer { return c.never.Timer(d) }

func (c frozenTimers) AfterFunc(d time.Duration, f func()) *clock.Timer {
	return c.never.AfterFunc(d, f)
}

func TestLockerPausedHolder(t *testing.T) {
	t.Parallel()
	clocks := map[string]func() (clock.Clock, func() time.Time){
		"the clock went on": func() (clock.Clock, func() time.Time) {
			frozen := time.Now()
			return frozenTimers{clock.New(), clock.NewMock()}, func() time.Time { return frozen }
		},
		"the clock slept too": func() (clock.Clock, func() time.Time) {
			return clock.NewMock(), time.Now
		},
	}
	for name, clocks := range clocks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				clk, wall := clocks()
				a, _ := w.node("a", func(cfg *ha.LockerConfig) { cfg.Clock, cfg.Wall = clk, wall })
				b, _ := w.node("b")
				lease, err := a.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)
				time.Sleep(11 * time.Second) // nobody renews
				next, err := b.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)

				require.ErrorIs(t, lease.Check(), ha.ErrExpired)
				_, err = a.TryAcquire(background, lockKey, nil)
				require.ErrorIs(t, err, ha.ErrHeld)
				_, err = w.admin.Commit(background, dcs.Txn{
					If:   []dcs.Guard{lease.Guard()},
					Then: []dcs.Op{{Key: "/service/test/quorum"}},
				})
				require.ErrorIs(t, err, dcs.ErrConflict)
				require.NoError(t, lease.Release(background))
				require.NoError(t, next.Check(), "the late release does not free the next holder's lock")
				require.True(t, w.exists(lockKey))
			})
		})
	}
}

func TestLockerKeyDeletedByOperator(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		a, _ := w.node("a")
		b, _ := w.node("b")
		lost, err := a.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		kept, err := a.TryAcquire(background, lockKey+"/2", nil)
		require.NoError(t, err)

		_, err = w.admin.Commit(background, dcs.Txn{Then: []dcs.Op{{Key: lockKey, Delete: true}}})
		require.NoError(t, err)
		deleted := time.Now()
		refused := func(l *ha.Locker) {
			_, err := l.TryAcquire(background, lockKey, nil)
			held := (*ha.HeldError)(nil)
			require.ErrorAs(t, err, &held)
			if l == b {
				require.Equal(t, lockKey+ha.TwinSuffix, held.Holder.Key)
				require.Equal(t, lost.Session(), held.Holder.Session)
			}
		}
		refused(b)
		<-lost.Context().Done()
		require.LessOrEqual(t, time.Since(deleted), ha.DefaultRenewEvery)
		require.ErrorIs(t, context.Cause(lost.Context()), ha.ErrFenced)
		require.ErrorIs(t, lost.Check(), ha.ErrFenced)
		refused(a) // its work may go on
		refused(b)
		holder, err := b.Holder(background, lockKey)
		require.NoError(t, err)
		require.Equal(t, lost.Session(), holder.Session)
		require.NoError(t, lost.Release(background))
		require.False(t, w.exists(lockKey+ha.TwinSuffix))
		next, err := b.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)

		time.Sleep(time.Minute)
		require.NoError(t, kept.Check(), "the other lock of the session is not concerned")
		require.NoError(t, next.Check())
		require.NoError(t, next.Release(background))
		again, err := a.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		require.Equal(t, kept.Session(), again.Session())
	})
}

func TestLockerSessionLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		var leases []*ha.Lease
		for i := range 3 {
			lease, err := l.TryAcquire(background, fmt.Sprintf("%s/%d", lockKey, i), nil)
			require.NoError(t, err)
			leases = append(leases, lease)
		}
		require.True(t, w.cluster.Expire(leases[0].Session()))
		expired := time.Now()
		for _, lease := range leases {
			<-lease.Context().Done()
			require.ErrorIs(t, context.Cause(lease.Context()), dcs.ErrSessionLost)
			require.NoError(t, lease.Release(background))
		}
		require.LessOrEqual(t, time.Since(expired), ha.DefaultRenewEvery)
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		require.NotEqual(t, leases[0].Session(), lease.Session())
		require.Equal(t, 2, f.count(callOpen))
	})
}

// TestLockerSessionLostWhileAcquiring: the loss is learnt from the commit.
func TestLockerSessionLostWhileAcquiring(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, _ := w.node("a")
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		w.cluster.Expire(lease.Session())
		_, err = l.TryAcquire(background, lockKey+"/2", nil)
		require.ErrorIs(t, err, dcs.ErrSessionLost)
		require.ErrorIs(t, lease.Check(), dcs.ErrSessionLost, "at once, not at the next renewal")
		_, err = l.TryAcquire(background, lockKey+"/2", nil)
		require.NoError(t, err)
	})
}

func TestLockerAmbiguousAcquire(t *testing.T) {
	t.Parallel()
	taking := func(c storeCall) bool { return c.takes(lockKey) }
	for _, tc := range []struct {
		name string
		rule func(storeCall) fault
		want error
	}{
		{"landed", first(1, taking, fault{fail: true}), nil},
		{"not landed", first(1, taking, fault{fail: true, lost: true}), nil},
		{"landed, reply lost", first(1, taking, fault{mute: true}), nil},
		{"not landed, reply lost", first(1, taking, fault{lost: true}), nil},
		{"landed twice unknown", first(2, taking, fault{fail: true}), nil},
		{"lands late, before the repetition", first(1, taking, fault{fail: true, late: time.Millisecond}), nil},
		{"never resolved, not landed", first(9, taking, fault{fail: true, lost: true}), dcs.ErrAmbiguous},
		{"never resolved, landed", first(9, taking, fault{fail: true}), dcs.ErrAmbiguous},
		{"never resolved, lands late", first(9, taking, fault{fail: true, late: 20 * time.Second}), dcs.ErrAmbiguous},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				a, f := w.node("a")
				b, _ := w.node("b")
				f.setRule(tc.rule)
				lease, err := a.TryAcquire(background, lockKey, []byte("a"))
				f.setRule(nil)
				if tc.want != nil {
					require.ErrorIs(t, err, tc.want)
					time.Sleep(30 * time.Second) // whatever lands, lands
					next, err := b.TryAcquire(background, lockKey, nil)
					require.NoError(t, err, "nothing is in the way")
					require.NoError(t, next.Check())
					return
				}
				require.NoError(t, err)
				time.Sleep(30 * time.Second)
				require.NoError(t, lease.Check(), "the token is right")
				kv, err := w.admin.Get(background, lockKey)
				require.NoError(t, err)
				require.Equal(t, kv.Created, lease.Token())
				require.NoError(t, lease.Release(background))
				require.False(t, w.exists(lockKey))
			})
		})
	}
}

// TestLockerLateLanding: a write that lands after its acquisition was given up
// is removed while another lock of the session is held.
func TestLockerLateLanding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		other, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		taking := func(c storeCall) bool { return c.takes(lockKey) }
		f.setRule(first(3, taking, fault{fail: true, late: 20 * time.Second}))
		_, err = l.TryAcquire(background, lockKey, nil)
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		synctest.Wait()
		time.Sleep(18 * time.Second)
		require.False(t, w.exists(lockKey))
		time.Sleep(3 * time.Second)
		time.Sleep(3 * time.Second)
		require.False(t, w.exists(lockKey), "removed within one renewal")
		require.NoError(t, other.Check())

		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, lease.Check(), "and a lock that is held is not")
	})
}

// TestLockerLateLandingAfterRelease: the first of two identical writes lands
// when the lock that the second has got was released.
func TestLockerLateLandingAfterRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		other, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		f.setRule(first(1, func(c storeCall) bool { return c.takes(lockKey) }, fault{fail: true, late: 10 * time.Second}))
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		require.NoError(t, lease.Release(background))
		time.Sleep(10 * time.Second)
		time.Sleep(ha.DefaultRenewEvery)
		require.False(t, w.exists(lockKey))
		require.NoError(t, other.Check())
	})
}

// TestLockerDoubtIsNotAdopted: what an earlier attempt has left under our own
// session is removed, and never taken for a success of a later one.
func TestLockerDoubtIsNotAdopted(t *testing.T) {
	t.Parallel()
	for _, unknown := range []bool{false, true} {
		t.Run(fmt.Sprintf("own outcome unknown %v", unknown), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { doubtIsNotAdopted(t, unknown) })
		})
	}
}

func doubtIsNotAdopted(t *testing.T, unknown bool) {
	t.Helper()
	w := newLockWorld(t)
	l, f := w.node("a")
	other, err := l.TryAcquire(background, lockKey+"/other", nil)
	require.NoError(t, err)
	f.setRule(first(3, func(c storeCall) bool { return c.takes(lockKey) }, fault{fail: true, late: time.Second}))
	_, err = l.TryAcquire(background, lockKey, []byte("first"))
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	f.setRule(nil)
	time.Sleep(time.Second)
	synctest.Wait()
	require.True(t, w.exists(lockKey), "landed late")

	record := dcs.Op{Key: "/service/test/quorum", Value: []byte("1")}
	if unknown {
		f.setRule(first(1, func(c storeCall) bool { return c.takes(lockKey) }, fault{fail: true, lost: true}))
	}
	lease, err := l.TryAcquireWith(background, lockKey, []byte("second"), dcs.Txn{Then: []dcs.Op{record}})
	require.NoError(t, err)
	kv, err := w.admin.Get(background, lockKey)
	require.NoError(t, err)
	require.Equal(t, "second", string(kv.Value))
	require.Equal(t, lease.Token(), kv.Created)
	require.True(t, w.exists(record.Key))
	time.Sleep(time.Minute)
	require.NoError(t, lease.Check())
	require.NoError(t, other.Check())
}

func TestLockerNeverAdoptsByValue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		_, err := dcs.Create(background, w.admin, lockKey, []byte("a"), "")
		require.NoError(t, err)
		l, _ := w.node("a")
		_, err = l.TryAcquire(background, lockKey, []byte("a"))
		require.ErrorIs(t, err, ha.ErrHeld)
		require.True(t, w.exists(lockKey))
	})
}

func TestLockerAmbiguousRelease(t *testing.T) {
	t.Parallel()
	deleting := func(c storeCall) bool { return c.deletes(lockKey) }
	for _, tc := range []struct {
		name string
		what fault
		n    int
		fail bool
	}{
		{"landed", fault{fail: true}, 1, false},
		{"not landed", fault{fail: true, lost: true}, 1, false},
		{"lands after the re-acquisition", fault{fail: true, late: 5 * time.Second}, 1, false},
		{"never resolved", fault{fail: true, lost: true}, 3, true},
		{"never resolved, lands after the re-acquisition", fault{fail: true, late: 5 * time.Second}, 3, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				l, f := w.node("a")
				other, err := l.TryAcquire(background, lockKey+"/other", nil)
				require.NoError(t, err)
				lease, err := l.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)
				f.setRule(first(tc.n, deleting, tc.what))
				err = lease.Release(background)
				require.Equal(t, tc.fail, err != nil, "%v", err)
				if tc.fail {
					require.ErrorIs(t, err, dcs.ErrAmbiguous)
				}

				again, err := l.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)
				require.Equal(t, other.Session(), again.Session())
				time.Sleep(time.Minute)
				require.NoError(t, lease.Release(background), "the old release, repeated")
				time.Sleep(time.Minute)
				require.NoError(t, again.Check())
				require.True(t, w.exists(lockKey))
			})
		})
	}
}

// TestLockerForeignKeyInOwnSession: what somebody else has bound to our session
// is neither adopted nor removed.
func TestLockerForeignKeyInOwnSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, _ := w.node("a")
		other, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		_, err = dcs.Create(background, w.admin, lockKey, nil, other.Session())
		require.NoError(t, err)
		_, err = l.TryAcquire(background, lockKey, nil)
		require.ErrorIs(t, err, ha.ErrHeld)
		time.Sleep(time.Minute)
		require.True(t, w.exists(lockKey))
	})
}

// TestLockerDoubtSparesOthers: while a write of ours may land yet, somebody
// else's lock on the same key is none of our business.
func TestLockerDoubtSparesOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		a, f := w.node("a")
		b, _ := w.node("b")
		_, err := a.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		f.setRule(first(3, func(c storeCall) bool { return c.takes(lockKey) }, fault{fail: true, late: 20 * time.Second}))
		_, err = a.TryAcquire(background, lockKey, nil)
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		lease, err := b.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, lease.Check())
		require.NoError(t, lease.Release(background))
		require.False(t, w.exists(lockKey))
	})
}

// TestLockerAcquireEndsWithSession: an acquisition that hangs ends when its
// session does, or when that is lost.
func TestLockerAcquireEndsWithSession(t *testing.T) {
	t.Parallel()
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newLockWorld(t)
			l, f := w.node("a")
			lease, err := l.TryAcquire(background, lockKey, nil)
			require.NoError(t, err)
			f.setRule(partitioned)
			time.Sleep(time.Until(lease.Until()) - time.Second)
			_, err = l.TryAcquire(background, lockKey+"/2", nil)
			require.ErrorIs(t, err, dcs.ErrAmbiguous)
			require.Equal(t, lease.Until(), time.Now())
		})
	})
	t.Run("lost", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newLockWorld(t)
			l, f := w.node("a")
			lease, err := l.TryAcquire(background, lockKey, nil)
			require.NoError(t, err)
			time.Sleep(ha.DefaultRenewEvery - time.Second)
			f.setRule(func(c storeCall) fault {
				if c.takes(lockKey + "/2") {
					return fault{reply: 1500 * time.Millisecond}
				}
				return fault{}
			})
			time.AfterFunc(time.Second/2, func() { w.cluster.Expire(lease.Session()) })
			_, err = l.TryAcquire(background, lockKey+"/2", nil)
			require.ErrorIs(t, err, dcs.ErrSessionLost)
			require.False(t, w.exists(lockKey+"/2"))
		})
	})
}

// TestLockerUnresolvedReleaseIsRepeated: the renewer frees what a release could
// not.
func TestLockerUnresolvedReleaseIsRepeated(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprintf("last lock %v", alone), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				l, f := w.node("a")
				if !alone {
					_, err := l.TryAcquire(background, lockKey+"/other", nil)
					require.NoError(t, err)
				}
				lease, err := l.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)
				f.setRule(first(3, func(c storeCall) bool { return c.deletes(lockKey) }, fault{lost: true}))
				err = lease.Release(background)
				require.Equal(t, !alone, err != nil, "the session of a last lock is closed instead")
				time.Sleep(2 * ha.DefaultRenewEvery)
				require.False(t, w.exists(lockKey))
			})
		})
	}
}

func TestLockerCancelWhileWinning(t *testing.T) {
	t.Parallel()
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprintf("another lock held %v", other), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				l, f := w.node("a")
				if other {
					_, err := l.TryAcquire(background, lockKey+"/other", nil)
					require.NoError(t, err)
				}
				f.setRule(func(c storeCall) fault {
					if c.takes(lockKey) {
						return fault{request: time.Second, reply: time.Second}
					}
					return fault{}
				})
				ctx, cancel := context.WithCancel(background)
				time.AfterFunc(500*time.Millisecond, cancel)
				_, err := l.TryAcquire(ctx, lockKey, nil)
				require.ErrorIs(t, err, dcs.ErrAmbiguous)
				time.Sleep(ha.DefaultRenewEvery + time.Second)
				require.False(t, w.exists(lockKey))
			})
		})
	}
}

func TestLockerReplyTooLate(t *testing.T) {
	t.Parallel()
	for _, with := range []dcs.Txn{{}, {Then: []dcs.Op{{Key: "/service/test/quorum"}}}} {
		t.Run(fmt.Sprintf("%d operations more", len(with.Then)), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				wall := &steppedWall{}
				l, f := w.node("a", func(cfg *ha.LockerConfig) { cfg.Wall = wall.now })
				f.setRule(func(c storeCall) fault {
					if c.takes(lockKey) {
						wall.step(time.Minute) // the machine sleeps while the reply is on its way
					}
					return fault{}
				})
				_, err := l.TryAcquireWith(background, lockKey, nil, with)
				require.ErrorIs(t, err, ha.ErrExpired)
				require.Equal(t, len(with.Then) > 0, errors.Is(err, dcs.ErrAmbiguous))
				require.False(t, w.exists(lockKey), "given back")
			})
		})
	}
}

func TestLockerWith(t *testing.T) {
	t.Parallel()
	const record = "/service/test/quorum"
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		a, f := w.node("a")
		b, _ := w.node("b")
		rev, err := dcs.Put(background, w.admin, record, []byte("0"))
		require.NoError(t, err)
		with := func(rev dcs.Revision, value string) dcs.Txn {
			return dcs.Txn{If: []dcs.Guard{dcs.At(record, rev)}, Then: []dcs.Op{{Key: record, Value: []byte(value)}}}
		}
		_, err = a.TryAcquireWith(background, lockKey, nil, with(rev+100, "1"))
		require.ErrorIs(t, err, dcs.ErrConflict)
		require.NotErrorIs(t, err, ha.ErrHeld)
		require.False(t, w.exists(lockKey))

		f.setRule(first(1, func(c storeCall) bool { return c.takes(lockKey) }, fault{fail: true}))
		lease, err := a.TryAcquireWith(background, lockKey, nil, with(rev, "2"))
		require.NoError(t, err, "its own guards fail at the repetition, and yet it has landed")
		kv, err := w.admin.Get(background, record)
		require.NoError(t, err)
		require.Equal(t, "2", string(kv.Value))

		_, err = b.TryAcquireWith(background, lockKey, nil, with(kv.Revision, "3"))
		require.ErrorIs(t, err, ha.ErrHeld)
		require.NoError(t, lease.Release(background))

		// Unknown, and then held by somebody else: its operations may have been
		// carried out, so that this is no ErrHeld.
		f.setRule(first(1, func(c storeCall) bool {
			if c.takes(lockKey) {
				_, err := b.TryAcquire(background, lockKey, nil)
				require.NoError(t, err)
				return true
			}
			return false
		}, fault{fail: true, lost: true}))
		_, err = a.TryAcquireWith(background, lockKey, nil, with(kv.Revision, "4"))
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		require.NotErrorIs(t, err, ha.ErrHeld)
	})
}

func TestLockerGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		unfit := errors.New("disk is full")
		var mu sync.Mutex
		var verdict error
		set := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			verdict = err
		}
		l, f := w.node("a", func(cfg *ha.LockerConfig) {
			cfg.Gate = func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				return verdict
			}
		})
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		set(unfit)
		time.Sleep(5 * time.Second)
		require.NoError(t, lease.Check())
		set(nil)
		time.Sleep(5 * time.Second)
		require.NoError(t, lease.Check(), "closed for a moment")

		set(unfit)
		renewals, until := f.count(callRenew), lease.Until()
		<-lease.Context().Done()
		require.Equal(t, until, time.Now())
		require.Equal(t, renewals, f.count(callRenew))
		require.ErrorIs(t, lease.Check(), ha.ErrGated)
		require.ErrorIs(t, lease.Check(), unfit)
		require.NoError(t, lease.Release(background))

		_, err = l.TryAcquire(background, lockKey, nil)
		require.ErrorIs(t, err, ha.ErrGated)
		time.AfterFunc(time.Minute, func() { set(nil) })
		_, err = l.Acquire(background, lockKey, nil)
		require.NoError(t, err, "Acquire waits for the gate")
	})
}

func TestLockerCost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ locks, proofs, refused int }{
		{1, 1, 0},
		{memory.DefaultMaxTxn, 1, 1}, // the store says that it does not take the twins too
		{2 * memory.DefaultMaxTxn, 2, 2},
		{600, 5, 2},
	} {
		t.Run(fmt.Sprintf("%d locks", tc.locks), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				l, f := w.node("a")
				for i := range tc.locks {
					_, err := l.TryAcquire(background, fmt.Sprintf("%s/%d", lockKey, i), nil)
					require.NoError(t, err)
				}
				require.Equal(t, 1, f.count(callOpen))
				commits, reads := f.count(callCommit), f.count(callGet)
				time.Sleep(10*ha.DefaultRenewEvery + time.Millisecond)
				require.Equal(t, 10, f.count(callRenew))
				require.Equal(t, 10*tc.proofs+tc.refused, f.count(callCommit)-commits)
				require.Equal(t, reads, f.count(callGet))
			})
		})
	}
}

func TestLockerAcquireWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		a, _ := w.node("a")
		b, f := w.node("b")
		lease, err := a.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		released := make(chan time.Time, 1)
		time.AfterFunc(time.Minute+time.Second/3, func() {
			released <- time.Now()
			_ = lease.Release(background)
		})
		next, err := b.Acquire(background, lockKey, nil)
		require.NoError(t, err)
		require.Equal(t, <-released, time.Now(), "woken by the watch")
		require.Greater(t, next.Token(), lease.Token())
		require.Less(t, f.count(callGet), 60, "and not by hurry")
	})
}

func TestLockerAcquireGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		a, _ := w.node("a")
		b, f := w.node("b")
		_, err := a.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)

		why := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(background)
		time.AfterFunc(time.Second, func() { cancel(why) })
		_, err = b.Acquire(ctx, lockKey, nil)
		require.ErrorIs(t, err, why)

		f.setRule(partitioned)
		ctx, cancel = context.WithCancelCause(background)
		time.AfterFunc(time.Minute, func() { cancel(why) })
		_, err = b.Acquire(ctx, lockKey, nil)
		require.ErrorIs(t, err, why, "an unreachable store is waited for")

		_, err = b.Acquire(background, "no/slash", nil)
		require.ErrorIs(t, err, dcs.ErrInvalid)

		f.setRule(nil)
		time.AfterFunc(time.Second, func() { _ = b.Close(background) })
		_, err = b.Acquire(background, lockKey, nil)
		require.ErrorIs(t, err, ha.ErrClosed)
		_, err = b.TryAcquire(background, lockKey, nil)
		require.ErrorIs(t, err, ha.ErrClosed)
		require.ErrorIs(t, b.Hold(background, lockKey, nil, nil), ha.ErrClosed)
	})
}

func TestLockerHoldReleasesAfterWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, _ := w.node("a")
		type name struct{}
		ctx, cancel := context.WithCancel(context.WithValue(background, name{}, "value"))
		time.AfterFunc(time.Minute, cancel)
		tired := errors.New("tired")
		err := l.Hold(ctx, lockKey, nil, func(ctx context.Context, ls *ha.Lease) error {
			assert.Equal(t, "value", ctx.Value(name{}))
			<-ctx.Done()
			time.Sleep(time.Minute) // it takes long, and the lease is renewed meanwhile
			assert.NoError(t, ls.Check())
			assert.True(t, w.exists(lockKey))
			return tired
		})
		require.ErrorIs(t, err, tired)
		require.False(t, w.exists(lockKey))
	})
}

func TestLockerHoldSaysThatItWasLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		err := l.Hold(background, lockKey, nil, func(ctx context.Context, ls *ha.Lease) error {
			f.setRule(halfOpen)
			<-ctx.Done()
			time.Sleep(time.Second)
			assert.True(t, w.exists(lockKey))
			f.setRule(nil)
			return nil
		})
		require.ErrorIs(t, err, ha.ErrExpired)
		require.False(t, w.exists(lockKey), "released as soon as the work has returned")
	})
}

func TestLockerHoldOverrun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		until, finish := make(chan time.Time, 1), make(chan struct{})
		err := l.Hold(background, lockKey, nil, func(ctx context.Context, ls *ha.Lease) error {
			f.setRule(halfOpen)
			<-ctx.Done()
			f.setRule(nil)
			until <- ls.Until()
			<-finish
			return nil
		})
		require.ErrorIs(t, err, ha.ErrOverrun)
		require.ErrorIs(t, err, ha.ErrExpired)
		require.Equal(t, (<-until).Add(ha.DefaultMargin), time.Now())
		require.Zero(t, f.count(callEnd))
		require.True(t, w.exists(lockKey), "not released")
		ctx, cancel := context.WithCancel(background)
		time.AfterFunc(time.Second, cancel)
		require.ErrorIs(t, l.Close(ctx), ha.ErrOverrun, "nor by Close")
		require.Zero(t, f.count(callEnd))
		close(finish)
		time.Sleep(20 * time.Second)
		require.False(t, w.exists(lockKey), "it expires")
	})
}

func TestLockerReleaseIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		f.setRule(func(c storeCall) fault {
			if c.deletes(lockKey) {
				assert.ErrorIs(t, lease.Check(), ha.ErrReleased, "ended before the deletion is sent")
			}
			return fault{lost: true}
		})
		start := time.Now()
		err = lease.Release(background)
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		require.ErrorIs(t, lease.Check(), ha.ErrReleased)
		require.Less(t, time.Since(start), 6*ha.DefaultRequest+3*time.Second)

		start = time.Now()
		_ = l.Close(background)
		require.Less(t, time.Since(start), 3*ha.DefaultRequest+3*time.Second)
	})
}

func TestLockerClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		plain, err := l.TryAcquire(background, lockKey+"/plain", nil)
		require.NoError(t, err)
		returned := make(chan error, 1)
		go func() {
			returned <- l.Hold(background, lockKey, nil, func(ctx context.Context, ls *ha.Lease) error {
				<-ctx.Done()
				time.Sleep(time.Minute)
				return errors.Join(context.Cause(ctx), ls.Check(), plain.Check())
			})
		}()
		synctest.Wait()
		require.NoError(t, l.Close(background))
		require.EqualError(t, <-returned, ha.ErrClosed.Error(), "both were renewed until the work had returned")
		require.ErrorIs(t, plain.Check(), ha.ErrReleased)
		require.False(t, w.exists(lockKey))
		require.False(t, w.exists(lockKey+"/plain"))
		require.NoError(t, plain.Release(background))
		require.NoError(t, l.Close(background), "idempotent")
		require.Equal(t, 1, f.count(callEnd))
	})
}

// TestLockerCloseInTime: a Close whose time is up does not wait, and an
// acquisition that comes through afterwards begins no work.
func TestLockerCloseInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		f.setRule(func(c storeCall) fault {
			if c.takes(lockKey) {
				return fault{reply: time.Second}
			}
			return fault{}
		})
		returned := make(chan error, 1)
		go func() {
			returned <- l.Hold(background, lockKey, nil, func(context.Context, *ha.Lease) error {
				t.Error("work began after Close")
				return nil
			})
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(background)
		cancel()
		require.ErrorIs(t, l.Close(ctx), context.Canceled)
		require.Error(t, <-returned)
		time.Sleep(20 * time.Second)
		require.False(t, w.exists(lockKey))
	})
}

func TestLockerSharesOneSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		f.setRule(slowReplies(time.Second))
		sessions := make([]dcs.SessionID, 8)
		var wg sync.WaitGroup
		for i := range sessions {
			wg.Go(func() {
				if lease, err := l.TryAcquire(background, fmt.Sprintf("%s/%d", lockKey, i), nil); assert.NoError(t, err) {
					sessions[i] = lease.Session()
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, f.count(callOpen))
		for _, id := range sessions {
			require.Equal(t, sessions[0], id)
		}
	})
}

func TestLockerSameKeyAtOnce(t *testing.T) {
	t.Parallel()
	for _, what := range []fault{{reply: time.Second}, {fail: true}} {
		t.Run(fmt.Sprintf("unknown outcomes %v", what.fail), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				l, f := w.node("a")
				f.setRule(first(8, func(c storeCall) bool { return c.takes(lockKey) }, what))
				errs := make([]error, 2)
				var wg sync.WaitGroup
				for i := range errs {
					wg.Go(func() { _, errs[i] = l.TryAcquire(background, lockKey, nil) })
				}
				synctest.Wait()
				f.setRule(nil)
				wg.Wait()
				if errs[0] != nil {
					errs[0], errs[1] = errs[1], errs[0]
				}
				require.NoError(t, errs[0])
				require.ErrorIs(t, errs[1], ha.ErrHeld)
			})
		})
	}
}

// TestLockerRepeatable runs one eventful history twice and compares what each
// node has logged. What different nodes do at one instant has no order.
func TestLockerRepeatable(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	history := func() []string {
		logs := make([]testlog.Buffer, len(names))
		synctest.Test(t, func(t *testing.T) {
			w := newLockWorld(t)
			book := &ledger{}
			ctx, cancel := context.WithCancel(background)
			var wg sync.WaitGroup
			for i, name := range names {
				clk := newRatedClock(1 + float64(i-1)/200)
				logger := slog.New(slog.NewTextHandler(&logs[i], &slog.HandlerOptions{Level: slog.LevelDebug}))
				l, f := w.node(name, func(cfg *ha.LockerConfig) { cfg.Clock, cfg.Logger = clk, logger })
				n := 0
				f.setRule(func(storeCall) fault {
					n++
					delay := time.Duration(n*7919%97+i) * time.Millisecond
					return fault{request: delay, reply: delay, lost: n/40%4 == i}
				})
				wg.Go(func() { book.compete(ctx, l, name, lockKey, clk, time.Second) })
				time.Sleep(time.Millisecond)
			}
			time.Sleep(10 * time.Minute)
			cancel()
			wg.Wait()
			require.GreaterOrEqual(t, book.count(), 3)
			book.requireOrder(t)
		})
		texts := make([]string, len(names))
		for i := range logs {
			texts[i] = logs[i].String()
		}
		return texts
	}
	once, twice := history(), history()
	for i := range names {
		if once[i] != twice[i] { // require.Equal would print all of both
			t.Errorf("node %s: two runs differ\n%s", names[i], firstDifference(once[i], twice[i]))
		}
	}
}

func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return as[i] + "\n" + bs[i]
		}
	}
	return "one ends earlier"
}
