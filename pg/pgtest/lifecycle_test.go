package pgtest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// C10: the control file names the old timeline until the checkpoint after the
// promotion has ended; nobody can rewind from the server before.
func TestControlFileLagsAfterPromotion(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.commit("a", "one")
	w.kill("a")
	w.fence("b")
	w.freeze("b", "checkpointer")
	w.promote("b", 2)
	remote, err := w.ctl["a"].Identify(t.Context(), upstream("b", ""))
	w.ok(err)
	require.Equal(t, pg.Timeline(2), remote.Lineage.Timeline)
	require.Equal(t, pg.Timeline(1), remote.CheckpointTimeline)
	require.False(t, remote.Standby)

	w.startStandby("a", "")
	w.fence("a")
	w.ok(w.ctl["a"].Stop(t.Context(), pg.StopFast))
	_, err = w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
	require.ErrorContains(t, err, "first checkpoint")
	w.thaw("b", "checkpointer")
	w.Settle(nil)
	remote, err = w.ctl["a"].Identify(t.Context(), upstream("b", ""))
	w.ok(err)
	require.Equal(t, pg.Timeline(2), remote.CheckpointTimeline)
}

func TestWithoutLateCheckpoint(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{Without: []pgtest.Rule{pgtest.RuleLateCheckpoint}}, "a", "b")
	w.kill("a")
	w.fence("b")
	w.freeze("b", "checkpointer")
	w.promote("b", 2)
	remote, err := w.ctl["a"].Identify(t.Context(), upstream("b", ""))
	w.ok(err)
	require.Equal(t, pg.Timeline(2), remote.CheckpointTimeline)
}

// C11: a crash between any two steps of a promotion, and what the server is when
// it is started as what it says it is, and as a standby.
func TestCrashInsidePromotion(t *testing.T) {
	t.Parallel()
	steps := []struct {
		event   string
		standby bool        // standby.signal is still there
		primary pg.Timeline // the timeline when started without it
	}{
		{"choose timeline", true, 1},
		{"remove standby.signal", false, 1}, // C11: a primary of the old timeline
		{"write history", false, 1},
		{"end of recovery", false, 2},
		{"writable", false, 2},
	}
	for _, step := range steps {
		t.Run(step.event, func(t *testing.T) {
			t.Parallel()
			w := replicated(t, pgtest.Config{}, "a", "b")
			w.commit("a", "one")
			w.kill("a")
			w.fence("b")
			crashed := false
			w.run["b"].Accept = func(e pgtest.Event) bool { return pgtest.Quiet(e) && !crashed }
			last := "b/startup/" + step.event
			w.onStep = func(what string) {
				if what == last && !crashed {
					crashed = true
					w.ok(w.CrashNode("b"))
				}
			}
			_, err := w.ctl["b"].Promote(t.Context(), forever{}, 2)
			require.Error(t, err)
			require.True(t, crashed)
			w.run["b"].Accept = nil
			disk, err := w.ctl["b"].OnDisk(t.Context())
			w.ok(err)
			require.Equal(t, step.standby, disk.Standby)
			require.False(t, disk.Clean)
			if step.standby {
				w.startStandby("b", "")
				require.Equal(t, pg.Timeline(1), w.fence("b").Timeline)
				w.promote("b", 2)
			} else {
				w.startPrimary("b", pg.SyncSetting{})
				require.Equal(t, step.primary, w.Server("b").Held.Timeline)
			}
			require.True(t, w.holds("b", "one"))
		})
	}
}

// E10, P20, C16: a fast stop ships everything with the shutdown checkpoint, to
// everybody who is connected, and waits for a frozen receiver.
func TestFastStopShipsEverything(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.begin("a", "one")
	w.freeze("c", "receiver")
	w.run["a"].Accept = pgtest.Quiet // wal_sender_timeout would end the wait
	err := w.ctl["a"].Stop(t.Context(), pg.StopFast)
	require.ErrorIs(t, err, pgtest.ErrImpatient)
	require.Equal(t, pg.ProcessStopping, w.Server("a").Process)
	require.Equal(t, w.Server("a").Held, w.Server("b").Held)
	w.thaw("c", "receiver")
	w.Settle(nil)
	require.Equal(t, pg.ProcessStopped, w.Server("a").Process)
	require.Equal(t, w.Server("a").Held, w.Server("c").Held)
	require.Equal(t, w.fence("b"), w.Server("a").Held)
	disk, err := w.ctl["a"].OnDisk(t.Context())
	w.ok(err)
	require.True(t, disk.Clean)
	require.Equal(t, "shut down", disk.State)

	// Its successor holds all of it: the old primary follows without a rewind.
	w.promote("b", 2)
	w.startStandby("a", "b")
	w.Settle(nil)
	require.Equal(t, "b", w.Server("a").Receiver)
	require.Equal(t, w.Server("b").Held, w.Server("a").Held)
}

// C16: an immediate stop ships nothing and leaves the data unclean.
func TestImmediateStopShipsNothing(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	before := w.Server("b").Held
	w.begin("a", "one")
	w.fire("a/wal/flush")
	w.kill("a")
	w.Settle(nil)
	require.Equal(t, before, w.Server("b").Held)
	require.True(t, w.holds("a", "one"))
	disk, err := w.ctl["a"].OnDisk(t.Context())
	w.ok(err)
	require.False(t, disk.Clean)
}

// What is not flushed when the server is killed was never there.
func TestUnflushedCommitIsGone(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a")
	w.begin("a", "one")
	w.kill("a")
	w.startPrimary("a", pg.SyncSetting{})
	require.Equal(t, pgtest.Unknown, w.outcome("one"))
	require.False(t, w.visible("a", "one"))
}

// C17, C19: after kill -9 of the postmaster its children go on for a moment, and
// a start waits for their end.
func TestOrphans(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	s := w.begin("a", "one")
	before := w.Server("a").Generation
	w.ok(w.KillPostmaster("a"))
	status, err := w.ctl["a"].Status(t.Context())
	w.ok(err)
	require.Equal(t, pg.HealthUnknown, status.Health)
	require.Equal(t, pg.ProcessCrashed, status.Process)
	require.Equal(t, before+1, status.Generation)
	w.Settle(func(e pgtest.Event) bool { return pgtest.Quiet(e) && e.Action != "exit" })
	require.Equal(t, pgtest.Acked, w.outcome("one"), "an orphan still commits")
	require.False(t, s.Lost())
	w.startPrimary("a", pg.SyncSetting{})
	require.True(t, s.Lost())
	require.Equal(t, before+2, w.Server("a").Generation)
}

// C14: what pg_rewind wants of target and source, and what an interruption
// leaves behind.
func TestRewind(t *testing.T) {
	t.Parallel()
	diverged := func(t *testing.T) *world {
		t.Helper()
		w := replicated(t, pgtest.Config{}, "a", "b")
		w.isolate("a", "b")
		w.commit("a", "lost")
		w.kill("a")
		w.fence("b")
		w.promote("b", 2)
		w.heal()
		w.commit("b", "one")
		return w
	}
	clean := func(w *world) {
		w.startStandby("a", "")
		w.fence("a")
		w.ok(w.ctl["a"].Stop(w.Context(), pg.StopFast))
	}
	t.Run("unclean", func(t *testing.T) {
		t.Parallel()
		w := diverged(t)
		_, err := w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
		require.ErrorContains(t, err, "not shut down cleanly")
	})
	t.Run("floor", func(t *testing.T) {
		t.Parallel()
		w := diverged(t)
		clean(w)
		w.run["a"].Before = func(name string) error {
			if name == "rewind/finish" {
				w.commit("b", "during")
			}
			return nil
		}
		floor, err := w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
		w.ok(err)
		require.False(t, w.holds("a", "during"), "the result is below the floor")
		require.GreaterOrEqual(t, floor.LSN, w.row("during").End)
		w.run["a"].Before = nil
		w.startStandby("a", "b")
		w.Settle(nil)
		require.GreaterOrEqual(t, w.Server("a").Held.Compare(floor), 0)
		require.True(t, w.holds("a", "during") && !w.holds("a", "lost"))
	})
	for _, at := range []string{"rewind/copy", "rewind/finish"} {
		t.Run("interrupted before "+at, func(t *testing.T) {
			t.Parallel()
			w := diverged(t)
			clean(w)
			w.run["a"].Before = func(name string) error {
				if name == at {
					return errDead
				}
				return nil
			}
			_, err := w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
			require.ErrorIs(t, err, pg.ErrIncompleteCopy)
			w.run["a"].Before = nil
			_, err = w.ctl["a"].OnDisk(t.Context())
			require.ErrorIs(t, err, pg.ErrIncompleteCopy)
			require.ErrorIs(t, w.ctl["a"].StartStandby(t.Context(), pg.Upstream{}), pg.ErrIncompleteCopy)
			_, err = w.ctl["a"].Clone(t.Context(), upstream("b", ""))
			w.ok(err)
			w.startStandby("a", "b")
			w.Settle(nil)
			require.True(t, w.holds("a", "one"))
		})
	}
	t.Run("only the floor is missing", func(t *testing.T) {
		t.Parallel()
		w := diverged(t)
		clean(w)
		w.run["a"].Before = func(name string) error {
			if name == "look/floor" {
				return errDead
			}
			return nil
		}
		_, err := w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
		require.ErrorIs(t, err, errDead)
		w.run["a"].Before = nil
		_, err = w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
		w.ok(err)
		w.startStandby("a", "b")
	})
	t.Run("WAL removed", func(t *testing.T) {
		t.Parallel()
		w := replicated(t, pgtest.Config{WALKeep: 200, SegmentSize: 64}, "a", "b")
		w.isolate("a", "b")
		for _, id := range []string{"1", "2", "3", "4", "5"} {
			w.commit("a", id)
		}
		w.ok(w.ctl["a"].Checkpoint(t.Context()))
		for _, id := range []string{"6", "7", "8", "9"} {
			w.commit("a", id)
		}
		w.pass() // the old walsender ends, and with it nothing holds WAL
		w.ok(w.ctl["a"].EnsureSlots(t.Context(), []pg.Slot{{Name: "slot_b", Advance: w.Server("a").Held.LSN}}))
		w.ok(w.ctl["a"].Checkpoint(t.Context()))
		w.kill("a")
		w.fence("b")
		w.promote("b", 2)
		w.heal()
		w.Settle(nil)
		clean(w)
		_, err := w.ctl["a"].Rewind(t.Context(), upstream("b", ""))
		require.ErrorIs(t, err, pg.ErrRewindImpossible)
	})
}

// C15: recovery of a standby without its signal ends on the old timeline, past
// the fork: that is why a start as a primary is for data that was one.
func TestCrashRecoveryOfAStandby(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.commit("a", "one")
	w.kill("b")
	w.startPrimary("b", pg.SyncSetting{})
	require.Equal(t, pg.Timeline(1), w.Server("b").Held.Timeline)
	w.commit("a", "two")
	require.NotEqual(t, w.Log("a"), w.Log("b"), "two primaries of one timeline")
}

// C20, P26: WAL that nobody holds is removed, and who needs it can only be
// copied anew; a slot holds it.
func TestRetention(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		slot   bool
		rule   pgtest.Rule
		caught bool
	}{{false, "", false}, {true, "", true}, {false, pgtest.RuleRetention, true}} {
		w := replicated(t, pgtest.Config{WALKeep: 100, SegmentSize: 64, Without: []pgtest.Rule{c.rule}}, "a", "b")
		up := upstream("a", "b")
		if c.slot {
			up.Slot = "slot_b"
		}
		w.ok(w.ctl["b"].Follow(t.Context(), up))
		w.Settle(nil)
		w.kill("b")
		w.Settle(nil)
		w.ok(w.ctl["a"].EnsureSlots(t.Context(), []pg.Slot{{Name: "slot_b", Advance: w.Server("a").Held.LSN}}))
		if !c.slot {
			w.commit("a", "zero")
			w.ok(w.ctl["a"].EnsureSlots(t.Context(), []pg.Slot{{Name: "slot_b", Advance: ^pg.LSN(0)}}))
		}
		for _, id := range []string{"1", "2", "3"} {
			w.commit("a", id)
		}
		if !c.slot {
			w.ok(w.ctl["a"].EnsureSlots(t.Context(), []pg.Slot{{Name: "slot_b", Advance: ^pg.LSN(0)}}))
		}
		w.ok(w.ctl["a"].Checkpoint(t.Context()))
		w.ok(w.ctl["b"].StartStandby(t.Context(), up))
		w.Settle(nil)
		require.Equal(t, c.caught, w.holds("b", "3"), "%+v %s", c, w.Server("b").Refusal)
	}
}

// A slot is one receiver's, and must exist.
func TestSlots(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	up := upstream("a", "b")
	up.Slot = "nobody_has_made_it"
	w.ok(w.ctl["b"].Follow(t.Context(), up))
	w.Settle(nil)
	require.Contains(t, w.Server("b").Refusal, "does not exist")
	up.Slot = "slot_c"
	w.ok(w.ctl["c"].Follow(t.Context(), up))
	w.Settle(nil)
	w.ok(w.ctl["b"].Follow(t.Context(), up))
	w.Settle(nil)
	require.Contains(t, w.Server("b").Refusal, "in use")
	status, err := w.ctl["a"].Status(t.Context())
	w.ok(err)
	require.Equal(t, []string{"slot_b", "slot_c"}, status.Slots)
}

// C22: an interrupted clone leaves the old data, or none; one whose source is
// restarted or promoted meanwhile fails.
func TestClone(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.commit("a", "one")
	w.kill("b")
	for _, at := range []string{"clone/start", "clone/copy", "look/floor", "clone/swap"} {
		w.run["b"].Before = func(name string) error {
			if name == at {
				return errDead
			}
			return nil
		}
		_, err := w.ctl["b"].Clone(t.Context(), upstream("a", ""))
		require.ErrorIs(t, err, errDead)
		w.run["b"].Before = nil
		disk, err := w.ctl["b"].OnDisk(t.Context())
		w.ok(err)
		require.NotEmpty(t, disk.SystemID)
	}
	w.run["b"].Before = func(name string) error {
		if name == "clone/copy" {
			w.kill("a")
			w.startPrimary("a", pg.SyncSetting{})
		}
		return nil
	}
	_, err := w.ctl["b"].Clone(t.Context(), upstream("a", ""))
	require.ErrorContains(t, err, "restarted or promoted")
	w.run["b"].Before = nil

	w.ok(w.LoseDisk("b"))
	_, err = w.ctl["b"].OnDisk(t.Context())
	require.ErrorIs(t, err, pg.ErrNoData)
	floor, err := w.ctl["b"].Clone(t.Context(), upstream("c", ""))
	w.ok(err)
	require.Equal(t, w.Server("c").Held, floor)
	w.startStandby("b", "a")
	w.Settle(nil)
	require.True(t, w.holds("b", "one"))
}

// Managed settings are the node's own, whatever a copy brings.
func TestCopyBringsNoSettings(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.setSync("a", "ANY 1 (b, c)")
	w.setSync("b", "ANY 1 (a, c)")
	w.kill("b")
	_, err := w.ctl["b"].Clone(t.Context(), upstream("a", ""))
	w.ok(err)
	w.startStandby("b", "a")
	require.Equal(t, []string{"a", "c"}, w.Server("b").Setting.Names)
}

// A server that runs, or that belongs to another system, is nobody's copy.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "x")
	require.Error(t, w.ctl["a"].Init(t.Context()))
	_, err := w.ctl["b"].Clone(t.Context(), upstream("a", ""))
	require.ErrorContains(t, err, "runs")
	w.ok(w.LoseDisk("x"))
	w.ok(w.ctl["x"].Init(t.Context()))
	w.startStandby("x", "a")
	w.Settle(nil)
	require.Contains(t, w.Server("x").Refusal, "identifiers")
	require.Error(t, w.ctl["a"].StartStandby(t.Context(), upstream("b", "a")))
	require.Error(t, w.ctl["a"].StartPrimary(t.Context(), forever{}, pg.SyncSetting{}))
	_, err = w.ctl["a"].Promote(t.Context(), nil, 2)
	require.ErrorIs(t, err, pg.ErrNoWarrant)
	require.Error(t, w.ctl["a"].Fence(t.Context()))
	w.ok(w.CrashNode("b"))
	_, err = w.ctl["b"].Position(t.Context())
	require.ErrorIs(t, err, pg.ErrNotFenced)
	require.ErrorIs(t, w.ctl["b"].Follow(t.Context(), upstream("a", "b")), pg.ErrNotRunning)
	_, err = w.ctl["b"].SyncView(t.Context())
	require.ErrorIs(t, err, pg.ErrNotRunning)
}

// An undetected rollback of a disk shows as a position behind an earlier one.
func TestRolledBackDisk(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	image, err := w.Image("b")
	w.ok(err)
	w.commit("a", "one")
	before := w.fence("b")
	w.ok(w.Restore("b", image))
	require.Negative(t, w.fence("b").Compare(before))
	require.False(t, w.holds("b", "one"))
}

// expired is a warrant that has ended.
type expired struct{ forever }

func (expired) Check() error { return errDead }

// The warrant is asked right before what cannot be undone.
func TestWarrant(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.kill("a")
	require.ErrorIs(t, w.ctl["a"].StartPrimary(t.Context(), expired{}, pg.SyncSetting{}), pg.ErrNoWarrant)
	require.Equal(t, pg.ProcessStopped, w.Server("a").Process)
	w.fence("b")
	_, err := w.ctl["b"].Promote(t.Context(), expired{}, 3)
	require.ErrorIs(t, err, pg.ErrNoWarrant)
	require.Equal(t, pg.RoleStandby, w.Server("b").Role)
}

// A Stop ends the operation that runs, and what that was about to do does not
// happen any more.
func TestStopWins(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.kill("a")
	w.fence("b")
	w.run["b"].Before = func(name string) error {
		if name == "promote/signal" {
			w.run["b"].Before = nil
			w.kill("b")
		}
		return nil
	}
	_, err := w.ctl["b"].Promote(t.Context(), forever{}, 2)
	require.ErrorContains(t, err, "being stopped")
	require.Equal(t, pg.ProcessStopped, w.Server("b").Process)
	w.startStandby("b", "")
	require.Equal(t, pg.Timeline(1), w.fence("b").Timeline)
}

// What a server was told before its agent died goes on.
func TestServerJobsOutliveTheAgent(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.kill("a")
	w.fence("b")
	ctx, die := context.WithCancel(t.Context())
	w.run["b"].Accept = func(e pgtest.Event) bool {
		if e.String() == "b/startup/choose timeline" {
			die()
			w.run["b"].Before = func(string) error { return errDead }
			return false
		}
		return pgtest.Quiet(e)
	}
	_, err := w.ctl["b"].Promote(ctx, forever{}, 2)
	require.ErrorIs(t, err, pgtest.ErrImpatient)
	w.Settle(nil)
	require.Equal(t, pg.RolePrimary, w.Server("b").Role)

	run := &pgtest.Driver{Cluster: w.Cluster}
	next, err := w.Controller("b", run)
	w.ok(err)
	status, err := next.Status(t.Context())
	w.ok(err)
	require.Equal(t, pg.RolePrimary, status.Role)
	require.False(t, status.GateOpen)
	done, err := next.Promote(t.Context(), forever{}, 2)
	w.ok(err)
	require.NotZero(t, done.SwitchAt)
}

// Every start and end of a postmaster is a change.
func TestWaitChange(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a")
	g, err := w.ctl["a"].WaitChange(t.Context(), 0)
	w.ok(err)
	_, err = w.ctl["a"].WaitChange(t.Context(), g)
	require.ErrorIs(t, err, pgtest.ErrImpatient)
	w.kill("a")
	next, err := w.ctl["a"].WaitChange(t.Context(), g)
	w.ok(err)
	require.Equal(t, g+1, next)
}
