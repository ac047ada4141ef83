package pgctl_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// requireFault checks that an error is of a kind, names a place, and says what to do.
func requireFault(tb testing.TB, err, kind error, place string) {
	tb.Helper()
	require.ErrorIs(tb, err, kind)
	fault := (*pg.FaultError)(nil)
	require.ErrorAs(tb, err, &fault)
	require.NotEmpty(tb, fault.Remedy)
	require.Contains(tb, err.Error(), fault.Remedy)
	require.Contains(tb, fault.Path+" "+fault.Address, place)
	require.Contains(tb, err.Error(), place)
}

func TestFaultOfTheBinaries(t *testing.T) {
	t.Parallel()
	cfg := validConfig(t)
	cfg.BinDir = "/nowhere"
	_, err := pgctl.New(cfg)
	requireFault(t, err, pg.ErrBinaries, "/nowhere/postgres")
	cfg.BinDir = t.TempDir()
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) 12.22'\n"
	for _, name := range []string{"postgres", "initdb", "pg_rewind", "pg_basebackup"} {
		require.NoError(t, os.WriteFile(filepath.Join(cfg.BinDir, name), []byte(script), 0o755))
	}
	_, err = pgctl.New(cfg)
	requireFault(t, err, pg.ErrUnsupported, cfg.BinDir)
	require.NoError(t, os.WriteFile(filepath.Join(cfg.BinDir, "postgres"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	_, err = pgctl.New(cfg)
	requireFault(t, err, pg.ErrBinaries, cfg.BinDir)
	require.NoError(t, os.Chmod(filepath.Join(cfg.BinDir, "initdb"), 0o644))
	_, err = pgctl.New(cfg)
	requireFault(t, err, pg.ErrBinaries, "initdb")
}

func TestFaultOfTheParameters(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"no_such_setting": "1", "work_mem": "much", "shared_buffers": "-7"} {
		cfg := validConfig(t)
		require.NoError(t, os.Chmod(filepath.Dir(cfg.StateDir), 0o755))
		cfg.Parameters = map[string]string{name: value, "search_path": "public"}
		_, err := pgctl.New(cfg)
		requireFault(t, err, pg.ErrParameter, cfg.BinDir)
		require.ErrorContains(t, err, name)
	}
	cfg := validConfig(t)
	cfg.Parameters = map[string]string{"archive_command": "x"}
	_, err := pgctl.New(cfg)
	require.ErrorContains(t, err, "set Archive instead")
}

// Directories that hold something else than this cluster's data are never replaced.
func TestFaultOfTheDirectory(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	b := newNode(t, "b", quick)
	owner, err := os.Stat(filepath.Join(a.cfg.DataDir, "PG_VERSION"))
	require.NoError(t, err)
	letter := filepath.Join(b.cfg.DataDir, "letter")
	require.NoError(t, os.Mkdir(b.cfg.DataDir, 0o700))
	require.NoError(t, os.WriteFile(letter, []byte("Dear all"), 0o600))
	require.NoError(t, chownLike(b.cfg.DataDir, owner))

	requireFault(t, b.Init(b.ctx()), pg.ErrNotEmpty, b.cfg.DataDir)
	_, err = b.Clone(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrNotData, b.cfg.DataDir)
	_, err = b.OnDisk(b.ctx())
	requireFault(t, err, pg.ErrNotData, b.cfg.DataDir)
	requireFault(t, b.StartStandby(b.ctx(), pg.Upstream{}), pg.ErrNotData, b.cfg.DataDir)
	require.FileExists(t, letter)
	require.NoError(t, os.RemoveAll(b.cfg.DataDir))

	// Another cluster's.
	require.NoError(t, b.Init(b.ctx()))
	own, err := b.OnDisk(b.ctx())
	require.NoError(t, err)
	_, err = b.Clone(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrForeign, b.cfg.DataDir)
	_, err = b.Rewind(b.ctx(), a.up("b"))
	require.ErrorIs(t, err, pg.ErrRewindImpossible)
	requireFault(t, err, pg.ErrForeign, b.cfg.DataDir)
	still, err := b.OnDisk(b.ctx())
	require.NoError(t, err)
	require.Equal(t, own, still)

	// Ours, in the place of which somebody has put another cluster's.
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, os.Rename(a.cfg.DataDir, a.cfg.DataDir+".away"))
	require.NoError(t, os.Rename(b.cfg.DataDir, a.cfg.DataDir))
	requireFault(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrForeign, a.cfg.DataDir)
	_, err = a.OnDisk(a.ctx())
	requireFault(t, err, pg.ErrForeign, a.cfg.DataDir)
}

func TestFaultOfTheControlFile(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", quick)
	require.NoError(t, a.Init(a.ctx()))
	path := filepath.Join(a.cfg.DataDir, "global", "pg_control")
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	damaged := append([]byte(nil), whole...)
	damaged[40] ^= 0xFF
	for name, content := range map[string][]byte{"a bit": damaged, "cut": whole[:100], "empty": nil} {
		a.place(path, string(content))
		_, err := a.OnDisk(a.ctx())
		requireFault(t, err, pg.ErrCorrupt, "pg_control")
		requireFault(t, a.StartStandby(a.ctx(), pg.Upstream{}), pg.ErrCorrupt, "pg_control")
		require.Equal(t, pg.HealthDead, a.status().Health, name)
	}
	require.NoError(t, os.Remove(path))
	_, err = a.OnDisk(a.ctx())
	requireFault(t, err, pg.ErrCorrupt, a.cfg.DataDir)
	a.place(path, string(whole))
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))

	// The checkpoint that it names is gone.
	segments, err := filepath.Glob(a.walFile("0000*"))
	require.NoError(t, err)
	for _, segment := range segments {
		require.NoError(t, os.Remove(segment))
	}
	requireFault(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrCorrupt, a.cfg.DataDir)
}

func TestFaultOfTheAddress(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", quick)
	require.NoError(t, a.Init(a.ctx()))
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(a.cfg.Port))
	other, err := net.Listen("tcp", address)
	require.NoError(t, err)
	requireFault(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrPortInUse, address)
	require.NoError(t, other.Close())
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))

	b := newNode(t, "b", quick)
	nobody := pg.Upstream{Host: "127.0.0.1", Port: freePort(t), Name: "b"}
	_, err = b.Identify(b.ctx(), nobody)
	requireFault(t, err, pg.ErrUnreachable, nobody.Address())
	_, err = b.Clone(b.ctx(), nobody)
	requireFault(t, err, pg.ErrUnreachable, nobody.Address())

	require.NoError(t, b.Close())
	b.cfg.ReplicationPassword = "wrong"
	b.open()
	_, err = b.Identify(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrPassword, address)
	_, err = b.Clone(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrPassword, address)
	require.NotContains(t, err.Error(), "wrong\"")

	require.NoError(t, b.Close())
	b.cfg.ReplicationPassword = a.cfg.ReplicationPassword
	b.cfg.ReplicationUser = "stranger"
	b.open()
	_, err = b.Identify(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrRefused, address)
	_, err = b.Clone(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrRefused, address)
	_, err = b.OnDisk(b.ctx())
	require.ErrorIs(t, err, pg.ErrNoData, "nothing has been begun")
}

func TestFaultOfAHistory(t *testing.T) {
	t.Parallel()
	a, b := diverge(t, quick)
	require.NoError(t, os.Remove(b.walFile("00000002.history")))
	_, err := a.Identify(a.ctx(), b.up("a"))
	requireFault(t, err, pg.ErrNoHistory, "00000002.history")
	requireFault(t, err, pg.ErrNoHistory, b.up("a").Address())
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	_, err = a.Rewind(a.ctx(), b.up("a"))
	requireFault(t, err, pg.ErrNoHistory, "00000002.history")
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}), "nothing was destroyed")
	require.Equal(t, "1000", a.sql("SELECT count(*) FROM t"))
}

func TestFaultOfPermissions(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) { cfg.ReloadTimeout = 200 * time.Millisecond })
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	owner, err := os.Stat(a.cfg.DataDir)
	require.NoError(t, err)
	// Without the first the server does not start, without the second it admits nobody.
	for _, name := range []string{"pg_xact", "base"} {
		path := filepath.Join(a.cfg.DataDir, name)
		require.NoError(t, os.Chmod(path, 0))
		requireFault(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrPermission, a.cfg.DataDir)
		require.Equal(t, pg.HealthDead, a.status().Health)
		require.NoError(t, os.Chmod(path, 0o700))
		require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
		require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	}

	require.NoError(t, os.Chmod(a.cfg.DataDir, 0o755))
	requireFault(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrPermission, a.cfg.DataDir)
	require.NoError(t, os.Chmod(a.cfg.DataDir, 0o700))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(a.cfg.DataDir, 0, 0))
		requireFault(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrPermission, a.cfg.DataDir)
		require.NoError(t, chownLike(a.cfg.DataDir, owner))
	}
}
