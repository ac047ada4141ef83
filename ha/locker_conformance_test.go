package ha_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
)

// lockConnect opens a connection to one store.
type lockConnect func(ctx context.Context) (dcs.Store, error)

// lockBackend is an implementation of dcs under the Locker.
type lockBackend struct {
	name string
	// start readies the backend. What it returns is called once for each case,
	// inside leaf; cases may share a store, each has a key of its own.
	start func(t *testing.T) func(t *testing.T) lockConnect
	// leaf runs the body of one case.
	leaf func(t *testing.T, body func(*testing.T))
	// nowhere is a connection to an address at which nobody listens; nil where
	// there is no such thing.
	nowhere lockConnect
}

var lockBackends = []lockBackend{
	memoryBackend("memory", memory.Config{}, false),
	memoryBackend("memory-proves", memory.Config{MaxTxn: 64}, true), // fewer than the locks of a case
	memoryBackend("memory-move-creates", memory.Config{MoveCreates: true}, false),
	{
		name:    "etcd",
		leaf:    inRealTime,
		nowhere: func(ctx context.Context) (dcs.Store, error) { return openEtcd(ctx, "http://127.0.0.1:1") },
		start: func(t *testing.T) func(*testing.T) lockConnect {
			server := testbed.StartEtcd(t)
			return func(*testing.T) lockConnect {
				return func(ctx context.Context) (dcs.Store, error) { return openEtcd(ctx, server.Endpoints()...) }
			}
		},
	},
	{
		name:    "zookeeper",
		leaf:    inRealTime,
		nowhere: func(ctx context.Context) (dcs.Store, error) { return openZooKeeper(ctx, "127.0.0.1:1") },
		start: func(t *testing.T) func(*testing.T) lockConnect {
			server := testbed.StartZooKeeper(t)
			return func(*testing.T) lockConnect {
				return func(ctx context.Context) (dcs.Store, error) { return openZooKeeper(ctx, server.Address()) }
			}
		},
	},
}

// memoryBackend is a store in memory, whose sessions may prove guards.
func memoryBackend(name string, cfg memory.Config, proves bool) lockBackend {
	return lockBackend{
		name: name,
		leaf: synctest.Test,
		start: func(*testing.T) func(*testing.T) lockConnect {
			return func(t *testing.T) lockConnect {
				cfg := cfg
				cfg.Clock = clock.New()
				cluster := memory.New(cfg)
				t.Cleanup(cluster.Close)
				return func(context.Context) (dcs.Store, error) {
					if proves {
						return provingStore{cluster.Client("client")}, nil
					}
					return cluster.Client("client"), nil
				}
			}
		},
	}
}

func inRealTime(t *testing.T, body func(*testing.T)) {
	t.Helper()
	body(t)
}

func openEtcd(ctx context.Context, endpoints ...string) (dcs.Store, error) {
	s, err := etcd.Open(ctx, etcd.Config{Endpoints: endpoints})
	if err != nil {
		return nil, err //nolint:wrapcheck // names the endpoints
	}
	return s, nil
}

func openZooKeeper(ctx context.Context, servers ...string) (dcs.Store, error) {
	s, err := zk.Open(ctx, zk.Config{Servers: servers})
	if err != nil {
		return nil, err //nolint:wrapcheck // names the servers
	}
	return s, nil
}

// lockCase is one clause of what a Locker promises.
type lockCase struct {
	name string
	// meaning says what a failure means for whoever relies on a lock.
	meaning string
	run     func(b *lockBench)
}

// TestLockerConformance holds the Locker to its promises over every backend. The
// cases of a backend run all at once, whatever -parallel says: they hardly do
// anything but wait.
func TestLockerConformance(t *testing.T) {
	t.Parallel()
	for _, backend := range lockBackends {
		t.Run(backend.name, func(t *testing.T) {
			t.Parallel()
			store := backend.start(t)
			var wg sync.WaitGroup
			defer wg.Wait()
			for _, c := range lockCases {
				wg.Go(func() { t.Run(c.name, func(t *testing.T) { backend.run(t, store, c) }) })
			}
		})
	}
}

func (backend lockBackend) run(t *testing.T, store func(*testing.T) lockConnect, c lockCase) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what this failure means: %s", c.meaning)
		}
	})
	backend.leaf(t, func(t *testing.T) {
		t.Helper()
		c.run(newLockBench(t, store(t), c.name))
	})
}

// casePatience bounds a case, so that what hangs fails.
const casePatience = 3 * time.Minute

// lockBench is what a case works with.
type lockBench struct {
	t       *testing.T
	ctx     context.Context // bounded by casePatience
	connect lockConnect
	admin   dcs.Store
	key     string // of the case's lock; other keys of the case begin with it
}

func newLockBench(t *testing.T, connect lockConnect, name string) *lockBench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), casePatience)
	t.Cleanup(cancel)
	b := &lockBench{t: t, ctx: ctx, connect: connect, key: "/locks/" + name + "/lock"}
	b.admin = b.open()
	return b
}

// open opens a connection that is closed at the end of the case.
func (b *lockBench) open() dcs.Store {
	b.t.Helper()
	s, err := b.connect(b.ctx)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, s.Close()) })
	return s
}

// The timings of cases: one in which leases hardly ever expire, one in which
// they do so soon, and one in which nothing is renewed while a case runs.
var (
	patient = ha.LockerConfig{TTL: time.Minute, RenewEvery: 2 * time.Second, Margin: 2 * time.Second, Request: 2 * time.Second}
	brief   = ha.LockerConfig{TTL: 6 * time.Second, RenewEvery: 1500 * time.Millisecond, Margin: time.Second, Request: time.Second}
	lazy    = ha.LockerConfig{TTL: time.Hour, RenewEvery: 20 * time.Minute, Margin: 2 * time.Minute, Request: 5 * time.Second}
)

// node makes a Locker with a connection of its own, through rules. It is closed
// at the end of the case, over a store that works again.
func (b *lockBench) node(timing ha.LockerConfig, change ...func(*ha.LockerConfig)) (*ha.Locker, *faultyStore) {
	b.t.Helper()
	store := newFaultyStore(b.open())
	cfg := timing
	cfg.Store = store
	for _, f := range change {
		f(&cfg)
	}
	l, err := ha.NewLocker(cfg)
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		store.setRule(nil)
		ctx, cancel := context.WithTimeout(context.Background(), casePatience)
		defer cancel()
		require.NoError(b.t, l.Close(ctx))
	})
	return l, store
}

// until waits until something is so.
func (b *lockBench) until(what string, is func() bool) {
	b.t.Helper()
	for !is() {
		timer := time.NewTimer(5 * time.Millisecond)
		select {
		case <-timer.C:
		case <-b.ctx.Done():
			require.FailNow(b.t, "waited in vain until "+what)
		}
	}
}

// ended waits for the end of a lease and returns its cause.
func (b *lockBench) ended(lease *ha.Lease) error {
	b.t.Helper()
	select {
	case <-lease.Context().Done():
	case <-b.ctx.Done():
		require.FailNow(b.t, "the lease does not end")
	}
	return context.Cause(lease.Context())
}

// renewed waits until the lease's time has moved forward n times.
func (b *lockBench) renewed(lease *ha.Lease, n int) {
	b.t.Helper()
	for range n {
		until := lease.Until()
		b.until("the lease is renewed", func() bool {
			require.NoError(b.t, lease.Check())
			return lease.Until().After(until)
		})
	}
	require.NoError(b.t, lease.Check())
}

// acquire takes the lock of the case.
func (b *lockBench) acquire(l *ha.Locker, value string) *ha.Lease {
	b.t.Helper()
	lease, err := l.Acquire(b.ctx, b.key, []byte(value))
	require.NoError(b.t, err)
	return lease
}

// refused requires that a Locker cannot have the lock, since it is held.
func (b *lockBench) refused(l *ha.Locker) *ha.HeldError {
	b.t.Helper()
	for {
		_, err := l.TryAcquire(b.ctx, b.key, []byte("intruder"))
		if held := (*ha.HeldError)(nil); errors.As(err, &held) {
			return held
		}
		require.Error(b.t, err, "the lock was taken although it is held")
		require.False(b.t, errors.Is(err, ha.ErrClosed) || b.ctx.Err() != nil, "%v", err)
	}
}

// read returns a key, and whether it exists.
func (b *lockBench) read(key string) (dcs.KV, bool) {
	b.t.Helper()
	kv, err := b.admin.Get(b.ctx, key)
	if errors.Is(err, dcs.ErrNotFound) {
		return dcs.KV{}, false
	}
	require.NoError(b.t, err)
	return kv, true
}

// shows requires that the lock is in the store as the lease says.
func (b *lockBench) shows(lease *ha.Lease) {
	b.t.Helper()
	kv, exists := b.read(lease.Key())
	require.True(b.t, exists, "the lock's key is gone")
	require.Equal(b.t, lease.Token(), kv.Created)
	require.Equal(b.t, lease.Session(), kv.Session)
}

// gone waits until a key does not exist.
func (b *lockBench) gone(key string) {
	b.t.Helper()
	b.until(key+" is gone", func() bool {
		_, exists := b.read(key)
		return !exists
	})
}

// deleteKey deletes a key as an operator does.
func (b *lockBench) deleteKey(key string) {
	b.t.Helper()
	_, err := b.admin.Commit(b.ctx, dcs.Txn{Then: []dcs.Op{{Key: key, Delete: true}}})
	require.NoError(b.t, err)
}

// write writes a record under the guard of a lease.
func (b *lockBench) write(lease *ha.Lease) error {
	_, err := b.admin.Commit(b.ctx, dcs.Txn{
		If:   []dcs.Guard{lease.Guard()},
		Then: []dcs.Op{{Key: b.key + "-record", Value: fmt.Append(nil, lease.Token())}},
	})
	return err
}

// fenced requires that nothing can be written any more under the guard of a
// lease.
func (b *lockBench) fenced(lease *ha.Lease) {
	b.t.Helper()
	require.ErrorIs(b.t, b.write(lease), dcs.ErrConflict)
}
