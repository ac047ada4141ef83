package testbed_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
)

func TestZooKeeperServerLives(t *testing.T) {
	t.Parallel()
	s := testbed.StartZooKeeper(t)
	mode, err := s.Mode(t.Context())
	require.NoError(t, err)
	require.Equal(t, "standalone", mode)
	require.NoError(t, s.Start(t.Context()), "starting a running server does nothing")

	require.NoError(t, s.Kill())
	_, err = s.Mode(t.Context())
	require.Error(t, err)
	require.NoError(t, s.Kill(), "killing a dead server does nothing")
	require.Error(t, s.Pause())

	address := s.Address()
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, address, s.Address())
	require.NoError(t, s.Pause())
	require.NoError(t, s.Resume())
	require.NoError(t, s.AwaitServing(t.Context()))
	require.Contains(t, s.LogTail(), "zookeeper")
	require.NoError(t, s.Pause())
	require.NoError(t, s.Stop(), "a frozen server is stopped too")
	require.ErrorContains(t, s.AwaitServing(t.Context()), "does not run")
	_, err = s.Mode(t.Context())
	require.Error(t, err)
}

func TestZooKeeperServerSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	testbed.Need(t, "java", "apt-get install zookeeper")
	s, err := testbed.NewZooKeeperServer(testbed.ZooKeeperConfig{Dir: t.TempDir(), Settings: []string{"tickTime=soon"}})
	require.NoError(t, err)
	require.ErrorContains(t, s.Start(t.Context()), "soon")
}

func TestZooKeeperEnsembleLosesItsLeader(t *testing.T) {
	t.Parallel()
	e := testbed.StartZooKeeperEnsemble(t, 3)
	require.Len(t, e.Addresses(), 3)
	leader, others, err := e.Leader(t.Context())
	require.NoError(t, err)
	require.Len(t, others, 2)

	require.NoError(t, leader.Kill())
	next, _, err := e.Leader(t.Context())
	require.NoError(t, err)
	require.NotSame(t, leader, next)
	require.NoError(t, leader.Start(t.Context()), "it follows the new one")
	mode, err := leader.Mode(t.Context())
	require.NoError(t, err)
	require.Equal(t, "follower", mode)
}
