package dcstest_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/memory"
)

// faultyWorld is a store in a bubble: as it is, and through faults.
type faultyWorld struct {
	*testing.T
	as    dcs.Store // as it is
	store dcs.Store // with faults
}

// withFaults runs the body in a bubble.
func withFaults(t *testing.T, in dcstest.Injector, body func(w faultyWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := memory.New(memory.Config{})
		defer c.Close()
		w := faultyWorld{T: t, as: c.Client("as"), store: dcstest.Faulty(c.Client("faulty"), in)}
		defer func() { require.NoError(t, w.store.Close()) }()
		body(w)
	})
}

// within makes a context that ends after d.
func (w faultyWorld) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), d)
	w.Cleanup(cancel)
	return ctx
}

func (w faultyWorld) has(key string) bool {
	w.Helper()
	_, err := w.as.Get(w.Context(), key)
	if err != nil {
		require.ErrorIs(w, err, dcs.ErrNotFound)
	}
	return err == nil
}

// onCommit does f to all commits.
func onCommit(f dcstest.Fault) dcstest.Injector {
	return dcstest.InjectorFunc(func(c dcstest.Call) dcstest.Fault {
		if c.Kind == dcstest.KindCommit {
			return f
		}
		return dcstest.Fault{}
	})
}

func TestFaultyFailsBefore(t *testing.T) {
	t.Parallel()
	withFaults(t, onCommit(dcstest.Fault{Fail: dcs.ErrUnavailable}), func(w faultyWorld) {
		_, err := dcs.Put(w.Context(), w.store, "/k", nil)
		require.ErrorIs(w, err, dcs.ErrUnavailable)
		require.ErrorContains(w, err, "commit of /k")
		require.False(w, w.has("/k"))
	})
}

func TestFaultyFailsAfter(t *testing.T) {
	t.Parallel()
	withFaults(t, onCommit(dcstest.Fault{Answer: dcs.ErrAmbiguous}), func(w faultyWorld) {
		_, err := dcs.Put(w.Context(), w.store, "/k", nil)
		require.ErrorIs(w, err, dcs.ErrAmbiguous)
		require.True(w, w.has("/k"))
	})
}

func TestFaultyDelaysRequestAndReply(t *testing.T) {
	t.Parallel()
	withFaults(t, onCommit(dcstest.Fault{Delay: 2 * time.Second, ReplyDelay: 3 * time.Second}), func(w faultyWorld) {
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := dcs.Put(w.Context(), w.store, "/k", nil)
			done <- err
		}()
		time.Sleep(2*time.Second - 1)
		require.False(w, w.has("/k"))
		time.Sleep(2)
		require.True(w, w.has("/k"))
		require.NoError(w, <-done)
		require.Equal(w, 5*time.Second, time.Since(began))
	})
}

func TestFaultyRequestArrivesThoughItsCallerHasGivenUp(t *testing.T) {
	t.Parallel()
	withFaults(t, onCommit(dcstest.Fault{Delay: 5 * time.Second}), func(w faultyWorld) {
		value := []byte("1")
		_, err := dcs.Put(w.within(time.Second), w.store, "/k", value)
		require.ErrorIs(w, err, dcs.ErrAmbiguous)
		require.ErrorIs(w, err, context.DeadlineExceeded)
		value[0] = 'X' // the caller uses its buffer again
		require.False(w, w.has("/k"))
		time.Sleep(4*time.Second + 1)
		kv, err := w.as.Get(w.Context(), "/k")
		require.NoError(w, err)
		require.Equal(w, "1", string(kv.Value))
	})
}

func TestFaultyHangsUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	withFaults(t, dcstest.Always(dcstest.Fault{Lose: true}), func(w faultyWorld) {
		_, err := dcs.Put(w.within(time.Hour), w.store, "/k", nil)
		require.ErrorIs(w, err, dcs.ErrAmbiguous)
		_, err = w.store.Get(w.within(time.Hour), "/k")
		require.ErrorIs(w, err, context.DeadlineExceeded)
		require.NotErrorIs(w, err, dcs.ErrAmbiguous, "a read has no outcome")
		_, err = w.store.List(w.within(time.Hour), "/")
		require.ErrorIs(w, err, context.DeadlineExceeded)
		_, err = w.store.NewSession(w.within(time.Hour), time.Second)
		require.ErrorIs(w, err, dcs.ErrAmbiguous)
		require.False(w, w.has("/k"))
		ctx, cancel := context.WithCancel(w.Context())
		updates := w.store.Watch(ctx, "/")
		time.Sleep(time.Hour)
		require.Empty(w, updates)
		cancel()
		_, open := <-updates
		require.False(w, open)
	})
}

func TestFaultySwallowsTheReply(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	withFaults(t, onCommit(dcstest.Fault{Swallow: true, Done: func() { told.Add(1) }}), func(w faultyWorld) {
		_, err := dcs.Put(w.within(time.Second), w.store, "/k", nil)
		require.ErrorIs(w, err, dcs.ErrAmbiguous)
		require.True(w, w.has("/k"))
		require.EqualValues(w, 1, told.Load())
	})
}

func TestFaultyDuplicates(t *testing.T) {
	t.Parallel()
	withFaults(t, onCommit(dcstest.Fault{Twice: true}), func(w faultyWorld) {
		rev, err := dcs.Put(w.Context(), w.store, "/k", nil)
		require.NoError(w, err)
		kv, err := w.as.Get(w.Context(), "/k")
		require.NoError(w, err)
		require.Greater(w, kv.Revision, rev, "the reply is that to the first")
		_, err = dcs.Create(w.Context(), w.store, "/l", nil, "")
		require.NoError(w, err)
	})
}

func TestFaultySessions(t *testing.T) {
	t.Parallel()
	fault := dcstest.Fault{}
	in := dcstest.InjectorFunc(func(c dcstest.Call) dcstest.Fault {
		if c.Kind == dcstest.KindRenew || c.Kind == dcstest.KindCloseSession {
			return fault
		}
		return dcstest.Fault{}
	})
	withFaults(t, in, func(w faultyWorld) {
		session, err := w.store.NewSession(w.Context(), 10*time.Second)
		require.NoError(w, err)
		_, err = dcs.Create(w.Context(), w.store, "/k", nil, session.ID())
		require.NoError(w, err)
		fault = dcstest.Fault{Swallow: true}
		time.Sleep(9 * time.Second)
		require.ErrorIs(w, session.Renew(w.within(time.Second)), dcs.ErrAmbiguous)
		time.Sleep(8 * time.Second)
		require.True(w, w.has("/k"), "the renewal has arrived")
		require.ErrorIs(w, session.Close(w.within(time.Second)), dcs.ErrAmbiguous)
		require.False(w, w.has("/k"))
		fault = dcstest.Fault{Fail: dcs.ErrUnavailable}
		require.ErrorIs(w, session.Renew(w.Context()), dcs.ErrUnavailable)
	})
}

func TestFaultyWatches(t *testing.T) {
	t.Parallel()
	faults := map[int]dcstest.Fault{
		2: {Swallow: true},
		3: {Fail: dcs.ErrUnavailable},
		6: {ReplyDelay: time.Second},
	}
	in := dcstest.InjectorFunc(func(c dcstest.Call) dcstest.Fault {
		if c.Kind == dcstest.KindUpdate {
			return faults[c.N]
		}
		return dcstest.Fault{}
	})
	withFaults(t, in, func(w faultyWorld) {
		hold := make(chan struct{}) // of this bubble
		faults[5] = dcstest.Fault{Hold: hold}
		updates := w.store.Watch(w.Context(), "/")
		write := func(value string) {
			_, err := dcs.Put(w.Context(), w.as, "/k", []byte(value))
			require.NoError(w, err)
			synctest.Wait()
		}
		require.Empty(w, (<-updates).KVs)
		write("2")
		require.Empty(w, updates, "dropped")
		write("3")
		require.ErrorIs(w, (<-updates).Err, dcs.ErrUnavailable)
		write("4")
		require.Equal(w, "4", string((<-updates).KVs[0].Value))
		write("5")
		write("6")
		require.Empty(w, updates, "kept back")
		close(hold)
		require.Equal(w, "5", string((<-updates).KVs[0].Value))
		began := time.Now()
		require.Equal(w, "6", string((<-updates).KVs[0].Value))
		require.Equal(w, time.Second, time.Since(began))
	})
}

func TestFaultyWatchThatFailsGoesOn(t *testing.T) {
	t.Parallel()
	in := dcstest.OnNth(1, func(c dcstest.Call) bool { return c.Kind == dcstest.KindWatch }, dcstest.Fault{Fail: dcs.ErrUnavailable})
	withFaults(t, in, func(w faultyWorld) {
		updates := w.store.Watch(w.Context(), "/")
		var seen []dcs.Update
		for len(seen) == 0 || seen[len(seen)-1].Err != nil {
			seen = append(seen, <-updates) // the error may be replaced before it is read
		}
		require.NoError(w, seen[len(seen)-1].Err)
	})
}

// TestLinkKeepsTheOrderOfWhatItHolds cuts a path and heals it: what was sent
// meanwhile arrives in its order, whoever still waits for it.
func TestLinkKeepsTheOrderOfWhatItHolds(t *testing.T) {
	t.Parallel()
	link := new(dcstest.Link)
	withFaults(t, link, func(w faultyWorld) {
		updates := w.store.Watch(w.Context(), "/")
		require.Empty(w, (<-updates).KVs)
		link.Cut()
		link.Cut()
		for i := range 20 {
			_, err := dcs.Put(w.within(time.Second), w.store, "/k", fmt.Append(nil, i))
			require.ErrorIs(w, err, dcs.ErrAmbiguous)
		}
		waits := make(chan error, 1)
		go func() {
			_, err := dcs.Create(w.Context(), w.store, "/last", nil, "")
			waits <- err
		}()
		synctest.Wait()
		require.False(w, w.has("/k"))
		_, err := dcs.Put(w.Context(), w.as, "/other", nil)
		require.NoError(w, err)
		synctest.Wait()
		require.Empty(w, updates)
		link.Heal()
		require.NoError(w, <-waits, "the caller who has waited is answered")
		kv, err := w.as.Get(w.Context(), "/k")
		require.NoError(w, err)
		require.Equal(w, "19", string(kv.Value))
		for u := range updates {
			if len(u.KVs) == 3 {
				break
			}
		}
		link.Refuse()
		_, err = dcs.Put(w.Context(), w.store, "/k", nil)
		require.ErrorIs(w, err, dcs.ErrUnavailable)
		link.Heal()
		link.Heal()
		_, err = dcs.Put(w.Context(), w.store, "/k", nil)
		require.NoError(w, err)
	})
}

func TestFaultyCloseEndsEverything(t *testing.T) {
	t.Parallel()
	link := new(dcstest.Link)
	withFaults(t, link, func(w faultyWorld) {
		updates := w.store.Watch(w.Context(), "/")
		<-updates
		link.Cut()
		late := w.store.Watch(w.Context(), "/")
		calls := make(chan error, 3)
		go func() {
			_, err := w.store.Get(w.Context(), "/k")
			calls <- err
		}()
		go func() {
			_, err := dcs.Put(w.Context(), w.store, "/k", nil)
			if errors.Is(err, dcs.ErrAmbiguous) {
				err = dcs.ErrClosed // also true
			}
			calls <- err
		}()
		synctest.Wait()
		require.NoError(w, w.store.Close())
		for range 2 {
			require.ErrorIs(w, <-calls, dcs.ErrClosed)
		}
		for _, ch := range []<-chan dcs.Update{updates, late, w.store.Watch(w.Context(), "/")} {
			_, open := <-ch
			require.False(w, open)
		}
		link.Heal()
		require.False(w, w.has("/k"), "what was held back is lost with the connection")
		_, err := w.store.Get(w.Context(), "/k")
		require.ErrorIs(w, err, dcs.ErrClosed)
	})
}

func TestInjectors(t *testing.T) {
	t.Parallel()
	lost := dcstest.Fault{Lose: true}
	commits := func(c dcstest.Call) bool { return c.Takes("/k") }
	txn := dcs.Txn{Then: []dcs.Op{{Key: "/j", Delete: true}, {Key: "/k"}}}
	take := dcstest.Call{Kind: dcstest.KindCommit, Txn: txn}
	require.True(t, take.Deletes("/j"))
	require.False(t, take.Deletes("/k"))
	require.False(t, take.Takes("/j"))
	require.Equal(t, "commit of /j and 1 more", take.String())
	require.Equal(t, "renew of s#1", dcstest.Call{Kind: dcstest.KindRenew, Session: "s#1"}.String())
	require.Equal(t, "new session", dcstest.Call{Kind: dcstest.KindNewSession}.String())

	second := dcstest.OnNth(2, commits, lost)
	in := dcstest.FirstOf(second, dcstest.OnNth(1, commits, dcstest.Fault{Twice: true}))
	require.False(t, in.Inject(dcstest.Call{Kind: dcstest.KindGet, Key: "/k"}).Lose)
	require.True(t, in.Inject(take).Twice)
	require.True(t, in.Inject(take).Lose)
	require.Zero(t, in.Inject(take))
}

// TestConformanceWithSlowCalls: a store that is slow is a store.
func TestConformanceWithSlowCalls(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness[*slowCluster]{
		New: func(t *testing.T) *slowCluster {
			t.Helper()
			return &slowCluster{dcstest.NewMemory(t, memory.Config{})}
		},
		Traits: dcstest.Traits{Linger: time.Second, MaxTxnKeys: memory.DefaultMaxTxn},
		Leaf:   dcstest.Bubble,
	})
}

// slowCluster is a Memory whose connections are slow. It has no other fault, and
// says so by not being one.
type slowCluster struct{ memory *dcstest.Memory }

func (c *slowCluster) Client(tb testing.TB, name string) (dcs.Store, clock.Clock) {
	s, clk := c.memory.Client(tb, name)
	return dcstest.Faulty(s, dcstest.InjectorFunc(func(c dcstest.Call) dcstest.Fault {
		return dcstest.Fault{
			Delay:      time.Duration(c.N*7919%13) * time.Millisecond,
			ReplyDelay: time.Duration(c.N*104729%11) * time.Millisecond,
		}
	})), clk
}

func (c *slowCluster) True() clock.Clock { return c.memory.True() }
