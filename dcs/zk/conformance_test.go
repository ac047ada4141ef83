package zk_test

import (
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

type cluster struct{ servers []string }

func (c cluster) Client(tb testing.TB, _ string) (dcs.Store, clock.Clock) {
	tb.Helper()
	s, err := zk.Open(tb.Context(), zk.Config{Servers: c.servers, Chroot: "/pghad"})
	require.NoError(tb, err)
	return s, clock.New()
}

func (c cluster) True() clock.Clock { return clock.New() }

func harness(servers ...string) dcstest.Harness[cluster] {
	return dcstest.Harness[cluster]{
		New: func(*testing.T) cluster { return cluster{servers} },
		// A session that is not renewed is ended at once, or else expires after
		// another TTL.
		Traits: dcstest.Traits{Linger: 2*time.Second + dcstest.RealTimeSlack},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, harness(testbed.StartZooKeeper(t).Address()))
}

func TestConformanceOfThree(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, harness(testbed.StartZooKeeperEnsemble(t, 3).Addresses()...))
}
