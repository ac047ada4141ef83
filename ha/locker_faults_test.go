package ha_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
)

// Kinds of calls to a store.
const (
	callOpen   = "open"
	callRenew  = "renew"
	callEnd    = "end"
	callGet    = "get"
	callCommit = "commit"
)

// storeCall is one call as a fault rule sees it.
type storeCall struct {
	kind string
	txn  dcs.Txn // of a commit; of a renewal that proves guards, these
}

// proves reports whether the call proves leases.
func (c storeCall) proves() bool {
	return c.kind == callCommit || c.kind == callRenew && len(c.txn.If) > 0
}

// takes reports whether the call is a commit that creates key.
func (c storeCall) takes(key string) bool {
	return len(c.txn.Then) > 0 && c.txn.Then[0].Key == key && !c.txn.Then[0].Delete
}

// deletes reports whether the call is a commit that deletes key, and what goes with it.
func (c storeCall) deletes(key string) bool {
	return len(c.txn.Then) > 0 && c.txn.Then[0].Key == key && c.txn.Then[0].Delete
}

// fault is what happens to one call. The zero value is none.
type fault struct {
	request time.Duration // until the request arrives; it does so even if the caller has given up
	reply   time.Duration // until the reply arrives
	lost    bool          // the request never arrives
	mute    bool          // the reply never arrives
	fail    bool          // instead of waiting, the caller is told at once that the outcome is unknown
	late    time.Duration // with fail: the request arrives this much later
}

// faultyStore puts a rule between a node and the store, and counts calls. It
// has no effect on watches.
type faultyStore struct {
	inner dcs.Store

	mu       sync.Mutex
	rule     func(storeCall) fault
	calls    map[string]int
	landed   int           // calls that the store has answered, whether their caller still waited or not
	sessions []dcs.Session // as the store granted them
}

// newFaultyStore wraps a store; without a rule it is like that.
func newFaultyStore(inner dcs.Store) *faultyStore {
	return &faultyStore{inner: inner, calls: map[string]int{}}
}

func (f *faultyStore) setRule(rule func(storeCall) fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

// count returns how many calls of the kind were made.
func (f *faultyStore) count(kind string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[kind]
}

// answered returns how many calls the store has carried out.
func (f *faultyStore) answered() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.landed
}

// session returns the last session that the store has granted.
func (f *faultyStore) session() dcs.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[len(f.sessions)-1]
}

// do carries out one call under the rule. The outcome of a call whose caller
// gives up is unknown.
func (f *faultyStore) do(ctx context.Context, c storeCall, call func(context.Context) error) error {
	f.mu.Lock()
	f.calls[c.kind]++
	var what fault
	if f.rule != nil {
		what = f.rule(c)
	}
	f.mu.Unlock()
	carryOut := func(ctx context.Context) error {
		err := call(ctx)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.landed++
		return err
	}
	if what == (fault{}) {
		return carryOut(ctx)
	}

	unknown := func() error {
		if c.kind == callGet {
			return fmt.Errorf("%s: %w", c.kind, context.DeadlineExceeded)
		}
		return fmt.Errorf("%s: %w", c.kind, dcs.ErrAmbiguous)
	}
	result := make(chan error, 1)
	if !what.lost {
		time.AfterFunc(what.request+what.late, func() {
			err := carryOut(context.WithoutCancel(ctx))
			if !what.mute {
				time.AfterFunc(what.reply, func() { result <- err })
			}
		})
	}
	if what.fail {
		return unknown()
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return unknown()
	}
}

func (f *faultyStore) Get(ctx context.Context, key string) (kv dcs.KV, err error) {
	var got dcs.KV
	err = f.do(ctx, storeCall{kind: callGet}, func(ctx context.Context) (err error) {
		got, err = f.inner.Get(ctx, key)
		return err
	})
	if err != nil {
		return dcs.KV{}, err
	}
	return got, nil
}

func (f *faultyStore) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	return f.inner.List(ctx, prefix)
}

func (f *faultyStore) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	return f.inner.Watch(ctx, prefix)
}

func (f *faultyStore) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	var got dcs.Revision
	err := f.do(ctx, storeCall{kind: callCommit, txn: txn}, func(ctx context.Context) (err error) {
		got, err = f.inner.Commit(ctx, txn)
		return err
	})
	if err != nil {
		return 0, err
	}
	return got, nil
}

func (f *faultyStore) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	var got dcs.Session
	err := f.do(ctx, storeCall{kind: callOpen}, func(ctx context.Context) (err error) {
		got, err = f.inner.NewSession(ctx, ttl)
		if err == nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.sessions = append(f.sessions, got)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	session := &faultySession{Session: got, store: f}
	if prover, proves := got.(dcs.Prover); proves {
		return &faultyProver{faultySession: session, inner: prover}, nil
	}
	return session, nil
}

func (f *faultyStore) Close() error { return f.inner.Close() }

type faultySession struct {
	dcs.Session
	store *faultyStore
}

func (s *faultySession) Renew(ctx context.Context) error {
	return s.store.do(ctx, storeCall{kind: callRenew}, s.Session.Renew)
}

func (s *faultySession) Close(ctx context.Context) error {
	return s.store.do(ctx, storeCall{kind: callEnd}, s.Session.Close)
}

// faultyProver is a faultySession that proves guards when it is renewed.
type faultyProver struct {
	*faultySession
	inner dcs.Prover
}

func (p *faultyProver) RenewIf(ctx context.Context, guards []dcs.Guard) error {
	return p.store.do(ctx, storeCall{kind: callRenew, txn: dcs.Txn{If: guards}}, func(ctx context.Context) error {
		return p.inner.RenewIf(ctx, guards)
	})
}

// provingStore makes provers of the sessions of a store.
type provingStore struct{ dcs.Store }

func (s provingStore) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	session, err := s.Store.NewSession(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return provingSession{session, s.Store}, nil
}

type provingSession struct {
	dcs.Session
	store dcs.Store
}

func (s provingSession) RenewIf(ctx context.Context, guards []dcs.Guard) error {
	if err := s.Renew(ctx); err != nil || len(guards) == 0 {
		return err
	}
	_, err := s.store.Commit(ctx, dcs.Txn{If: guards})
	return err
}

// Rules.

func partitioned(storeCall) fault { return fault{lost: true} }

func halfOpen(storeCall) fault { return fault{mute: true} }

func slowReplies(d time.Duration) func(storeCall) fault {
	return func(storeCall) fault { return fault{reply: d} }
}

// first applies what to the first n calls that match.
func first(n int, match func(storeCall) bool, what fault) func(storeCall) fault {
	return func(c storeCall) fault {
		if n == 0 || !match(c) {
			return fault{}
		}
		n--
		return what
	}
}

// ratedClock runs at another rate than true time. Waits are rounded up: one
// that is rounded to nothing would never end.
type ratedClock struct {
	clock.Clock
	start time.Time
	rate  float64
}

func newRatedClock(rate float64) *ratedClock {
	c := clock.New()
	return &ratedClock{Clock: c, start: c.Now(), rate: rate}
}

func (c *ratedClock) Now() time.Time {
	return c.start.Add(time.Duration(float64(c.Clock.Now().Sub(c.start)) * c.rate))
}

func (c *ratedClock) real(d time.Duration) time.Duration {
	return time.Duration(float64(d)/c.rate) + 1
}

func (c *ratedClock) Timer(d time.Duration) *clock.Timer { return c.Clock.Timer(c.real(d)) }

func (c *ratedClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	return c.Clock.AfterFunc(c.real(d), f)
}

// lockWorld is a store in a bubble, and the nodes that use it.
type lockWorld struct {
	t       *testing.T
	cluster *memory.Cluster
	admin   dcs.Store
}

func newLockWorld(t *testing.T) *lockWorld {
	cluster := memory.New(memory.Config{Clock: clock.New()})
	t.Cleanup(cluster.Close)
	return &lockWorld{t: t, cluster: cluster, admin: cluster.Client("admin")}
}

// node makes a Locker with the default timing that talks to the store through
// a rule. It is closed at the end of the test, over a store that works again.
func (w *lockWorld) node(name string, change ...func(*ha.LockerConfig)) (*ha.Locker, *faultyStore) {
	w.t.Helper()
	store := newFaultyStore(w.cluster.Client(name))
	cfg := ha.LockerConfig{Store: store, Clock: clock.New()}
	for _, f := range change {
		f(&cfg)
	}
	l, err := ha.NewLocker(cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		store.setRule(nil)
		require.NoError(w.t, l.Close(context.Background()))
	})
	return l, store
}

// exists reports whether the key is in the store.
func (w *lockWorld) exists(key string) bool {
	w.t.Helper()
	_, err := w.admin.Get(context.Background(), key)
	if err != nil {
		require.ErrorIs(w.t, err, dcs.ErrNotFound)
	}
	return err == nil
}

// term is one period of work under a lock, in true time.
type term struct {
	node       string
	token      dcs.Revision
	begin, end time.Time
}

// ledger records terms.
type ledger struct {
	mu    sync.Mutex
	terms []term
}

// requireOrder fails if two terms overlap or if a token did not grow.
func (b *ledger) requireOrder(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := 1; i < len(b.terms); i++ {
		before, after := b.terms[i-1], b.terms[i]
		require.Falsef(t, after.begin.Before(before.end), "%s began %s before %s had ended", after.node, before.end.Sub(after.begin), before.node)
		require.Greater(t, after.token, before.token)
	}
}

// compete makes a node hold the lock again and again until ctx ends. Its work
// takes stop, by the node's clock, to end.
func (b *ledger) compete(ctx context.Context, l *ha.Locker, name, key string, clk clock.Clock, stop time.Duration) {
	for ctx.Err() == nil {
		_ = l.Hold(ctx, key, []byte(name), func(ctx context.Context, ls *ha.Lease) error {
			b.mu.Lock()
			n := len(b.terms)
			b.terms = append(b.terms, term{node: name, token: ls.Token(), begin: time.Now(), end: time.Now().Add(1000 * time.Hour)})
			b.mu.Unlock()
			<-ctx.Done()
			if ls.Context().Err() != nil { // lost: the work needs its time to stop
				timer := clk.Timer(stop)
				<-timer.C
			}
			b.mu.Lock()
			b.terms[n].end = time.Now()
			b.mu.Unlock()
			return ctx.Err()
		})
	}
}

// terms returns how many terms there were.
func (b *ledger) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.terms)
}
