package ha_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

const recordKey = "/service/test/quorum"

// lostHolding is a lease of l that has ended while the store was away, with its
// key still there. The store is back.
func lostHolding(t *testing.T, w *lockWorld, l *ha.Locker, f *faultyStore) *ha.Lease {
	t.Helper()
	lease, err := l.TryAcquire(background, lockKey, []byte("before"))
	require.NoError(t, err)
	f.setRule(halfOpen)
	<-lease.Context().Done()
	f.setRule(nil)
	synctest.Wait()
	require.True(t, w.exists(lockKey))
	return lease
}

// requireAdopted fails unless the lease is in force, is what the store shows,
// and stays so for longer than any earlier session can live.
func requireAdopted(t *testing.T, w *lockWorld, lease, old *ha.Lease) {
	t.Helper()
	require.GreaterOrEqual(t, lease.Token(), old.Token())
	require.NotEqual(t, old.Session(), lease.Session())
	time.Sleep(time.Minute)
	require.NoError(t, lease.Check())
	kv, err := w.admin.Get(background, lockKey)
	require.NoError(t, err)
	require.Equal(t, lease.Session(), kv.Session)
	require.Equal(t, lease.Token(), kv.Created)
	require.Equal(t, "after", string(kv.Value))
}

func TestAdoptAfterTheStoreWasAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		old := lostHolding(t, w, l, f)
		lease, err := l.Adopt(background, lockKey, old.Token(), []byte("after"), dcs.Txn{
			Then: []dcs.Op{{Key: recordKey, Value: []byte("1")}},
		})
		require.NoError(t, err)
		require.True(t, w.exists(recordKey))
		require.False(t, w.cluster.Expire(old.Session()), "the old session was closed")
		require.NoError(t, old.Release(background))
		requireAdopted(t, w, lease, old)
		_, err = l.Adopt(background, lockKey, old.Token(), []byte("again"), dcs.Txn{})
		require.ErrorIs(t, err, ha.ErrHeld)
		require.NoError(t, lease.Release(background))
		require.False(t, w.exists(lockKey))
	})
}

var _ = context.Background
var _ = fmt.Sprint
