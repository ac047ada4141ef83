package pgctl_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// copied is a base backup of a server, where its user can read it.
func (n *node) copied() string {
	n.tb.Helper()
	dir, err := os.MkdirTemp("", "backup")
	require.NoError(n.tb, err)
	n.tb.Cleanup(func() { require.NoError(n.tb, os.RemoveAll(dir)) })
	backup := filepath.Join(dir, "base")
	cmd := exec.CommandContext(n.ctx(), filepath.Join(n.cfg.BinDir, "pg_basebackup"), "-h", "127.0.0.1", "-p", n.sql("SHOW port"),
		"-U", "replicator", "-D", backup, "-X", "fetch", "-c", "fast")
	cmd.Env = append(os.Environ(), "PGPASSWORD="+n.cfg.ReplicationPassword)
	out, err := cmd.CombinedOutput()
	require.NoError(n.tb, err, string(out))
	owner, err := os.Stat(n.cfg.DataDir)
	require.NoError(n.tb, err)
	require.NoError(n.tb, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return chownLike(path, owner)
	}))
	return backup
}

// A cluster begins with a backup, recovered to a point in time from the archive.
func TestRestoreToAPointInTime(t *testing.T) {
	t.Parallel()
	place := newArchive(t)
	a := newPrimary(t, "a", quick, place.command)
	backup := a.copied()
	a.sql("INSERT INTO t SELECT generate_series(1, 10)")
	a.sql("SELECT pg_create_restore_point('before the mistake')")
	a.sql("DELETE FROM t")
	place.awaitArchived(a, a.switchSegment())

	b := newNode(t, "b", quick, func(cfg *pgctl.Config) { cfg.ReplicationPassword = "another" })
	from := pgctl.Backup{
		Command:        []string{"cp", "-a", backup + "/.", "{dir}"},
		RestoreCommand: "cp " + string(place) + "/%f %p",
		Target:         "name", Value: "before the mistake",
	}
	wrong := from
	wrong.Target = "moon"
	require.ErrorContains(t, b.Restore(b.ctx(), wrong), "want time, lsn, name or xid")
	wrong = from
	wrong.Command = nil
	require.ErrorContains(t, b.Restore(b.ctx(), wrong), "set Command")
	wrong = from
	wrong.Command = []string{"false"}
	require.ErrorContains(t, b.Restore(b.ctx(), wrong), "false")
	wrong = from
	wrong.Value = "no such point"
	require.ErrorContains(t, b.Restore(b.ctx(), wrong), "before configured recovery target was reached")
	require.ErrorIs(t, b.StartPrimary(b.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrIncompleteCopy)

	require.NoError(t, b.Restore(b.ctx(), from))
	disk, err := b.OnDisk(b.ctx())
	require.NoError(t, err)
	require.True(t, disk.Clean)
	require.False(t, disk.Standby)
	require.ErrorIs(t, b.Restore(b.ctx(), from), pg.ErrNotEmpty)
	require.NoError(t, b.StartPrimary(b.ctx(), warrant{}, pg.SyncSetting{}))
	require.Equal(t, "10", b.sql("SELECT count(*) FROM t"))
	require.Equal(t, pg.Timeline(2), b.status().Timeline)
	require.Equal(t, "off", b.sql("SHOW archive_mode"))
	c := newNode(t, "c", quick, func(cfg *pgctl.Config) { cfg.ReplicationPassword = "another" })
	_, err = c.Clone(c.ctx(), b.up("c"))
	require.NoError(t, err, "the replication role has this cluster's password")
}

func TestAgentKilledInRestore(t *testing.T) {
	t.Parallel()
	underEach(t, false, func(t *testing.T, by ranBy) {
		a := newPrimary(t, "a", quick)
		a.sql("INSERT INTO t SELECT generate_series(1, 10)")
		require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
		from := pgctl.Backup{Command: []string{"cp", "-a", a.cfg.DataDir + "/.", "{dir}"}}
		b := newNode(t, "b", quick)
		b.runBy(by)
		killed{n: b, by: by, order: order{Work: "restore", Backup: from}, finish: func() {
			require.Equal(t, pg.HealthDead, b.status().Health, "no server in recovery is left")
			if _, err := b.OnDisk(b.ctx()); err != nil {
				require.Error(t, b.StartStandby(b.ctx(), pg.Upstream{}), "it is not started half-made")
				require.NoError(t, b.Restore(b.ctx(), from))
			}
			b.lead(pg.SyncSetting{})
			require.Equal(t, "10", b.sql("SELECT count(*) FROM t"))
		}}.everywhere(t)
	})
}

// A server that somebody else has made and run becomes a node.
func TestAdoptAnExistingServer(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", quick, func(cfg *pgctl.Config) { cfg.MonitorUser = "watcher" })
	before := newNode(t, "before", quick, func(cfg *pgctl.Config) { cfg.ReplicationUser = "other" })
	require.NoError(t, before.Init(before.ctx()))
	require.NoError(t, before.StartPrimary(before.ctx(), warrant{}, pg.SyncSetting{}))
	before.sql("CREATE TABLE t(i int); INSERT INTO t VALUES (7)")

	// As an administrator has it: plain files, of which one lies elsewhere.
	require.NoError(t, before.Stop(before.ctx(), pg.StopFast))
	require.NoError(t, os.Rename(before.cfg.DataDir, a.cfg.DataDir))
	elsewhere := filepath.Join(filepath.Dir(a.cfg.DataDir), "postgresql.conf")
	require.NoError(t, os.WriteFile(elsewhere, []byte("work_mem = 5MB\nport = 1\narchive_command = ''  # none\n"), 0o600))
	for _, name := range []string{"postgresql.conf", "pghad.conf", "pg_ident.conf"} {
		require.NoError(t, os.Remove(filepath.Join(a.cfg.DataDir, name)))
	}
	a.place(filepath.Join(a.cfg.DataDir, "pg_hba.conf"), "host all all all md5\n")
	existing := pgctl.Existing{ConfigFile: elsewhere}
	require.NoError(t, a.Adopt(a.ctx(), existing))
	require.NoError(t, a.Adopt(a.ctx(), existing), "again")
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.Equal(t, "7", a.sql("SELECT i FROM t"))
	require.Equal(t, "5MB", a.sql("SHOW work_mem"))
	require.Equal(t, "1", a.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'replicator' AND rolreplication"))
	require.Equal(t, pg.HealthAlive, a.status().Health)
	old, err := os.ReadFile(filepath.Join(a.cfg.DataDir, "pg_hba.conf.old"))
	require.NoError(t, err)
	require.Equal(t, "host all all all md5\n", string(old))
	require.ErrorContains(t, a.Adopt(a.ctx(), existing), "the server runs")
	b := newNode(t, "b", quick)
	_, err = b.Clone(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.ErrorContains(t, b.Adopt(b.ctx(), pgctl.Existing{}), "a standby's")
}

func TestAdoptRefusesWhatArchivesByItself(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", quick)
	require.NoError(t, a.Init(a.ctx()))
	base := filepath.Join(a.cfg.DataDir, "postgresql.conf")
	text, err := os.ReadFile(base)
	require.NoError(t, err)
	a.place(base, string(text)+"archive_command = 'scp %p elsewhere'\n")
	requireFault(t, a.Adopt(a.ctx(), pgctl.Existing{}), pg.ErrUnsupported, base)
	require.NoError(t, a.Close())
	a.cfg.Archive.Command = "true"
	a.open()
	require.NoError(t, a.Adopt(a.ctx(), pgctl.Existing{}))
	require.True(t, strings.HasPrefix(a.read("pghad.conf"), "# Generated"))
}

func (n *node) read(name string) string {
	n.tb.Helper()
	text, err := os.ReadFile(filepath.Join(n.cfg.DataDir, name))
	require.NoError(n.tb, err)
	return string(text)
}
