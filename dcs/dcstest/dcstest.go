package dcstest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

// Traits is what a backend admits about itself.
type Traits struct {
	// MinTTL is the shortest TTL that a session can be asked for; zero means
	// that any positive one is possible.
	MinTTL time.Duration
	// Linger is the longest that a dead session's keys outlive its TTL,
	// including the time until a watch tells of it.
	Linger time.Duration
	// MaxValue is a size in bytes that a value can certainly have; zero means
	// 512 KiB. Ten times as much must be refused.
	MaxValue int
	// MaxTxnKeys is how many keys one transaction can certainly write; zero
	// means 64.
	MaxTxnKeys int
}

// Cluster is one backend under test.
type Cluster interface {
	// Client opens a connection, which the suite closes, and says by which
	// clock its user lives.
	Client(tb testing.TB, name string) (dcs.Store, clock.Clock)
	// True is the clock that assertions about time are made by.
	True() clock.Clock
}

// Harness is how the suite gets at a backend.
type Harness struct {
	// New is called once for each case, inside Leaf, and cleans up by
	// t.Cleanup. It may return the same backend each time.
	New    func(t *testing.T) Cluster
	Traits Traits
	// Leaf runs the body of one case; nil means directly. It exists because
	// subtests cannot be made inside a synctest bubble: see Bubble.
	Leaf func(t *testing.T, body func(t *testing.T))
}

// Bubble is a Leaf that runs each case in a synctest bubble of its own. It is
// for backends without sockets, which thereby also prove that they leave no
// goroutine behind.
func Bubble(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, body)
}

// RealTimeSlack is how late things may come on a loaded machine; a backend in
// real time adds it to its Linger.
const RealTimeSlack = 10 * time.Second

// patience bounds each case by the true clock, so that what hangs fails.
const patience = 5 * time.Minute

// suiteCase is one clause of the contract.
type suiteCase struct {
	name string
	// meaning says what a failure means for a user of the store.
	meaning string
	run     func(t *testing.T, e *env)
}

// Run runs all cases as parallel subtests.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Traits.MaxValue == 0 {
		h.Traits.MaxValue = 512 << 10
	}
	if h.Traits.MaxTxnKeys == 0 {
		h.Traits.MaxTxnKeys = 64
	}
	if h.Leaf == nil {
		h.Leaf = func(t *testing.T, body func(*testing.T)) {
			t.Helper()
			body(t)
		}
	}
	for _, group := range []struct {
		name  string
		cases []suiteCase
	}{
		{"Store", storeCases},
		{"Watch", watchCases},
		{"Session", sessionCases},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					h.runCase(t, c)
				})
			}
		})
	}
}

func (h Harness) runCase(t *testing.T, c suiteCase) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what this failure means: %s", c.meaning)
		}
	})
	h.Leaf(t, func(t *testing.T) {
		t.Helper()
		c.run(t, h.newEnv(t, c.name))
	})
}

// runs makes the keys of each run of each case its own.
var runs atomic.Uint64

// env is what a case works with.
type env struct {
	cluster Cluster
	traits  Traits
	ctx     context.Context // bounded by patience
	clk     clock.Clock     // the true clock
	base    string          // the prefix of all keys of the case, with a slash at its end
}

func (h Harness) newEnv(t *testing.T, name string) *env {
	t.Helper()
	cluster := h.New(t)
	ctx, cancel := timectx.With(t.Context(), cluster.True(), patience, "the case")
	t.Cleanup(cancel)
	return &env{
		cluster: cluster,
		traits:  h.Traits,
		ctx:     ctx,
		clk:     cluster.True(),
		base:    fmt.Sprintf("/dcstest/%s-%d/", name, runs.Add(1)),
	}
}

func (e *env) key(name string) string { return e.base + name }

// client opens a connection that is closed at the end of the case.
func (e *env) client(t *testing.T, name string) dcs.Store {
	t.Helper()
	s, _ := e.cluster.Client(t, name)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close of client %s: %v", name, err)
		}
	})
	return s
}

// session opens a session that is closed at the end of the case.
func (e *env) session(t *testing.T, s dcs.Store, ttl time.Duration) dcs.Session {
	t.Helper()
	session, err := s.NewSession(e.ctx, ttl)
	require.NoError(t, err)
	t.Cleanup(func() {
		// The client may be closed already and the session lost: it is only
		// done so as not to leave sessions in a backend that lives on.
		_ = session.Close(context.WithoutCancel(e.ctx))
	})
	return session
}

// shortSession opens a session that will expire soon, with keys that are bound
// to it, and says when it was asked for. On a machine that stalls for longer
// than the TTL in between it tries again.
func (e *env) shortSession(t *testing.T, s dcs.Store, names ...string) (session dcs.Session, sent time.Time) {
	t.Helper()
	for {
		sent = e.clk.Now()
		session = e.session(t, s, e.ttl())
		err := e.createAll(s, session.ID(), names)
		if err == nil {
			return session, sent
		}
		require.ErrorIs(t, err, dcs.ErrSessionLost)
		require.GreaterOrEqual(t, e.clk.Since(sent), session.TTL(), "the session died early")
	}
}

func (e *env) createAll(s dcs.Store, session dcs.SessionID, names []string) error {
	var txn dcs.Txn
	for _, name := range names {
		txn.If = append(txn.If, dcs.At(e.key(name), 0))
		txn.Then = append(txn.Then, dcs.Op{Key: e.key(name), Session: session})
	}
	if _, err := s.Commit(e.ctx, txn); err != nil {
		return fmt.Errorf("create the keys of a short session: %w", err)
	}
	return nil
}

// ttl is a short TTL that the backend grants.
func (e *env) ttl() time.Duration { return max(e.traits.MinTTL, time.Second) }

// longTTL is one that does not pass during a case.
func (e *env) longTTL() time.Duration { return max(e.traits.MinTTL, time.Hour) }

// put writes a key unconditionally.
func (e *env) put(t *testing.T, s dcs.Store, name, value string) dcs.Revision {
	t.Helper()
	rev, err := dcs.Put(e.ctx, s, e.key(name), []byte(value))
	require.NoError(t, err)
	return rev
}

// create writes an absent key under a session.
func (e *env) create(t *testing.T, s dcs.Store, name string, session dcs.SessionID) dcs.Revision {
	t.Helper()
	rev, err := dcs.Create(e.ctx, s, e.key(name), []byte(name), session)
	require.NoError(t, err)
	return rev
}

// get reads a key that must exist.
func (e *env) get(t *testing.T, s dcs.Store, name string) dcs.KV {
	t.Helper()
	kv, err := s.Get(e.ctx, e.key(name))
	require.NoError(t, err)
	return kv
}

// absent requires that a key does not exist.
func (e *env) absent(t *testing.T, s dcs.Store, name string) {
	t.Helper()
	_, err := s.Get(e.ctx, e.key(name))
	require.ErrorIs(t, err, dcs.ErrNotFound)
}

// sleep waits by the true clock.
func (e *env) sleep(t *testing.T, d time.Duration) {
	t.Helper()
	require.NoError(t, timectx.Sleep(e.ctx, e.clk, d))
}

// next is the next state of a watch; news of lost contact is passed over.
func (e *env) next(t *testing.T, updates <-chan dcs.Update) []dcs.KV {
	t.Helper()
	for {
		select {
		case u, open := <-updates:
			require.True(t, open, "the watch was closed")
			if u.Err == nil {
				return u.KVs
			}
			t.Logf("the watch reports: %v", u.Err)
		case <-e.ctx.Done():
			require.NoError(t, context.Cause(e.ctx), "waiting for a watch")
		}
	}
}

// await reads a watch until its state satisfies want.
func (e *env) await(t *testing.T, updates <-chan dcs.Update, want func([]dcs.KV) bool) []dcs.KV {
	t.Helper()
	for {
		if kvs := e.next(t, updates); want(kvs) {
			return kvs
		}
	}
}

// awaitClosed reads a watch until it is closed.
func (e *env) awaitClosed(t *testing.T, updates <-chan dcs.Update) {
	t.Helper()
	for {
		select {
		case _, open := <-updates:
			if !open {
				return
			}
		case <-e.ctx.Done():
			require.NoError(t, context.Cause(e.ctx), "waiting for a watch to be closed")
		}
	}
}

// keys are the names of a state's keys, without the prefix of the case.
func (e *env) keys(kvs []dcs.KV) []string {
	names := make([]string, 0, len(kvs))
	for _, kv := range kvs {
		names = append(names, kv.Key[len(e.base):])
	}
	return names
}
