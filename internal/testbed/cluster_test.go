package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/reaper"
)

// patience bounds the wait for events that come within milliseconds.
const patience = 30 * time.Second

// standIn is a program in pghad's place: a list from a file, a command that says
// how it was called and fails, and an agent with a child that works in the data
// directory like a postmaster. The agent takes over a child that it finds.
const standIn = `#!/bin/sh
case $1 in
list) cat "$(dirname "$0")/list.json" ;;
move)
  echo "$@"
  echo "not today" >&2
  exit 3
  ;;
hang) exec sleep 1000 ;;
run)
  data=$(dirname "$3")/data
  mkdir -p "$data"
  pid=$(cat "$data/pid" 2>/dev/null || echo none)
  if [ -e "/proc/$pid/cwd/pid" ]; then # no zombie has a working directory
    echo "msg=following"
    while [ -e "/proc/$pid/cwd/pid" ]; do sleep 0.01; done
    exit
  fi
  (cd "$data" && exec sleep 1000) &
  echo $! >"$data/pid"
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
	ports := make(map[string]bool)
	for _, name := range c.Names() {
		path, err := c.ConfigFile(name)
		require.NoError(t, err)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var settings struct {
			Node      string
			Bootstrap bool
			Postgres  map[string]any
			API       map[string]string
			Timing    map[string]string
		}
		require.NoError(t, yaml.Unmarshal(text, &settings))
		require.Equal(t, name, settings.Node)
		require.Equal(t, name == "a", settings.Bootstrap, "one node creates the cluster")
		require.Equal(t, "3s", settings.Timing["ttl"])
		ports[fmt.Sprint("127.0.0.1:", settings.Postgres["port"])] = true
		ports[settings.API["listen"]] = true
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds a password")
	}
	require.Len(t, ports, 6, "two a node, for clients and for the other nodes")
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
	traces := func(name string) error { _, err := c.Traces(name); return err }
	postmaster := func(name string) error { _, err := c.Postmaster(name); return err }
	for _, err := range []error{c.StartNode("d"), c.KillNode("d"), c.KillAgent("d"), c.KillPostmaster("d"), traces("d"), postmaster("d")} {
		require.ErrorContains(t, err, `no node "d"`)
	}
	require.Contains(t, c.LogTail("a"), "agent of a")
}

// A server outlives its agent as a child of this process, the next agent takes it
// over, and whoever ends it then, it is reaped here and at once.
func TestOrphanedServerIsTakenOver(t *testing.T) {
	t.Parallel()
	orphans, err := reaper.Start(reaper.Config{})
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	t.Cleanup(orphans.Stop)
	c, dir := standInCluster(t)
	require.NoError(t, c.StartNode("a"))
	before := server(t, c)[0]
	traces, err := c.Traces("a")
	require.NoError(t, err)
	require.NoError(t, c.KillAgent("a"))
	require.Eventually(t, func() bool {
		orphan, found := readProc(before.pid)
		return found && orphan.parent == os.Getpid()
	}, patience, time.Millisecond)

	require.NoError(t, c.StartNode("a"))
	require.Eventually(t, func() bool {
		back, err := traces.Comeback()
		return err == nil && back.Followed()
	}, patience, 10*time.Millisecond, "the stand-in says so when it takes over")
	pid, err := c.Postmaster("a")
	require.NoError(t, err)
	require.Equal(t, before.pid, pid)
	require.NoError(t, c.KillPostmaster("a"))
	require.Eventually(t, func() bool {
		_, found := readProc(pid)
		return !found
	}, patience, time.Millisecond, "not even a zombie is left")
	<-c.AgentDone("a")

	// What nobody looks after is found too, even if it stands still.
	require.NoError(t, c.StartNode("a"))
	orphan := server(t, c)
	require.NoError(t, c.KillAgent("a"))
	require.NoError(t, signalAll(orphan, syscall.SIGSTOP))
	require.NoError(t, c.Stop(t.Context()))
	require.Empty(t, Running(dir))
}

func TestComeback(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		log      string
		data     func(t *testing.T, data string)
		followed bool
		text     string
	}{
		"nothing":          {text: "its log says nothing"},
		"followed":         {log: "time=1 level=INFO msg=following term=2 primary=b\n", followed: true, text: "follow"},
		"followed twice":   {log: "time=1 msg=following term=2\ntime=2 msg=following term=3\n", followed: true, text: "follow, follow"},
		"other words":      {log: "time=1 msg=\"is following\"\ntime=1 msg=followings\n", text: "its log says nothing"},
		"rewound":          {log: "time=1 msg=rebuilding how=rewind from=b\ntime=2 msg=following term=2\n", text: "rewind, follow"},
		"cloned":           {log: "time=1 msg=rebuilding how=clone from=b\n", data: cloned, text: "clone; its data was copied"},
		"rewound silently": {log: "time=1 msg=following term=2\n", data: rewound, text: "follow; its data was copied"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := standInCluster(t)
			node := c.nodes[0]
			require.NoError(t, os.Mkdir(node.data(), 0o700))
			require.NoError(t, os.WriteFile(node.log(), []byte("msg=rebuilding how=clone\n"), 0o600), "of earlier times")
			traces, err := c.Traces("a")
			require.NoError(t, err)
			log, err := os.OpenFile(node.log(), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = log.WriteString(test.log)
			require.NoError(t, err)
			require.NoError(t, log.Close())
			if test.data != nil {
				test.data(t, node.data())
			}
			back, err := traces.Comeback()
			require.NoError(t, err)
			require.Equal(t, test.followed, back.Followed())
			require.Equal(t, test.text, back.String())
		})
	}
}

// cloned replaces the data.
func cloned(t *testing.T, data string) {
	t.Helper()
	require.NoError(t, os.Rename(data, data+".old"))
	require.NoError(t, os.Mkdir(data, 0o700))
}

// rewound leaves what pg_rewind leaves once the server has started.
func rewound(t *testing.T, data string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(data, "backup_label.old"), []byte("x"), 0o600))
}

func TestCommand(t *testing.T) {
	t.Parallel()
	c, _ := standInCluster(t)
	out, err := c.Command(t.Context(), "move", "--to", "b")
	require.Equal(t, "move --to b -c "+c.nodes[0].config()+"\n", out)
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, 3, exit.ExitCode())
	require.ErrorContains(t, err, "not today")

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = c.Command(ctx, "hang")
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, processesIn(c.nodes[0].dir), "a command that is given up is ended")
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
