package ha

import (
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	timing := Timing{}.Defaults()
	clk := clock.NewMock()
	p := newProgress(clk, timing)
	var told []string
	effects := p.follow(Effects{
		Before: func(name string) { told = append(told, "before "+name) },
		After:  func(name string) { told = append(told, "after "+name) },
	})
	require.Greater(t, p.patience, timing.TTL+timing.ElectionTimeout, "what a step or a pause within a lease may take is no hang")

	clk.Add(p.patience)
	require.NoError(t, p.check())
	clk.Add(time.Millisecond)
	require.ErrorContains(t, p.check(), "nothing was heard of its loop for 23.001s, at most 23s is allowed")
	p.note()
	require.NoError(t, p.check(), "it goes on")

	clk.Add(p.patience)
	effects.Before("server/stop")
	clk.Add(p.patience)
	require.NoError(t, p.check(), "the effect has begun since")
	clk.Add(time.Millisecond)
	require.Error(t, p.check(), "and it has a limit")
	effects.After("server/stop")
	require.NoError(t, p.check())

	for _, name := range []string{"rejoin/clone", "bootstrap/init", "server/promote"} {
		effects.Before(name)
		clk.Add(time.Hour)
		require.NoError(t, p.check(), "it takes as long as there is data")
		effects.After(name)
	}
	clk.Add(p.patience + 1)
	require.Error(t, p.check())
	require.Len(t, told, 8)
	require.Equal(t, []string{"before server/stop", "after server/stop"}, told[:2])
}
