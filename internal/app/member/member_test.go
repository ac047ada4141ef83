package member_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/app/daemon"
	"github.com/pghad/pghad/internal/app/member"
	"github.com/pghad/pghad/internal/reaper"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds the wait for events that come within seconds.
const patience = time.Minute

// trio is the configuration of three nodes on this machine.
func trio(t *testing.T, scheme string, more ...string) []*config.Config {
	t.Helper()
	ports, err := testbed.FreePorts(6)
	require.NoError(t, err)
	var endpoints, peers []string
	names := []string{"a", "b", "c"}
	for i, name := range names {
		endpoints = append(endpoints, fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[i]))
		peers = append(peers, fmt.Sprintf("%s: '%s://127.0.0.1:%d'", name, scheme, ports[3+i]))
	}
	var all []*config.Config
	for i, name := range names {
		cfg, err := config.Load(config.Options{Env: append([]string{
			"PGHAD_CLUSTER=orders", "PGHAD_NODE=" + name, "PGHAD_POSTGRES_DATA_DIR=" + t.TempDir() + "/data", "PGHAD_POSTGRES_REPLICATION_PASSWORD=x",
			"PGHAD_DCS_TYPE=embedded", "PGHAD_DCS_ENDPOINTS=" + strings.Join(endpoints, ","),
			"PGHAD_DCS_EMBEDDED_LISTEN=" + endpoints[i], "PGHAD_DCS_EMBEDDED_MEMBERS={" + strings.Join(peers, ", ") + "}",
		}, more...)})
		require.NoError(t, err)
		all = append(all, cfg)
	}
	return all
}

// run runs a member until stop is called.
func run(t *testing.T, cfg *config.Config) (stop func()) {
	t.Helper()
	parent, child := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- member.Run(context.Background(), cfg, parent) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			require.NoError(t, child.Close())
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

// TestMembers: three agree, by TLS with certificates on all sides, and the loss of
// one is not noticed.
func TestMembers(t *testing.T) {
	t.Parallel()
	files, err := testbed.NewCertificate(t.TempDir())
	require.NoError(t, err)
	all := trio(t, "https", "PGHAD_DCS_TLS_CA_FILE="+files.CA, "PGHAD_DCS_TLS_CERT_FILE="+files.Cert, "PGHAD_DCS_TLS_KEY_FILE="+files.Key)
	var stops []func()
	for _, cfg := range all {
		stops = append(stops, run(t, cfg))
	}
	store, err := daemon.OpenStore(t.Context(), all[0], slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	put := func(value string) func() bool {
		return func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := dcs.Put(ctx, store, "/k", []byte(value))
			return err == nil
		}
	}
	require.Eventually(t, put("three"), patience, 10*time.Millisecond)
	stops[0]()
	require.Eventually(t, put("two"), patience, 10*time.Millisecond)
	run(t, all[0])
	stops[1]()
	require.Eventually(t, put("two others"), patience, 10*time.Millisecond, "it is back with its data")
	kv, err := store.Get(t.Context(), "/k")
	require.NoError(t, err)
	require.Equal(t, "two others", string(kv.Value))
}

func TestStartRefusesAPortThatIsTaken(t *testing.T) {
	t.Parallel()
	cfg := trio(t, "http")[0]
	taken, err := net.Listen("tcp", cfg.DCS.Addresses()[0])
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = member.Start(ctx, cfg, slog.New(slog.DiscardHandler))
	require.EqualError(t, err, "PGHAD_DCS_EMBEDDED_LISTEN: dcs.embedded.listen: "+cfg.DCS.Addresses()[0]+
		" is used by another program; stop that one, or write another port")
}

func TestOtherStoresHaveNoMember(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.Options{Client: true, Env: []string{"PGHAD_CLUSTER=orders", "PGHAD_DCS_ENDPOINTS=http://127.0.0.1:1"}})
	require.NoError(t, err)
	m, err := member.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Nil(t, m)
	m.Close()
	require.ErrorContains(t, member.Run(t.Context(), cfg, strings.NewReader("")), "where dcs.type is embedded")
}

// timing is short, so that a lost node is replaced in seconds.
var timing = map[string]string{
	"ttl": "4s", "renew": "1s", "margin": "1s", "observe": "500ms", "request": "1s", "removal_delay": "2s", "election_timeout": "5s",
}

// TestClusterOfItsOwnStore: three nodes that need nothing else. One is lost with
// its member, another leads; it comes back with both.
func TestClusterOfItsOwnStore(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	testbed.NeedPostgres(t)
	orphans, err := reaper.Start(reaper.Config{})
	require.NoError(t, err)
	defer orphans.Stop()
	dir := testbed.Dir(t)
	program := filepath.Join(dir, "pghad")
	output, err := exec.Command("go", "build", "-o", program, "github.com/pghad/pghad/cmd/pghad").CombinedOutput()
	require.NoError(t, err, "%s", output)
	c, err := testbed.NewCluster(testbed.ClusterConfig{
		Binary: program, Dir: dir, Store: config.StoreEmbedded, Timing: timing, Parameters: map[string]string{"shared_buffers": "32MB"},
	})
	require.NoError(t, err)
	defer func() {
		require.NoError(t, c.Kill())
		if t.Failed() {
			for _, name := range c.Names() {
				t.Log(c.LogTail(name))
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	require.NoError(t, c.Start())
	whole := func(list testbed.List) bool { return list.Whole(3, 1) }
	list, err := c.WaitFor(ctx, "a whole cluster", whole)
	require.NoError(t, err)

	first := list.Leader
	require.NoError(t, c.KillNode(first))
	list, err = c.WaitFor(ctx, "another leader", func(list testbed.List) bool {
		return list.Leader != "" && list.Leader != first && list.Term > 0 && list.Gate == "open"
	})
	require.NoError(t, err)
	second := list.Leader
	require.NoError(t, c.StartNode(first))
	list, err = c.WaitFor(ctx, "a whole cluster", whole)
	require.NoError(t, err)
	require.Equal(t, second, list.Leader)

	// Agents end in order, each with its member.
	require.NoError(t, c.Stop(ctx))
	require.Empty(t, testbed.Running(dir))
}
