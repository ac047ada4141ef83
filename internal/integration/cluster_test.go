// Package integration_test runs whole nodes in one process: ha.Node with
// pg/pgctl on real servers, over the store in memory. It is the cheapest tier
// that shows what the pieces do together with a real PostgreSQL.
package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/pg/pgctl"
)

// timing is short, so that a lost node is replaced in seconds.
var timing = ha.Timing{
	TTL: 3 * time.Second, RenewEvery: 500 * time.Millisecond, Margin: time.Second, Observe: 300 * time.Millisecond,
	Request: 500 * time.Millisecond, RemovalDelay: time.Second, ElectionTimeout: 5 * time.Second,
}

// cluster is three nodes over one store.
type cluster struct {
	t     *testing.T
	dir   string
	store *memory.Cluster
	keys  record.Keys
	nodes map[string]*node
	// events are those of the agents, by node, for tests that want to be told.
	events map[string]ha.Events
}

// node is one host: its server's controller, its disk, and its agent's life.
type node struct {
	name       string
	port       int
	controller *pgctl.Controller
	disk       ha.Disk
	node       *ha.Node
	store      dcs.Store
	stop       context.CancelFunc
	done       chan error
}

func newCluster(t *testing.T, names ...string) *cluster {
	t.Helper()
	bin := testbed.NeedPostgres(t)
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	c := &cluster{
		t: t, dir: testbed.Dir(t), store: memory.New(memory.Config{Clock: clock.New()}), keys: keys, nodes: map[string]*node{}, events: map[string]ha.Events{},
	}
	ports, err := testbed.FreePorts(len(names))
	require.NoError(t, err)
	account, err := testbed.ServerAccount()
	require.NoError(t, err)
	for i, name := range names {
		home := filepath.Join(c.dir, name)
		require.NoError(t, account.MakeDir(home))
		disk, err := ha.FileDisk(filepath.Join(home, "agent"))
		require.NoError(t, err)
		state := filepath.Join(home, "state")
		require.NoError(t, account.MakeDir(state))
		controller, err := pgctl.New(pgctl.Config{
			BinDir: bin, DataDir: filepath.Join(home, "data"), StateDir: state, ListenHost: "127.0.0.1", Port: ports[i], Name: name,
			ReplicationPassword: "secret", HBA: []string{"host all all 127.0.0.1/32 trust"},
			Parameters: map[string]string{"shared_buffers": "16MB", "max_connections": "40", "fsync": "on"},
			Logger:     logger(t, name+"/pg"),
		})
		require.NoError(t, err)
		n := &node{name: name, port: ports[i], controller: controller, disk: disk}
		c.nodes[name] = n
		t.Cleanup(func() {
			if n.stop != nil {
				c.stop(name)
			}
			require.NoError(t, n.controller.Close())
		})
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.dumpLogs()
		}
	})
	return c
}

// logger shows what nodes say when the test runs with PGHAD_TEST_LOG set.
func logger(t *testing.T, name string) *slog.Logger {
	t.Helper()
	level := slog.LevelWarn
	if os.Getenv("PGHAD_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})).With("node", name)
}

func (c *cluster) dumpLogs() {
	for name := range c.nodes {
		logs, _ := filepath.Glob(filepath.Join(c.dir, name, "state", "*log*"))
		for _, path := range logs {
			text, _ := os.ReadFile(path)
			if len(text) > 6000 {
				text = text[len(text)-6000:]
			}
			c.t.Logf("=== %s\n%s", path, text)
		}
	}
}

func (c *cluster) start(name string, bootstrap bool) {
	c.t.Helper()
	n := c.nodes[name]
	n.store = c.store.Client(name)
	built, err := ha.NewNode(ha.NodeConfig{
		Cluster: "test", Name: name, Store: n.store, Postgres: n.controller, Disk: n.disk, Host: "127.0.0.1", Port: n.port,
		Timing: timing, Bootstrap: bootstrap, Logger: logger(c.t, name), Events: c.events[name],
	})
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(c.t.Context())
	n.node, n.stop, n.done = built, cancel, make(chan error, 1)
	go func() { n.done <- built.Run(ctx) }()
}

// stop ends a node in an orderly way.
func (c *cluster) stop(name string) {
	c.t.Helper()
	n := c.nodes[name]
	n.stop()
	require.NoError(c.t, <-n.done)
	require.NoError(c.t, n.store.Close())
	n.stop = nil
}

// await waits for a condition over all records; each look follows news of the store.
func (c *cluster) await(what string, good func(record.Cluster) bool) record.Cluster {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	observer := c.store.Client("observer")
	defer observer.Close() //nolint:errcheck // a test's observer
	var last record.Cluster
	for update := range observer.Watch(ctx, c.keys.Prefix()) {
		last = record.Parse(c.keys, update.KVs)
		if good(last) {
			return last
		}
	}
	for _, n := range c.nodes {
		if n.node != nil {
			status := n.node.Status()
			c.t.Logf("%s: %s because %s; waits: %s; tracker: %s", n.name, status.Plan, status.Because, status.Why, status.Tracker)
		}
	}
	c.t.Fatalf("waited too long for %s; quorum %s, failover %+v, leader %+v", what, last.Quorum.Value.Config, last.Failover.Value, last.Leader)
	return last
}

// whole reports whether leader leads a quorum of members others with k, all streaming.
func whole(leader string, members, k int) func(record.Cluster) bool {
	return func(r record.Cluster) bool {
		streaming := 0
		for _, h := range r.Members {
			if h.Value.State == "streaming" {
				streaming++
			}
		}
		recorded := r.Quorum.Value
		return (leader == "" || r.Leader.Holder == leader) && r.Leader.Held() && len(recorded.Members) == members && recorded.K == k &&
			len(r.QuorumMembers) == members && streaming == members && r.Status.Value.Leader == r.Leader.Holder && r.Status.Value.Term == r.Failover.Value.ID
	}
}

// sql runs a statement on a node.
func (c *cluster) sql(name, statement string, into ...any) error {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", c.nodes[name].port))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a test's session
	if len(into) > 0 {
		return conn.QueryRow(ctx, statement).Scan(into...)
	}
	_, err = conn.Exec(ctx, statement)
	return err
}

// killServer kills the postmaster, as an operator's kill -9 or the kernel would.
func (c *cluster) killServer(name string) {
	c.t.Helper()
	status, err := c.nodes[name].controller.Status(c.t.Context())
	require.NoError(c.t, err)
	require.NotZero(c.t, status.Postgres)
	process, err := os.FindProcess(status.Postgres)
	require.NoError(c.t, err)
	require.NoError(c.t, process.Kill())
}

var _ ha.PostgresController = (*pgctl.Controller)(nil)
