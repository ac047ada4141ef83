package pgctl_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// keptData are the checksums of what a refused operation must not touch.
func (n *node) keptData() map[string]string {
	n.tb.Helper()
	kept := make(map[string]string)
	require.NoError(n.tb, filepath.WalkDir(n.cfg.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		kept[path] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	}))
	return kept
}

// A rewind after which recovery would lack WAL that the source has removed is refused
// while the data is whole.
func TestRewindNeedsWALThatIsGone(t *testing.T) {
	t.Parallel()
	a, b := diverge(t, quick, func(cfg *pgctl.Config) {
		cfg.Parameters["wal_keep_size"] = "0"
		cfg.Parameters["min_wal_size"], cfg.Parameters["max_wal_size"] = "32MB", "32MB"
	})
	oldest := func() string {
		return b.sql("SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")
	}
	first := oldest()
	b.await("the WAL before the fork is gone", func() bool {
		for range 3 {
			b.sql("INSERT INTO t VALUES (-1)")
			b.sql("SELECT pg_switch_wal()")
		}
		b.sql("CHECKPOINT")
		return oldest() > first
	})
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	before := a.keptData()
	_, err := a.Rewind(a.ctx(), b.up("a"))
	require.ErrorIs(t, err, pg.ErrRewindImpossible)
	require.NotErrorIs(t, err, pg.ErrIncompleteCopy)
	requireFault(t, err, pg.ErrRewindImpossible, a.cfg.DataDir)
	require.ErrorContains(t, err, "needs the WAL file ........"+first+", which the server at "+b.up("a").Address()+" does not have any more")
	for path, text := range a.keptData() {
		require.Equal(t, before[path], text, path)
	}
	_, err = a.Clone(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
}

// spaceOf is a directory for a tablespace of a node.
func (n *node) spaceOf(name string) string {
	n.tb.Helper()
	path := filepath.Join(filepath.Dir(n.cfg.DataDir), name)
	require.NoError(n.tb, os.Mkdir(path, 0o700))
	owner, err := os.Stat(n.cfg.StateDir)
	require.NoError(n.tb, err)
	require.NoError(n.tb, chownLike(path, owner))
	return path
}

func TestTablespaces(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, keeping)
	space := a.spaceOf("space")
	a.sql("CREATE TABLESPACE far LOCATION '" + space + "'")
	a.sql("CREATE TABLE s(i int) TABLESPACE far; INSERT INTO s VALUES (1); GRANT ALL ON s TO client")

	// What lies where the copy's tablespace would come to is not touched.
	b := newNode(t, "b", quick, keeping)
	_, err := b.Clone(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrNotEmpty, space)
	require.ErrorContains(t, err, "the tablespace far of the server at "+a.up("b").Address()+" would come to "+space)
	_, err = b.OnDisk(b.ctx())
	require.ErrorIs(t, err, pg.ErrNoData)
	require.NoDirExists(t, b.cfg.DataDir+".new")
	require.Equal(t, "1", a.sql("SELECT i FROM s"))

	// A command of the user's puts it elsewhere; both are rewound in place.
	mapped := filepath.Join(filepath.Dir(b.cfg.DataDir), "mapped")
	require.NoError(t, b.Close())
	b.cfg.CloneCommand = []string{
		filepath.Join(b.cfg.BinDir, "pg_basebackup"), "-D", "{dir}", "-d", "{conninfo}", "-X", "stream", "-c", "fast", "-w",
		"--tablespace-mapping=" + space + "=" + b.spaceOf("mapped"),
	}
	b.open()
	_, err = b.Clone(b.ctx(), a.up("b"))
	require.NoError(t, err)
	require.NoError(t, b.SetSync(b.ctx(), anyOf(1, "nobody")))
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b")))
	b.awaitStreaming(a)
	require.NoError(t, b.Fence(b.ctx()))
	a.sql("INSERT INTO s SELECT generate_series(2, 1000)")
	_, err = b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	b.sql("INSERT INTO s VALUES (-1)")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	_, err = a.Rewind(a.ctx(), b.up("a"))
	require.NoError(t, err)
	require.NoError(t, a.StartStandby(a.ctx(), b.up("a")))
	a.awaitStreaming(b)
	require.Equal(t, "1,-1", a.sql("SELECT string_agg(i::text, ',') FROM s"))
	require.Equal(t, space, a.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'"))
	require.Equal(t, mapped, b.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'"))
}

// A tablespace that was made after the fork cannot be made by pg_rewind: that is known
// before it begins.
func TestRewindWithANewTablespace(t *testing.T) {
	t.Parallel()
	a, b := diverge(t, quick, keeping)
	b.sql("CREATE TABLESPACE made LOCATION '" + b.spaceOf("made") + "'")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	before := a.keptData()
	_, err := a.Rewind(a.ctx(), b.up("a"))
	requireFault(t, err, pg.ErrRewindImpossible, a.cfg.DataDir)
	require.ErrorContains(t, err, "the tablespace made in ")
	for path, text := range a.keptData() {
		require.Equal(t, before[path], text, path)
	}
}
