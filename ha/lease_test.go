package ha_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// lockedBuffer collects what several goroutines log.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

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
