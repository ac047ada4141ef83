package integration_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/record"
)

func TestThreeNodesFormAQuorumAndSurviveTheirPrimary(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.start("a", true)
	c.await("the first primary", func(r record.Cluster) bool { return r.Leader.Held() && r.Status.Exists() })
	c.start("b", false)
	c.start("c", false)
	c.await("two members", whole("a", 2, 1))
	require.NoError(t, c.sql("a", "CREATE TABLE t (i int)"))
	require.NoError(t, c.sql("a", "INSERT INTO t VALUES (1)"))

	t.Log("the postmaster is killed: it is started in place")
	c.killServer("a")
	require.Eventually(t, func() bool { return c.sql("a", "INSERT INTO t VALUES (2)") == nil }, timing.TTL*5, timing.Request/50)
	r := c.await("the same primary", whole("a", 2, 1))
	require.Equal(t, uint64(1), r.Failover.Value.ID, "no election was needed")

	t.Log("the primary's node ends: another one is elected at once")
	c.stop("a")
	r = c.await("another primary", func(r record.Cluster) bool {
		return r.Leader.Held() && r.Leader.Holder != "a" && r.Status.Value.Leader == r.Leader.Holder && r.Status.Value.Gate == "open"
	})
	successor := r.Leader.Holder
	require.NoError(t, c.sql(successor, "INSERT INTO t VALUES (3)"))
	var rows int
	require.NoError(t, c.sql(successor, "SELECT count(*) FROM t", &rows))
	require.Equal(t, 3, rows)

	t.Log("the old primary comes back as a replica")
	c.start("a", true)
	c.await("a whole cluster", whole(successor, 2, 1))
	require.NoError(t, c.sql("a", "SELECT count(*) FROM t", &rows))
}
