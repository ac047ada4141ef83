package hatest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/hatest"
)

// runTimer runs one agent that sleeps for ten seconds of its own time, and
// returns the world time at which it woke, and what its clocks showed then.
func runTimer(t *testing.T, trouble func(w *hatest.World)) (woke, mono, wall time.Duration) {
	t.Helper()
	var world *hatest.World
	done := false
	cfg := hatest.Config{Hosts: []string{"a"}, Agent: func(_ context.Context, env hatest.Env) error {
		began, beganWall := env.Clock.Now(), env.Wall()
		env.Clock.Sleep(10 * time.Second)
		woke, mono, wall = world.Now(), env.Clock.Since(began), env.Wall().Sub(beganWall)
		done = true
		return nil
	}}
	hatest.Run(t, cfg, func(w *hatest.World) {
		world = w
		w.Start()
		w.RunFor(4 * time.Second)
		trouble(w)
		require.True(t, w.RunUntil(time.Minute, func() bool { return done }))
	})
	return woke, mono, wall
}

func TestClocksOfAHost(t *testing.T) {
	t.Parallel()
	const tick = time.Microsecond // of rounding
	for _, tc := range []struct {
		name             string
		trouble          func(w *hatest.World)
		woke, mono, wall time.Duration
	}{
		{"exact", func(*hatest.World) {}, 10 * time.Second, 10 * time.Second, 10 * time.Second},
		{"fast", func(w *hatest.World) { w.SetRate("a", 1.5) }, 8 * time.Second, 10 * time.Second, 10 * time.Second},
		{"slow", func(w *hatest.World) { w.SetRate("a", 0.5) }, 16 * time.Second, 10 * time.Second, 10 * time.Second},
		{"time of day set forward", func(w *hatest.World) { w.StepWall("a", time.Hour) }, 10 * time.Second, 10 * time.Second, time.Hour + 10*time.Second},
		{"paused", func(w *hatest.World) {
			w.PauseAgent("a")
			w.RunFor(20 * time.Second)
			w.ResumeAgent("a")
		}, 24 * time.Second, 24 * time.Second, 24 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			woke, mono, wall := runTimer(t, tc.trouble)
			require.InDelta(t, tc.woke, woke, float64(tick))
			require.InDelta(t, tc.mono, mono, float64(tick))
			require.InDelta(t, tc.wall, wall, float64(tick))
		})
	}
}

// What a killed agent still does reaches nothing, and it ends.
func TestADeadAgentHasNoEffect(t *testing.T) {
	t.Parallel()
	var after error
	cfg := hatest.Config{Hosts: []string{"a"}, Agent: func(ctx context.Context, env hatest.Env) error {
		<-ctx.Done()
		_, after = env.Store.List(context.WithoutCancel(ctx), "/")
		require.ErrorIs(t, env.Disk.Save(ha.LocalState{Pledge: 1}), hatest.ErrDead)
		return nil
	}}
	hatest.Run(t, cfg, func(w *hatest.World) {
		w.Start()
		w.RunFor(time.Second)
		w.KillAgent("a")
		w.RunFor(time.Second)
		require.ErrorIs(t, after, hatest.ErrDead)
	})
}
