package demo

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/testbed"
)

// Whatever a store consists of, all of it goes away and comes back, with what was
// written before.
func TestServersGoAndComeBack(t *testing.T) {
	t.Parallel()
	testbed.NeedEtcd(t)
	testbed.NeedZooKeeper(t)
	for name, o := range map[string]Options{
		"etcd (3 members)": {DCS: DCSEtcd, DCSMembers: 3},
		"ZooKeeper":        {DCS: DCSZooKeeper, DCSMembers: 1, Quick: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := newServers(o, t.TempDir())
			require.NoError(t, err)
			require.Equal(t, name, s.title())
			require.NoError(t, s.kill(), "nothing runs yet")
			require.NoError(t, s.start(t.Context()))
			t.Cleanup(func() { require.NoError(t, s.kill()) })
			store, err := s.open(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			answers := func(within time.Duration) bool {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				kv, err := store.Get(ctx, "/a/k")
				return err == nil && string(kv.Value) == "v"
			}
			_, err = dcs.Put(t.Context(), store, "/a/k", []byte("v"))
			require.NoError(t, err)

			require.NoError(t, s.kill())
			require.False(t, answers(100*time.Millisecond))
			require.NoError(t, s.start(t.Context()))
			require.Eventually(t, func() bool { return answers(time.Second) }, patience, time.Millisecond)

			require.NoError(t, s.freeze())
			require.False(t, answers(100*time.Millisecond))
			require.NoError(t, s.thaw())
			require.NoError(t, s.awaitServing(t.Context()))
			require.Eventually(t, func() bool { return answers(time.Second) }, patience, time.Millisecond)
			require.Contains(t, s.logs(), s.product+" 1:\n")
			require.NoError(t, s.freeze())
			require.NoError(t, s.kill(), "also while they stand still")
		})
	}
}
