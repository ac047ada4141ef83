package pgctl_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// receiver is the process id of a standby's walreceiver.
func (n *node) receiver() int {
	return atoi(n.tb, n.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'"))
}

// freeze stops a process until the end of the test, or until it is thawed.
func (n *node) freeze(pid int) (thaw func()) {
	n.tb.Helper()
	require.NoError(n.tb, syscall.Kill(pid, syscall.SIGSTOP))
	thaw = func() { _ = syscall.Kill(pid, syscall.SIGCONT) } // it may have ended
	n.tb.Cleanup(thaw)
	return thaw
}

// requireFlushed checks that another server has flushed a position.
func (n *node) requireFlushed(end pg.Position, by *node) {
	n.tb.Helper()
	remote, err := n.Identify(n.ctx(), by.up("x"))
	require.NoError(n.tb, err)
	require.True(n.tb, remote.Standby)
	held := pg.Position{Timeline: remote.Lineage.Timeline, LSN: remote.Flushed}
	require.Equal(n.tb, end, held)
}

// slowly makes a server whose walsenders never give up by themselves.
func slowly(cfg *pgctl.Config) { cfg.Parameters["wal_sender_timeout"] = "0" }

func TestYield(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	client, err := a.connect("client")
	require.NoError(t, err)
	defer client.Close(a.ctx()) //nolint:errcheck // the server ends it
	a.sql("INSERT INTO t VALUES (1)")
	require.NoError(t, a.Checkpoint(a.ctx()))
	seen := a.status().Generation

	end, err := a.Yield(a.ctx(), "b")
	require.NoError(t, err)
	a.requireFlushed(end, b)
	status := a.status()
	require.Equal(t, pg.HealthDead, status.Health)
	require.Equal(t, pg.ProcessStopped, status.Process)
	require.Equal(t, seen+1, status.Generation)
	disk, err := a.OnDisk(a.ctx())
	require.NoError(t, err)
	require.Equal(t, "shut down", disk.State)

	// The way back: the same term goes on, on the same timeline.
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	status = a.status()
	require.Equal(t, pg.Timeline(1), status.Timeline)
	require.GreaterOrEqual(t, status.Flushed, end.LSN)
	b.awaitStreaming(a)
	require.Equal(t, "1", a.sql("SELECT count(*) FROM t"))
}

func TestYieldWantsAPrimaryAndAStandby(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", func(cfg *pgctl.Config) { cfg.YieldPatience = 20 * time.Millisecond })
	b := newStandby(t, "b", a)
	_, err := b.Yield(b.ctx(), "c")
	require.ErrorContains(t, err, "not a primary")
	require.ErrorIs(t, err, pg.ErrNotStopped)
	_, err = a.Yield(a.ctx(), "c")
	require.ErrorContains(t, err, "does not stream")

	thaw := a.freeze(b.receiver())
	_, err = a.Yield(a.ctx(), "b")
	require.ErrorIs(t, err, pg.ErrNotStopped)
	require.Equal(t, pg.HealthAlive, a.status().Health)
	require.Equal(t, pg.ProcessRunning, a.status().Process)
	thaw()
	b.awaitStreaming(a)

	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	_, err = a.Yield(a.ctx(), "b")
	require.ErrorIs(t, err, pg.ErrNotRunning)
}

// A standby that is frozen, with a full connection or an empty one, does not
// hold up the move to another one.
func TestYieldWithFrozenStandbys(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", slowly)
	b, c := newStandby(t, "b", a), newStandby(t, "c", a)
	for _, load := range []string{
		"SELECT 1",
		"INSERT INTO t SELECT generate_series(1, 1000)",
		"INSERT INTO t SELECT generate_series(1, 200000)",
	} {
		thaw := c.freeze(c.receiver())
		a.sql(load)
		b.awaitStreaming(a)
		require.NoError(t, a.Checkpoint(a.ctx()))
		end, err := a.Yield(a.ctx(), "b")
		require.NoError(t, err, load)
		a.requireFlushed(end, b)
		thaw()
		require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
		b.awaitStreaming(a)
		c.awaitStreaming(a)
	}
}

// A standby that freezes in the middle of the shutdown does not hold it up for
// long either.
func TestYieldWithAStandbyThatFreezesLate(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", slowly, func(cfg *pgctl.Config) { cfg.YieldPatience = time.Second })
	b, c := newStandby(t, "b", a), newStandby(t, "c", a)
	// Yield waits for the target, until the other one is known as fit.
	thaw := b.freeze(b.receiver())
	receiver := c.receiver()
	flushed := func() string {
		return a.sql("SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'c'")
	}
	before := flushed()
	var end pg.Position
	yielded := make(chan error, 1)
	go func() {
		var err error
		end, err = a.Yield(a.ctx(), "b")
		yielded <- err
	}()
	a.await("c has flushed what Yield writes", func() bool { return flushed() != before })
	c.freeze(receiver)
	thaw()
	require.NoError(t, <-yielded)
	a.requireFlushed(end, b)
}

// A target that hangs ends with the context; the server is still stopping, and
// an immediate stop ends that.
func TestYieldToATargetThatHangs(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", slowly)
	b, c := newStandby(t, "b", a), newStandby(t, "c", a)
	// A session that ignores the signal keeps the server from going on while the
	// target is frozen.
	client, err := a.connect("client")
	require.NoError(t, err)
	defer client.Close(a.ctx()) //nolint:errcheck // the server ends it
	thaw := a.freeze(int(client.PID()))
	ctx, cancel := context.WithCancel(a.ctx())
	defer cancel()
	yielded := make(chan error, 1)
	go func() {
		_, err := a.Yield(ctx, "b")
		yielded <- err
	}()
	a.await("the server is stopping", func() bool { return a.status().Process == pg.ProcessStopping })
	b.freeze(b.receiver())
	thaw()
	c.await("the shutdown checkpoint is written", func() bool {
		disk, err := a.controlState()
		return err == nil && disk == 1
	})
	cancel()
	require.ErrorIs(t, <-yielded, context.Canceled)
	require.Equal(t, pg.ProcessStopping, a.status().Process)
	require.NoError(t, a.Stop(a.ctx(), pg.StopImmediate))
	require.Equal(t, pg.HealthDead, a.status().Health)

	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.Equal(t, pg.Timeline(1), a.status().Timeline)
	c.awaitStreaming(a)
}

// Three servers change their roles in a row, with one of them frozen each time:
// nobody needs a rewind, whenever and how the old primary becomes a standby.
func TestSwitchoversInARow(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", slowly)
	primary, target, third := a, newStandby(t, "b", a, slowly), newStandby(t, "c", a, slowly)
	for next := pg.Timeline(2); next <= 5; next++ {
		primary.sql("INSERT INTO t VALUES (" + strconv.Itoa(int(next)) + ")")
		target.awaitStreaming(primary)
		thaw := third.freeze(third.receiver())
		require.NoError(t, primary.Checkpoint(primary.ctx()))
		end, err := primary.Yield(primary.ctx(), target.name)
		require.NoError(t, err)
		primary.requireFlushed(end, target)

		up := target.up(primary.name)
		switch next {
		case 3: // fenced, before the target is promoted
			require.NoError(t, primary.StartStandby(primary.ctx(), pg.Upstream{}))
		case 4: // as a standby of the target, before that is promoted
			require.NoError(t, primary.StartStandby(primary.ctx(), up))
		}
		require.NoError(t, target.SetSync(target.ctx(), pg.SyncSetting{}))
		require.NoError(t, target.Fence(target.ctx()))
		promotion, err := target.Promote(target.ctx(), warrant{}, next)
		require.NoError(t, err)
		require.Equal(t, end.LSN, promotion.SwitchAt)
		require.NoError(t, target.OpenGate(target.ctx()))

		if next == 3 {
			require.NoError(t, primary.Follow(primary.ctx(), up))
		} else {
			require.NoError(t, primary.StartStandby(primary.ctx(), up))
		}
		thaw()
		require.NoError(t, third.Follow(third.ctx(), target.up(third.name)))
		primary.awaitStreaming(target)
		third.awaitStreaming(target)
		require.Equal(t, strconv.Itoa(int(next)-1), primary.sql("SELECT count(*) FROM t"))
		require.Equal(t, next, primary.status().Timeline)
		remote, err := third.Identify(third.ctx(), primary.up("x"))
		require.NoError(t, err)
		require.Len(t, remote.Lineage.History, int(next)-1)
		primary, target = target, primary
	}
}

// An immediate stop wins over a Yield that cannot go on.
func TestStopWinsOverYield(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", slowly)
	b := newStandby(t, "b", a)
	client, err := a.connect("client")
	require.NoError(t, err)
	defer client.Close(a.ctx()) //nolint:errcheck // the server ends it
	a.freeze(int(client.PID()))
	yielded := make(chan error, 1)
	go func() {
		_, err := a.Yield(a.ctx(), b.name)
		yielded <- err
	}()
	a.await("the server is stopping", func() bool { return a.status().Process == pg.ProcessStopping })
	require.NoError(t, a.Stop(a.ctx(), pg.StopImmediate))
	require.ErrorContains(t, <-yielded, "being stopped")
	require.Equal(t, pg.HealthDead, a.status().Health)
}

// controlState is the state in the control file.
func (n *node) controlState() (uint32, error) {
	content, err := os.ReadFile(filepath.Join(n.cfg.DataDir, "global", "pg_control"))
	if err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint32(content[16:]), nil
}
