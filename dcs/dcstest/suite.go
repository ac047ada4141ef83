package dcstest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

// patience bounds each case by the true clock, so that what hangs fails.
const patience = 5 * time.Minute

// suiteCase is one clause of the contract.
type suiteCase struct {
	name string
	// meaning says what a failure means for a user of the store.
	meaning string
	run     func(t *testing.T, e *env)
	needs   []ability
}

// disturbs reports whether the case breaks what all cases share, and not only what
// is its own.
func (c suiteCase) disturbs() bool {
	return slices.ContainsFunc(c.needs, func(a ability) bool { return a.disturbs })
}

// group is a part of the suite.
type group struct {
	name  string
	cases []suiteCase
}

func groups() []group {
	return []group{
		{name: "Store", cases: storeCases},
		{name: "Watch", cases: watchCases},
		{name: "Session", cases: sessionCases},
		{name: "Fault", cases: faultCases},
		{name: "Lock", cases: lockCases},
	}
}

// Run runs all cases as subtests, and logs at the end which it has left out.
func Run[C Cluster](t *testing.T, h Harness[C]) {
	t.Helper()
	h.Traits = h.Traits.withDefaults()
	if h.Leaf == nil {
		h.Leaf = func(t *testing.T, body func(*testing.T)) {
			t.Helper()
			body(t)
		}
	}
	var left omissions
	for _, g := range groups() {
		// A group that is not run in parallel itself holds the next one back until
		// all of its cases have ended. In a group those come first that disturb all.
		t.Run(g.name, func(t *testing.T) {
			for _, c := range g.cases {
				full := g.name + "/" + c.name
				if h.only != nil && !slices.Contains(h.only, full) {
					continue
				}
				if why := h.omits(g, c); why != "" {
					left.add(why, full)
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					if !c.disturbs() {
						t.Parallel()
					}
					h.runCase(t, c)
				})
			}
		})
	}
	for _, line := range left.lines() {
		t.Log(line)
	}
}

// omits says why a case cannot be run, or "".
func (h Harness[C]) omits(g group, c suiteCase) string {
	if g.name == "Lock" && h.Lock == nil {
		return "Harness.Lock is not given"
	}
	var zero C
	for _, needed := range c.needs {
		if !needed.of(zero) {
			return fmt.Sprintf("%T is no %s", zero, needed.name)
		}
	}
	return ""
}

// omissions are the cases that are left out, by the reason.
type omissions struct {
	reasons []string
	cases   map[string][]string
}

func (o *omissions) add(why, name string) {
	if o.cases == nil {
		o.cases = map[string][]string{}
	}
	if o.cases[why] == nil {
		o.reasons = append(o.reasons, why)
	}
	o.cases[why] = append(o.cases[why], name)
}

func (o *omissions) lines() []string {
	var lines []string
	for _, why := range o.reasons {
		lines = append(lines, fmt.Sprintf("NOT TESTED, because %s: %s", why, strings.Join(o.cases[why], ", ")))
	}
	return lines
}

func (h Harness[C]) runCase(t *testing.T, c suiteCase) {
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

// runs makes the keys and the clients of each run of each case its own.
var runs atomic.Uint64

// env is what a case works with.
type env struct {
	cluster Cluster
	traits  Traits
	lock    func(context.Context, Contender) error
	ctx     context.Context // bounded by patience
	ends    time.Time       // a moment before; when a case has to give up by itself, to say why
	clk     clock.Clock     // the true clock
	run     uint64          // tells what is this case's from what is others'
	base    string          // the prefix of all keys of the case, with a slash at its end

	background sync.WaitGroup // goroutines that end at the latest when clients and ctx have
}

func (h Harness[C]) newEnv(t *testing.T, name string) *env {
	t.Helper()
	cluster := h.New(t)
	patience := cmp.Or(h.patience, patience)
	ctx, cancel := timectx.With(t.Context(), cluster.True(), patience, "the case")
	run := runs.Add(1)
	e := &env{
		cluster: cluster,
		traits:  h.Traits,
		lock:    h.Lock,
		ctx:     ctx,
		ends:    cluster.True().Now().Add(patience - patience/10),
		clk:     cluster.True(),
		run:     run,
		base:    fmt.Sprintf("/dcstest/%s-%d/", name, run),
	}
	t.Cleanup(e.background.Wait)
	t.Cleanup(cancel)
	return e
}

func (e *env) key(name string) string { return e.base + name }

// who is what the cluster knows a client of the case by.
func (e *env) who(client string) string { return fmt.Sprintf("%s-%d", client, e.run) }

// client opens a connection that is closed at the end of the case.
func (e *env) client(t *testing.T, name string) dcs.Store {
	t.Helper()
	s, _ := e.clientWithClock(t, name)
	return s
}

func (e *env) clientWithClock(t *testing.T, name string) (dcs.Store, clock.Clock) {
	t.Helper()
	s, clk := e.cluster.Client(t, e.who(name))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close of client %s: %v", name, err)
		}
	})
	return s, clk
}

// session opens a session that is closed at the end of the case.
func (e *env) session(t *testing.T, s dcs.Store, ttl time.Duration) dcs.Session {
	t.Helper()
	session, err := s.NewSession(e.ctx, ttl)
	require.NoError(t, err)
	t.Cleanup(func() {
		// The client may be closed already and the session lost: it is only
		// done so as not to leave sessions in a backend that lives on.
		ctx, cancel := timectx.With(context.WithoutCancel(e.ctx), e.clk, RealTimeSlack, "closing a session")
		defer cancel()
		_ = session.Close(ctx)
	})
	return session
}

// shortSession opens a session that will expire soon, with keys that are bound
// to it, and says when it was asked for.
func (e *env) shortSession(t *testing.T, s dcs.Store, names ...string) (session dcs.Session, sent time.Time) {
	t.Helper()
	return e.boundSession(t, s, e.ttl(), names...)
}

// boundSession is shortSession with another TTL. On a machine that stalls for
// longer than that in between it tries again.
func (e *env) boundSession(t *testing.T, s dcs.Store, ttl time.Duration, names ...string) (session dcs.Session, sent time.Time) {
	t.Helper()
	for {
		sent = e.clk.Now()
		session = e.session(t, s, ttl)
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
func (e *env) ttl() time.Duration { return e.traits.clamp(time.Second) }

// longTTL is one that does not pass during a case.
func (e *env) longTTL() time.Duration { return e.traits.clamp(longTTL) }

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
