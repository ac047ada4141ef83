package memory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
)

// inBubble runs the body with a cluster inside a synctest bubble, which also
// proves that no goroutine is left.
func inBubble(t *testing.T, cfg memory.Config, body func(t *testing.T, c *memory.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := memory.New(cfg)
		defer c.Close()
		body(t, c)
	})
}

func TestSessionEndsByTheClusterClock(t *testing.T) {
	t.Parallel()
	inBubble(t, memory.Config{}, func(t *testing.T, c *memory.Cluster) {
		s := c.Client("a")
		session, err := s.NewSession(t.Context(), 10*time.Second)
		require.NoError(t, err)
		_, err = dcs.Create(t.Context(), s, "/k", nil, session.ID())
		require.NoError(t, err)

		time.Sleep(9 * time.Second)
		require.NoError(t, session.Renew(t.Context()))
		time.Sleep(10*time.Second - 1)
		_, err = s.Get(t.Context(), "/k")
		require.NoError(t, err)
		time.Sleep(1)
		_, err = s.Get(t.Context(), "/k")
		require.ErrorIs(t, err, dcs.ErrNotFound)
		require.ErrorIs(t, session.Renew(t.Context()), dcs.ErrSessionLost)
	})
}

func TestLingerKeepsADeadSessionsKeysButNeverShortensIt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		linger time.Duration
		until  time.Duration
	}{
		{"later", 3 * time.Second, 13 * time.Second},
		{"negative counts as zero", -3 * time.Second, 10 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg := memory.Config{Linger: func(dcs.SessionID) time.Duration { return tc.linger }}
			inBubble(t, cfg, func(t *testing.T, c *memory.Cluster) {
				s := c.Client("a")
				session, err := s.NewSession(t.Context(), 10*time.Second)
				require.NoError(t, err)
				require.Equal(t, 10*time.Second, session.TTL())
				time.Sleep(tc.until - 1)
				require.NoError(t, session.Renew(t.Context()))
				time.Sleep(tc.until)
				require.ErrorIs(t, session.Renew(t.Context()), dcs.ErrSessionLost)
			})
		})
	}
}

func TestExpireEndsASessionAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, memory.Config{}, func(t *testing.T, c *memory.Cluster) {
		s := c.Client("a")
		session, err := s.NewSession(t.Context(), time.Hour)
		require.NoError(t, err)
		_, err = dcs.Create(t.Context(), s, "/k", nil, session.ID())
		require.NoError(t, err)
		updates := c.Client("b").Watch(t.Context(), "/")
		require.Len(t, (<-updates).KVs, 1)

		require.True(t, c.Expire(session.ID()))
		require.Empty(t, (<-updates).KVs)
		require.False(t, c.Expire(session.ID()))
		require.ErrorIs(t, session.Renew(t.Context()), dcs.ErrSessionLost)
	})
}

func TestWatchIsToldOfAnExpiryWithoutAnyCall(t *testing.T) {
	t.Parallel()
	inBubble(t, memory.Config{}, func(t *testing.T, c *memory.Cluster) {
		s := c.Client("a")
		session, err := s.NewSession(t.Context(), 10*time.Second)
		require.NoError(t, err)
		_, err = dcs.Create(t.Context(), s, "/k", nil, session.ID())
		require.NoError(t, err)
		updates := s.Watch(t.Context(), "/k")
		require.Len(t, (<-updates).KVs, 1)
		start := time.Now()
		require.Empty(t, (<-updates).KVs)
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}

func TestWatchOfAMalformedPrefixSaysSoOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, memory.Config{}, func(t *testing.T, c *memory.Cluster) {
		s := c.Client("a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		updates := s.Watch(ctx, "")
		require.ErrorIs(t, (<-updates).Err, dcs.ErrInvalid)
		_, err := dcs.Put(ctx, s, "/k", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.Empty(t, updates)
		cancel()
		_, open := <-updates
		require.False(t, open)
	})
}

func TestClosingTheClusterClosesEveryClient(t *testing.T) {
	t.Parallel()
	inBubble(t, memory.Config{}, func(t *testing.T, c *memory.Cluster) {
		s := c.Client("a")
		_, err := s.NewSession(t.Context(), time.Second)
		require.NoError(t, err)
		updates := s.Watch(t.Context(), "/")
		c.Close()
		c.Close()
		_, open := <-updates
		require.False(t, open)
		_, err = s.Get(t.Context(), "/k")
		require.ErrorIs(t, err, dcs.ErrClosed)
		_, open = <-s.Watch(t.Context(), "/")
		require.False(t, open)
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	inBubble(t, memory.Config{MaxValue: 3, MaxTxn: 1}, func(t *testing.T, c *memory.Cluster) {
		s := c.Client("a")
		_, err := dcs.Put(t.Context(), s, "/k", []byte("1234"))
		require.ErrorIs(t, err, dcs.ErrInvalid)
		_, err = s.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: "/k"}, {Key: "/l"}}})
		require.ErrorIs(t, err, dcs.ErrInvalid)
		_, err = dcs.Put(t.Context(), s, "/k", []byte("123"))
		require.NoError(t, err)
	})
}
