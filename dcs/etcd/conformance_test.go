package etcd_test

import (
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

type cluster struct{ server *testbed.EtcdServer }

func (c cluster) Client(tb testing.TB, _ string) (dcs.Store, clock.Clock) {
	tb.Helper()
	s, err := etcd.Open(tb.Context(), etcd.Config{Endpoints: c.server.Endpoints()})
	require.NoError(tb, err)
	return s, clock.New()
}

func (c cluster) True() clock.Clock { return clock.New() }

func TestConformance(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	dcstest.Run(t, dcstest.Harness[cluster]{
		New: func(*testing.T) cluster { return cluster{server} },
		Traits: dcstest.Traits{
			MinTTL: time.Second,
			// etcd looks for expired leases twice a second.
			Linger: 2*time.Second + dcstest.RealTimeSlack,
		},
	})
}
