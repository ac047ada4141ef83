package pgctl_test

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestFenceWhileStreaming(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)

	_, err := b.Position(b.ctx())
	require.ErrorIs(t, err, pg.ErrNotFenced)

	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		conn, err := a.connect("client")
		if err != nil {
			return // the assertions below see that nothing was written
		}
		defer conn.Close(a.ctx()) //nolint:errcheck // nothing is lost
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = conn.Exec(a.ctx(), "INSERT INTO t SELECT generate_series(1, 100)").ReadAll()
			}
		}
	})
	a.await("writes", func() bool { return a.sql("SELECT count(*) > 500 FROM t") == "t" })
	require.NoError(t, b.Fence(b.ctx()))
	require.NoError(t, b.Fence(b.ctx()), "fencing again")
	first, err := b.Position(b.ctx())
	require.NoError(t, err)
	written := a.sql("SELECT count(*) FROM t")
	a.await("more writes", func() bool { return a.sql("SELECT count(*) FROM t") != written })
	second, err := b.Position(b.ctx())
	require.NoError(t, err)
	close(stop)
	writer.Wait()
	require.Equal(t, first, second, "a fenced standby holds no more than before")
	require.Equal(t, pg.Timeline(1), first.Timeline)

	// Only Follow lifts the fence.
	require.NoError(t, b.Follow(b.ctx(), a.up("b")))
	b.awaitStreaming(a)
	_, err = b.Position(b.ctx())
	require.ErrorIs(t, err, pg.ErrNotFenced)
}

// X1: a standby whose replay is paused keeps acknowledging after its upstream is
// cleared, because only the startup process ends the receiver.
func TestFenceWithReplayPaused(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	b.sql("SELECT pg_wal_replay_pause()")
	b.await("pause", func() bool { return b.sql("SELECT pg_get_wal_replay_pause_state()") == "paused" })
	require.True(t, b.status().ReplayPaused)
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	a.sql("INSERT INTO t VALUES (1)") // acknowledged while replay is paused
	require.NoError(t, b.Fence(b.ctx()))
	require.Equal(t, "0", b.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'"))
	require.Equal(t, "1", b.sql("SELECT count(*) FROM t"), "everything local is replayed")
	position, err := b.Position(b.ctx())
	require.NoError(t, err)
	require.NotZero(t, position)
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
}

func TestFenceWithDelayedReplay(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	b.sql("ALTER SYSTEM SET recovery_min_apply_delay = '1h'")
	b.sql("SELECT pg_reload_conf()")
	b.await("delay", func() bool { return b.sql("SHOW recovery_min_apply_delay") == "1h" })
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	a.sql("INSERT INTO t VALUES (1)")
	require.NoError(t, b.Fence(b.ctx()))
	require.Equal(t, "1", b.sql("SELECT count(*) FROM t"))
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
}

// X2: a receiver that is still connecting is not in pg_stat_wal_receiver, and
// its connection can still complete.
func TestFenceWhileReceiverConnects(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)

	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never says a word
	require.NoError(t, err)
	defer listener.Close() //nolint:errcheck // nothing is lost
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, b.Follow(b.ctx(), pg.Upstream{Host: "127.0.0.1", Port: atoi(t, port), Name: "b"}))
	b.await("connecting receiver", func() bool {
		return b.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'") == "1" && b.status().Receiver == nil
	})
	require.NoError(t, b.Fence(b.ctx()))
	require.Equal(t, "0", b.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'"))
	_, err = b.Position(b.ctx())
	require.NoError(t, err)
}

// A startup process that does not run at all (a stalled disk) is proof of
// nothing: the server is restarted.
func TestFenceWithFrozenStartupProcess(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	startup := atoi(t, b.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"))
	require.NoError(t, syscall.Kill(startup, syscall.SIGSTOP))
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	a.sql("INSERT INTO t VALUES (1)")
	require.NoError(t, b.Fence(b.ctx()))
	require.NotEqual(t, strconv.Itoa(startup), b.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"))
	require.Equal(t, "1", b.sql("SELECT count(*) FROM t"), "what was acknowledged has been replayed from disk")
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
}

// X6: after a restart nothing is known as received; the position is where local
// replay has ended, not below what was acknowledged before.
func TestPositionAfterRestart(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	b.sql("SELECT pg_wal_replay_pause()")
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	a.sql("INSERT INTO t SELECT generate_series(1, 1000)")
	acknowledged, err := pg.ParseLSN(a.sql("SELECT pg_current_wal_flush_lsn()"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, b.status().Received, acknowledged)
	require.NoError(t, b.Stop(b.ctx(), pg.StopImmediate))

	require.NoError(t, b.Fence(b.ctx()), "a server that does not run is started fenced")
	require.False(t, b.status().ReceivedValid)
	position, err := b.Position(b.ctx())
	require.NoError(t, err)
	require.GreaterOrEqual(t, position.LSN, acknowledged)
	require.Equal(t, "1000", b.sql("SELECT count(*) FROM t"))
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
}

// A receiver that dies in the middle of a record leaves more received than can
// ever be replayed.
func TestFenceAfterHalfARecord(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	a.sql("SET synchronous_commit = off; INSERT INTO t SELECT generate_series(1, 200000)")
	a.kill9()
	require.NoError(t, b.Fence(b.ctx()))
	status := b.status()
	position, err := b.Position(b.ctx())
	require.NoError(t, err)
	require.Equal(t, max(status.Received, status.Replayed), position.LSN)
}

func TestFenceRefusesPrimaryAndEndsWithContext(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	require.ErrorContains(t, a.Fence(a.ctx()), "primary")
	_, err := a.Position(a.ctx())
	require.ErrorIs(t, err, pg.ErrNotFenced)
	require.Equal(t, pg.RolePrimary, a.status().Role)
	require.True(t, strings.HasPrefix(a.sql("SHOW server_version_num"), strconv.Itoa(a.status().Version/10000)))
	require.WithinDuration(t, time.Now(), a.status().StartedAt, time.Hour)
}

// A standby of a standby streams, is fenced while its upstream goes on, and follows
// the primary afterwards.
func TestCascade(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	b := newStandby(t, "b", a)
	c := newNode(t, "c")
	_, err := c.Clone(c.ctx(), b.up("c"))
	require.NoError(t, err, "a standby can be copied")
	require.NoError(t, c.SetSync(c.ctx(), anyOf(1, "nobody")))
	require.NoError(t, c.StartStandby(c.ctx(), b.up("c")))
	a.sql("INSERT INTO t SELECT generate_series(1, 100)")
	c.awaitStreaming(a)
	require.Equal(t, b.cfg.Port, c.status().Receiver.Port)
	require.Len(t, b.status().Senders, 1)
	require.NoError(t, c.Fence(c.ctx()))
	before, err := c.Position(c.ctx())
	require.NoError(t, err)
	a.sql("INSERT INTO t SELECT generate_series(1, 100)")
	b.awaitStreaming(a)
	after, err := c.Position(c.ctx())
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, c.Follow(c.ctx(), a.up("c")))
	c.awaitStreaming(a)
}
