package zk_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/lockertest"
	"github.com/pghad/pghad/internal/testbed"
)

// cluster is one ZooKeeper, or several, behind a network that can fail.
type cluster struct {
	t       *testing.T
	network *network
	members []*testbed.ZooKeeperServer
}

func (c *cluster) Client(tb testing.TB, name string) (dcs.Store, clock.Clock) {
	tb.Helper()
	s, err := zk.Open(tb.Context(), zk.Config{Servers: c.network.path(c.t, name).proxies, Chroot: "/pghad"})
	require.NoError(tb, err)
	return s, clock.New()
}

func (c *cluster) True() clock.Clock { return clock.New() }

func (c *cluster) Partition(client string) { c.network.find(client).cut() }

func (c *cluster) DropReplies(client string) <-chan struct{} {
	return c.network.find(client).dropReplies()
}

func (c *cluster) Heal(client string) { c.network.find(client).heal() }

func (c *cluster) Pause() error  { return c.each((*testbed.ZooKeeperServer).Pause) }
func (c *cluster) Resume() error { return c.each((*testbed.ZooKeeperServer).Resume) }

func (c *cluster) each(do func(*testbed.ZooKeeperServer) error) error {
	var errs []error
	for _, s := range c.members {
		errs = append(errs, do(s))
	}
	return errors.Join(errs...)
}

func (c *cluster) Expire(ctx context.Context, id dcs.SessionID) error {
	return c.network.expire(ctx, id)
}

func (c *cluster) Restore(ctx context.Context) error {
	return c.each(func(s *testbed.ZooKeeperServer) error { return s.Start(ctx) })
}

// single is a cluster of one.
type single struct{ *cluster }

func (s single) KillLeader(ctx context.Context) error {
	if err := s.members[0].Kill(); err != nil {
		return err
	}
	return s.members[0].Start(ctx)
}

// triple is a cluster of three.
type triple struct {
	*cluster

	ensemble *testbed.ZooKeeperEnsemble
}

func (c triple) KillLeader(ctx context.Context) error {
	leader, _, err := c.ensemble.Leader(ctx)
	if err != nil {
		return err
	}
	return leader.Kill()
}

func (c triple) KillFollower(ctx context.Context) error {
	_, others, err := c.ensemble.Leader(ctx)
	if err != nil {
		return err
	}
	return others[0].Kill()
}

// minTimeout is the shortest session in which a loaded machine says two words.
const minTimeout = "minSessionTimeout=1000"

func harness[C dcstest.Cluster](c C) dcstest.Harness[C] {
	return dcstest.Harness[C]{
		New: func(*testing.T) C { return c },
		Traits: dcstest.Traits{
			MaxTTL: 24 * time.Hour,
			// A session that is not renewed is ended after a tenth more, or expires
			// after another TTL when its last renewal was not the last sign of life.
			Linger: 2*time.Second + dcstest.RealTimeSlack,
		},
		Lock: lockertest.Contend,
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t, minTimeout)
	dcstest.Run(t, harness(single{&cluster{
		t: t, network: newNetwork(server.Address()), members: []*testbed.ZooKeeperServer{server},
	}}))
}

func TestConformanceOfThree(t *testing.T) {
	t.Parallel()
	e := testbed.StartZooKeeperEnsemble(t, 3, minTimeout)
	dcstest.Run(t, harness(triple{
		&cluster{t: t, network: newNetwork(e.Addresses()...), members: e.Members()}, e,
	}))
}
