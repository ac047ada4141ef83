package integration_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
)

// rebuilds counts the rewinds and clones of nodes.
type rebuilds struct {
	mu    sync.Mutex
	nodes []string
}

func (r *rebuilds) watch(c *cluster, names ...string) {
	for _, name := range names {
		c.events[name] = ha.Events{Rejoin: func(info ha.RejoinInfo) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if info.Action != "follow" {
				r.nodes = append(r.nodes, name+": "+info.Action)
			}
		}}
	}
}

func (r *rebuilds) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = nil
}

func (r *rebuilds) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes
}

// schedule asks for a switchover as an operator does.
func (c *cluster) schedule(to string) {
	c.t.Helper()
	client := c.store.Client("operator")
	defer client.Close() //nolint:errcheck // a test's client
	records, err := ha.ReadRecords(c.t.Context(), client, c.keys)
	require.NoError(c.t, err)
	asked := record.Switchover{Hostname: records.Leader.Holder, Destination: to, ID: to + records.Leader.Holder}
	_, err = client.Commit(c.t.Context(), dcs.Txn{
		If: []dcs.Guard{
			records.SwitchoverState.Guard(c.keys.SwitchoverState()), records.Switchover.Guard(c.keys.SwitchoverMaster()),
		},
		Then: []dcs.Op{
			{Key: c.keys.SwitchoverState(), Value: []byte(record.SwitchoverScheduled)},
			{Key: c.keys.SwitchoverMaster(), Value: record.Encode(asked)},
		},
	})
	require.NoError(c.t, err)
}

func TestSwitchoversInARow(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	var rebuilt rebuilds
	rebuilt.watch(c, "a", "b", "c")
	c.start("a", true)
	c.await("the first primary", func(r record.Cluster) bool { return r.Leader.Held() && r.Status.Exists() })
	c.start("b", false)
	c.start("c", false)
	c.await("two members", whole("a", 2, 1))
	require.NoError(t, c.sql("a", "CREATE TABLE t (i int)"))
	rebuilt.forget()

	from := "a"
	for i, to := range []string{"b", "c", "a", ""} {
		began := time.Now()
		c.schedule(to)
		r := c.await("the end of the switchover", func(r record.Cluster) bool { return !r.SwitchoverState.Value.Open() })
		require.Equal(t, record.SwitchoverDone, r.SwitchoverState.Value, r.Switchover.Value.Reason)
		t.Logf("switchover %d took %s", i, time.Since(began).Round(time.Millisecond))
		leader := r.Leader.Holder
		require.NotEqual(t, from, leader)
		if to != "" {
			require.Equal(t, to, leader)
		}
		c.await("clients are admitted", func(r record.Cluster) bool {
			return r.Status.Value.Leader == leader && r.Status.Value.Gate == "open"
		})
		require.NoError(t, c.sql(leader, "INSERT INTO t VALUES (1)"))
		c.await("a whole cluster", whole(leader, 2, 1))
		require.Empty(t, rebuilt.list(), "the old primary follows as it is")
		from = leader
	}
	var rows int
	require.NoError(t, c.sql(from, "SELECT count(*) FROM t", &rows))
	require.Equal(t, 4, rows)

	t.Log("to a node that is not there, the primary goes on")
	c.schedule("x")
	r := c.await("the refusal", func(r record.Cluster) bool { return !r.SwitchoverState.Value.Open() })
	require.Equal(t, record.SwitchoverFailed, r.SwitchoverState.Value)
	require.Contains(t, r.Switchover.Value.Reason, "x is no recorded member")
	require.NoError(t, c.sql(from, "INSERT INTO t VALUES (2)"))
}
