package testbed_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
)

func TestEtcdClusterLivesWithoutItsLeader(t *testing.T) {
	t.Parallel()
	c := testbed.StartEtcdCluster(t, testbed.EtcdConfig{}, 3)
	require.Len(t, c.Endpoints(), 3)
	leader, others, err := c.Leader(t.Context())
	require.NoError(t, err)
	require.Len(t, others, 2)

	require.NoError(t, leader.Kill())
	next, _, err := c.Leader(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, leader.Address(), next.Address())
	require.NoError(t, c.Start(t.Context()))
	leads, err := leader.Leads(t.Context())
	require.NoError(t, err)
	require.False(t, leads, "it comes back as a follower")

	require.NoError(t, next.Pause())
	third, _, err := c.Leader(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, next.Address(), third.Address())
	require.NoError(t, next.Resume())
	require.NoError(t, c.Pause())
	require.NoError(t, c.Resume())
	require.NoError(t, c.Kill())
	require.False(t, listens(t, third.Endpoints()[0]))
}

func TestEtcdClusterIsWithoutTLS(t *testing.T) {
	t.Parallel()
	_, err := testbed.NewEtcdCluster(testbed.EtcdConfig{Binary: "etcd", TLS: &testbed.EtcdTLS{}}, 3)
	require.ErrorContains(t, err, "without TLS only")
}
