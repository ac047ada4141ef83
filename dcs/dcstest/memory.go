package dcstest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
)

// outage is how long a Memory has nobody who decides after KillLeader.
const outage = time.Second

// Memory is a store in this process whose clients can be cut off: a backend with
// all abilities but two (it has one server and no history). It is for trying out
// cases and locks, and runs in a testing/synctest bubble.
type Memory struct {
	*memory.Cluster

	mu    sync.Mutex
	links map[string]*Link // by the clients' name
}

// NewMemory makes one for a test, which closes it.
func NewMemory(tb testing.TB, cfg memory.Config) *Memory {
	tb.Helper()
	m := &Memory{Cluster: memory.New(cfg), links: map[string]*Link{}}
	tb.Cleanup(m.Cluster.Close)
	return m
}

// MemoryHarness is a Harness whose cases each have a Memory in a bubble.
func MemoryHarness(cfg memory.Config) Harness[*Memory] {
	return Harness[*Memory]{
		New: func(t *testing.T) *Memory {
			t.Helper()
			return NewMemory(t, cfg)
		},
		Leaf: Bubble,
	}
}

// Client implements Cluster.
func (m *Memory) Client(_ testing.TB, name string) (dcs.Store, clock.Clock) {
	return Faulty(m.Cluster.Client(name), m.Link(name)), clock.New()
}

// True implements Cluster.
func (m *Memory) True() clock.Clock { return clock.New() }

// Link is the path of all clients of one name.
func (m *Memory) Link(client string) *Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.links[client] == nil {
		m.links[client] = new(Link)
	}
	return m.links[client]
}

// all does something to every path.
func (m *Memory) all(do func(*Link)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.links { // the order does not matter: no call is released by one and waits for another
		do(l)
	}
}

// Partition implements Partitioner.
func (m *Memory) Partition(client string) { m.Link(client).Cut() }

// DropReplies implements ReplyDropper.
func (m *Memory) DropReplies(client string) <-chan struct{} { return m.Link(client).DropReplies() }

// Heal implements Partitioner and ReplyDropper.
func (m *Memory) Heal(client string) { m.Link(client).Heal() }

// Pause implements Pauser: what is sent meanwhile is carried out at its end. The
// sessions' time goes on.
func (m *Memory) Pause() error {
	m.all((*Link).Cut)
	return nil
}

// Resume implements Pauser.
func (m *Memory) Resume() error {
	m.all((*Link).Heal)
	return nil
}

// KillLeader implements LeaderKiller: for a while all calls are refused.
func (m *Memory) KillLeader(context.Context) error {
	m.all((*Link).Refuse)
	clock.New().AfterFunc(outage, func() { m.all((*Link).Heal) })
	return nil
}

// Restore implements LeaderKiller.
func (m *Memory) Restore(context.Context) error {
	m.all((*Link).Heal)
	return nil
}

// Expire implements SessionExpirer.
func (m *Memory) Expire(_ context.Context, id dcs.SessionID) error {
	if !m.Cluster.Expire(id) {
		return fmt.Errorf("there is no session %s to be ended", id)
	}
	return nil
}
