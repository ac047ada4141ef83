package pgctl_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// archive is a directory that takes WAL, once per file.
type archive string

func newArchive(t *testing.T) archive {
	t.Helper()
	dir, err := os.MkdirTemp("", "archive") //nolint:usetesting // the server's user must get through
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o777))
	return archive(dir)
}

// command archives a file unless it is there with the same content.
func (a archive) command(cfg *pgctl.Config) {
	to := string(a) + "/%f"
	cfg.Archive.Command = "if [ -e " + to + " ]; then cmp -s %p " + to + "; else cp %p " + to + ".tmp && mv " + to + ".tmp " + to + "; fi # 100%%"
}

func (a archive) files(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(string(a))
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// awaitArchived waits until the archive has files whose names contain all of parts. New
// sessions wake the postmaster, which starts an archiver anew that has ended.
func (a archive) awaitArchived(n *node, parts ...string) {
	n.tb.Helper()
	n.await(strings.Join(parts, ", ")+" in the archive", func() bool {
		require.NoError(n.tb, n.SelfCheck(n.ctx()))
		entries, err := os.ReadDir(string(a))
		require.NoError(n.tb, err)
		return !slices.ContainsFunc(parts, func(part string) bool {
			return !slices.ContainsFunc(entries, func(entry os.DirEntry) bool { return strings.Contains(entry.Name(), part) })
		})
	})
}

// switchSegment completes a segment and returns its name.
func (n *node) switchSegment() string {
	n.tb.Helper()
	n.sql("INSERT INTO t VALUES (1)")
	return n.sql("SELECT pg_walfile_name(pg_switch_wal())")
}

// A server archives while its gate is open. What the former primary did not get to
// the archive the winner sends.
func TestArchive(t *testing.T) {
	t.Parallel()
	place := newArchive(t)
	a := newPrimary(t, "a", quick, place.command)
	b := newStandby(t, "b", a, quick, place.command)
	first := a.switchSegment()
	place.awaitArchived(a, first)

	// It is doomed: whatever it completes from now on stays with it, also while it stops.
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	before := place.files(t)
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	b.awaitStreaming(a)
	second := a.switchSegment()
	b.awaitStreaming(a)
	a.await("the archiver has refused it", func() bool { return strings.Contains(a.log(), "exit code 130") })
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, before, place.files(t))

	require.NoError(t, b.Fence(b.ctx()))
	_, err := b.Promote(b.ctx(), warrant{}, 4)
	require.NoError(t, err)
	require.NoError(t, b.SetSync(b.ctx(), pg.SyncSetting{}))
	require.Equal(t, before, place.files(t), "the gate is closed")
	require.NoError(t, b.OpenGate(b.ctx()))
	place.awaitArchived(b, second, "00000004.history", ".partial")
	for _, name := range place.files(t) {
		require.NotContains(t, []string{"00000002.history", "00000003.history"}, name, "a placeholder is no history")
	}
	place.awaitArchived(b, b.switchSegment())
}

// A permission that the guard has bounded ends by itself.
func TestArchivePermissionEnds(t *testing.T) {
	t.Parallel()
	place := newArchive(t)
	a := newPrimary(t, "a", quick, place.command)
	permit := filepath.Join(a.cfg.StateDir, "archive.permit")
	require.FileExists(t, permit)
	a.place(permit, "1")
	refused := a.switchSegment()
	a.await("the archiver has ended", func() bool { return strings.Contains(a.log(), "exit code 130") })
	require.NotContains(t, place.files(t), refused)
	a.place(permit, "9999999999")
	place.awaitArchived(a, refused)
}

// Under a guard the permission ends with the deadline, and moves with it.
func TestArchivePermissionUnderAGuard(t *testing.T) {
	t.Parallel()
	place := newArchive(t)
	a := newNode(t, "a", quick, place.command, underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	left := func() time.Duration { return time.Minute }
	require.NoError(t, a.SetDeadline(a.ctx(), left))
	permit := filepath.Join(a.cfg.StateDir, "archive.permit")
	require.NoFileExists(t, permit, "nothing is permitted before the gate is open")
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.NoFileExists(t, permit)
	require.NoError(t, a.OpenGate(a.ctx()))
	until := func() int {
		text, err := os.ReadFile(permit)
		require.NoError(t, err)
		return atoi(t, string(text))
	}
	first := until()
	left = func() time.Duration { return time.Hour }
	require.NoError(t, a.SetDeadline(a.ctx(), left))
	require.Greater(t, until(), first+60)
	a.sql("CREATE TABLE t(i int)")
	place.awaitArchived(a, a.switchSegment())
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoFileExists(t, permit)
}
