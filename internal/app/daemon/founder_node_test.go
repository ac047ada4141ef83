package daemon

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/testbed"
)

// runNodeOf runs a node until the test ends, and waits until the cluster's records
// show what is wanted.
func runNodeOf(t *testing.T, cfg *config.Config, store dcs.Store, good func(clusterview.View) bool) {
	t.Helper()
	running, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- Run(running, cfg, Options{Logger: quiet, Version: "test"}) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	news := store.Watch(ctx, "/service/orders/")
	for {
		view, err := clusterview.Read(ctx, store, "service", "orders")
		if err == nil && good(view) {
			return
		}
		select {
		case _, open := <-news:
			require.True(t, open, "in vain until the end of patience: %+v", view)
		case err := <-ended:
			ended <- nil
			require.FailNow(t, "the node has ended", "%v", err)
		}
	}
}

// stranger makes a server that runs without pghad, and stops it.
func stranger(t *testing.T) (server *testbed.PostgresServer, data string) {
	t.Helper()
	server = testbed.StartPostgres(t, nil)
	return server, filepath.Join(filepath.Dir(server.LogFile()), "data")
}

func startedStore(t *testing.T) (endpoint string, store dcs.Store) {
	t.Helper()
	server := testbed.StartEtcd(t)
	store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: server.Endpoints()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return server.Endpoints()[0], store
}

func open(timeline uint32) func(clusterview.View) bool {
	return func(v clusterview.View) bool {
		return v.Term == 1 && v.Gate == "open" && uint32(v.Timeline) == timeline
	}
}

// TestClusterOfExistingData: the server of somebody else becomes a cluster, once it
// has been shut down; not before, and nothing is touched then.
func TestClusterOfExistingData(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	endpoint, store := startedStore(t)
	server, data := stranger(t)
	cfg, _ := nodeConfig(t, endpoint, "PGHAD_POSTGRES_DATA_DIR="+data, "PGHAD_BOOTSTRAP_FROM=existing")
	before := tree(t, filepath.Dir(data))
	err := Run(t.Context(), cfg, Options{Logger: quiet, Version: "test"})
	require.EqualError(t, err, "PGHAD_BOOTSTRAP_FROM: bootstrap_from: existing takes in a server that was shut down, and one runs in "+data+
		"; stop it (fast, not immediate), and disable its unit, so that nobody starts it again")
	require.Subset(t, tree(t, filepath.Dir(data)), before)
	require.NoError(t, server.Stop())

	runNodeOf(t, cfg, store, open(1))
	base, err := os.ReadFile(filepath.Join(data, "postgresql.conf"))
	require.NoError(t, err)
	require.Contains(t, string(base), "max_connections = 100", "its settings are kept")
	require.FileExists(t, filepath.Join(data, "pg_hba.conf.old"))
}

// TestClusterOfABackup: a cluster begins with a backup that was recovered, on the
// timeline that this has begun, and other nodes copy it.
func TestClusterOfABackup(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	endpoint, store := startedStore(t)
	server, data := stranger(t)
	require.NoError(t, server.Stop())
	cfg, dir := nodeConfig(t, endpoint, "PGHAD_BOOTSTRAP_FROM=backup", `PGHAD_BACKUP_COMMAND=["/bin/cp", "-R", "`+data+`/.", "{dir}"]`)
	runNodeOf(t, cfg, store, open(2))
	require.FileExists(t, filepath.Join(dir, "data", "pg_wal", "00000002.history"))

	second, _ := nodeConfig(t, endpoint, "PGHAD_NODE=b", "PGHAD_BOOTSTRAP=false")
	runNodeOf(t, second, store, func(v clusterview.View) bool {
		return v.Quorum != nil && len(v.Quorum.Members) == 1 && v.Quorum.K == 1 && v.Timeline == 2
	})
}
