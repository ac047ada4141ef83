package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/reaper"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds the wait for events; a healthy run needs seconds.
const patience = 2 * time.Minute

// look is the pause between two looks at something that has no event.
const look = 50 * time.Millisecond

// onHost is a cluster of two nodes as an operator has it: processes, files, commands.
type onHost struct {
	*testbed.Cluster
	t *testing.T
}

func startCluster(t *testing.T) onHost {
	t.Helper()
	bin := testbed.NeedPostgres(t)
	reaping, err := reaper.Start(reaper.Config{})
	require.NoError(t, err)
	t.Cleanup(reaping.Stop)
	binary := filepath.Join(testbed.Dir(t), "pghad")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	cluster, err := testbed.NewCluster(testbed.ClusterConfig{
		Binary: binary, Dir: testbed.Dir(t), Names: []string{"a", "b"}, Endpoints: testbed.StartEtcd(t).Endpoints(), BinDir: bin,
		Parameters: map[string]string{"shared_buffers": "16MB", "max_connections": "40", "work_mem": "5MB"},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(cluster.LogTail("a"), cluster.LogTail("b"))
		}
		require.NoError(t, cluster.Kill())
	})
	c := onHost{cluster, t}
	require.NoError(t, c.Start())
	c.await("two nodes", func(l testbed.List) bool { return l.Whole(2, 1) })
	return c
}

func (c onHost) await(what string, good func(testbed.List) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, err := c.WaitFor(ctx, what, good)
	require.NoError(c.t, err)
}

func (c onHost) run(name string, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	out, err := c.Command(ctx, name, args...)
	require.NoError(c.t, err)
	return out
}

func (c onHost) file(node string) string {
	c.t.Helper()
	file, err := c.ConfigFile(node)
	require.NoError(c.t, err)
	return file
}

// change edits a node's file.
func (c onHost) change(node, old, changed string) {
	c.t.Helper()
	text, err := os.ReadFile(c.file(node))
	require.NoError(c.t, err)
	require.Contains(c.t, string(text), old)
	require.NoError(c.t, os.WriteFile(c.file(node), []byte(strings.Replace(string(text), old, changed, 1)), 0o600))
}

// hangUp sends SIGHUP to a node's agent, and waits for a line of its log.
func (c onHost) hangUp(node, line string) {
	c.t.Helper()
	pid, err := c.Agent(node)
	require.NoError(c.t, err)
	require.NoError(c.t, syscall.Kill(pid, syscall.SIGHUP))
	log := filepath.Join(filepath.Dir(c.file(node)), "pghad.log")
	require.Eventually(c.t, func() bool {
		text, err := os.ReadFile(log)
		return err == nil && regexp.MustCompile(line).Match(text)
	}, patience, look, line)
}

// shown is a setting of a node's server, as a new session has it.
func (c onHost) shown(node, name string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	config, err := pgconn.ParseConfig("user=postgres dbname=postgres sslmode=disable")
	require.NoError(c.t, err)
	dir := filepath.Dir(c.file(node))
	config.Host = filepath.Join(dir, "run")
	sockets, err := filepath.Glob(filepath.Join(config.Host, ".s.PGSQL.*[0-9]"))
	require.NoError(c.t, err)
	require.Len(c.t, sockets, 1)
	var port uint16
	require.NoError(c.t, json.Unmarshal([]byte(strings.TrimPrefix(filepath.Ext(sockets[0]), ".")), &port))
	config.Port, config.Fallbacks = port, nil
	conn, err := pgconn.ConnectConfig(ctx, config)
	require.NoError(c.t, err)
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, "SHOW "+name).ReadAll()
	require.NoError(c.t, err)
	return string(results[0].Rows[0][0])
}

// TestConfigurationOfARunningCluster: an operator changes the record and a file; the
// nodes take up what they can without a restart, and say what they cannot.
func TestConfigurationOfARunningCluster(t *testing.T) {
	c := startCluster(t)
	var before []int
	for _, node := range c.Names() {
		pid, err := c.Postmaster(node)
		require.NoError(t, err)
		before = append(before, pid)
	}

	var edited struct {
		Version uint64     `json:"version"`
		Nodes   []struct{} `json:"nodes"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.run("edit-config", "--yes", "--wait", "-o", "json",
		"--set", "postgres.parameters.work_mem=7MB", "--set", "postgres.parameters.max_connections=50", "--set", "timing.ttl=15s")), &edited))
	require.EqualValues(t, 1, edited.Version)
	require.Len(t, edited.Nodes, 2)
	for _, node := range c.Names() {
		require.Equal(t, "7MB", c.shown(node, "work_mem"))
		require.Equal(t, "40", c.shown(node, "max_connections"), "it needs a restart of the server")
	}
	require.Eventually(t, func() bool {
		return strings.Count(c.run("show-config", "--record"), "goes by version 1; not in force until a restart of pghad: timing.ttl; "+
			"not in force until a restart of PostgreSQL: max_connections\n") == 2
	}, patience, look)
	explained := c.run("show-config", "--explain")
	require.Regexp(t, `\(cluster's record, version 1\); not in force until a restart of pghad\n  ttl: 15s\n`, explained)
	require.Regexp(t, `\(cluster's record, version 1, over /[^)]*:\d+:\d+\)\n  parameters: \{max_connections: "50", shared_buffers: "16MB", work_mem: "7MB"\}\n`, explained)

	c.run("edit-config", "--yes", "--wait", "--set", "mode=async")
	c.await("mode async", func(l testbed.List) bool { return l.Quorum.K == 0 && len(l.Quorum.Members) == 1 })
	require.Empty(t, c.shown("a", "synchronous_standby_names"))
	c.run("edit-config", "--yes", "--wait", "--set", "mode=quorum")
	c.await("mode quorum", func(l testbed.List) bool { return l.Whole(2, 1) })

	c.change("b", "level: info", "level: debug")
	c.change("b", "    work_mem: 5MB", "    work_mem: 5MB\n    jit: \"off\"")
	c.change("b", "listen: 127.0.0.1\n", "listen: 127.0.0.2\n")
	c.hangUp("b", `msg="configuration: needs a restart" key=postgres.listen`)
	require.Equal(t, "off", c.shown("b", "jit"))
	require.Equal(t, "7MB", c.shown("b", "work_mem"), "the record wins")
	c.change("b", "level: debug", "level: loud")
	c.hangUp("b", `msg="configuration is not taken, everything stays as it was" problem=".*pghad.yaml:\d+:\d+: log.level: \\"loud\\" is unknown; `)
	require.Equal(t, "off", c.shown("b", "jit"))

	for i, node := range c.Names() {
		pid, err := c.Postmaster(node)
		require.NoError(t, err)
		require.Equal(t, before[i], pid, "no server was restarted")
	}
	c.change("b", "level: loud", "level: info")
	c.change("b", "listen: 127.0.0.2\n", "listen: 127.0.0.1\n")
	require.NoError(t, c.KillAgent("b"))
	require.NoError(t, c.StartNode("b"))
	require.Eventually(t, func() bool {
		return regexp.MustCompile(`node b goes by version 3(; not in force until a restart of PostgreSQL: max_connections)?\n`).
			MatchString(c.run("show-config", "--record"))
	}, patience, look, "what waited for a restart of pghad waits no longer")
}
