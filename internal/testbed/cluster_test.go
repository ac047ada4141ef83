package testbed

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

// patience bounds the wait for events that come within milliseconds.
const patience = 30 * time.Second

// standIn is a program in pghad's place: an agent with a child that works in the
// data directory like a postmaster, and a list from a file.
const standIn = `#!/bin/sh
case $1 in
list) cat "$(dirname "$0")/list.json" ;;
run)
  data=$(dirname "$3")/data
  mkdir -p "$data"
  (cd "$data" && exec sleep 1000) &
  wait
  ;;
esac
`

func standInCluster(t *testing.T) (*Cluster, string) {
	t.Helper()
	dir := Dir(t)
	program := filepath.Join(dir, "agent.sh")
	require.NoError(t, os.WriteFile(program, []byte(standIn), 0o755))
	c, err := NewCluster(ClusterConfig{
		Binary: program, Dir: dir, BinDir: "/nowhere", Endpoints: []string{"http://127.0.0.1:1"}, Timing: map[string]string{"ttl": "3s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Kill()) })
	return c, dir
}

// server waits for the stand-in of node a's postmaster.
func server(t *testing.T, c *Cluster) []proc {
	t.Helper()
	require.Eventually(t, func() bool { return len(serverProcesses(c.nodes[0].data())) > 0 }, patience, time.Millisecond)
	return serverProcesses(c.nodes[0].data())
}

func TestClusterConfigurations(t *testing.T) {
	t.Parallel()
	c, _ := standInCluster(t)
	require.Equal(t, []string{"a", "b", "c"}, c.Names())
	ports := make(map[any]bool)
	for _, name := range c.Names() {
		path, err := c.ConfigFile(name)
		require.NoError(t, err)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var settings struct {
			Node      string
			Bootstrap bool
			Postgres  map[string]any
			Timing    map[string]string
		}
		require.NoError(t, yaml.Unmarshal(text, &settings))
		require.Equal(t, name, settings.Node)
		require.Equal(t, name == "a", settings.Bootstrap, "one node creates the cluster")
		require.Equal(t, "3s", settings.Timing["ttl"])
		ports[settings.Postgres["port"]] = true
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds a password")
	}
	require.Len(t, ports, 3)
	require.Len(t, c.Target().Nodes, 3)
}

func TestClusterFaults(t *testing.T) {
	t.Parallel()
	c, dir := standInCluster(t)
	require.NoError(t, c.Start())
	require.NoError(t, c.Start(), "what runs is left alone")
	server(t, c)
	require.True(t, c.AgentRuns("a"))

	require.NoError(t, c.KillPostmaster("a"))
	<-c.AgentDone("a") // the stand-in ends with its child
	require.False(t, c.AgentRuns("a"))
	require.ErrorContains(t, c.KillPostmaster("a"), "no running postmaster")
	require.ErrorContains(t, c.KillAgent("a"), "does not run")

	require.NoError(t, c.StartNode("a"))
	server(t, c)
	require.NoError(t, c.KillAgent("a"))
	require.NotEmpty(t, serverProcesses(c.nodes[0].data()), "the server outlives its agent")
	require.NoError(t, c.KillNode("a"))
	require.Empty(t, serverProcesses(c.nodes[0].data()))
	require.True(t, c.AgentRuns("b"), "the others are left alone")

	require.NoError(t, c.StartNode("a"))
	server(t, c)
	require.NoError(t, c.Stop(t.Context()))
	require.Empty(t, Running(dir))
	for _, err := range []error{c.StartNode("d"), c.KillNode("d"), c.KillAgent("d"), c.KillPostmaster("d")} {
		require.ErrorContains(t, err, `no node "d"`)
	}
	require.Contains(t, c.LogTail("a"), "agent of a")
}

func TestClusterWaitsForItsList(t *testing.T) {
	t.Parallel()
	c, dir := standInCluster(t)
	list := filepath.Join(dir, "list.json")
	part := `{"leader":"a","term":1,"gate":"open","quorum":{"k":1,"members":[{"node":"b"}]},"nodes":[{"name":"a"}]}`
	require.NoError(t, os.WriteFile(list, []byte(part), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.WaitFor(ctx, "wholeness", func(l List) bool { return l.Whole(3, 1) })
	require.ErrorContains(t, err, "wait for wholeness")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	whole := `{"leader":"a","term":1,"gate":"open","quorum":{"k":1,"members":[{"node":"b"},{"node":"c"}]},"nodes":[{"name":"a"},
		{"name":"b","state":"streaming","sync_state":"quorum","quorum":"member"},{"name":"c","state":"streaming","sync_state":"quorum","quorum":"member"}]}`
	require.NoError(t, os.WriteFile(list, []byte(whole), 0o600))
	got, err := c.WaitFor(t.Context(), "wholeness", func(l List) bool { return l.Whole(3, 1) })
	require.NoError(t, err)
	require.Equal(t, "a", got.Leader)
	require.False(t, got.Whole(3, 2))
	require.NoError(t, os.WriteFile(list, []byte(strings.Replace(whole, "streaming", "stopped", 1)), 0o600))
	got, err = c.List(t.Context())
	require.NoError(t, err)
	require.False(t, got.Whole(3, 1))
}

func TestSweep(t *testing.T) {
	t.Parallel()
	c, dir := standInCluster(t)
	require.NoError(t, c.StartNode("a"))
	server(t, c)
	patient, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, Sweep(patient, dir))
	require.Empty(t, Running(dir))
	require.NoDirExists(t, dir)
	require.NoError(t, Sweep(patient, dir), "nothing to sweep is no error")
}
