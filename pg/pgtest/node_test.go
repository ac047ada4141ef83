package pgtest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg/pgtest"
)

var _ ha.PostgresController = (*pgtest.Controller)(nil)

// live lets a cluster live in a bubble: work is done every millisecond, timers
// pass every 200 ms.
func live(ctx context.Context, c *pgtest.Cluster) {
	for n := 0; ctx.Err() == nil; n++ {
		for _, e := range c.Enabled() {
			if !e.Rare() && (!e.Timer() || n%200 == 0) {
				c.Fire(e)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// patient is a Runner in a bubble: effects take a millisecond, waits poll and
// become impatient after a while.
type patient struct{}

func (patient) Effect(ctx context.Context, _ string) error {
	time.Sleep(time.Millisecond)
	return context.Cause(ctx)
}

func (patient) Await(ctx context.Context, what string, done func() bool) error {
	for n := 0; !done(); n++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if n > 2000 && what != "a start or an end of the server" {
			return pgtest.ErrImpatient
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (patient) Now() time.Time { return time.Now() }

// fleet is a cluster of real nodes on model servers.
type fleet struct {
	t      *testing.T
	pg     *pgtest.Cluster
	store  *memory.Cluster
	mu     sync.Mutex
	cut    map[string]bool
	stop   map[string]func()
	disks  map[string]ha.Disk
	agents map[string]*ha.Node
}

type memoryDisk struct{ state ha.LocalState }

func (d *memoryDisk) Load() (ha.LocalState, error) { return d.state, nil }
func (d *memoryDisk) Save(s ha.LocalState) error   { d.state = s; return nil }

func (f *fleet) start(name string) {
	f.t.Helper()
	if f.disks[name] == nil {
		f.disks[name] = &memoryDisk{}
	}
	ctl, err := f.pg.Controller(name, patient{})
	require.NoError(f.t, err)
	node, err := ha.NewNode(ha.NodeConfig{
		Cluster: "model", Name: name, Host: name, Port: 5432, Bootstrap: name == "a",
		Store: f.store.Client(name), Postgres: ctl, Disk: f.disks[name],
	})
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	f.agents[name] = node
	f.stop[name] = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("node %s: %v", name, err)
		}
	})
}

// primary waits for a server that admits clients and can be written to.
func (f *fleet) primary(except string) string {
	f.t.Helper()
	for range 60_000 {
		for _, n := range f.pg.Nodes() {
			if s := f.pg.Server(n); n != except && s.Writable && s.GateOpen {
				return n
			}
		}
		time.Sleep(time.Millisecond)
	}
	for _, n := range f.pg.Nodes() {
		f.t.Logf("%+v", f.pg.Server(n))
		if f.agents[n] != nil {
			f.t.Logf("%+v", f.agents[n].Status())
		}
	}
	require.FailNow(f.t, "there is no primary")
	return ""
}

// write commits on a node until one is acknowledged.
func (f *fleet) write(node, id string) {
	f.t.Helper()
	for i := range 60 {
		s, err := f.pg.Connect("client", node)
		if err == nil {
			attempt := fmt.Sprint(id, "-", i)
			require.NoError(f.t, s.Insert(attempt))
			_, err = s.Commit()
			require.NoError(f.t, err)
			time.Sleep(time.Second)
			row, err := f.pg.Commit(attempt)
			require.NoError(f.t, err)
			s.Close()
			if row.Outcome == pgtest.Acked {
				return
			}
		}
		time.Sleep(time.Second)
	}
	f.t.Logf("%+v", f.pg.Server(node))
	f.t.Logf("%+v", f.agents[node].Status())
	require.FailNow(f.t, "nothing is acknowledged", id)
}

// The node that ships runs on the model: it creates a cluster, grows it, fails
// over, and takes the old primary back.
func TestNodesOnTheModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{
			t: t, cut: map[string]bool{}, stop: map[string]func(){},
			disks: map[string]ha.Disk{}, agents: map[string]*ha.Node{}, store: memory.New(memory.Config{}),
		}
		var err error
		f.pg, err = pgtest.New(pgtest.Config{
			Nodes: []pgtest.Node{{Name: "a"}, {Name: "b"}, {Name: "c"}},
			Reachable: func(from, to string) bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return !f.cut[from] && !f.cut[to]
			},
			Now: time.Now,
		})
		require.NoError(t, err)
		ctx, end := context.WithCancel(t.Context())
		var living sync.WaitGroup
		living.Go(func() { live(ctx, f.pg) })
		defer func() {
			for _, n := range f.pg.Nodes() {
				f.stop[n]()
			}
			end()
			living.Wait()
			f.store.Close()
		}()
		for _, n := range f.pg.Nodes() {
			f.start(n)
		}
		require.Equal(t, "a", f.primary(""))
		time.Sleep(30 * time.Second)
		f.write("a", "first")
		require.Equal(t, 1, f.pg.Server("a").Setting.K)

		require.NoError(t, f.pg.CrashNode("a")) // its agent is stopped too
		f.mu.Lock()
		f.cut["a"] = true
		f.mu.Unlock()
		f.stop["a"]()
		next := f.primary("a")
		time.Sleep(5 * time.Second)
		f.write(next, "second")

		f.mu.Lock()
		delete(f.cut, "a")
		f.mu.Unlock()
		f.start("a")
		time.Sleep(60 * time.Second)
		f.write(next, "third")
		for _, n := range f.pg.Nodes() {
			for _, row := range f.pg.Ledger() {
				require.True(t, row.Outcome != pgtest.Acked || f.pg.Contains(n, row), "%s lacks %s", n, row.ID)
			}
		}
	})
}
