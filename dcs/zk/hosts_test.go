package zk

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// round takes as many targets as there are in one round.
func round(t *testing.T, h *hosts, n int) []string {
	t.Helper()
	var addresses []string
	for range n {
		to, err := h.next(t.Context())
		require.NoError(t, err)
		addresses = append(addresses, to.address+" "+to.host)
	}
	slices.Sort(addresses)
	return addresses
}

func TestHosts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		addresses := map[string][]string{"one": {"10.0.0.1"}, "two": {"10.0.0.2", "10.0.0.3"}}
		cfg := Config{
			Servers: []string{"one:1", "two:2", "gone:3", "10.0.0.9:4", "[::1]:5"},
			Lookup: func(_ context.Context, host string) ([]string, error) {
				if found := addresses[host]; found != nil {
					return found, nil
				}
				return nil, errors.New("no such host")
			},
		}
		require.NoError(t, cfg.complete())
		h := &hosts{cfg: &cfg}
		start := time.Now()
		all := []string{"10.0.0.1:1 one", "10.0.0.2:2 two", "10.0.0.3:2 two", "10.0.0.9:4 10.0.0.9", "[::1]:5 ::1"}
		require.Equal(t, all, round(t, h, 5))
		require.Zero(t, time.Since(start), "within a round nobody waits")

		addresses["one"] = []string{"10.0.1.1"}
		all[0] = "10.0.1.1:1 one"
		for wait := minDialWait; wait <= maxDialWait; wait *= 2 {
			start = time.Now()
			slices.Sort(all)
			require.Equal(t, all, round(t, h, 5), "names are looked up again")
			require.GreaterOrEqual(t, time.Since(start), wait/2)
			require.LessOrEqual(t, time.Since(start), wait+wait/2)
		}

		last, err := h.next(t.Context())
		require.NoError(t, err)
		h.connected()
		start = time.Now()
		again, err := h.next(t.Context())
		require.NoError(t, err)
		require.Equal(t, last, again, "who has served comes first")
		require.Equal(t, minDialWait, time.Since(start), "but not at once when it has served for a moment only")
		h.connected()
		time.Sleep(time.Hour)
		start = time.Now()
		_, err = h.next(t.Context())
		require.NoError(t, err)
		require.Equal(t, all, round(t, h, 5), "then all the others")
		require.Zero(t, time.Since(start))

		cfg.Servers = []string{"gone:3"}
		h = &hosts{cfg: &cfg}
		_, err = h.next(t.Context())
		require.ErrorContains(t, err, "look up gone: no such host")
		require.ErrorContains(t, h.why(), "look up gone: no such host")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = h.next(ended)
		require.ErrorIs(t, err, context.Canceled)
	})
}
