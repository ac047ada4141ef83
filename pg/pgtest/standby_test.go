package pgtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// X1, C8: with replay paused the receiver outlives its conninfo, and goes on to
// acknowledge. A fence ends it.
func TestReceiverOutlivesItsConninfo(t *testing.T) {
	t.Parallel()
	for rule, want := range map[pgtest.Rule]pgtest.Outcome{"": pgtest.Acked, pgtest.RuleReceiverOutlivesReload: pgtest.Waiting} {
		w := replicated(t, pgtest.Config{Without: []pgtest.Rule{rule}}, "a", "b")
		w.setSync("a", "ANY 1 (b)")
		w.Settle(nil)
		w.ok(w.PauseReplay("b"))
		w.ok(w.ctl["b"].Follow(t.Context(), pg.Upstream{}))
		w.Settle(nil)
		require.Equal(t, want, w.commit("a", "one"))
		if rule != "" {
			continue
		}
		_, err := w.ctl["b"].Position(t.Context())
		require.ErrorIs(t, err, pg.ErrNotFenced)

		require.Equal(t, w.row("one").End, w.fence("b").LSN)
		require.Equal(t, pgtest.Waiting, w.commit("a", "two"))
	}
}

// X2: a receiver that is connecting is not in pg_stat_wal_receiver, and can
// still come through.
func TestConnectingReceiverIsHidden(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.kill("b")
	w.setSync("a", "ANY 1 (b)")
	w.Settle(nil)
	w.isolate("a", "b")
	w.startStandby("b", "a")
	w.Settle(nil)
	w.freeze("b", "startup")
	w.ok(w.ctl["b"].Follow(t.Context(), pg.Upstream{}))
	w.Settle(nil)
	status, err := w.ctl["b"].Status(t.Context())
	w.ok(err)
	require.Nil(t, status.Receiver)
	require.Empty(t, status.Upstream)
	require.True(t, w.Server("b").Receiving)
	_, err = w.ctl["b"].Position(t.Context())
	require.ErrorIs(t, err, pg.ErrNotFenced)

	w.heal()
	require.Equal(t, pgtest.Acked, w.commit("a", "one"))
	w.thaw("b", "startup")
	w.Settle(nil)
	require.False(t, w.Server("b").Receiving)
	require.Equal(t, "RecoveryRetrieveRetryInterval", w.Server("b").Startup)
}

// X4: a standby whose setting was empty acknowledges alone after its promotion,
// as long as its checkpointer has not read the new one.
func TestVoterNeedsASetting(t *testing.T) {
	t.Parallel()
	for before, want := range map[string]pgtest.Outcome{"": pgtest.Acked, "ANY 1 (c)": pgtest.Waiting} {
		w := replicated(t, pgtest.Config{}, "a", "b")
		w.setSync("b", before)
		w.kill("b")
		w.startStandby("b", "a")
		w.Settle(nil)
		w.freeze("b", "checkpointer")
		w.setSync("b", "ANY 1 (nobody)")
		w.kill("a")
		w.fence("b")
		w.promote("b", 2)
		require.Equal(t, "nobody", w.Server("b").Setting.Names[0])
		require.Equal(t, want, w.commit("b", "one"), "before: %q", before)
	}
}

// X5: placeholders make the server take a reserved number, and others follow.
func TestReservedTimeline(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.kill("a")
	w.fence("b")
	w.fence("c")
	w.promote("b", 5)
	w.follow("c", "b")
	require.Equal(t, pgtest.Acked, w.commit("b", "one"))
	require.True(t, w.holds("c", "one"))
	require.Equal(t, pg.Timeline(5), w.Server("c").Held.Timeline)
	remote, err := w.ctl["c"].Identify(t.Context(), upstream("b", ""))
	w.ok(err)
	require.Len(t, remote.Lineage.History, 1)
	require.Equal(t, pg.Timeline(1), remote.Lineage.History[0].Timeline)
}

// X6, E8, P15, C9: after a restart the receive position is unknown, and the
// replay position is behind what was acknowledged until replay has ended.
func TestPositionAfterRestart(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{Batch: 1}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.Settle(nil)
	w.ok(w.PauseReplay("b"))
	require.Equal(t, pgtest.Acked, w.commit("a", "one"))
	w.kill("b")
	w.startStandby("b", "")
	w.freeze("b", "startup")
	status, err := w.ctl["b"].Status(t.Context())
	w.ok(err)
	require.False(t, status.ReceivedValid)
	require.Less(t, status.Held().LSN, w.row("one").End)
	w.thaw("b", "startup")
	require.Equal(t, w.row("one").End, w.fence("b").LSN)
}

// C9: half a record counts as received, is never replayed, and ends with the
// server that has received it.
func TestHalfARecord(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	whole := w.Server("a").Held.LSN
	w.begin("a", "one")
	w.fire("a/wal/flush")
	w.fire("a/sender b#1/ship part")
	w.isolate("a", "b")
	w.heal()
	w.fire("b/receiver#1/receive")
	w.fire("b/receiver#1/flush")
	w.kill("a")
	at := w.fence("b")
	require.Greater(t, at.LSN, whole)
	require.Less(t, at.LSN, w.row("one").End)
	require.Equal(t, whole, w.Server("b").Replayed)
	require.Equal(t, whole, w.promote("b", 2).SwitchAt)
}

// What a receiver flushes at its end is read only after the next sleep: a fence
// must see two.
func TestFenceSeesTwoSleeps(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.begin("a", "one")
	w.fire("a/wal/flush")
	w.fire("a/sender b#1/ship")
	w.fire("b/receiver#1/receive")
	w.kill("a")
	w.fire("b/receiver#1/closed")
	w.fire("b/startup/receiver gone")
	status, err := w.ctl["b"].Status(t.Context())
	w.ok(err)
	require.Equal(t, "RecoveryRetrieveRetryInterval", status.Startup)
	require.Equal(t, w.row("one").End, status.Received)
	require.Less(t, status.Replayed, status.Received)
	require.Equal(t, w.row("one").End, w.fence("b").LSN)
	require.Equal(t, w.row("one").End, w.Server("b").Replayed)
}

// X7, C12: two promotions to one number. A standby of the first acknowledges
// for the second what it does not hold, and pg_rewind sees nothing to do.
func TestTwinTimelines(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c", "d")
	w.commit("a", "base")
	w.kill("a")
	require.Equal(t, w.fence("b"), w.fence("d"))
	b, d := w.promote("b", 2), w.promote("d", 2)
	require.Equal(t, b, d, "nobody can tell the histories apart")
	w.follow("c", "b")
	for _, id := range []string{"b1", "b2", "b3", "b4", "b5", "b6"} {
		require.Equal(t, pgtest.Acked, w.commit("b", id))
	}
	require.True(t, w.holds("c", "b6"))
	w.kill("b")
	w.follow("c", "d")
	w.setSync("d", "ANY 1 (c)")
	w.commit("d", "d1")
	w.pass()
	require.Equal(t, pgtest.Acked, w.outcome("d1"))
	require.False(t, w.holds("c", "d1"), "a false acknowledgement")

	w.fence("c")
	w.ok(w.ctl["c"].Stop(t.Context(), pg.StopFast))
	_, err := w.ctl["c"].Rewind(t.Context(), upstream("d", ""))
	w.ok(err)
	require.True(t, w.holds("c", "b6") && !w.holds("c", "d1"), "no rewind required, it said")
}

// C12: with equal record boundaries even the records pass: two lineages in one.
func TestAlignedTwins(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c", "d")
	w.kill("a")
	w.fence("b")
	w.fence("d")
	w.promote("b", 2)
	w.promote("d", 2)
	w.follow("c", "b")
	w.commit("b", "same") // equal ids have equal lengths
	require.True(t, w.holds("c", "same"))
	w.kill("b")
	w.commit("d", "same")
	w.follow("c", "d")
	w.setSync("d", "ANY 1 (c)")
	require.Equal(t, pgtest.Acked, w.commit("d", "after"))
	require.True(t, w.holds("c", "after"))
	rows := w.Ledger()
	require.True(t, w.Contains("c", rows[0]))
	require.False(t, w.Contains("c", rows[1]), "the second one of that name was d's")
}

// X9, C24: a cascaded standby acknowledges right across the promotion of its
// upstream.
func TestCascadeAcrossPromotion(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.follow("c", "b")
	w.setSync("b", "ANY 1 (c)")
	w.Settle(nil)
	w.ok(w.ctl["a"].Stop(t.Context(), pg.StopFast))
	w.fence("b")
	w.promote("b", 2)
	require.Equal(t, pgtest.Acked, w.commit("b", "one"))
	require.True(t, w.holds("c", "one"))
	senders := w.senders("b")
	require.Len(t, senders, 1)
	require.Equal(t, "quorum", senders[0].Sync)
}

// C4: a walsender that was born on a standby has the priority that it gives
// itself when its receiver asks for the next timeline.
func TestDropSenders(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.follow("c", "b")
	w.ok(w.ctl["b"].DropSenders(t.Context()))
	require.Empty(t, w.senders("b"))
	w.Settle(nil)
	w.pass()
	require.Len(t, w.senders("b"), 1)
}

// X13, X14: a history file that is left behind. With a past switch point the
// server does not start; with a future one it never follows the real timeline.
func TestHistoryFileLeftBehind(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.commit("a", "one")
	w.ok(w.ctl["b"].Stop(t.Context(), pg.StopFast))
	w.ok(w.WriteHistory("b", 2, pg.History{{Timeline: 1, At: 1, Reason: "a tool"}}))
	require.ErrorContains(t, w.ctl["b"].StartStandby(t.Context(), upstream("a", "b")), "is not a child")
	require.Equal(t, pg.ProcessStopped, w.Server("b").Process)
	w.ok(w.RemoveHistory("b", 2))
	w.startStandby("b", "a")

	w.ok(w.ctl["c"].Stop(t.Context(), pg.StopFast))
	w.ok(w.WriteHistory("c", 2, pg.History{{Timeline: 1, At: 0x9000000, Reason: "a tool"}}))
	w.startStandby("c", "a")
	w.Settle(nil)
	require.Equal(t, "a", w.Server("c").Receiver)
	w.kill("a")
	w.fence("b")
	w.promote("b", 3)
	w.follow("c", "b")
	w.commit("b", "two")
	w.pass()
	w.pass()
	require.False(t, w.holds("c", "two"))

	w.ok(w.RemoveHistory("c", 2))
	w.pass()
	require.False(t, w.holds("c", "two"), "only a restart makes it forget")
	w.ok(w.ctl["c"].Stop(t.Context(), pg.StopFast))
	w.startStandby("c", "b")
	w.Settle(nil)
	require.True(t, w.holds("c", "two"))
}

// X14: an agent that dies between placeholder and promotion. The next start as a
// standby cleans up, also of a server that runs.
func TestInterruptedReservation(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.kill("a")
	w.fence("b")
	dead := false
	w.run["b"].Before = func(name string) error {
		if dead = dead || name == "promote/signal"; dead {
			return errDead
		}
		return nil
	}
	_, err := w.ctl["b"].Promote(t.Context(), forever{}, 4)
	require.ErrorIs(t, err, errDead)
	require.Equal(t, pg.RoleStandby, w.Server("b").Role)
	before := w.Server("b").Generation

	w.run["b"].Before = nil
	w.fence("c")
	w.promote("c", 2)
	w.follow("b", "c")
	require.Equal(t, before+2, w.Server("b").Generation, "restarted")
	require.Equal(t, pgtest.Acked, w.commit("c", "one"))
	require.True(t, w.holds("b", "one"))
}

// C13: a standby past the fork never follows, until it is rewound.
func TestStandbyAheadOfTheFork(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.isolate("a", "b")
	w.commit("a", "ahead")
	require.True(t, w.holds("c", "ahead"))
	w.kill("a")
	w.fence("b")
	w.promote("b", 2)
	w.commit("b", "one")
	w.follow("c", "b")
	w.pass()
	w.pass()
	require.False(t, w.holds("c", "one"))
	remote, err := w.ctl["c"].Identify(t.Context(), upstream("b", ""))
	w.ok(err)
	require.False(t, remote.Lineage.Contains(w.fence("c")))

	w.ok(w.ctl["c"].Stop(t.Context(), pg.StopFast))
	_, err = w.ctl["c"].Rewind(t.Context(), upstream("b", ""))
	w.ok(err)
	w.startStandby("c", "b")
	w.Settle(nil)
	require.True(t, w.holds("c", "one"))
	require.False(t, w.holds("c", "ahead"))
}

// E9, P14: promotion ends a pause of replay and replays everything first.
func TestPromotionOfPausedStandby(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.fence("b")
	w.kill("b")
	w.startStandby("b", "a")
	w.Settle(nil)
	w.ok(w.PauseReplay("b"))
	w.commit("a", "one")
	require.False(t, w.visible("b", "one"))
	w.kill("a")
	w.fence("b")
	w.promote("b", 2)
	require.True(t, w.visible("b", "one"))
}

// C24: a standby passes on what it has, and its end is noticed.
func TestCascade(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.follow("c", "b")
	w.commit("a", "one")
	require.True(t, w.holds("c", "one"))
	w.kill("b")
	w.commit("a", "two")
	require.False(t, w.holds("c", "two"))
	require.Empty(t, w.Server("c").Receiver)
	w.startStandby("b", "a")
	w.pass()
	require.True(t, w.holds("c", "two"))
}

// Packets that are lost one way: nothing is acknowledged, and nobody knows why.
func TestOneWayPartition(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.Settle(nil)
	w.cut["b>a"] = true
	require.Equal(t, pgtest.Waiting, w.commit("a", "one"))
	require.True(t, w.holds("b", "one"))
	w.heal()
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.outcome("one"), "the connection has survived")
	w.cut["a>b"] = true
	w.commit("a", "two")
	require.False(t, w.holds("b", "two"))
	w.pass()
	require.Empty(t, w.Server("b").Receiver, "it has timed out")
}

// C13: a standby past the fork reports what it has replayed, and so acknowledges
// for the new primary what it does not hold. Seen on 15.18: only who has compared
// lineages may point a standby anywhere.
func TestStandbyPastTheForkAcknowledgesFalsely(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.isolate("a", "b")
	for _, id := range []string{"1", "2", "3", "4", "5", "6"} {
		w.commit("a", id)
	}
	w.kill("a")
	w.fence("b")
	w.setSync("b", "ANY 1 (c)")
	w.promote("b", 2)
	require.Equal(t, pgtest.Waiting, w.commit("b", "one"))
	w.follow("c", "b")
	w.pass()
	require.Equal(t, pgtest.Acked, w.outcome("one"))
	require.False(t, w.holds("c", "one"))
	status, err := w.ctl["c"].Status(t.Context())
	w.ok(err)
	require.False(t, status.Streams())
}

// A receiver that waits at the end of a timeline goes on, on its old connection,
// when the standby has been pointed elsewhere, and outlives a cleared conninfo.
// Seen on 15.18: only its end makes a fence, and lets the standby follow another.
func TestWaitingReceiverKeepsItsConnection(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c", "d")
	w.isolate("a", "b")
	w.commit("a", "ahead")
	w.kill("a")
	w.fence("b")
	w.promote("b", 2)
	w.follow("c", "b")
	w.pass()
	require.Len(t, w.senders("b"), 1)

	w.follow("c", "d")
	w.pass()
	w.pass()
	require.Len(t, w.senders("b"), 1, "it is still here")
	require.Empty(t, w.senders("d"))

	w.ok(w.ctl["c"].Follow(t.Context(), pg.Upstream{}))
	w.pass()
	require.True(t, w.Server("c").Receiving)
	require.Equal(t, "RecoveryRetrieveRetryInterval", w.Server("c").Startup)
	_, err := w.ctl["c"].Position(t.Context())
	require.ErrorIs(t, err, pg.ErrNotFenced)

	w.fence("c")
	require.False(t, w.Server("c").Receiving)
	w.Settle(nil)
	require.Empty(t, w.senders("b"))
	w.follow("c", "d")
	w.Settle(nil)
	require.Len(t, w.senders("d"), 1)
}

// A frozen startup process: neither the receiver's end nor a fast stop help, the
// server is stopped at once and started fenced. What it holds is replayed there.
func TestFenceOfAFrozenStartup(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b")
	w.setSync("a", "ANY 1 (b)")
	w.Settle(nil)
	w.freeze("b", "startup")
	require.Equal(t, pgtest.Acked, w.commit("a", "one"))
	var effects []string
	w.run["b"].Before = func(name string) error {
		effects = append(effects, name)
		return nil
	}
	require.Equal(t, w.row("one").End, w.fence("b").LSN)
	require.Subset(t, effects, []string{"fence/end-receiver", "stop/signal-fast", "stop/signal-immediate", "start/launch"})
	require.True(t, w.visible("b", "one"))
}
