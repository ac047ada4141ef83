package zk_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
)

// TestWatchesAreShared: the library keeps each watch that is set until it fires,
// so a user who opens and closes watches must not set another each time.
func TestWatchesAreShared(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		updates := s.Watch(ctx, "/a/b/")
		require.Empty(t, (<-updates).KVs)
		cancel()
		_, open := <-updates
		require.False(t, open)
	}
	lists := 0
	for _, op := range f.ops() {
		if op == opList {
			lists++
		}
	}
	require.Equal(t, 1, lists)
	_, err := s.List(t.Context(), "/a/b/")
	require.NoError(t, err)
	require.Equal(t, int32(opList), f.ops()[len(f.ops())-1], "a read asks again")
}

// TestWatchTellsOfALossOnce has a server that serves until it is stopped.
func TestWatchTellsOfALossOnce(t *testing.T) {
	t.Parallel()
	f := &fakeServer{}
	s := open(t, zk.Config{Servers: []string{startFake(t, f)}})
	ctx, cancel := context.WithCancel(t.Context())
	updates := s.Watch(ctx, "/")
	require.Empty(t, (<-updates).KVs)
	f.stop()
	u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil })
	requireOnly(t, u.Err, dcs.ErrUnavailable)
	require.NoError(t, sleep(t.Context(), 3*zk.MinDialWait))
	select {
	case u := <-updates:
		require.Fail(t, "told again", "%v", u)
	default:
	}
	cancel()
	_, open := <-updates
	require.False(t, open)
}
