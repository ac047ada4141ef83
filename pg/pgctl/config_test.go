package pgctl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

func validConfig(t *testing.T) pgctl.Config {
	t.Helper()
	bin := needPostgres(t)
	root, err := os.MkdirTemp("", "pgctl") //nolint:usetesting // the server's user must get through, and its socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	return pgctl.Config{
		BinDir: bin, DataDir: filepath.Join(root, "data"), StateDir: filepath.Join(root, "state"), ReplicationPassword: "x",
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	cfg := validConfig(t)
	for want, edit := range map[string]func(*pgctl.Config){
		"set BinDir":                    func(c *pgctl.Config) { c.BinDir = "/nowhere" },
		`DataDir "data"`:                func(c *pgctl.Config) { c.DataDir = "data" },
		`StateDir ""`:                   func(c *pgctl.Config) { c.StateDir, c.SocketDir = "", "/tmp" },
		"one must not lie inside":       func(c *pgctl.Config) { c.StateDir = filepath.Join(c.DataDir, "state") },
		"a unix socket's path":          func(c *pgctl.Config) { c.SocketDir = "/tmp/" + strings.Repeat("x", 100) },
		"TCP port 70000":                func(c *pgctl.Config) { c.Port = 70000 },
		"ReplicationPassword":           func(c *pgctl.Config) { c.ReplicationPassword = "" },
		"is the superuser":              func(c *pgctl.Config) { c.ReplicationUser = "postgres" },
		"SSLMode":                       func(c *pgctl.Config) { c.SSLMode = "maybe" },
		"database \"template1\"":        func(c *pgctl.Config) { c.Database = "template1" },
		"HBA":                           func(c *pgctl.Config) { c.HBA = []string{"local all all trust\nhost all all all trust"} },
		"nobody-of-this-name":           func(c *pgctl.Config) { c.User = "nobody-of-this-name" },
		"is managed":                    func(c *pgctl.Config) { c.Parameters = map[string]string{"Primary_ConnInfo": "x"} },
		"use on or remote_apply":        func(c *pgctl.Config) { c.Parameters = map[string]string{"synchronous_commit": "local"} },
		"must stay on":                  func(c *pgctl.Config) { c.Parameters = map[string]string{"fsync": "off"} },
		"at least 5":                    func(c *pgctl.Config) { c.Parameters = map[string]string{"max_wal_senders": "2"} },
		"the same setting":              func(c *pgctl.Config) { c.Parameters = map[string]string{"work_mem": "1MB", "Work_Mem": "2MB"} },
		"not the name of a setting":     func(c *pgctl.Config) { c.Parameters = map[string]string{"a = 'b'\nc": "1"} },
		"standbys need replica":         func(c *pgctl.Config) { c.Parameters = map[string]string{"wal_level": "minimal"} },
		"Name has at most":              func(c *pgctl.Config) { c.Name = "ä" },
		"set it to host names":          func(c *pgctl.Config) { c.ListenHost = "a'b" },
		"set it to a directory outside": func(c *pgctl.Config) { c.SocketDir = c.DataDir },
		"a name has at most 63 bytes":   func(c *pgctl.Config) { c.Superuser = `a"b` },
		"each entry is one line":        func(c *pgctl.Config) { c.Ident = []string{"a\nb"} },
		"a value cannot hold a zero":    func(c *pgctl.Config) { c.Parameters = map[string]string{"work_mem": "\x00"} },
		"does not run as root":          func(c *pgctl.Config) { c.User = "root" },
	} {
		if want == "does not run as root" && os.Geteuid() != 0 {
			continue
		}
		wrong := cfg
		edit(&wrong)
		_, err := pgctl.New(wrong)
		require.ErrorContains(t, err, want)
	}
	n, err := pgctl.New(cfg)
	require.NoError(t, err)
	require.NoError(t, n.Close())
	require.NoError(t, n.Close(), "closing again")
	require.ErrorContains(t, n.Init(t.Context()), "closed")
}

func TestDataOfAnotherVersionOwnerOrMode(t *testing.T) {
	t.Parallel()
	cfg := validConfig(t)
	data := filepath.Join(cfg.DataDir, "PG_VERSION")
	require.NoError(t, os.MkdirAll(cfg.DataDir, 0o700))
	require.NoError(t, os.WriteFile(data, []byte("12\n"), 0o600))
	if os.Geteuid() == 0 {
		_, err := pgctl.New(cfg) // root's, but the server is to run as postgres
		require.ErrorContains(t, err, "belongs to user 0")
		n := newNode(t, "owner")
		owner, err := os.Stat(n.cfg.StateDir)
		require.NoError(t, err)
		require.NoError(t, chownLike(cfg.DataDir, owner))
	}
	_, err := pgctl.New(cfg)
	require.ErrorIs(t, err, pg.ErrUnsupported)
	require.ErrorContains(t, err, "is of PostgreSQL 12")
	require.NoError(t, os.Chmod(cfg.DataDir, 0o755))
	_, err = pgctl.New(cfg)
	require.ErrorContains(t, err, "mode 0755")
}

func TestOldBinariesAreRefused(t *testing.T) {
	t.Parallel()
	cfg := validConfig(t)
	cfg.BinDir = t.TempDir()
	for _, name := range []string{"postgres", "initdb", "pg_controldata", "pg_rewind", "pg_basebackup"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 12.22'\n"
		require.NoError(t, os.WriteFile(filepath.Join(cfg.BinDir, name), []byte(script), 0o755))
	}
	version, err := pgctl.Version(cfg.BinDir)
	require.NoError(t, err)
	require.Equal(t, 120022, version)
	_, err = pgctl.New(cfg)
	require.ErrorIs(t, err, pg.ErrUnsupported)
	require.ErrorContains(t, err, "13 or later")
}

func TestManaged(t *testing.T) {
	t.Parallel()
	require.True(t, pgctl.Managed("primary_conninfo"))
	require.True(t, pgctl.Managed("Synchronous_Standby_Names"))
	require.False(t, pgctl.Managed("synchronous_commit"))
	require.False(t, pgctl.Managed("work_mem"))
}

// Check says what New would refuse, and leaves nothing behind.
func TestCheck(t *testing.T) {
	t.Parallel()
	cfg := validConfig(t)
	cfg.Parameters = map[string]string{"work_mem": "5MB"}
	require.NoError(t, pgctl.Check(cfg))
	require.NoDirExists(t, cfg.StateDir)
	cfg.Parameters["work_mem"] = "much"
	requireFault(t, pgctl.Check(cfg), pg.ErrParameter, cfg.BinDir)
	require.NoDirExists(t, cfg.StateDir)
	cfg.Port = 70000
	require.ErrorContains(t, pgctl.Check(cfg), "a port is between")
}
