package testbed

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPostgresLivesAndDies(t *testing.T) {
	t.Parallel()
	s := StartPostgres(t, map[string]string{"work_mem": "5MB"})
	data := s.path("data")
	pids, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	require.NoError(t, err)
	found := serverProcesses(data)
	require.Greater(t, len(found), 1)
	require.Equal(t, strings.Fields(string(pids))[0], strconv.Itoa(found[0].pid), "the postmaster comes first")
	require.NoError(t, s.Start(t.Context()), "a second start is no error")

	require.NoError(t, s.Kill())
	require.Empty(t, serverProcesses(data), "not one backend is left")
	require.NoError(t, s.Kill(), "a second kill is no error")
	require.NoError(t, s.Start(t.Context()), "it recovers")
	require.NoError(t, s.Stop())
	require.Empty(t, serverProcesses(data))
}

func TestPostgresSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	s, err := NewPostgres(PostgresConfig{BinDir: NeedPostgres(t), Dir: Dir(t), Parameters: map[string]string{"no_such_setting": "1"}})
	require.NoError(t, err)
	require.NoError(t, s.Init(t.Context()))
	require.ErrorContains(t, s.Start(t.Context()), "no_such_setting")
}

func TestFreePorts(t *testing.T) {
	t.Parallel()
	ports, err := FreePorts(50)
	require.NoError(t, err)
	seen := make(map[int]bool)
	for _, port := range ports {
		require.False(t, seen[port], "given twice")
		seen[port] = true
		require.GreaterOrEqual(t, port, lowestPort)
		require.Less(t, port, outgoingStart(), "clients' ends do not get it")
	}
}

func TestDirIsSearchable(t *testing.T) {
	t.Parallel()
	dir, err := MakeDir("pghad-test-")
	require.NoError(t, err)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	require.NoError(t, os.Remove(dir))
}

func TestServerAccountIsNotRoot(t *testing.T) {
	t.Parallel()
	account, err := ServerAccount()
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	require.NotZero(t, account.uid)
	path := filepath.Join(Dir(t), "own")
	require.NoError(t, account.MakeDir(path))
	require.ErrorIs(t, account.MakeDir(path), os.ErrExist)
}
