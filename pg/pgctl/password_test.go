package pgctl_test

import (
	"bytes"
	"fmt"
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

// tattler makes programs of PostgreSQL that write down with what arguments and
// environment they are run, and then are what they are.
func tattler(t *testing.T, bin string) (dir, told string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgbin") //nolint:usetesting // the server's user must get through
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	told = filepath.Join(dir, "told")
	require.NoError(t, os.WriteFile(told, nil, 0o666))
	require.NoError(t, os.Chmod(told, 0o666)) // whatever the umask
	for _, name := range []string{"postgres", "initdb", "pg_rewind", "pg_basebackup"} {
		script := fmt.Sprintf("#!/bin/sh\n{ echo \"$0 $*\"; env; } >> %s\nexec %s \"$@\"\n", told, filepath.Join(bin, name))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir, told
}

// The password is in the passfile and nowhere else: not on a command line or in an
// environment, not in a log, neither the controller's nor the server's, which here
// logs every statement, and in no other file.
func TestPasswordStaysInThePassfile(t *testing.T) {
	t.Parallel()
	const password = "tohuwabohu"
	bin, told := tattler(t, needPostgres(t))
	var log testlog.Buffer
	edit := func(cfg *pgctl.Config) {
		quick(cfg)
		keeping(cfg)
		cfg.BinDir = bin
		cfg.ReplicationPassword = password
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Parameters["log_statement"], cfg.Parameters["log_min_duration_statement"] = "all", "0"
		cfg.Parameters["log_replication_commands"], cfg.Parameters["log_connections"] = "on", "on"
	}
	a, b := diverge(t, edit)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	_, err := a.Rewind(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)

	// Its statements are run by a server that others have configured, too.
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	c := newNode(t, "c", edit)
	require.NoError(t, c.Restore(c.ctx(), pgctl.Backup{Command: []string{"cp", "-a", a.cfg.DataDir + "/.", "{dir}"}}))
	require.NoError(t, c.Adopt(c.ctx(), pgctl.Existing{}))

	// And in no error.
	wrong := newNode(t, "wrong", edit)
	require.NoError(t, wrong.Close())
	wrong.cfg.ReplicationPassword = password + "!"
	wrong.open()
	_, err = wrong.Clone(wrong.ctx(), b.up("wrong"))
	require.ErrorIs(t, err, pg.ErrPassword)
	require.NotContains(t, err.Error(), password)

	require.NotContains(t, log.String(), password)
	require.Contains(t, log.String(), "PostgreSQL is started")
	commands, err := os.ReadFile(told)
	require.NoError(t, err)
	for line := range strings.Lines(string(commands)) {
		require.NotContains(t, line, password)
	}
	require.Contains(t, string(commands), "pg_rewind -D")
	for _, n := range []*node{a, b, c, wrong} {
		root := filepath.Dir(n.cfg.DataDir)
		require.NoError(t, filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || filepath.Base(path) == "passfile" {
				return nil //nolint:nilerr // a file that has just gone
			}
			if text, err := os.ReadFile(path); err == nil {
				require.False(t, bytes.Contains(text, []byte(password)), path)
			}
			return nil
		}))
	}
}
