package cli_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// configFile is a configuration that only the store is missing of.
func configFile(t *testing.T) (file string, env []string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "pghad.yaml")
	require.NoError(t, os.WriteFile(file, []byte("cluster: orders\nnode: a\ndcs: {endpoints: [\"http://127.0.0.1:1\"]}\n"+
		"postgres: {data_dir: "+filepath.Join(dir, "data")+", listen: 127.0.0.1}\nguard: {use: never}\ntiming: {request: 200ms}\n"), 0o600))
	return file, []string{"PGHAD_POSTGRES_REPLICATION_PASSWORD=hidden thing", "PGHAD_LOG_LEVEL=warn"}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	file, env := configFile(t)
	done := pghadEnv(t.Context(), env, "check", "-c", file)
	require.Zero(t, done.code, done.err)
	require.Contains(t, done.out, "warning: "+file+":5:14: guard.use: PostgreSQL runs without a guard")
	require.Contains(t, done.out, ": dcs.endpoints: cannot be reached now: ")
	require.Contains(t, done.out, "\nnode a of cluster orders can run\n")
	require.NotContains(t, done.out+done.err, "hidden thing")
	require.NoDirExists(t, filepath.Join(filepath.Dir(file), "data.pghad"), "it writes nothing")

	refused := pghadEnv(t.Context(), append(env, "PGHAD_ON_EXIT=keep"), "check", "-c", file)
	require.Equal(t, result{2, "", "PGHAD_ON_EXIT: on_exit: keep leaves PostgreSQL to its guard, and guard.use is never; " +
		"write guard.use: always, or on_exit: stop\n"}, refused)
}

func TestShowConfig(t *testing.T) {
	t.Parallel()
	file, env := configFile(t)
	shown := pghadEnv(t.Context(), env, "show-config", "--local", "-c", file)
	require.Zero(t, shown.code, shown.err)
	require.Contains(t, shown.out, "\ncluster: orders\nnode: a\n")
	require.Contains(t, shown.out, "\nlog:\n  level: warn\n")
	require.NotContains(t, shown.out, "hidden thing")
	explained := pghadEnv(t.Context(), env, "show-config", "--local", "-c", file, "--explain")
	require.Zero(t, explained.code, explained.err)
	require.Contains(t, explained.out, "(PGHAD_LOG_LEVEL)\n  level: warn\n")
	require.NotContains(t, explained.out, "hidden thing")

	away := pghadEnv(t.Context(), env, "show-config", "-c", file)
	require.Equal(t, 3, away.code)
	require.Equal(t, shown.out, away.out)
	require.Contains(t, away.err, "pghad: what the cluster's record sets is not shown: ")
	require.Equal(t, result{2, "", "/nowhere/pghad.yaml: no such file\n"}, pghad(t.Context(), "show-config", "-c", "/nowhere/pghad.yaml"))
}
