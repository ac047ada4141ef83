package zk

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"
)

func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g gate
		clk, ctx := clock.New(), t.Context()
		require.NoError(t, g.enter(ctx))
		require.NoError(t, g.enter(ctx))

		start := clk.Now()
		alone := make(chan time.Duration, 1)
		go func() {
			if g.enterAlone(ctx, clk, time.Hour) == nil {
				alone <- clk.Since(start)
			}
		}()
		synctest.Wait()
		late := make(chan time.Duration, 1)
		go func() {
			if g.enter(ctx) == nil {
				late <- clk.Since(start)
			}
		}()
		time.Sleep(time.Second)
		g.leave()
		time.Sleep(time.Second)
		g.leave()
		require.Equal(t, 2*time.Second, <-alone, "it waits for all calls")
		time.Sleep(time.Second)
		require.Empty(t, late)
		g.leaveAlone()
		require.Equal(t, 3*time.Second, <-late, "calls that come later wait")

		require.NoError(t, g.enterAlone(ctx, clk, time.Second), "a call that hangs is not waited for")
		require.Equal(t, 4*time.Second, clk.Since(start))
		ended, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, g.enter(ended), context.Canceled)
		require.ErrorIs(t, g.enterAlone(ended, clk, time.Second), context.Canceled)
		g.leave() // the one that hung
		g.leaveAlone()

		require.NoError(t, g.enter(ctx))
		require.ErrorIs(t, g.enterAlone(ended, clk, time.Second), context.Canceled)
		require.NoError(t, g.enter(ctx), "who gave up keeps nobody out")
	})
}
