package pgtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// A primary with two standbys: commits wait for one of them, a failover keeps
// what was acknowledged, the old primary is rewound.
func TestFailover(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.setSync("a", "ANY 1 (b, c)")
	require.Equal(t, pgtest.Acked, w.commit("a", "one"))
	require.True(t, w.holds("b", "one"))

	w.isolate("a", "b")
	w.isolate("a", "c")
	require.Equal(t, pgtest.Waiting, w.commit("a", "lost"))
	w.kill("a")
	w.setSync("b", "ANY 1 (a, c)")
	b, c := w.fence("b"), w.fence("c")
	require.Equal(t, b, c)
	promotion := w.promote("b", 2)
	require.Equal(t, b.LSN, promotion.SwitchAt)
	w.follow("c", "b")
	w.Settle(nil)
	require.Equal(t, pgtest.Acked, w.commit("b", "two"))
	require.True(t, w.holds("c", "one") && w.holds("c", "two"))

	w.heal()
	w.startStandby("a", "")
	require.Equal(t, pg.Timeline(1), w.fence("a").Timeline)
	w.ok(w.ctl["a"].Stop(t.Context(), pg.StopFast))
	floor, err := w.ctl["a"].Rewind(t.Context(), upstream("b", "a"))
	w.ok(err)
	w.startStandby("a", "b")
	w.Settle(nil)
	require.True(t, w.holds("a", "two"))
	require.False(t, w.holds("a", "lost"))
	require.GreaterOrEqual(t, w.Server("a").Held.Compare(floor), 0)
	require.Equal(t, pgtest.Unknown, w.outcome("lost"))
}
