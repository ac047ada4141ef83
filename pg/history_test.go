package pg_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestParseHistory(t *testing.T) {
	t.Parallel()
	history, err := pg.ParseHistory("# made by hand\n1\t0/5000148\tno recovery target specified\n\n  3 0/7000000\n")
	require.NoError(t, err)
	require.Equal(t, pg.History{
		{Timeline: 1, At: 0x5000148, Reason: "no recovery target specified"},
		{Timeline: 3, At: 0x7000000},
	}, history)
	again, err := pg.ParseHistory(history.String())
	require.NoError(t, err)
	require.Equal(t, history, again)

	history, err = pg.ParseHistory("")
	require.NoError(t, err)
	require.Empty(t, history)
	for _, text := range []string{"1", "0\t0/1\tx", "x\t0/1", "1\t0/x", "2\t0/1\n1\t0/2", "1\t0/1\n1\t0/2"} {
		_, err := pg.ParseHistory(text)
		require.Error(t, err, text)
	}
}

func TestLineageContains(t *testing.T) {
	t.Parallel()
	lineage := pg.Lineage{Timeline: 4, History: pg.History{{Timeline: 1, At: 100}, {Timeline: 3, At: 200}}}
	for position, want := range map[pg.Position]bool{
		{Timeline: 1, LSN: 100}:     true,
		{Timeline: 1, LSN: 101}:     false,
		{Timeline: 2, LSN: 50}:      false, // a branch that nobody took
		{Timeline: 3, LSN: 200}:     true,
		{Timeline: 3, LSN: 201}:     false,
		{Timeline: 4, LSN: 1 << 40}: true,
		{Timeline: 5, LSN: 1}:       false,
	} {
		require.Equal(t, want, lineage.Contains(position), position.String())
	}
}

// A server that had the files of timeline 2, which begins at 100, and WAL up to
// 80 only, was promoted to 3: its WAL is timeline 1's up to 80.
func TestLineageOfAPromotionBelowAKnownTimeline(t *testing.T) {
	t.Parallel()
	history, err := pg.ParseHistory("1\t0/64\tx\n2\t0/50\ty\n")
	require.NoError(t, err)
	lineage := pg.Lineage{Timeline: 3, History: history}
	require.True(t, lineage.Contains(pg.Position{Timeline: 1, LSN: 80}))
	require.False(t, lineage.Contains(pg.Position{Timeline: 1, LSN: 81}))
	require.Equal(t, pg.Timeline(1), lineage.Owner(80))
	require.Equal(t, pg.Timeline(3), lineage.Owner(81))
}

func TestLineageOwner(t *testing.T) {
	t.Parallel()
	lineage := pg.Lineage{Timeline: 4, History: pg.History{{Timeline: 1, At: 100}, {Timeline: 3, At: 200}}}
	for end, want := range map[pg.LSN]pg.Timeline{1: 1, 100: 1, 101: 3, 200: 3, 201: 4} {
		require.Equal(t, want, lineage.Owner(end))
	}
	require.Equal(t, pg.Timeline(1), pg.Lineage{Timeline: 1}.Owner(7))
}

func FuzzParseHistory(f *testing.F) {
	for _, seed := range []string{"", "1\t0/5000148\tno recovery target specified\n", "# x\n1 0/1 a b\n2 0/0 c", "2\t0/1\n1\t0/2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		history, err := pg.ParseHistory(text)
		if err != nil {
			return
		}
		again, err := pg.ParseHistory(history.String())
		require.NoError(t, err)
		require.Equal(t, history, again)
		lineage := pg.Lineage{Timeline: 1<<32 - 1, History: history}
		for _, s := range history {
			owner := lineage.Owner(s.At)
			require.True(t, lineage.Contains(pg.Position{Timeline: owner, LSN: s.At}), "the owner of a byte contains it")
		}
	})
}
