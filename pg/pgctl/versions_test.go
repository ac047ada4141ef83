package pgctl_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// versionsVariable lists directories of PostgreSQL's server programs, separated by
// colons: scripts/postgres-versions installs them and sets it.
const versionsVariable = "PGHAD_POSTGRES_BIN"

// What needs neither pg_rewind nor pg_basebackup works on every supported version.
func TestVersions(t *testing.T) {
	list := os.Getenv(versionsVariable)
	if list == "" {
		t.Skip("the stage of scripts/test for other versions of PostgreSQL runs it, or scripts/postgres-versions")
	}
	needPostgres(t) // for the user
	for dir := range strings.SplitSeq(list, ":") {
		bin := withoutTools(t, dir)
		version, err := pgctl.Version(bin)
		require.NoError(t, err)
		use := func(cfg *pgctl.Config) {
			cfg.BinDir = bin
			quick(cfg)
		}
		t.Run(fmt.Sprint(version/10000), func(t *testing.T) {
			t.Run("primary", func(t *testing.T) { versionPrimary(t, version, use) })
			t.Run("failover", func(t *testing.T) { versionFailover(t, use) })
			t.Run("switchover", func(t *testing.T) { versionSwitchover(t, use) })
			t.Run("crash", func(t *testing.T) { versionCrash(t, use) })
			t.Run("restore", func(t *testing.T) { versionRestore(t, use) })
		})
	}
}

// withoutTools is a directory of programs in which those that are missing only fail.
func withoutTools(t *testing.T, dir string) string {
	t.Helper()
	bin, err := os.MkdirTemp("", "pgbin") //nolint:usetesting // the server's user must get through
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(bin)) })
	require.NoError(t, os.Chmod(bin, 0o755))
	for _, name := range []string{"postgres", "initdb", "pg_rewind", "pg_basebackup"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			require.NoError(t, os.Symlink(filepath.Join(dir, name), filepath.Join(bin, name)))
			continue
		}
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho not installed >&2\nexit 1\n"), 0o755))
	}
	return bin
}

// copyOf makes nodes with the data of a stopped one, and starts all: the first as a
// primary, the others as its standbys.
func copyOf(t *testing.T, a *node, use func(*pgctl.Config), names ...string) []*node {
	t.Helper()
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	var standbys []*node
	for _, name := range names {
		n := newNode(t, name, use)
		out, err := exec.CommandContext(n.ctx(), "cp", "-a", a.cfg.DataDir, n.cfg.DataDir).CombinedOutput()
		require.NoError(t, err, string(out))
		standbys = append(standbys, n)
	}
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.NoError(t, a.OpenGate(a.ctx()))
	for _, n := range standbys {
		require.NoError(t, n.SetSync(n.ctx(), anyOf(1, "nobody")))
		require.NoError(t, n.StartStandby(n.ctx(), a.up(n.name)))
		n.awaitStreaming(a)
	}
	return standbys
}

func versionPrimary(t *testing.T, version int, use func(*pgctl.Config)) {
	t.Helper()
	place := newArchive(t)
	a := newPrimary(t, "a", use, place.command, func(cfg *pgctl.Config) { cfg.MonitorUser = "watcher" })
	status := a.status()
	require.Equal(t, pg.HealthAlive, status.Health)
	require.Equal(t, version, status.Version)
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.Timeline(1), status.Timeline)
	require.NotEmpty(t, status.SystemID)
	require.Equal(t, "1", a.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'watcher'"))
	require.NoError(t, a.SelfCheck(a.ctx()))
	slots := []pg.Slot{{Name: "x"}}
	require.NoError(t, a.EnsureSlots(a.ctx(), slots))
	slots[0].Advance = status.Flushed
	require.NoError(t, a.EnsureSlots(a.ctx(), slots))
	require.Equal(t, []string{"x"}, a.status().Slots)
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	view, err := a.SyncView(a.ctx())
	require.NoError(t, err)
	require.True(t, view.Setting.Equal(anyOf(1, "b")))
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
	require.NoError(t, a.Checkpoint(a.ctx()))
	place.awaitArchived(a, a.switchSegment())
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	disk, err := a.OnDisk(a.ctx())
	require.NoError(t, err)
	require.Equal(t, status.SystemID, disk.SystemID)
	require.True(t, disk.Clean)

	require.NoError(t, a.Close())
	a.cfg.Parameters["no_such_setting"] = "1"
	_, err = pgctl.New(a.cfg)
	requireFault(t, err, pg.ErrParameter, a.cfg.BinDir)
	delete(a.cfg.Parameters, "no_such_setting")
	a.open()
}

func versionFailover(t *testing.T, use func(*pgctl.Config)) {
	t.Helper()
	a := newPrimary(t, "a", use)
	standbys := copyOf(t, a, use, "b", "c")
	b, c := standbys[0], standbys[1]
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	b.awaitStreaming(a)
	c.awaitStreaming(a)
	b.sql("SELECT pg_wal_replay_pause()")
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	for _, n := range []*node{b, c} {
		require.NoError(t, n.EnsureSlots(n.ctx(), []pg.Slot{{Name: "x"}}))
		require.NoError(t, n.Fence(n.ctx()))
	}
	a.crash()
	held, err := b.Position(b.ctx())
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(1), held.Timeline)
	promotion, err := b.Promote(b.ctx(), warrant{}, 4)
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(4), promotion.Timeline)
	require.LessOrEqual(t, promotion.SwitchAt, held.LSN)
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	remote, err := c.Identify(c.ctx(), b.up("c"))
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(4), remote.Lineage.Timeline)
	b.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	require.NoError(t, c.Follow(c.ctx(), b.up("c")))
	c.awaitStreaming(b)
	require.Equal(t, b.sql("SELECT count(*) FROM t"), c.sql("SELECT count(*) FROM t"))
	require.Equal(t, pg.Timeline(4), c.status().Timeline)
}

func versionSwitchover(t *testing.T, use func(*pgctl.Config)) {
	t.Helper()
	a := newPrimary(t, "a", use)
	b := copyOf(t, a, use, "b")[0]
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	end, err := a.Yield(a.ctx(), "b")
	require.NoError(t, err)
	a.requireFlushed(end, b)
	require.NoError(t, b.Fence(b.ctx()))
	position, err := b.Position(b.ctx())
	require.NoError(t, err)
	require.Equal(t, end, position)
	_, err = b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
	require.Equal(t, "1000", a.sql("SELECT count(*) FROM t"))
}

func versionCrash(t *testing.T, use func(*pgctl.Config)) {
	t.Helper()
	a := newPrimary(t, "a", use)
	a.sql("INSERT INTO t VALUES (1)")
	a.crash()
	require.Equal(t, pg.ProcessCrashed, a.status().Process)
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	pid := a.status().Postgres
	require.NoError(t, a.Close())
	a.open()
	require.Equal(t, pid, a.status().Postgres)
	require.Equal(t, "1", a.sql("SELECT count(*) FROM t"))
	require.NoError(t, a.Stop(a.ctx(), pg.StopImmediate))
	require.Equal(t, pg.HealthDead, a.status().Health)
}

func versionRestore(t *testing.T, use func(*pgctl.Config)) {
	t.Helper()
	a := newPrimary(t, "a", use)
	a.sql("INSERT INTO t VALUES (1)")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	b := newNode(t, "b", use)
	require.NoError(t, b.Restore(b.ctx(), pgctl.Backup{Command: []string{"cp", "-a", a.cfg.DataDir + "/.", "{dir}"}}))
	require.NoError(t, b.StartPrimary(b.ctx(), warrant{}, pg.SyncSetting{}))
	require.Equal(t, "1", b.sql("SELECT count(*) FROM t"))
	require.Equal(t, pg.Timeline(2), b.status().Timeline)
}
