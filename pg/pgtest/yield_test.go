package pgtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// yield moves a primary's end to a standby, and checks that it is there.
func (w *world) yield(node, to string) pg.Position {
	w.Helper()
	end, err := w.ctl[node].Yield(w.Context(), to)
	w.ok(err)
	require.Equal(w.T, pg.ProcessStopped, w.Server(node).Process)
	require.Equal(w.T, end, w.Server(node).Held)
	w.flushed(node, to, end)
	return end
}

// flushed checks what a server says of itself.
func (w *world) flushed(asks, node string, end pg.Position) {
	w.Helper()
	remote, err := w.ctl[asks].Identify(w.Context(), upstream(node, ""))
	w.ok(err)
	held := pg.Position{Timeline: remote.Lineage.Timeline, LSN: remote.Flushed}
	require.Equal(w.T, end, held)
}

// Roles change in a row, with a frozen third server: nobody needs a rewind.
func TestYieldInARow(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	primary, target := "a", "b"
	for next := pg.Timeline(2); next < 6; next++ {
		require.Equal(t, pgtest.Acked, w.commit(primary, fmt.Sprint("in ", next)))
		w.freeze("c", "receiver")
		w.yield(primary, target)
		w.fence(target)
		w.promote(target, next)
		w.startStandby(primary, target)
		w.thaw("c", "receiver")
		w.follow("c", target)
		w.pass()
		for _, n := range []string{primary, "c"} {
			require.Equal(t, target, w.Server(n).Receiver)
			require.Equal(t, w.Server(target).Held, w.Server(n).Held)
		}
		primary, target = target, primary
	}
}

// The same term goes on when nobody took over.
func TestYieldAndBack(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	end := w.yield("a", "b")
	w.startPrimary("a", pg.SyncSetting{})
	for range 3 {
		w.pass()
	}
	held := w.Server("a").Held
	require.Equal(t, end.Timeline, held.Timeline)
	require.Greater(t, held.LSN, end.LSN)
	require.Equal(t, held, w.Server("b").Held)
}

func TestYieldWithStandbysThatHang(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]func(w *world){
		"frozen receiver": func(w *world) { w.freeze("c", "receiver") },
		"cut off":         func(w *world) { w.isolate("a", "c") },
		"full connection": func(w *world) {
			w.freeze("c", "receiver")
			for i := range 10 {
				w.commit("a", fmt.Sprint("more ", i))
			}
		},
		"frozen in the shutdown": func(w *world) {
			w.onStep = func(what string) {
				if what == "a/checkpointer/shutdown checkpoint" {
					w.onStep = nil
					w.freeze("c", "receiver")
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := replicated(t, pgtest.Config{}, "a", "b", "c")
			hang(w)
			w.run["a"].Accept = pgtest.Quiet // no timeout helps
			w.begin("a", "last")
			w.yield("a", "b")
			require.True(t, w.holds("b", "last"))
		})
	}
}

// A walsender that is frozen itself does not end. The server stays where it is
// until it is stopped at once.
func TestYieldWithAFrozenWalsender(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.freeze("a", "sender c")
	_, err := w.ctl["a"].Yield(t.Context(), "b")
	require.ErrorIs(t, err, pgtest.ErrImpatient)
	w.stillStopping("a")
}

// stillStopping checks that an immediate stop ends a shutdown, and that the
// server can be started again in its term.
func (w *world) stillStopping(node string) {
	w.Helper()
	require.Equal(w.T, pg.ProcessStopping, w.Server(node).Process)
	w.kill(node)
	require.Equal(w.T, pg.ProcessStopped, w.Server(node).Process)
	held := w.Server(node).Held
	w.startPrimary(node, pg.SyncSetting{})
	require.Equal(w.T, held.Timeline, w.Server(node).Held.Timeline)
	require.GreaterOrEqual(w.T, w.Server(node).Held.LSN, held.LSN)
}

// A target that hangs is noticed before anything is stopped, or ends with the
// caller's patience.
func TestYieldToATargetThatHangs(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.freeze("b", "receiver")
	w.run["a"].Accept = pgtest.Quiet
	_, err := w.ctl["a"].Yield(t.Context(), "b")
	require.ErrorIs(t, err, pg.ErrNotStopped)
	require.True(t, w.Server("a").Writable)
	w.thaw("b", "receiver")
	w.Settle(nil)

	w.onStep = func(what string) {
		if what == "a/agent/yield/signal" {
			w.onStep = nil
			w.freeze("b", "receiver")
		}
	}
	_, err = w.ctl["a"].Yield(t.Context(), "b")
	require.ErrorIs(t, err, pgtest.ErrImpatient)
	w.stillStopping("a")
}

// A target whose machine dies in the middle does not hold the stop up; that it
// has not flushed everything is for the caller to see.
func TestYieldToATargetThatDies(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.onStep = func(what string) {
		if what == "a/agent/yield/signal" {
			w.onStep = nil
			w.ok(w.CrashNode("b"))
		}
	}
	end, err := w.ctl["a"].Yield(t.Context(), "b")
	w.ok(err)
	require.Equal(t, end, w.Server("a").Held)
	w.startStandby("b", "")
	remote, err := w.ctl["a"].Identify(t.Context(), upstream("b", ""))
	w.ok(err)
	require.Less(t, remote.Flushed, end.LSN)
}

func TestYieldWantsAPrimaryAndAStandby(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	_, err := w.ctl["b"].Yield(t.Context(), "a")
	require.ErrorContains(t, err, "not a primary")
	_, err = w.ctl["a"].Yield(t.Context(), "c")
	require.ErrorContains(t, err, "does not stream")
	require.True(t, w.Server("a").Writable)
	w.kill("a")
	_, err = w.ctl["a"].Yield(t.Context(), "b")
	require.ErrorIs(t, err, pg.ErrNotRunning)
}

// The agent dies before any of its effects. What it has told the server goes
// on, and the next agent sees it and can do whatever it wants.
func TestAgentDiesInYield(t *testing.T) {
	t.Parallel()
	for effect, want := range map[string]pg.Process{
		"yield/mark":        pg.ProcessRunning,
		"look/yield":        pg.ProcessRunning,
		"yield/signal":      pg.ProcessRunning,
		"yield/end-senders": pg.ProcessStopping,
		"look/shutdown":     pg.ProcessStopped,
	} {
		t.Run(effect, func(t *testing.T) {
			t.Parallel()
			w := replicated(t, pgtest.Config{}, "a", "b", "c")
			w.freeze("c", "receiver")
			w.run["a"].Accept = pgtest.Quiet
			w.run["a"].Before = func(name string) error {
				if name == effect {
					return errDead
				}
				return nil
			}
			_, err := w.ctl["a"].Yield(t.Context(), "b")
			require.ErrorIs(t, err, errDead)

			next, err := w.Controller("a", &pgtest.Driver{Cluster: w.Cluster, Accept: pgtest.Quiet})
			w.ok(err)
			status, err := next.Status(t.Context())
			w.ok(err)
			require.Equal(t, want, status.Process)
			if want == pg.ProcessRunning {
				require.True(t, status.GateOpen)
				_, err = next.Yield(t.Context(), "b")
				w.ok(err)
			}
			w.ok(next.Stop(t.Context(), pg.StopImmediate))
			w.ok(next.StartPrimary(t.Context(), forever{}, pg.SyncSetting{}))
			require.Equal(t, pg.Timeline(1), w.Server("a").Held.Timeline)
		})
	}
}

// The agent dies between writing settings and having them read. They come into
// force before anything is built on what was seen.
func TestAgentDiesInAChange(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.run["a"].Before = func(name string) error {
		if name == "reload" {
			return errDead
		}
		return nil
	}
	wider, err := pg.ParseSyncSetting("ANY 1 (b, c)")
	w.ok(err)
	require.ErrorIs(t, w.ctl["a"].SetSync(t.Context(), wider), errDead)

	next, err := w.Controller("a", &pgtest.Driver{Cluster: w.Cluster})
	w.ok(err)
	status, err := next.Status(t.Context())
	w.ok(err)
	require.Equal(t, "ANY 1 (\"b\")", status.Sync.String())
	require.False(t, status.GateOpen, "which settings are in force is not known")
	view, err := next.SyncView(t.Context())
	w.ok(err)
	require.True(t, view.Setting.Equal(wider))
	w.ok(next.OpenGate(t.Context()))
	view, err = next.SyncView(t.Context())
	w.ok(err)
	require.True(t, view.Setting.Equal(wider))
	status, err = next.Status(t.Context())
	w.ok(err)
	require.True(t, status.GateOpen)
}

// A change that only its caller has given up ends too.
func TestChangeIsCutOff(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.freeze("a", "postmaster")
	ctx, cancel := context.WithCancel(t.Context())
	w.onStep = func(what string) {
		if what == "a/agent/reload" {
			cancel()
		}
	}
	setting, err := pg.ParseSyncSetting("ANY 1 (b)")
	w.ok(err)
	require.ErrorIs(t, w.ctl["a"].SetSync(ctx, setting), context.Canceled)
	status, err := w.ctl["a"].Status(t.Context())
	w.ok(err)
	require.True(t, status.GateOpen, "it was seen open, and the server has read nothing since")
	w.onStep = nil
	w.thaw("a", "postmaster")
	view, err := w.ctl["a"].SyncView(t.Context())
	w.ok(err)
	require.True(t, view.Setting.Equal(setting))
}
