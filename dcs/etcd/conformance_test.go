package etcd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/lockertest"
	"github.com/pghad/pghad/internal/testbed"
)

// cluster is real servers, and clients that reach each by a way of their own
// that can be cut.
type cluster struct {
	servers *testbed.EtcdCluster

	mu   sync.Mutex
	ways map[string][]*testbed.Proxy // by the clients' name
}

func newCluster(t *testing.T, binary string, members int) *cluster {
	t.Helper()
	return &cluster{
		servers: testbed.StartEtcdCluster(t, testbed.EtcdConfig{Binary: binary}, members),
		ways:    map[string][]*testbed.Proxy{},
	}
}

func (c *cluster) Client(tb testing.TB, name string) (dcs.Store, clock.Clock) {
	tb.Helper()
	var endpoints []string
	for _, server := range c.servers.Members() {
		way, err := testbed.NewProxy(server.Address(), answersOfHTTP2)
		require.NoError(tb, err)
		c.mu.Lock()
		c.ways[name] = append(c.ways[name], way)
		c.mu.Unlock()
		tb.Cleanup(func() {
			c.mu.Lock()
			c.ways[name] = slices.DeleteFunc(c.ways[name], func(other *testbed.Proxy) bool { return other == way })
			c.mu.Unlock()
			if err := way.Close(); err != nil {
				tb.Errorf("close the way of client %s: %v", name, err)
			}
		})
		endpoints = append(endpoints, way.Address())
	}
	s, err := etcd.Open(tb.Context(), etcd.Config{Endpoints: endpoints})
	require.NoError(tb, err)
	return s, clock.New()
}

func (c *cluster) True() clock.Clock { return clock.New() }

// each does something to all ways of the clients of a name.
func (c *cluster) each(client string, do func(*testbed.Proxy)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, way := range c.ways[client] {
		do(way)
	}
}

func (c *cluster) Partition(client string) { c.each(client, (*testbed.Proxy).Cut) }
func (c *cluster) Heal(client string)      { c.each(client, (*testbed.Proxy).Heal) }

func (c *cluster) DropReplies(client string) <-chan struct{} {
	dropped := make(chan struct{})
	tell := sync.OnceFunc(func() { close(dropped) })
	c.each(client, func(way *testbed.Proxy) { way.DropReplies(tell) })
	return dropped
}

func (c *cluster) Pause() error  { return c.servers.Pause() }
func (c *cluster) Resume() error { return c.servers.Resume() }

func (c *cluster) KillLeader(ctx context.Context) error {
	leader, others, err := c.servers.Leader(ctx)
	if err != nil {
		return err
	}
	if err := leader.Kill(); err != nil || len(others) > 0 {
		return err
	}
	return leader.Start(ctx)
}

func (c *cluster) Restore(ctx context.Context) error { return c.servers.Start(ctx) }

// admin does what an operator does, on the way that clients do not take.
func (c *cluster) admin(do func(*clientv3.Client) error) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: c.servers.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	return errors.Join(do(client), client.Close())
}

func (c *cluster) Expire(ctx context.Context, id dcs.SessionID) error {
	lease, err := strconv.ParseInt(string(id), 16, 64)
	if err != nil {
		return err
	}
	return c.admin(func(client *clientv3.Client) error {
		_, err := client.Revoke(ctx, clientv3.LeaseID(lease))
		return err
	})
}

func (c *cluster) Compact(ctx context.Context) error {
	return c.admin(func(client *clientv3.Client) error {
		now, err := client.Get(ctx, "/")
		if err != nil {
			return err
		}
		_, err = client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		return err
	})
}

// several is a cluster of more than one member.
type several struct{ *cluster }

func (c several) KillFollower(ctx context.Context) error {
	_, others, err := c.servers.Leader(ctx)
	if err != nil {
		return err
	}
	return others[0].Kill()
}

var (
	_ dcstest.Partitioner    = (*cluster)(nil)
	_ dcstest.ReplyDropper   = (*cluster)(nil)
	_ dcstest.Pauser         = (*cluster)(nil)
	_ dcstest.LeaderKiller   = (*cluster)(nil)
	_ dcstest.SessionExpirer = (*cluster)(nil)
	_ dcstest.Compacter      = (*cluster)(nil)
	_ dcstest.FollowerKiller = several{}
)

// answersOfHTTP2 makes a counter of the answers to calls in what a server sends:
// frames with data, or with the headers that end a stream. Others belong to the
// connection.
func answersOfHTTP2() func([]byte) int {
	const header, data, headers, endStream = 9, 0x0, 0x1, 0x1
	var frame []byte // what is there of the frame that began last
	return func(piece []byte) (answers int) {
		frame = append(frame, piece...)
		for len(frame) >= header {
			length := int(binary.BigEndian.Uint32(append([]byte{0}, frame[:3]...)))
			if len(frame) < header+length {
				break
			}
			kind, flags := frame[3], frame[4]
			if kind == data && length > 0 || kind == headers && flags&endStream != 0 {
				answers++
			}
			frame = frame[header+length:]
		}
		return answers
	}
}

var traits = dcstest.Traits{
	MinTTL: time.Second,
	// etcd looks for expired leases twice a second.
	Linger:     2*time.Second + dcstest.RealTimeSlack,
	MaxValue:   1 << 20,
	MaxTxnKeys: etcd.DefaultMaxTxnOps,
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, binary := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, binary(t), 1)
			dcstest.Run(t, dcstest.Harness[*cluster]{
				New:    func(*testing.T) *cluster { return c },
				Traits: traits,
				Lock:   lockertest.Contend,
			})
		})
	}
}

func TestConformanceOfThreeMembers(t *testing.T) {
	t.Parallel()
	for name, binary := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := several{newCluster(t, binary(t), 3)}
			dcstest.Run(t, dcstest.Harness[several]{
				New:    func(*testing.T) several { return c },
				Traits: traits,
				Lock:   lockertest.Contend,
			})
		})
	}
}
