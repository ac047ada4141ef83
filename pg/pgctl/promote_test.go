package pgctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

const placeholder = "1\t0/1\treserved by pghad, not a timeline\n"

func (n *node) walFile(name string) string { return filepath.Join(n.cfg.DataDir, "pg_wal", name) }

// place writes a file as the server's user does.
func (n *node) place(path, content string) {
	n.tb.Helper()
	data, err := os.Stat(filepath.Join(n.cfg.DataDir, "PG_VERSION"))
	require.NoError(n.tb, err)
	require.NoError(n.tb, os.WriteFile(path, []byte(content), 0o600))
	require.NoError(n.tb, chownLike(path, data))
}

// X5: a reserved number is taken, with the gap filled for those who follow.
func TestPromoteToReservedTimeline(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	c := newStandby(t, "c", a)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))

	_, err := b.Promote(b.ctx(), warrant{}, 4)
	require.ErrorIs(t, err, pg.ErrNotFenced)
	require.NoError(t, b.Fence(b.ctx()))
	_, err = b.Promote(b.ctx(), nil, 4)
	require.ErrorIs(t, err, pg.ErrNoWarrant)
	_, err = b.Promote(b.ctx(), warrant{}, 1)
	require.Error(t, err)

	client, err := b.connect("client")
	require.NoError(t, err, "a standby serves reads")
	position, err := b.Position(b.ctx())
	require.NoError(t, err)
	promotion, err := b.Promote(b.ctx(), warrant{}, 4)
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(4), promotion.Timeline)
	require.LessOrEqual(t, promotion.SwitchAt, position.LSN)
	_, err = client.Exec(b.ctx(), "SELECT 1").ReadAll()
	require.Error(t, err, "client sessions are ended")
	_, err = b.connect("client")
	require.ErrorContains(t, err, "pg_hba", "the gate is closed")

	again, err := b.Promote(b.ctx(), warrant{}, 4)
	require.NoError(t, err, "the same promotion again")
	require.Equal(t, promotion, again)
	_, err = b.Promote(b.ctx(), warrant{}, 5)
	require.Error(t, err)

	status := b.status()
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.Timeline(4), status.Timeline)
	require.True(t, status.Sync.Equal(anyOf(1, "nobody")), "the setting that it had as a standby is in force")
	remote, err := c.Identify(c.ctx(), b.up("c"))
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(4), remote.Lineage.Timeline)
	require.False(t, remote.Standby)
	require.Equal(t, status.SystemID, remote.SystemID)
	require.True(t, remote.Lineage.Contains(position) || position.LSN > promotion.SwitchAt)

	require.NoError(t, c.Follow(c.ctx(), b.up("c")))
	c.awaitStreaming(b)
	require.Equal(t, pg.Timeline(4), c.status().Timeline)

	// Those that fill the gap stay through restarts, here and on who followed.
	for _, n := range []*node{b, c} {
		require.NoError(t, n.Stop(n.ctx(), pg.StopFast))
		require.NoError(t, n.StartStandby(n.ctx(), pg.Upstream{}))
		require.FileExists(t, n.walFile("00000002.history"))
		require.Equal(t, pg.Timeline(4), n.status().Timeline)
	}
}

// countedWarrant is a warrant that ends at a chosen check.
type countedWarrant struct {
	warrant
	checks *int
	until  int
}

func (w countedWarrant) Check() error {
	*w.checks++
	if *w.checks > w.until {
		return errors.New("the lease has ended")
	}
	return nil
}

func TestPromoteChecksTheWarrantBeforeTheIrreversible(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	require.NoError(t, b.Fence(b.ctx()))
	for until := range 2 {
		checks := 0
		_, err := b.Promote(b.ctx(), countedWarrant{checks: &checks, until: until}, 3)
		require.ErrorIs(t, err, pg.ErrNoWarrant)
		require.Equal(t, pg.RoleStandby, b.status().Role)
		require.NoFileExists(t, b.walFile("00000002.history"), "the placeholder is taken back")
		_, err = b.Position(b.ctx())
		require.NoError(t, err, "it is fenced as before")
	}
	require.NoError(t, b.Follow(b.ctx(), a.up("b")))
	b.awaitStreaming(a)
}

// X13, X14: a placeholder that an interrupted take-over has left keeps a standby
// from starting, or lets it follow a timeline that does not exist.
func TestLeftOverPlaceholderIsRemoved(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	note := filepath.Join(b.cfg.StateDir, "placeholders.json")

	// The agent has died after writing the file, the server lives.
	require.NoError(t, b.Fence(b.ctx()))
	require.NoError(t, b.Close())
	b.place(b.walFile("00000002.history"), placeholder)
	b.place(note, `{"next":3,"files":["00000002.history"]}`)
	b.open()
	pid := b.status().Postgres
	require.NoError(t, b.Follow(b.ctx(), a.up("b")))
	require.NoFileExists(t, b.walFile("00000002.history"))
	require.NoFileExists(t, note)
	require.NotEqual(t, pid, b.status().Postgres, "a server that ran with it is restarted")
	b.awaitStreaming(a)

	// The machine has died.
	require.NoError(t, b.Stop(b.ctx(), pg.StopImmediate))
	b.place(b.walFile("00000002.history"), placeholder)
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b")))
	require.NoFileExists(t, b.walFile("00000002.history"))
	b.awaitStreaming(a)

	// A promotion to the number that was reserved comes after all.
	require.NoError(t, b.Fence(b.ctx()))
	promotion, err := b.Promote(b.ctx(), warrant{}, 3)
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(3), promotion.Timeline)
}

func TestPromoteRefusesAUsedNumber(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, a.Fence(a.ctx()))
	a.place(a.walFile("00000002.history"), "1\t0/1000000\treal\n")
	_, err := a.Promote(a.ctx(), warrant{}, 2)
	require.ErrorIs(t, err, pg.ErrWrongTimeline)
	require.NoError(t, os.Remove(a.walFile("00000002.history")))
	_, err = a.Promote(a.ctx(), warrant{}, 2)
	require.NoError(t, err)
}

// A standby fetches the history of its upstream before it asks for WAL. One that was
// cut off in between has never reached that timeline, and must not begin there: the
// switch points of the new history would go down, and whoever asks for the timeline
// between would be sent WAL that is not there.
func TestPromoteBeginsWhereTheServerIs(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	c := newStandby(t, "c", a)
	require.NoError(t, c.Fence(c.ctx()))
	a.sql("CREATE TABLE more AS SELECT generate_series(1, 1000) AS n")
	b.awaitStreaming(a)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, b.Fence(b.ctx()))
	_, err := b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)

	require.NoError(t, c.Stop(c.ctx(), pg.StopFast))
	c.place(c.walFile("00000002.history"), b.read("pg_wal/00000002.history"))
	require.NoError(t, c.StartStandby(c.ctx(), pg.Upstream{}))
	require.NoError(t, c.Fence(c.ctx()))
	held, err := c.Position(c.ctx())
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(1), held.Timeline)
	promotion, err := c.Promote(c.ctx(), warrant{}, 4)
	require.NoError(t, err)
	require.LessOrEqual(t, promotion.SwitchAt, held.LSN)
	history, err := pg.ParseHistory(c.read("pg_wal/00000004.history"))
	require.NoError(t, err)
	require.Len(t, history, 1, "%s", history)
	require.Equal(t, pg.Timeline(1), history[0].Timeline)
	require.Contains(t, c.read("pg_wal/00000002.history"), "reserved", "the number is taken all the same")

	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	require.NoError(t, b.Stop(b.ctx(), pg.StopFast))
	d := newStandby(t, "d", c)
	d.awaitStreaming(c)
	require.Equal(t, pg.Timeline(4), d.status().Timeline)
}
