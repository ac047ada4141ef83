package integration_test

import (
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
)

// TestDivergedPrimaryIsRewound: the primary ends with WAL that it could not
// ship, here because its walsenders stood still. It comes back by a rewind, in
// the same life, and without the row that nobody else had.
func TestDivergedPrimaryIsRewound(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	var mu sync.Mutex
	var rejoined []ha.RejoinInfo
	c.events["a"] = ha.Events{Rejoin: func(info ha.RejoinInfo) {
		mu.Lock()
		defer mu.Unlock()
		rejoined = append(rejoined, info)
	}}
	c.start("a", true)
	c.await("the first primary", func(r record.Cluster) bool { return r.Leader.Held() && r.Status.Exists() })
	c.start("b", false)
	c.start("c", false)
	before := c.await("two members", whole("a", 2, 1))
	require.NoError(t, c.sql("a", "CREATE TABLE t (i int)"))
	require.NoError(t, c.sql("a", "INSERT INTO t VALUES (1)"))

	status, err := c.nodes["a"].controller.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, status.Senders, 2)
	for _, sender := range status.Senders {
		require.NoError(t, syscall.Kill(sender.PID, syscall.SIGSTOP))
	}
	require.NoError(t, c.sql("a", "BEGIN; SET LOCAL synchronous_commit = local; INSERT INTO t VALUES (2); COMMIT"))
	c.stop("a") // a fast stop cannot end, since it waits for the walsenders
	r := c.await("another primary", func(r record.Cluster) bool {
		return r.Leader.Held() && r.Leader.Holder != "a" && r.Status.Value.Leader == r.Leader.Holder && r.Status.Value.Gate == "open"
	})
	successor := r.Leader.Holder
	require.NoError(t, c.sql(successor, "INSERT INTO t VALUES (3)"))

	c.start("a", true)
	after := c.await("a whole cluster", whole(successor, 2, 1))
	mu.Lock()
	var actions []string
	for _, info := range rejoined {
		require.NoError(t, info.Err)
		actions = append(actions, info.Action)
	}
	mu.Unlock()
	require.Contains(t, strings.Join(actions, " "), "rewind")
	require.NotContains(t, strings.Join(actions, " "), "clone")
	former := before.Quorum.Value.Primary
	require.Contains(t, after.Quorum.Value.Members, former, "it is the same life")
	var sum int
	require.NoError(t, c.sql("a", "SELECT sum(i) FROM t", &sum))
	require.Equal(t, 4, sum, "row 2 was on no other node")
}
