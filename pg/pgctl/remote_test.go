package pgctl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

// questions is how many connections of controllers a server has that ask
// something over the replication protocol.
func (n *node) questions() string {
	return n.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND application_name = 'pghad'")
}

// The connection of one Identify serves one more, and is not taken for a standby.
func TestIdentifyAgain(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newNode(t, "b")
	first, err := b.Identify(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.Equal(t, "1", a.questions())
	require.Empty(t, a.status().Senders)
	a.sql("INSERT INTO t VALUES (1)")
	second, err := b.Identify(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.Greater(t, second.Flushed, first.Flushed)
	a.await("the connection has been closed", func() bool { return a.questions() == "0" })

	// A server that was restarted is asked on a new one.
	_, err = b.Identify(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	_, err = b.Identify(b.ctx(), a.up("b"))
	require.Error(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	third, err := b.Identify(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.True(t, third.Standby)
	require.GreaterOrEqual(t, third.Flushed, second.Flushed)

	// An unused one is closed after a while.
	require.Equal(t, "1", a.questions())
	a.await("the connection has been closed", func() bool { return a.questions() == "0" })
}

// What a standby says of itself is never more than it holds, and of one timeline,
// while its upstream writes and is changed.
func TestIdentifyIsNeverTooHigh(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b, c := newStandby(t, "b", a), newStandby(t, "c", a)
	observer := newNode(t, "d")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if _, err := a.trySQL("INSERT INTO t SELECT generate_series(1, 500)"); err != nil {
				return // the primary has ended
			}
		}
	}()
	look := func() pg.Remote {
		remote, err := observer.Identify(observer.ctx(), c.up("d"))
		require.NoError(t, err)
		require.True(t, remote.Standby)
		return remote
	}
	written := func() pg.LSN {
		at, err := pg.ParseLSN(a.sql("SELECT pg_current_wal_flush_lsn()"))
		require.NoError(t, err)
		return at
	}
	for range 50 {
		remote := look()
		require.Equal(t, pg.Timeline(1), remote.Lineage.Timeline)
		require.LessOrEqual(t, remote.Flushed, written(), "no more than there is")
	}
	<-done
	end, err := a.Yield(a.ctx(), "b")
	require.NoError(t, err)
	require.NoError(t, b.Fence(b.ctx()))
	promotion, err := b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)
	require.NoError(t, c.Follow(c.ctx(), b.up("c")))
	for {
		remote := look()
		if remote.Lineage.Timeline == 1 {
			require.LessOrEqual(t, remote.Flushed, end.LSN, "timeline 1 ends here")
			continue
		}
		require.Equal(t, pg.Timeline(2), remote.Lineage.Timeline)
		require.Equal(t, promotion.SwitchAt, remote.Lineage.History[0].At)
		break
	}
}
