package pgtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// A commit waits for its standby, and its primary is killed: after the restart
// the row is there, though nobody was told and the standby does not have it.
func Example() {
	ctx := context.Background()
	cluster, err := pgtest.New(pgtest.Config{Nodes: []pgtest.Node{{Name: "a"}, {Name: "b"}}})
	must(err)
	run := &pgtest.Driver{Cluster: cluster}
	a, err := cluster.Controller("a", run)
	must(err)
	b, err := cluster.Controller("b", run)
	must(err)

	setting := pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"b"}}
	must(a.Init(ctx))
	must(a.StartPrimary(ctx, forever{}, setting))
	must(a.OpenGate(ctx))
	source := pg.Upstream{Host: "a", Port: 5432, Name: "b"}
	_, err = b.Clone(ctx, source)
	must(err)
	must(b.StartStandby(ctx, source))
	cluster.Settle(nil)

	must(cluster.Freeze("b", "receiver"))
	session, err := cluster.Connect("client", "a")
	must(err)
	must(session.Insert("row"))
	_, err = session.Commit()
	must(err)
	cluster.Settle(nil)
	for _, e := range cluster.Enabled() {
		if !e.Timer() {
			fmt.Println("may happen:", e)
		}
	}
	must(cluster.KillPostmaster("a"))
	must(a.StartPrimary(ctx, forever{}, setting))
	row := cluster.Ledger()[0]
	fmt.Println(row.Outcome, "visible:", cluster.Visible("a", row), "on b:", cluster.Contains("b", row))
	// Output: unknown visible: true on b: false
}

// ownServers are servers under controllers of one's own. The embedded ones stand for
// the machines, clients and faults, which do not depend on the controller.
type ownServers struct {
	pgtest.Servers
	calls map[string]int
}

func (s ownServers) Control(node string) pgtest.Control {
	return ownController{s.Servers.Control(node), s.calls}
}

// ownController is where your code goes; this one counts.
type ownController struct {
	pgtest.Control
	calls map[string]int
}

func (c ownController) Fence(ctx context.Context) error {
	c.calls["fence"]++
	return c.Control.Fence(ctx)
}

// This is how a controller is held to the recipes, here one around the model's.
func TestConformanceOfOnesOwn(t *testing.T) {
	t.Parallel()
	pgtest.Run(t, func(t *testing.T, names []string) pgtest.Servers {
		t.Helper()
		return ownServers{pgtest.Model(0)(t, names), map[string]int{}}
	}, pgtest.AtOnce(4))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
