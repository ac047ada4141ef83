package pgctl_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// chownLike gives a file to the owner of another one.
func chownLike(path string, like os.FileInfo) error {
	stat, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Chown(path, int(stat.Uid), int(stat.Gid))
}

// diverge makes a primary and a promoted standby with different rows.
func diverge(t *testing.T, edit ...func(*pgctl.Config)) (old, promoted *node) {
	t.Helper()
	a := newPrimary(t, "a", edit...)
	b := newStandby(t, "b", a, edit...)
	require.NoError(t, b.Fence(b.ctx()))
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	_, err := b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	b.sql("INSERT INTO t VALUES (-1)")
	return a, b
}

func TestRewindOfADivergedPrimary(t *testing.T) {
	t.Parallel()
	a, b := diverge(t)
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	a.crash()

	_, err := a.Rewind(a.ctx(), b.up("a"))
	require.ErrorContains(t, err, "not shut down cleanly")
	require.NotErrorIs(t, err, pg.ErrIncompleteCopy)
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	_, err = a.Rewind(a.ctx(), b.up("a"))
	require.ErrorContains(t, err, "stop it first")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))

	floor, err := a.Rewind(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(2), floor.Timeline)
	require.LessOrEqual(t, floor.LSN, b.status().Flushed)
	disk, err := a.OnDisk(a.ctx())
	require.NoError(t, err)
	require.True(t, disk.Standby)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
	require.Equal(t, "-1", a.sql("SELECT string_agg(i::text, ',') FROM t"))
	status := a.status()
	require.True(t, status.Sync.Equal(anyOf(1, "b")), "its own setting, not the source's")
	require.Equal(t, "a", a.sql("SHOW cluster_name"))
	require.NotContains(t, status.Upstream, "password")
	require.Contains(t, status.Upstream, "application_name='a'")
}

func TestRewindImpossible(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	other := newPrimary(t, "other")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	_, err := a.Rewind(a.ctx(), other.up("a"))
	require.ErrorIs(t, err, pg.ErrRewindImpossible, "another system")
	_, err = a.Rewind(a.ctx(), pg.Upstream{Host: "127.0.0.1", Port: freePort(t), Name: "a"})
	require.Error(t, err)
	require.NotErrorIs(t, err, pg.ErrRewindImpossible, "nobody there")
	_, err = a.OnDisk(a.ctx())
	require.NoError(t, err, "nothing was changed")
}

func TestRewindWithoutTheNeededWAL(t *testing.T) {
	t.Parallel()
	a, b := diverge(t)
	// Go past some segments and checkpoints, so that the WAL from before the
	// divergence is gone.
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	names, err := filepath.Glob(a.walFile("00000001*"))
	require.NoError(t, err)
	for _, name := range names[:len(names)-1] {
		require.NoError(t, os.Remove(name))
	}
	require.NoError(t, os.Truncate(names[len(names)-1], 0))
	_, err = a.Rewind(a.ctx(), b.up("a"))
	require.ErrorIs(t, err, pg.ErrRewindImpossible)
	_, err = a.Clone(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
}

func TestIncompleteCopyIsRefused(t *testing.T) {
	t.Parallel()
	a, b := diverge(t)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	// The agent died in the middle of a rewind.
	a.place(filepath.Join(a.cfg.StateDir, "unfinished.json"), `{"kind":"rewind","from":"b"}`)
	_, err := a.OnDisk(a.ctx())
	require.ErrorIs(t, err, pg.ErrIncompleteCopy)
	require.ErrorIs(t, a.StartStandby(a.ctx(), pg.Upstream{}), pg.ErrIncompleteCopy)
	require.ErrorIs(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrIncompleteCopy)
	require.ErrorIs(t, a.Fence(a.ctx()), pg.ErrIncompleteCopy)
	_, err = a.Rewind(a.ctx(), b.up("a"))
	require.ErrorIs(t, err, pg.ErrIncompleteCopy)
	require.ErrorContains(t, a.Init(a.ctx()), "not empty")

	_, err = a.Clone(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
	require.Equal(t, "-1", a.sql("SELECT string_agg(i::text, ',') FROM t"))
}

func TestCloneKeepsWhatIsOwn(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	a.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (x)'")
	a.sql("ALTER SYSTEM SET work_mem = '5MB'")
	a.sql("SELECT pg_create_physical_replication_slot('b', true)")
	b := newNode(t, "b")
	require.NoError(t, b.SetSync(b.ctx(), anyOf(1, "c")))
	floor, err := b.Clone(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(1), floor.Timeline)
	require.NoError(t, b.StartStandby(b.ctx(), pg.Upstream{Host: "127.0.0.1", Port: a.cfg.Port, Name: "b.1", Slot: "b"}))
	b.awaitStreaming(a)
	status := b.status()
	require.True(t, status.Sync.Equal(anyOf(1, "c")))
	require.Empty(t, status.Slots)
	require.Equal(t, "b", status.Receiver.Slot)
	require.Equal(t, a.cfg.Port, status.Receiver.Port)
	require.Equal(t, "5MB", b.sql("SHOW work_mem"))
	a.await("the walsender says what it hears", func() bool {
		senders := a.status().Senders
		require.Len(t, senders, 1)
		require.Equal(t, "b.1", senders[0].Name)
		return senders[0].Flush != 0
	})
	require.NoDirExists(t, b.cfg.DataDir+".new")
	require.NoDirExists(t, b.cfg.DataDir+".old")

	// Its own configuration survives the next copy.
	b.sql("ALTER SYSTEM SET work_mem = '7MB'")
	require.NoError(t, b.Stop(b.ctx(), pg.StopFast))
	_, err = b.Clone(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b")))
	b.awaitStreaming(a)
	require.Equal(t, "7MB", b.sql("SHOW work_mem"))
}

// An interrupted clone is undone: the old data is the node's vote.
func TestInterruptedCloneIsUndone(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	require.NoError(t, b.Stop(b.ctx(), pg.StopFast))

	short, cancel := context.WithCancel(b.ctx())
	cancel()
	_, err := b.Clone(short, a.up("b"))
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.OnDisk(b.ctx())
	require.NoError(t, err)

	// The agent died between the renames, and before the first.
	journal := filepath.Join(b.cfg.StateDir, "clone.json")
	for _, moved := range []bool{true, false} {
		b.place(journal, `{"phase":"swapping","from":"a","had_data":true}`)
		require.NoError(t, os.Mkdir(b.cfg.DataDir+".new", 0o700))
		if moved {
			require.NoError(t, os.Rename(b.cfg.DataDir, b.cfg.DataDir+".old"))
		}
		_, err = b.OnDisk(b.ctx())
		require.NoError(t, err)
		require.NoDirExists(t, b.cfg.DataDir+".new")
		require.NoFileExists(t, journal)
	}
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b")))
	b.awaitStreaming(a)
}

func TestCloneOntoDirectoriesInTheWay(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newNode(t, "b")
	require.NoError(t, os.Mkdir(b.cfg.DataDir+".old", 0o700))
	_, err := b.Clone(b.ctx(), a.up("b"))
	require.ErrorContains(t, err, "in the way")
	require.DirExists(t, b.cfg.DataDir+".old", "somebody else's")
	require.NoError(t, os.Remove(b.cfg.DataDir+".old"))
	_, err = a.Clone(a.ctx(), b.up("a"))
	require.ErrorContains(t, err, "stop it first")
}

func TestWrongPasswordIsSaid(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newNode(t, "b", func(cfg *pgctl.Config) { cfg.ReplicationPassword = "wrong" })
	_, err := b.Identify(b.ctx(), a.up("b"))
	require.ErrorContains(t, err, "password authentication failed")
	_, err = b.Clone(b.ctx(), a.up("b"))
	require.ErrorContains(t, err, "password authentication failed")
	_, err = b.OnDisk(b.ctx())
	require.ErrorIs(t, err, pg.ErrNoData)
}
