package pg_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestHeld(t *testing.T) {
	t.Parallel()
	primary := pg.Status{Role: pg.RolePrimary, Timeline: 2, Flushed: 10, Replayed: 99}
	require.Equal(t, pg.Position{Timeline: 2, LSN: 10}, primary.Held())
	standby := pg.Status{Role: pg.RoleStandby, Timeline: 2, Received: 20, Replayed: 10}
	require.Equal(t, pg.LSN(10), standby.Held().LSN, "what another run of the server received is not known")
	require.Zero(t, standby.Backlog())
	standby.ReceivedValid = true
	require.Equal(t, pg.LSN(20), standby.Held().LSN)
	require.Equal(t, pg.LSN(10), standby.Backlog())
	standby.Replayed = 30
	require.Zero(t, standby.Backlog())
	require.Equal(t, pg.LSN(30), standby.Held().LSN)
}

func TestStreams(t *testing.T) {
	t.Parallel()
	require.False(t, pg.Status{}.Streams())
	require.False(t, pg.Status{Receiver: &pg.Receiver{State: "waiting"}}.Streams())
	require.True(t, pg.Status{Receiver: &pg.Receiver{State: "streaming"}}.Streams())
}

func TestUpstreamForPeople(t *testing.T) {
	t.Parallel()
	require.Equal(t, "nowhere", pg.Upstream{}.Address())
	require.True(t, pg.Upstream{}.IsZero())
	require.Equal(t, "b:5432", pg.Upstream{Host: "b", Port: 5432}.Address())
}
