package pgctl_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// wiretap stands between a controller and its server's socket, and counts.
type wiretap struct {
	mu          sync.Mutex
	connections int
	cancels     int // requests to cancel a query
	flights     int // from the client, each begun behind an answer
	open        []net.Conn
}

// tap puts a wiretap in the place of a running server's socket.
func (n *node) tap() *wiretap {
	n.tb.Helper()
	socket := filepath.Join(n.cfg.StateDir, fmt.Sprintf(".s.PGSQL.%d", n.cfg.Port))
	behind := socket + ".behind"
	require.NoError(n.tb, os.Rename(socket, behind))
	listener, err := net.Listen("unix", socket)
	require.NoError(n.tb, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // what Listen returns for a unix socket
	require.NoError(n.tb, os.Chmod(socket, 0o777))
	w := &wiretap{}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { w.serve(conn, behind) })
		}
	})
	n.tb.Cleanup(func() {
		require.NoError(n.tb, listener.Close())
		w.mu.Lock()
		for _, conn := range w.open {
			_ = conn.Close() // it may have ended
		}
		w.mu.Unlock()
		tasks.Wait()
		require.NoError(n.tb, os.Rename(behind, socket))
	})
	return w
}

// serve relays one connection. The server sees this process's user, as whom the
// controller runs too.
func (w *wiretap) serve(conn net.Conn, behind string) {
	defer conn.Close() //nolint:errcheck // relayed to its end
	server, err := net.Dial("unix", behind)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // relayed to its end
	w.mu.Lock()
	w.connections++
	w.open = append(w.open, conn, server)
	w.mu.Unlock()
	const cancelRequest = 80877102
	answered, first := true, true
	go func() {
		defer conn.Close() //nolint:errcheck // relayed to its end
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil {
				return
			}
			w.mu.Lock()
			answered = true
			w.mu.Unlock()
			if _, err := conn.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = server.Close()
			}
			return
		}
		w.mu.Lock()
		if first && n >= 8 && binary.BigEndian.Uint32(buffer[4:]) == cancelRequest {
			w.cancels++
		}
		if answered {
			w.flights++
		}
		answered, first = false, false
		w.mu.Unlock()
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (w *wiretap) counts() (connections, flights, cancels int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connections, w.flights, w.cancels
}

// Status costs one round trip on the connection of the one before.
func TestStatusIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	require.NoError(t, a.Close())
	a.open()
	w := a.tap()
	require.Equal(t, pg.HealthAlive, a.status().Health)
	for range 5 {
		_, before, _ := w.counts()
		require.Equal(t, pg.HealthAlive, a.status().Health)
		connections, after, _ := w.counts()
		require.Equal(t, 1, after-before)
		require.Equal(t, 1, connections)
	}
}

// A question that is given up is not cancelled: its connection is closed.
func TestSessionsAreClosedNeverCancelled(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	blocker, err := a.connect("postgres")
	require.NoError(t, err)
	defer blocker.Close(a.ctx()) //nolint:errcheck // nothing is lost
	_, err = blocker.Exec(a.ctx(), "BEGIN; LOCK pg_catalog.pg_replication_origin, pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE").ReadAll()
	require.NoError(t, err)
	w := a.tap()
	short, cancel := context.WithTimeout(a.ctx(), 200*time.Millisecond)
	defer cancel()
	status, err := a.Status(short)
	require.NoError(t, err)
	require.Equal(t, pg.HealthUnknown, status.Health)
	require.NoError(t, blocker.Close(a.ctx()))
	a.await("it answers again", func() bool { return a.status().Health == pg.HealthAlive })
	_, _, cancels := w.counts()
	require.Zero(t, cancels)
	require.NotContains(t, a.log(), "canceling statement")
}

// Who does not answer is unknown, since the first time that it did not.
func TestStatusSaysSinceWhen(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) { cfg.StatementTimeout = 200 * time.Millisecond })
	status := a.status()
	require.Zero(t, status.UnknownSince)
	require.False(t, status.AnsweredAt.Before(status.SampledAt))
	thaw := a.freeze(status.Postgres)
	require.NoError(t, a.Close())
	a.open() // who has no session gets none
	first := a.status()
	require.Equal(t, pg.HealthUnknown, first.Health)
	require.Equal(t, first.SampledAt, first.UnknownSince)
	require.Zero(t, first.AnsweredAt)
	require.NotEmpty(t, first.Err)
	second := a.status()
	require.Equal(t, first.UnknownSince, second.UnknownSince)
	require.True(t, second.SampledAt.After(first.SampledAt))
	thaw()
	a.await("it answers", func() bool { return a.status().Health == pg.HealthAlive })
	require.Zero(t, a.status().UnknownSince)
	a.crash()
	require.Zero(t, a.status().UnknownSince, "dead is not unknown")
}

func TestStatusSaysWhatWaitsForARestart(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	require.Empty(t, a.status().Pending)
	require.NoError(t, a.Close())
	a.cfg.Parameters["max_connections"] = "31"
	a.open()
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
	require.Equal(t, []string{"max_connections"}, a.status().Pending)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.Empty(t, a.status().Pending)
}

// A long recovery can be seen to move.
func TestStatusOfARecovery(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	backup := a.copied()
	b := newNode(t, "b", quick)
	out, err := exec.CommandContext(b.ctx(), "cp", "-a", backup, b.cfg.DataDir).CombinedOutput()
	require.NoError(t, err, string(out))
	segments, err := filepath.Glob(b.walFile("0*"))
	require.NoError(t, err)
	for _, segment := range segments[1:] {
		require.NoError(t, os.Remove(segment))
	}
	require.NoError(t, os.Truncate(segments[0], 0)) // it waits for the first record
	short, cancel := context.WithTimeout(b.ctx(), time.Second)
	defer cancel()
	require.Error(t, b.StartStandby(short, pg.Upstream{}))
	status := b.status()
	require.Equal(t, pg.HealthUnknown, status.Health)
	require.Equal(t, pg.ProcessStarting, status.Process)
	require.Equal(t, filepath.Base(segments[0]), status.Recovering)
}

// The postmaster stands still: old sessions would still write, a new one is not given.
func TestSelfCheckOfAStoppedPostmaster(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) { cfg.SelfCheckTimeout = 300 * time.Millisecond })
	require.NoError(t, a.SelfCheck(a.ctx()))
	thaw := a.freeze(a.status().Postgres)
	require.ErrorIs(t, a.SelfCheck(a.ctx()), context.DeadlineExceeded)
	require.Equal(t, pg.HealthAlive, a.status().Health, "its kept session answers")
	thaw()
	a.await("it writes again", func() bool { return a.SelfCheck(a.ctx()) == nil })
}

// The monitoring role reads all of a status, and cannot change anything.
func TestStatusByTheMonitoringRole(t *testing.T) {
	t.Parallel()
	monitored := func(cfg *pgctl.Config) { cfg.MonitorUser = "watcher" }
	a := newPrimary(t, "a", quick, monitored)
	b := newStandby(t, "b", a, quick, monitored)
	for _, n := range []*node{a, b} {
		status := n.status()
		require.Equal(t, pg.HealthAlive, status.Health)
		require.NotEmpty(t, status.SystemID)
		require.Equal(t, "1", n.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'watcher'"))
		require.Equal(t, "f", n.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'watcher'"))
	}
	require.Equal(t, "b", a.status().Senders[0].Name)
	require.NotEmpty(t, b.status().Startup)
	require.NotEmpty(t, b.status().Upstream)
	watcher, err := a.connect("watcher")
	require.NoError(t, err)
	_, err = watcher.Exec(a.ctx(), "SELECT i FROM t").ReadAll()
	require.ErrorContains(t, err, "permission denied")
	require.NoError(t, watcher.Close(a.ctx()))

	// A server that does not have the role is watched by the superuser.
	require.NoError(t, a.Close())
	a.cfg.MonitorUser = "nobody"
	a.open()
	require.NoError(t, a.SetSync(a.ctx(), pg.SyncSetting{}))
	require.Equal(t, pg.HealthAlive, a.status().Health)
	for _, statement := range pgctl.MonitoringRole("nobody") {
		a.sql(statement)
	}
	require.NoError(t, a.Close())
	a.open()
	require.Equal(t, pg.HealthAlive, a.status().Health)
	require.Equal(t, "1", a.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'nobody'"))
}
