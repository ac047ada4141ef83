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

// TestLeaseGuardFencesByItself: the token keeps an old holder out without any
// clock, also when the same node holds the lock again.
func TestLeaseGuardFencesByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, _ := w.node("a")
		write := func(ls *ha.Lease, value string) error {
			_, err := w.admin.Commit(background, dcs.Txn{
				If:   []dcs.Guard{ls.Guard()},
				Then: []dcs.Op{{Key: "/service/test/record", Value: []byte(value)}},
			})
			return err
		}
		old, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		require.NoError(t, write(old, "1"))
		require.NoError(t, old.Release(background))
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		require.ErrorIs(t, write(old, "2"), dcs.ErrConflict)
		require.NoError(t, write(lease, "3"))
	})
}

// TestLeaseValueRewritten: a holder may rewrite its lock's value; token and
// session stay.
func TestLeaseValueRewritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		lease, err := l.TryAcquire(background, lockKey, []byte("1"))
		require.NoError(t, err)
		_, err = f.Commit(background, dcs.Txn{
			If:   []dcs.Guard{lease.Guard()},
			Then: []dcs.Op{{Key: lockKey, Value: []byte("2"), Session: lease.Session()}},
		})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, lease.Check())
		require.NoError(t, lease.Release(background))
		require.False(t, w.exists(lockKey))
	})
}

// TestLeaseRewrittenByHand: what somebody writes to the key of a lock, and
// thereby unbinds it, does not end the lease, nor keep it from being released.
func TestLeaseRewrittenByHand(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, time.Minute} {
		for _, session := range []bool{true, false} {
			t.Run(fmt.Sprintf("released after %s, bound %t", wait, session), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newLockWorld(t)
					l, _ := w.node("a")
					_, err := l.TryAcquire(background, lockKey+"/other", nil)
					require.NoError(t, err)
					lease, err := l.TryAcquire(background, lockKey, []byte("1"))
					require.NoError(t, err)
					op := dcs.Op{Key: lockKey, Value: []byte("2")}
					if session {
						op.Session = lease.Session()
					}
					_, err = w.admin.Commit(background, dcs.Txn{Then: []dcs.Op{op}})
					require.NoError(t, err)
					time.Sleep(wait)
					require.NoError(t, lease.Check())
					require.NoError(t, lease.Release(background))
					require.False(t, w.exists(lockKey))
				})
			})
		}
	}
}

// TestLeaseReleaseUnreadable: after an unknown outcome it cannot be read whether
// the key is gone.
func TestLeaseReleaseUnreadable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		_, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		f.setRule(func(c storeCall) fault { return fault{fail: c.kind == callGet || c.deletes(lockKey)} })
		require.Error(t, lease.Release(background))
		f.setRule(nil)
		require.False(t, w.exists(lockKey))
		require.NoError(t, lease.Release(background))
	})
}

// TestLeaseReleaseWithOwnEndedContext: releasing needs a context that is alive,
// and says so.
func TestLeaseReleaseWithOwnEndedContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, f := w.node("a")
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		f.setRule(halfOpen)
		<-lease.Context().Done()
		f.setRule(nil)
		require.ErrorIs(t, lease.Release(lease.Context()), ha.ErrExpired)
		require.True(t, w.exists(lockKey))
		require.NoError(t, lease.Release(background))
		require.False(t, w.exists(lockKey))
	})
}

func TestLeaseContextOutlivesTheAcquiring(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLockWorld(t)
		l, _ := w.node("a")
		ctx, cancel := context.WithCancel(background)
		lease, err := l.Acquire(ctx, lockKey, nil)
		require.NoError(t, err)
		cancel()
		synctest.Wait()
		require.NoError(t, lease.Check())
		require.NoError(t, lease.Context().Err())
	})
}
