package ha_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
)

// etcdNode makes a Locker with a short timing on a real store.
func etcdNode(ctx context.Context, t *testing.T, server *testbed.EtcdServer, name string, change ...func(*ha.LockerConfig)) (*ha.Locker, dcs.Store) {
	t.Helper()
	store, err := etcd.Open(ctx, etcd.Config{Endpoints: server.Endpoints()})
	require.NoError(t, err)
	cfg := ha.LockerConfig{Store: store, TTL: 4 * time.Second, RenewEvery: time.Second, Margin: time.Second, Request: time.Second}
	for _, f := range change {
		f(&cfg)
	}
	l, err := ha.NewLocker(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, l.Close(closing), name)
		require.NoError(t, store.Close(), name)
	})
	return l, store
}

// TestLockerOnEtcd sees one lock through its life on a real store: held, waited
// for, handed over, taken away, and expired because the store stood still.
func TestLockerOnEtcd(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, _ := etcdNode(ctx, t, server, "a")
	b, store := etcdNode(ctx, t, server, "b")

	lease, err := a.TryAcquire(ctx, lockKey, []byte("a"))
	require.NoError(t, err)
	_, err = b.TryAcquire(ctx, lockKey, []byte("b"))
	require.ErrorIs(t, err, ha.ErrHeld)
	next := make(chan *ha.Lease, 1)
	go func() {
		got, _ := b.Acquire(ctx, lockKey, []byte("b"))
		next <- got
	}()
	until := lease.Until()
	require.Eventually(t, func() bool { return lease.Until().After(until) }, 10*time.Second, 20*time.Millisecond, "renewed")
	require.NoError(t, lease.Release(ctx))
	second := <-next
	require.NotNil(t, second)
	require.Greater(t, second.Token(), lease.Token())

	_, err = store.Commit(ctx, dcs.Txn{If: []dcs.Guard{lease.Guard()}})
	require.ErrorIs(t, err, dcs.ErrConflict, "the old token is worth nothing")
	_, err = store.Commit(ctx, dcs.Txn{Then: []dcs.Op{{Key: lockKey, Delete: true}}})
	require.NoError(t, err)
	<-second.Context().Done()
	require.ErrorIs(t, second.Check(), ha.ErrFenced)
	require.NoError(t, second.Release(ctx))

	third, err := a.TryAcquire(ctx, lockKey, []byte("a"))
	require.NoError(t, err)
	require.NoError(t, server.Pause())
	<-third.Context().Done()
	require.ErrorIs(t, third.Check(), ha.ErrExpired)
	require.NoError(t, server.Resume())
	require.NoError(t, third.Release(ctx))
	fourth, err := b.Acquire(ctx, lockKey, []byte("b"))
	require.NoError(t, err)
	require.Greater(t, fourth.Token(), third.Token())
}

// TestAdoptOnEtcd takes a holding along through three sessions of two processes
// on a real store: when the machine has slept, and when the process has ended.
func TestAdoptOnEtcd(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wall := &steppedWall{}
	former, store := etcdNode(ctx, t, server, "a", func(cfg *ha.LockerConfig) {
		cfg.TTL, cfg.Wall = 20*time.Second, wall.now // a loaded machine must not be too late to adopt
	})
	first, err := former.TryAcquire(ctx, lockKey, []byte("a"))
	require.NoError(t, err)
	wall.step(time.Minute)
	require.ErrorIs(t, first.Check(), ha.ErrExpired)
	record := dcs.Txn{If: []dcs.Guard{dcs.At(recordKey, 0)}, Then: []dcs.Op{{Key: recordKey, Value: []byte("1")}}}
	second, err := former.Adopt(ctx, lockKey, first.Token(), []byte("a"), record)
	require.NoError(t, err)
	require.Equal(t, first.Token(), second.Token(), "etcd keeps it")
	require.NoError(t, first.Release(ctx))

	l, _ := etcdNode(ctx, t, server, "a")
	third, err := l.Adopt(ctx, lockKey, second.Token(), []byte("a"), dcs.Txn{If: []dcs.Guard{{Key: recordKey, Revision: 1}}})
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.Nil(t, third)
	third, err = l.Adopt(ctx, lockKey, second.Token(), []byte("a"), dcs.Txn{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return errors.Is(second.Check(), ha.ErrFenced) }, 30*time.Second, 20*time.Millisecond,
		"the former process notices")
	require.NoError(t, former.Close(ctx), "its session is revoked")
	kv, err := store.Get(ctx, lockKey)
	require.NoError(t, err)
	require.Equal(t, third.Session(), kv.Session)
	require.Equal(t, third.Token(), kv.Created)
	until := third.Until()
	require.Eventually(t, func() bool { return third.Until().After(until) }, 10*time.Second, 20*time.Millisecond, "renewed")
	require.NoError(t, third.Check())
	require.NoError(t, third.Release(ctx))
	_, err = store.Get(ctx, lockKey)
	require.ErrorIs(t, err, dcs.ErrNotFound)
}

// TestLockerOnEtcdHoldsMany: what proves the locks at a renewal stays within the
// limits of a transaction.
func TestLockerOnEtcdHoldsMany(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, _ := etcdNode(ctx, t, server, "a")
	var last *ha.Lease
	for i := range 130 {
		var err error
		last, err = l.TryAcquire(ctx, fmt.Sprintf("%s/%d", lockKey, i), nil)
		require.NoError(t, err)
	}
	until := last.Until()
	require.Eventually(t, func() bool { return last.Until().After(until) }, 10*time.Second, 20*time.Millisecond, "renewed")
}
