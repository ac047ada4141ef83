package pg_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestParseSyncSetting(t *testing.T) {
	t.Parallel()
	setting := func(method pg.SyncMethod, k int, names ...string) pg.SyncSetting {
		return pg.SyncSetting{Method: method, K: k, Names: names}
	}
	for text, want := range map[string]pg.SyncSetting{
		"":                           {},
		"  ":                         {},
		"a":                          setting(pg.SyncFirst, 1, "a"),
		"*":                          setting(pg.SyncFirst, 1, "*"),
		"a, b":                       setting(pg.SyncFirst, 1, "a", "b"),
		"2 (a,b)":                    setting(pg.SyncFirst, 2, "a", "b"),
		"first 2(a, b)":              setting(pg.SyncFirst, 2, "a", "b"),
		"ANY 1 (\"a-1\", \"b\"\"\")": setting(pg.SyncAny, 1, "a-1", `b"`),
		"any":                        setting(pg.SyncFirst, 1, "any"),
		"any, first":                 setting(pg.SyncFirst, 1, "any", "first"),
		"\"any\"":                    setting(pg.SyncFirst, 1, "any"),
		"\"a, b (c)\"":               setting(pg.SyncFirst, 1, "a, b (c)"),
	} {
		parsed, err := pg.ParseSyncSetting(text)
		require.NoError(t, err, text)
		require.Equal(t, want, parsed, text)
	}
	for _, text := range []string{",", "a,", "a b", "ANY 0 (a)", "ANY 1 (a", "ANY 1 a)", "ANY 1 ()", "(a)", "ANY 1 (a,,b)", `"a`, "ANY 99999999999999999999 (a)", "1 (a) b"} {
		_, err := pg.ParseSyncSetting(text)
		require.Error(t, err, text)
	}
}

func TestSyncSettingEqualAndHas(t *testing.T) {
	t.Parallel()
	quorum := pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"a", "b"}}
	require.True(t, quorum.Equal(pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"B", "a"}}))
	require.False(t, quorum.Equal(pg.SyncSetting{Method: pg.SyncAny, K: 2, Names: []string{"a", "b"}}))
	require.False(t, quorum.Equal(pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"a"}}))
	priority := pg.SyncSetting{Method: pg.SyncFirst, K: 1, Names: []string{"a", "b"}}
	require.False(t, quorum.Equal(priority))
	require.False(t, priority.Equal(pg.SyncSetting{Method: pg.SyncFirst, K: 1, Names: []string{"b", "a"}}))
	require.True(t, pg.SyncSetting{}.Equal(pg.SyncSetting{Method: pg.SyncAny, K: 1}))
	require.False(t, quorum.Equal(pg.SyncSetting{}))
	require.True(t, quorum.Has("A"))
	require.False(t, quorum.Has("c"))
	require.True(t, pg.SyncSetting{}.Empty())
	require.Empty(t, pg.SyncSetting{}.String())
	require.Equal(t, `ANY 1 ("a", "b""")`, pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"a", `b"`}}.String())
}

func FuzzParseSyncSetting(f *testing.F) {
	for _, seed := range []string{"", "a", "ANY 1 (a, b)", `FIRST 2 ("x""y", *)`, "any", "2 (", `"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		setting, err := pg.ParseSyncSetting(text)
		if err != nil || setting.Empty() {
			return
		}
		again, err := pg.ParseSyncSetting(setting.String())
		require.NoError(t, err, setting.String())
		require.True(t, setting.Equal(again), setting.String())
	})
}
