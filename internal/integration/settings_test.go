package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
)

// TestModeOfARunningCluster: the primary records another mode and puts it in force,
// in both directions, and only the primary does; commits go on.
func TestModeOfARunningCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	told := make(chan ha.ConfigInfo, 100)
	c.events["b"] = ha.Events{Config: func(info ha.ConfigInfo) { told <- info }}
	c.start("a", true)
	c.await("a leads", whole("a", 0, 0))
	c.start("b", false)
	c.start("c", false)
	before := c.await("a quorum of three", whole("a", 2, 1))
	require.Equal(t, quorum.ModeQuorum, before.Quorum.Value.Mode)
	require.NoError(t, c.sql("a", "CREATE TABLE t (n int)"))

	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, c.nodes[name].node.Reconfigure(ha.Settings{
			Mode: quorum.ModeAsync, Priority: 2, Config: &record.ConfigState{Version: 1, Pending: []string{"timing.ttl"}},
		}))
	}
	c.await("mode async", func(r record.Cluster) bool {
		a, _ := r.Member("a")
		return whole("a", 2, 0)(r) && r.Quorum.Value.Mode == quorum.ModeAsync && a.Priority == 2 && a.Config != nil && a.Config.Version == 1
	})
	var names string
	require.Eventually(t, func() bool {
		return c.sql("a", "SHOW synchronous_standby_names", &names) == nil && names == ""
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, c.sql("a", "INSERT INTO t VALUES (1)"))

	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, c.nodes[name].node.Reconfigure(ha.Settings{Mode: quorum.ModeQuorum}))
	}
	c.await("mode quorum", func(r record.Cluster) bool {
		return whole("a", 2, 1)(r) && r.Quorum.Value.Mode == quorum.ModeQuorum
	})
	require.NoError(t, c.sql("a", "INSERT INTO t VALUES (2)"))
	require.Error(t, c.nodes["a"].node.Reconfigure(ha.Settings{Mode: "sync"}))
	require.Error(t, c.nodes["a"].node.Reconfigure(ha.Settings{Exit: "soon"}))

	require.False(t, (<-told).Record.Exists(), "at first there is no record")
	_, err := dcs.Put(t.Context(), c.nodes["a"].store, c.keys.Config(), []byte(`{"format":1,"version":1,"values":{"mode":"async"}}`))
	require.NoError(t, err)
	info := <-told
	require.NoError(t, info.Err)
	require.EqualValues(t, 1, info.Record.Value.Version)
	_, err = dcs.Put(t.Context(), c.nodes["a"].store, c.keys.Config(), []byte(`{"format":2}`))
	require.NoError(t, err)
	info = <-told
	require.ErrorIs(t, info.Err, record.ErrNewer)
	c.await("nobody minds a record that cannot be read", whole("a", 2, 1))
}
