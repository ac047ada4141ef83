package ha_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// TestLockerLeavesNoGoroutine uses Lockers and stores in all ways that end, also
// badly, and looks at what is left. It is not parallel: nothing else runs. Over the
// memory store the bubbles of all other tests prove the same.
func TestLockerLeavesNoGoroutine(t *testing.T) {
	for _, backend := range lockBackends {
		if backend.nowhere == nil {
			continue
		}
		t.Run(backend.name, func(t *testing.T) {
			connect := backend.start(t)(t)
			leavesNoGoroutine(t, connect, useAndClose)
		})
		t.Run(backend.name+" that cannot be reached", func(t *testing.T) {
			leavesNoGoroutine(t, backend.nowhere, useUnreachable)
		})
	}
}

func leavesNoGoroutine(t *testing.T, connect lockConnect, use func(*lockBench)) {
	t.Helper()
	before := goroutines()
	ctx, cancel := context.WithTimeout(t.Context(), casePatience)
	defer cancel()
	b := &lockBench{t: t, ctx: ctx, connect: connect, key: "/locks/leaks/lock"}
	use(b)
	var left []string
	b.until("all goroutines have ended", func() bool {
		left = left[:0]
		for id, stack := range goroutines() {
			if _, was := before[id]; !was {
				left = append(left, stack)
			}
		}
		return len(left) == 0 || ctx.Err() != nil
	})
	require.Empty(t, left, "goroutines are left")
}

// goroutines are the stacks of all goroutines, by the number of each.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := map[string]string{}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		id, _, _ := strings.Cut(stack, " [")
		stacks[id] = stack
	}
	return stacks
}

// useAndClose ends with a lease that nobody has released, and with a write that
// nobody waits for.
func useAndClose(b *lockBench) {
	t := b.t
	inner, err := b.connect(b.ctx)
	require.NoError(t, err)
	store := newFaultyStore(inner)
	cfg := brief
	cfg.Store = store
	l, err := ha.NewLocker(cfg)
	require.NoError(t, err)
	lease := b.acquire(l, "a")
	b.renewed(lease, 1)

	ctx, cancel := context.WithCancel(b.ctx)
	waited := make(chan error, 1)
	go func() {
		_, err := l.Acquire(ctx, b.key, nil)
		waited <- err
	}()
	cancel()
	require.ErrorIs(t, <-waited, context.Canceled)
	require.NoError(t, l.Hold(b.ctx, b.key+"-held", nil, func(context.Context, *ha.Lease) error { return nil }))
	store.setRule(func(c storeCall) fault { return fault{lost: c.takes(b.key + "-lost")} })
	_, err = l.TryAcquire(b.ctx, b.key+"-lost", nil)
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	store.setRule(nil)
	require.NoError(t, l.Close(b.ctx))
	require.NoError(t, store.Close())
	require.ErrorIs(t, lease.Check(), ha.ErrReleased)
}

// useUnreachable asks where nobody answers. Every call says so, in time.
func useUnreachable(b *lockBench) {
	t := b.t
	store, err := b.connect(b.ctx)
	require.NoError(t, err)
	cfg := brief
	cfg.Store = store
	l, err := ha.NewLocker(cfg)
	require.NoError(t, err)
	for range 2 {
		_, err = l.TryAcquire(b.ctx, b.key, nil)
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.True(t, dcs.SurelyNotDone(err))
	}
	_, err = l.Holder(b.ctx, b.key)
	require.Error(t, err)
	require.NotErrorIs(t, err, dcs.ErrNotFound, "an error is never \"nobody\"")
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	err = l.Hold(ctx, b.key, nil, func(context.Context, *ha.Lease) error {
		assert.Fail(t, "the work began")
		return nil
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the last attempt")
	require.NoError(t, l.Close(b.ctx))
	require.NoError(t, store.Close())
}
