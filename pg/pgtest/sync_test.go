package pgtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// C1: a commit that waits is not visible on the primary, may be on a standby.
func TestWaitingCommitIsHidden(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.freeze("a", "sender b")
	require.Equal(t, pgtest.Waiting, w.commit("a", "one"))
	require.False(t, w.visible("a", "one"))

	w.thaw("a", "sender b")
	w.begin("a", "two")
	w.Settle(func(e pgtest.Event) bool { return pgtest.Quiet(e) && e.Action != "reply" })
	require.True(t, w.visible("b", "one"), "P4: replayed before it is acknowledged")
	require.False(t, w.visible("a", "one"))
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.outcome("one"))
	require.True(t, w.visible("a", "one"))
}

// E1, E1b, P1: only a cancel ends the wait, and then says success.
func TestCancelIsNoAcknowledgement(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.freeze("b", "receiver")
	s := w.begin("a", "one")
	w.Settle(nil)
	require.Equal(t, pgtest.Waiting, w.outcome("one"))
	s.Cancel()
	require.Equal(t, pgtest.Cancelled, w.outcome("one"))
	require.True(t, w.visible("a", "one"))
	require.False(t, w.holds("b", "one"))
}

// E2, P2: terminated, the client knows nothing, and the row is visible.
func TestTerminateLeavesUnknown(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.freeze("b", "receiver")
	s := w.begin("a", "one")
	w.Settle(nil)
	s.Terminate()
	require.Equal(t, pgtest.Unknown, w.outcome("one"))
	require.True(t, w.visible("a", "one"))
}

// C2: a client that goes away leaves its backend waiting; one that asks for a
// cancel before it goes, as drivers do, leaves a commit that only it does not
// know of.
func TestClientsThatGoAway(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.freeze("b", "receiver")
	gone, gaveUp := w.begin("a", "gone"), w.begin("a", "gave up")
	w.Settle(nil)
	gone.Close()
	gaveUp.GiveUp()
	w.Settle(nil)
	require.Equal(t, pgtest.Unknown, w.outcome("gone"))
	require.Equal(t, pgtest.Unknown, w.outcome("gave up"))
	require.False(t, w.visible("a", "gone"))
	require.True(t, w.visible("a", "gave up"))
	w.thaw("b", "receiver")
	w.Settle(nil)
	require.True(t, w.visible("a", "gone"))
	require.Equal(t, pgtest.Unknown, w.outcome("gone"), "nobody is told")
}

// E3, P3, C3: after a restart, or the end of a backend, waiting commits are
// visible, on no standby.
func TestRestartShowsWaitingCommits(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*world){
		"immediate stop":  func(w *world) { w.kill("a") },
		"kill -9":         func(w *world) { w.ok(w.KillPostmaster("a")) },
		"kill -9 backend": func(w *world) { w.ok(w.KillBackend("a")) },
		"power failure":   func(w *world) { w.ok(w.CrashNode("a")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := replicated(t, pgtest.Config{}, "a", "b")
			w.setSync("a", "ANY 1 (b)")
			w.freeze("b", "receiver")
			require.Equal(t, pgtest.Waiting, w.commit("a", "one"))
			end(w)
			w.startPrimary("a", pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"b"}})
			require.Equal(t, pgtest.Unknown, w.outcome("one"))
			require.True(t, w.visible("a", "one"))
			require.False(t, w.holds("b", "one"))
			_, err := w.Connect("client", "a")
			require.ErrorIs(t, err, pgtest.ErrRefused, "the read gate")
		})
	}
}

// E4, P7: emptying the setting releases everybody as a success.
func TestEmptySettingReleases(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.freeze("b", "receiver")
	require.Equal(t, pgtest.Waiting, w.commit("a", "one"))
	w.setSync("a", "")
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.outcome("one"))
	require.False(t, w.holds("b", "one"))
}

// E5, P8: what was acknowledged by the old rule after the reload was asked for.
func TestReloadIsNoAdoption(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.setSync("a", "ANY 1 (b, c)")
	w.Settle(nil)
	w.freeze("b", "receiver")
	w.setSync("a", "ANY 2 (b, c)")
	hold := func(e pgtest.Event) bool {
		return pgtest.Quiet(e) && (e.Action != "reload" || e.Node != "a")
	}
	w.begin("a", "one")
	w.Settle(hold)
	require.Equal(t, pgtest.Acked, w.outcome("one"), "the walsender of c has its own copy")

	w.Settle(nil)
	require.Equal(t, pgtest.Waiting, w.commit("a", "two"))
}

func TestWithoutOwnCopy(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{Without: []pgtest.Rule{pgtest.RuleOwnCopy}}, "a", "b", "c")
	w.setSync("a", "ANY 1 (b, c)")
	w.Settle(nil)
	w.freeze("b", "receiver")
	w.freeze("a", "checkpointer")
	w.run["a"].Accept = func(e pgtest.Event) bool { return e.Process == "postmaster" }
	w.setSync("a", "ANY 2 (b, c)")
	w.begin("a", "one")
	w.Settle(func(e pgtest.Event) bool { return pgtest.Quiet(e) && e.Action != "reload" })
	require.Equal(t, pgtest.Waiting, w.outcome("one"))
}

// E6: with FIRST and a name that nobody has, each walsender shows that it has
// read the new setting.
func TestAdoptionShowsUnderFirst(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.setSync("a", "ANY 1 (b, c)")
	w.Settle(nil)
	w.freeze("a", "sender b")
	w.setSync("a", "FIRST 2 (dummy, b, c)")
	w.Settle(nil)
	require.Equal(t, 1, w.sender("a", "b").Priority)
	require.Equal(t, 3, w.sender("a", "c").Priority)
	w.thaw("a", "sender b")
	w.Settle(nil)
	require.Equal(t, 2, w.sender("a", "b").Priority)
	require.Equal(t, "sync", w.sender("a", "b").Sync)
	require.Equal(t, pgtest.Acked, w.commit("a", "one"))
}

// E7, P12: two walsenders of one name are two acknowledgements.
func TestOneNameTwice(t *testing.T) {
	t.Parallel()
	for rules, want := range map[pgtest.Rule]pgtest.Outcome{"": pgtest.Acked, pgtest.RuleNamesCountTwice: pgtest.Waiting} {
		w := replicated(t, pgtest.Config{Without: []pgtest.Rule{rules}}, "a", "b", "c")
		w.setSync("a", "ANY 2 (b, c)")
		w.Settle(nil)
		w.freeze("c", "receiver")
		require.Equal(t, pgtest.Waiting, w.commit("a", "one"))
		end, err := w.AddReceiver("client", "a", "b")
		w.ok(err)
		require.Equal(t, want, w.commit("a", "two"))
		end()
		w.Settle(nil)
		require.Len(t, w.senders("a"), 2)
	}
}

// X8: walsenders show the new setting, and commits do not wait before the
// checkpointer has read it. Two checkpoints prove that it has.
func TestCommitsWaitOnceTheCheckpointerKnows(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.freeze("b", "receiver")
	w.freeze("c", "receiver")
	w.freeze("a", "checkpointer")
	w.setSync("a", "ANY 1 (b, c)")
	w.Settle(nil)
	require.Equal(t, "quorum", w.sender("a", "b").Sync)
	require.Equal(t, pgtest.Acked, w.commit("a", "one"))
	require.False(t, w.holds("b", "one") || w.holds("c", "one"))

	w.thaw("a", "checkpointer")
	w.ok(w.ctl["a"].Checkpoint(t.Context()))
	w.ok(w.ctl["a"].Checkpoint(t.Context()))
	require.Equal(t, pgtest.Waiting, w.commit("a", "two"))
}

// X8: one CHECKPOINT is not enough, it may begin with the old configuration:
// here the request joins no running checkpoint, the running one does not count.
func TestRunningCheckpointProvesNothing(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.run["a"].Accept = func(e pgtest.Event) bool { return pgtest.Quiet(e) && e.Process != "checkpointer" }
	require.ErrorIs(t, w.ctl["a"].Checkpoint(t.Context()), pgtest.ErrImpatient)
	w.fire("a/checkpointer/begin")
	w.setSync("a", "ANY 1 (nobody)")
	w.fire("a/checkpointer/end")
	require.False(t, w.Server("a").Commits)
	w.run["a"].Accept = nil
	w.ok(w.ctl["a"].Checkpoint(t.Context()))
	require.True(t, w.Server("a").Commits)
}

// C4: names are compared without regard to case, FIRST counts the first that are
// connected, a cascaded standby never counts.
func TestWhoCounts(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.setSync("a", `ANY 1 ("B")`)
	require.Equal(t, pgtest.Acked, w.commit("a", "case"))
	w.setSync("a", "FIRST 1 (b, c)")
	w.freeze("b", "receiver")
	require.Equal(t, pgtest.Waiting, w.commit("a", "first"))
	require.Equal(t, "potential", w.sender("a", "c").Sync)
	w.thaw("b", "receiver")
	w.follow("c", "b")
	w.setSync("a", "ANY 2 (b, c)")
	require.Equal(t, pgtest.Waiting, w.commit("a", "cascaded"))
	require.True(t, w.holds("c", "cascaded"))
	w.setSync("b", "ANY 1 (c)")
	require.Equal(t, 0, w.sender("b", "c").Priority)

	w = replicated(t, pgtest.Config{Without: []pgtest.Rule{pgtest.RuleCascadedNeverCounts}}, "a", "b", "c")
	w.setSync("b", "ANY 1 (c)")
	w.follow("c", "b")
	require.Equal(t, 1, w.sender("b", "c").Priority)
}

// P11: a standby that catches up releases nobody.
func TestCatchupDoesNotCount(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{Batch: 1}, "a", "b")
	w.kill("b")
	w.setSync("a", "ANY 1 (b)")
	w.begin("a", "one")
	w.begin("a", "two")
	w.Settle(nil)
	w.startStandby("b", "a")
	w.Settle(func(e pgtest.Event) bool { return pgtest.Quiet(e) && e.Action != "ship" && e.Action != "caught up" })
	w.fire("a/sender b#2/ship")
	w.Settle(func(e pgtest.Event) bool { return pgtest.Quiet(e) && e.Action != "ship" && e.Action != "caught up" })
	require.Equal(t, "catchup", w.sender("a", "b").State)
	require.Equal(t, pgtest.Waiting, w.outcome("one"))
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.outcome("two"))
}

// C6, C7: what the levels wait for, with a frozen startup process.
func TestLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[pgtest.Level]pgtest.Outcome{
		pgtest.LevelLocal: pgtest.Acked, pgtest.LevelRemoteWrite: pgtest.Acked, pgtest.LevelOn: pgtest.Acked, pgtest.LevelRemoteApply: pgtest.Waiting,
	} {
		w := replicated(t, pgtest.Config{}, "a", "b")
		w.setSync("a", "ANY 1 (b)")
		w.Settle(nil)
		w.freeze("b", "startup")
		s := w.session("a")
		s.SetLevel(level)
		w.ok(s.Insert("one"))
		_, err := s.Commit()
		w.ok(err)
		w.Settle(nil)
		require.Equal(t, want, w.outcome("one"), "%s", level)
		w.thaw("b", "startup")
		w.Settle(nil)
		require.Equal(t, pgtest.Acked, w.outcome("one"), "%s", level)
	}
}

// P6, C25: remote_write survives the standby's processes, not its machine.
func TestPowerFailureLosesWhatIsNotFlushed(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.Settle(nil)
	s := w.session("a")
	s.SetLevel(pgtest.LevelRemoteWrite)
	w.ok(s.Insert("one"))
	_, err := s.Commit()
	w.ok(err)
	w.Settle(func(e pgtest.Event) bool { return pgtest.Quiet(e) && (e.Action != "flush" || e.Node == "a") })
	require.Equal(t, pgtest.Acked, w.outcome("one"))
	require.False(t, w.holds("b", "one"))
	w.ok(w.CrashNode("b"))
	w.startStandby("b", "")
	require.False(t, w.holds("b", "one"))
}

// X12: with acknowledgements missing a local commit still returns.
func TestSelfCheckDoesNotWait(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (nobody)")
	require.Equal(t, pgtest.Waiting, w.commit("a", "one"))
	w.ok(w.ctl["a"].SelfCheck(t.Context()))
}

// C18: a frozen postmaster admits nobody, and disturbs no session.
func TestFrozenPostmaster(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	s := w.session("a")
	status, err := w.ctl["a"].Status(t.Context())
	w.ok(err)
	require.Equal(t, pg.HealthAlive, status.Health)
	w.freeze("a", "postmaster")
	_, err = w.Connect("client", "a")
	require.ErrorIs(t, err, pgtest.ErrRefused)
	w.ok(s.Insert("one"))
	_, err = s.Commit()
	w.ok(err)
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.outcome("one"))
	status, err = w.ctl["a"].Status(t.Context())
	w.ok(err)
	require.Equal(t, pg.HealthAlive, status.Health, "the kept session")
	_, err = w.ctl["a"].SyncView(t.Context())
	require.ErrorIs(t, err, pgtest.ErrImpatient, "a new session")
	w.kill("a")
	require.Equal(t, pg.ProcessStopped, w.Server("a").Process)
}

// C18: what was released before the end may still be told afterwards.
func TestFrozenBackendAcknowledgesLate(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	s := w.begin("a", "one")
	w.freeze("a", s.Name())
	w.Settle(nil)
	require.Equal(t, pgtest.Waiting, w.outcome("one"))
	require.True(t, w.holds("b", "one"))
	w.fence("b")
	w.thaw("a", s.Name())
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.outcome("one"))
}
