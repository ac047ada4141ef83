package daemon

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg"
)

// manager is a service manager: what services tell it arrives on a channel.
func manager(t *testing.T, watchdog string) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", watchdog)
	news := make(chan string, 100)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				close(news)
				return
			}
			news <- string(buffer[:n])
		}
	}()
	return news
}

// told is a node that says what it was told to say.
type told struct {
	mu     sync.Mutex
	status ha.NodeStatus
}

func (n *told) Status() ha.NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

func (n *told) say(change func(*ha.NodeStatus)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.status)
}

// TestServiceManagerIsTold is not parallel: it sets variables of the environment.
func TestServiceManagerIsTold(t *testing.T) {
	news := manager(t, "30000") // microseconds
	node := &told{}
	s := newService(quiet, ha.Timing{}.Defaults())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx, node) })

	node.say(func(status *ha.NodeStatus) {
		*status = ha.NodeStatus{At: time.Now().Add(time.Hour), Plan: "lead", Term: 3, Server: pg.Status{Timeline: 2}}
	})
	require.Equal(t, "READY=1\nSTATUS=primary in term 3, timeline 2\nWATCHDOG=1", <-news, "the first look makes it ready")
	require.Equal(t, "WATCHDOG=1", <-news)

	node.say(func(status *ha.NodeStatus) {
		status.Term, status.Leader, status.Plan, status.Why = 0, "b", "follow", "the gate\nis closed"
	})
	for text := range news {
		if strings.HasPrefix(text, "STATUS=") {
			require.Equal(t, "STATUS=follow, the primary is b; the gate is closed\nWATCHDOG=1", text)
			break
		}
	}
	cancel()
	running.Wait()
	for len(news) > 0 {
		<-news
	}
	s.ending()
	require.Equal(t, "STOPPING=1", <-news)
}

func TestWatchdogIsFedWhileTheLoopMoves(t *testing.T) {
	t.Parallel()
	timing := ha.Timing{}.Defaults()
	s := newService(quiet, timing)
	now := time.Now()
	looked := func(ago time.Duration) ha.NodeStatus { return ha.NodeStatus{At: now.Add(-ago)} }
	require.True(t, s.moves(now, looked(time.Second)))
	require.True(t, s.moves(now, looked(timing.TTL+timing.ElectionTimeout)), "an election, or a start")
	require.False(t, s.moves(now, looked(time.Hour)))
	for _, effect := range []string{"rejoin/clone", "rejoin/rewind", "bootstrap/init"} {
		s.effects().Before(effect)
		require.True(t, s.moves(now, looked(time.Hour)), "a %s takes as long as it takes", effect)
		s.effects().After(effect)
		require.False(t, s.moves(now, looked(time.Hour)))
	}
	s.effects().Before("server/stop")
	require.False(t, s.moves(now, looked(time.Hour)))
}

func TestNobodyToTell(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s := newService(quiet, ha.Timing{}.Defaults())
	s.ending()
}
