package ha_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
)

// TestLockerOnEtcd sees one lock through its life on a real store: held, waited
// for, handed over, taken away, and expired because the store stood still.
func TestLockerOnEtcd(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node := func(name string) (*ha.Locker, dcs.Store) {
		store, err := etcd.Open(ctx, etcd.Config{Endpoints: server.Endpoints()})
		require.NoError(t, err)
		l, err := ha.NewLocker(ha.LockerConfig{
			Store: store, TTL: 4 * time.Second, RenewEvery: time.Second, Margin: time.Second, Request: time.Second,
		})
		require.NoError(t, err)
		t.Cleanup(func() {
			closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			require.NoError(t, l.Close(closing), name)
			require.NoError(t, store.Close(), name)
		})
		return l, store
	}
	a, _ := node("a")
	b, store := node("b")

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
