package pgctl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestInitStartStatusStop(t *testing.T) {
	t.Parallel()
	n := newNode(t, "a")

	_, err := n.OnDisk(n.ctx())
	require.ErrorIs(t, err, pg.ErrNoData)
	require.ErrorIs(t, n.StartStandby(n.ctx(), pg.Upstream{}), pg.ErrNoData)
	require.NoError(t, n.Init(n.ctx()))
	require.ErrorContains(t, n.Init(n.ctx()), "not empty")

	disk, err := n.OnDisk(n.ctx())
	require.NoError(t, err)
	require.True(t, disk.Clean)
	require.False(t, disk.Standby)
	require.NotEmpty(t, disk.SystemID)
	require.Equal(t, pg.ProcessStopped, n.status().Process)
	require.Equal(t, pg.HealthDead, n.status().Health)

	generation := n.status().Generation
	require.NoError(t, n.StartPrimary(n.ctx(), warrant{}, anyOf(1, "b", "c")))
	grown, err := n.WaitChange(n.ctx(), generation)
	require.NoError(t, err)
	require.Greater(t, grown, generation)

	status := n.status()
	require.Equal(t, pg.HealthAlive, status.Health)
	require.Equal(t, pg.ProcessRunning, status.Process)
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.Timeline(1), status.Timeline)
	require.NotZero(t, status.Flushed)
	require.Equal(t, disk.SystemID, status.SystemID)
	require.True(t, status.Sync.Equal(anyOf(1, "b", "c")))
	require.False(t, status.GateOpen)
	require.Empty(t, status.Pending)
	require.NoError(t, n.SelfCheck(n.ctx()), "a local commit needs no acknowledgement")

	require.NoError(t, n.Stop(n.ctx(), pg.StopFast))
	require.NoError(t, n.Stop(n.ctx(), pg.StopFast), "stopping a stopped server")
	status = n.status()
	require.Equal(t, pg.ProcessStopped, status.Process)
	require.Equal(t, pg.HealthDead, status.Health)
	require.ErrorIs(t, n.SelfCheck(n.ctx()), pg.ErrNotRunning)
}

func TestStandbyPromoteFollowRewind(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	c := newStandby(t, "c", a)

	a.kill9()
	require.NoError(t, b.Fence(b.ctx()))
	require.NoError(t, c.Fence(c.ctx()))
	position, err := b.Position(b.ctx())
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(1), position.Timeline)

	promotion, err := b.Promote(b.ctx(), warrant{}, 5)
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(5), promotion.Timeline)
	require.GreaterOrEqual(t, position.LSN, promotion.SwitchAt)
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	b.sql("INSERT INTO t VALUES (1)")

	require.NoError(t, c.Follow(c.ctx(), b.up("c")))
	c.awaitStreaming(b)
	require.Equal(t, pg.Timeline(5), c.status().Timeline)

	// The former primary comes back, diverges, and is rewound.
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	floor, err := a.Rewind(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(5), floor.Timeline)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
	require.Equal(t, "1", a.sql("SELECT count(*) FROM t"))
}
