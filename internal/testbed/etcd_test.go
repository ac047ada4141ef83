package testbed_test

import (
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
)

// listens says whether somebody accepts connections at the endpoint.
func listens(t *testing.T, endpoint string) bool {
	t.Helper()
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return false
	}
	require.NoError(t, conn.Close())
	return true
}

func TestEtcdServerLives(t *testing.T) {
	t.Parallel()
	s := testbed.StartEtcd(t)
	endpoint := s.Endpoints()[0]
	require.True(t, listens(t, endpoint))
	require.NoError(t, s.Start(t.Context()), "starting a running server does nothing")

	require.NoError(t, s.Kill())
	require.False(t, listens(t, endpoint))
	require.NoError(t, s.Kill(), "killing a dead server does nothing")
	require.Error(t, s.Pause())

	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, endpoint, s.Endpoints()[0])
	require.True(t, listens(t, endpoint))

	require.NoError(t, s.Restart(t.Context()))
	require.True(t, listens(t, endpoint))

	require.NoError(t, s.Pause())
	require.NoError(t, s.Resume())
	require.NoError(t, s.AwaitServing(t.Context()))
	require.Contains(t, s.LogTail(), "etcd")
	require.NoError(t, s.Pause())
	require.NoError(t, s.Stop(), "a frozen server is stopped too")
	require.False(t, listens(t, endpoint))
	require.ErrorContains(t, s.AwaitServing(t.Context()), "does not run")
}

func TestEtcdServerSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	binary := testbed.Need(t, "etcd", "apt-get install etcd-server")
	s, err := testbed.NewEtcdServer(testbed.EtcdConfig{Binary: binary, Dir: t.TempDir(), Args: []string{"--no-such-flag"}})
	require.NoError(t, err)
	require.ErrorContains(t, s.Start(t.Context()), "no-such-flag")
}
