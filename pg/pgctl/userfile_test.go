package pgctl_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testlog"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

const lastLineOfUser = "include 'pghad.conf' # by pghad: this stays the last line, so that nothing below it wins\n"

// append adds lines to a file of the data directory, as an administrator does.
func (n *node) append(name, lines string) {
	n.tb.Helper()
	n.place(filepath.Join(n.cfg.DataDir, name), n.read(name)+lines)
}

// What an administrator configures stays his, also where he writes below our line;
// what is managed wins.
func TestUserFileIsKept(t *testing.T) {
	t.Parallel()
	told := &testlog.Buffer{}
	n := newNode(t, "a", quick, func(cfg *pgctl.Config) {
		cfg.Parameters["work_mem"] = "6MB"
		cfg.Logger = slog.New(slog.NewTextHandler(told, nil))
	})
	require.NoError(t, n.Init(n.ctx()))
	written := n.read("postgresql.conf")
	require.True(t, strings.HasSuffix(written, lastLineOfUser))
	require.Contains(t, written, "#work_mem = 4MB", "it is initdb's")
	n.append("postgresql.conf", "work_mem = 5MB\nmaintenance_work_mem = 77MB\nport = 1\nfsync = off\nrecovery_target_name = 'x'\n"+
		"archive_mode = on\narchive_command = 'cp %p /nowhere'\n"+
		"max_wal_senders = 17 # enough\nwal_keep_size = '64MB'\nmax_replication_slots = 1\nwal_level = logical")
	require.NoError(t, n.StartStandby(n.ctx(), pg.Upstream{}))
	for name, want := range map[string]string{
		"maintenance_work_mem": "77MB", "work_mem": "6MB", "fsync": "on", "data_checksums": "on", "wal_level": "logical",
		"max_wal_senders": "17", "wal_keep_size": "64MB", "max_replication_slots": "16", "recovery_target_name": "",
		"archive_mode": "off", "archive_command": "(disabled)",
	} {
		require.Equal(t, want, n.sql("SHOW "+name), name)
	}
	require.Equal(t, "0", n.sql("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL"))
	require.Empty(t, n.status().Overridden)
	require.Equal(t, 1, strings.Count(told.String(), "name=archive_command"), "it is said once that it has no effect")
	written = n.read("postgresql.conf")
	require.True(t, strings.HasSuffix(written, "wal_level = logical\n"+lastLineOfUser))
	require.Equal(t, 1, strings.Count(written, "pghad.conf"))

	// It replaces the file as a whole while the server runs.
	n.place(filepath.Join(n.cfg.DataDir, "postgresql.conf"), "maintenance_work_mem = 78MB\n")
	require.NoError(t, n.SetSync(n.ctx(), anyOf(1, "b")))
	require.Equal(t, "78MB", n.sql("SHOW maintenance_work_mem"))
	require.Equal(t, "6MB", n.sql("SHOW work_mem"))
	for _, name := range []string{"postgresql.conf", "pghad.conf", "pg_hba.conf", "pg_ident.conf"} {
		info, err := os.Stat(filepath.Join(n.cfg.DataDir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		require.NotContains(t, n.read(name), n.cfg.ReplicationPassword)
	}
}

// Whoever overrides a managed setting of a running server, by ALTER SYSTEM or in a
// file, has it for a moment, and it is said.
func TestOverriddenSettingsAreReclaimed(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	require.NoError(t, a.SetSync(a.ctx(), anyOf(0)))
	for name, override := range map[string]func(){
		"ALTER SYSTEM": func() {
			a.sql("ALTER SYSTEM SET restart_after_crash = on")
			a.sql("ALTER SYSTEM SET fsync = off")
			a.sql("ALTER SYSTEM SET work_mem = '9MB'")
		},
		"below our line": func() { a.append("postgresql.conf", "restart_after_crash = on\nfsync = off\nwork_mem = 9MB\n") },
		"instead": func() {
			a.place(filepath.Join(a.cfg.DataDir, "postgresql.conf"), "restart_after_crash = on\nfsync = off\nwork_mem = 9MB\n")
		},
	} {
		override()
		a.sql("SELECT pg_reload_conf()")
		a.await(name+": it is in force", func() bool { return a.sql("SHOW fsync") == "off" })
		seen := false
		a.await(name+": it is taken back", func() bool {
			status := a.status()
			seen = seen || strings.Join(status.Overridden, " ") == "fsync restart_after_crash" || len(status.Overridden) > 2
			return seen && len(status.Overridden) == 0
		})
		require.Equal(t, "on off 9MB", a.sql("SELECT current_setting('fsync') || ' ' || current_setting('restart_after_crash') || ' ' || current_setting('work_mem')"), name)
		require.True(t, a.status().GateOpen)
	}
}

// former gives a data directory the files that the version before had.
func (n *node) former() {
	n.tb.Helper()
	user := strings.TrimSuffix(n.read("postgresql.conf"), lastLineOfUser)
	managed := n.read("pghad.conf")
	require.NoError(n.tb, os.Remove(filepath.Join(n.cfg.DataDir, "pghad.conf")))
	n.place(filepath.Join(n.cfg.DataDir, "postgresql.base.conf"), user+"maintenance_work_mem = 79MB\n")
	head, rest, _ := strings.Cut(managed, "\n\n")
	n.place(filepath.Join(n.cfg.DataDir, "postgresql.conf"), head+"\n\ninclude_if_exists = 'postgresql.base.conf'\n\n"+rest)
}

// A directory of the version before, with or without a running server, is taken
// over without loss.
func TestFormerFilesAreConverted(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	a.former()
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	converted := func() {
		t.Helper()
		require.True(t, strings.HasSuffix(a.read("postgresql.conf"), "maintenance_work_mem = 79MB\n"+lastLineOfUser))
		require.NoFileExists(t, filepath.Join(a.cfg.DataDir, "postgresql.base.conf"))
		require.Equal(t, "79MB", a.sql("SHOW maintenance_work_mem"))
		require.Equal(t, "30", a.sql("SHOW max_connections"), "of Parameters")
		require.Empty(t, a.status().Overridden)
	}
	converted()

	// The server runs on the former files when the new version takes it over.
	require.NoError(t, a.Close())
	a.former()
	a.sql("SELECT pg_reload_conf()")
	a.open()
	a.await("the first look converts them", func() bool {
		_ = a.status()
		_, err := os.Stat(filepath.Join(a.cfg.DataDir, "postgresql.base.conf"))
		return os.IsNotExist(err) && len(a.status().Overridden) == 0
	})
	require.Contains(t, a.read("postgresql.conf"), lastLineOfUser)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.Equal(t, "79MB", a.sql("SHOW maintenance_work_mem"))
}

// A rewind that the version before has begun, and that was cut off, ends with this
// server's own file.
func TestFormerRewindThatWasCutOff(t *testing.T) {
	t.Parallel()
	a, b := diverge(t, quick, keeping)
	b.append("postgresql.conf", "work_mem = 11MB\n")
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	a.append("postgresql.conf", "work_mem = 7MB\n")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	a.former()
	a.place(filepath.Join(a.cfg.StateDir, "own.postgresql.base.conf"), a.read("postgresql.base.conf"))
	a.place(filepath.Join(a.cfg.StateDir, "unfinished.json"), `{"kind": "rewind", "from": "elsewhere:1"}`)
	_, err := a.Clone(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	require.Equal(t, "7MB", a.sql("SHOW work_mem"))
	require.NoFileExists(t, filepath.Join(a.cfg.StateDir, "own.postgresql.base.conf"))
}
