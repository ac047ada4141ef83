package pgctl_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestSyncSettingAndView(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b.1", a)
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b.1", "c.1")))
	a.await("adoption", func() bool {
		view, err := a.SyncView(a.ctx())
		require.NoError(t, err)
		require.True(t, view.Setting.Equal(anyOf(1, "b.1", "c.1")))
		require.NotZero(t, view.Flush)
		return len(view.Senders) == 1 && view.Senders[0].Sync == "quorum"
	})
	require.NoError(t, a.Checkpoint(a.ctx()))
	a.sql("INSERT INTO t VALUES (1)")

	view, err := b.SyncView(b.ctx())
	require.NoError(t, err)
	require.True(t, view.Setting.Equal(anyOf(1, "nobody")))
	require.Zero(t, view.Flush)
	require.Empty(t, view.Senders)

	// Somebody's ALTER SYSTEM does not survive the next change.
	a.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b.1")))
	require.Equal(t, `ANY 1 ("b.1")`, a.sql("SHOW synchronous_standby_names"))
	before := a.status().Senders[0].PID
	require.NoError(t, a.DropSenders(a.ctx()))
	a.await("a new walsender", func() bool {
		senders := a.status().Senders
		return len(senders) == 1 && senders[0].PID != before
	})
	require.NoError(t, b.Stop(b.ctx(), pg.StopFast))
	require.NoError(t, b.SetSync(b.ctx(), anyOf(1, "z")), "only written")
	_, err = b.SyncView(b.ctx())
	require.ErrorIs(t, err, pg.ErrNotRunning)
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b.1")))
	require.True(t, b.status().Sync.Equal(anyOf(1, "z")))
}

func TestSlots(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	slots := []pg.Slot{{Name: "x"}, {Name: "y"}}
	for _, n := range []*node{a, b} {
		require.NoError(t, n.EnsureSlots(n.ctx(), slots))
		require.NoError(t, n.EnsureSlots(n.ctx(), slots), "again")
		require.Equal(t, []string{"x", "y"}, n.status().Slots)
		require.Equal(t, "0", n.sql("SELECT count(*) FROM pg_replication_slots WHERE restart_lsn IS NULL"))
	}
	require.NoError(t, a.EnsureSlots(a.ctx(), nil))

	// An unused slot is advanced, never past what is replayed.
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	b.awaitStreaming(a)
	held := b.status().Replayed
	slots[0].Advance, slots[1].Advance = held-100, held+1<<30
	require.NoError(t, b.EnsureSlots(b.ctx(), slots))
	kept := func(name string) pg.LSN {
		lsn, err := pg.ParseLSN(b.sql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '" + name + "'"))
		require.NoError(t, err)
		return lsn
	}
	require.Equal(t, held-100, kept("x"))
	require.GreaterOrEqual(t, kept("y"), held)
	slots[0].Advance = 1
	require.NoError(t, b.EnsureSlots(b.ctx(), slots))
	require.Equal(t, held-100, kept("x"), "never back")

	// A slot in use is left alone.
	require.NoError(t, b.Follow(b.ctx(), pg.Upstream{Host: "127.0.0.1", Port: a.cfg.Port, Name: "b", Slot: "x"}))
	a.await("slot in use", func() bool { return a.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'x'") == "t" })
	require.NoError(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "x", Advance: held}}))
	require.True(t, slices.Contains(a.status().Slots, "x"))
	require.Error(t, a.EnsureSlots(a.ctx(), []pg.Slot{{Name: "Not Valid"}}))
}
