package quorum

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func TestMemberText(t *testing.T) {
	t.Parallel()
	m, err := ParseMember("node.with.dots.7")
	require.NoError(t, err)
	require.Equal(t, Member{Node: "node.with.dots", Incarnation: "7"}, m)
	require.Equal(t, "node.with.dots.7", m.String())
	for _, text := range []string{"", "a", "a.", ".1"} {
		_, err := ParseMember(text)
		require.Error(t, err, text)
	}
	var nobody Member
	require.NoError(t, nobody.UnmarshalText(nil))
	require.Empty(t, nobody.String())
	require.Error(t, nobody.UnmarshalText([]byte("x")))
}

func TestConfigArithmetic(t *testing.T) {
	t.Parallel()
	all := lives("a.1", "b.1", "c.1", "d.1")
	c := config(2, all[0], all[1:]...)
	require.Equal(t, 3, c.W())
	require.Equal(t, 2, c.R())
	require.Equal(t, all, c.D())
	for _, winner := range all[1:] {
		after := c.After(winner)
		require.NoError(t, after.Validate())
		require.Equal(t, c.D(), after.D(), "a failover keeps D")
		require.Equal(t, c.K, after.K)
		require.True(t, Safe(after, c.After(winner).Setting()))
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	all := lives("a.1", "b.1", "c.1")
	require.NoError(t, config(1, all[0], all[1:]...).Validate())
	for want, c := range map[string]Config{
		"unknown mode":       {Mode: "telepathy", Primary: all[0]},
		"no primary":         {Mode: ModeQuorum},
		"k = 2 of 1 members": config(2, all[0], all[1]),
		"k = -1":             config(-1, all[0]),
		"not sorted":         config(1, all[0], all[2], all[1]),
		"is a member too":    config(1, all[0], all[0]),
		"twice":              config(1, all[0], all[1], all[1]),
	} {
		require.ErrorContains(t, c.Validate(), want)
		require.Equal(t, None, Next(View{Recorded: c, Sync: pg.SyncView{Flush: 1}}).Kind, "nothing is done on a record that makes no sense")
	}
	require.Equal(t, None, Next(View{Recorded: config(1, all[0], all[1])}).Kind, "a standby has no flush position")
}

func TestPassed(t *testing.T) {
	t.Parallel()
	all := lives("a.1", "b.1", "c.1", "d.1")
	view := pg.SyncView{Senders: []pg.Walsender{
		{Name: "b.1", State: "streaming", Flush: 10},
		{Name: "c.1", State: "catchup", Flush: 9},
		{Name: "d.1", Flush: 20},
		{Name: "d.1", Flush: 20},
		{Name: "x.1", Flush: 20},
	}}
	passed, missing := Passed(view, config(1, all[0], all[1:]...), 10)
	require.True(t, passed)
	require.Empty(t, missing)
	passed, missing = Passed(view, config(2, all[0], all[1:]...), 10)
	require.False(t, passed)
	require.Equal(t, []string{"c.1 has flushed 0/9 of 0/A", "d.1 has 2 walsenders, none counts"}, missing)
	passed, _ = Passed(view, config(2, all[0], all[1:]...), 9)
	require.True(t, passed, "who catches up has flushed what it has flushed")
	passed, _ = Passed(pg.SyncView{}, config(0, all[0], all[1:]...), 10)
	require.True(t, passed)
}

func TestAdopted(t *testing.T) {
	t.Parallel()
	all := lives("a.1", "b.1", "c.1")
	one, two := config(1, all[0], all[1:]...).Setting(), config(2, all[0], all[1:]...).Setting()
	only := config(1, all[0], all[1]).Setting()
	sender := func(name string, priority int, flush pg.LSN) pg.Walsender {
		return pg.Walsender{Name: name, State: "streaming", Priority: priority, Flush: flush}
	}
	backup := pg.Walsender{Name: "c.1", State: "backup"}
	for name, c := range map[string]struct {
		from, to pg.SyncSetting
		shows    pg.SyncSetting
		senders  []pg.Walsender
		want     bool
	}{
		"from empty":                      {pg.SyncSetting{}, one, one, []pg.Walsender{sender("b.1", 1, 9), sender("c.1", 1, 9)}, true},
		"one has not re-read":             {pg.SyncSetting{}, one, one, []pg.Walsender{sender("b.1", 1, 9), sender("c.1", 0, 9)}, false},
		"not in a new session":            {pg.SyncSetting{}, one, pg.SyncSetting{}, []pg.Walsender{sender("b.1", 1, 9)}, false},
		"k alone does not show":           {one, two, two, []pg.Walsender{sender("b.1", 1, 9)}, false},
		"a lower k needs no proof":        {two, one, one, []pg.Walsender{sender("b.1", 1, 9)}, true},
		"removed":                         {one, only, only, []pg.Walsender{sender("b.1", 1, 9), sender("c.1", 0, 9)}, true},
		"removed one still counts":        {one, only, only, []pg.Walsender{sender("b.1", 1, 9), sender("c.1", 1, 9)}, false},
		"removed one shows nothing":       {one, only, only, []pg.Walsender{sender("c.1", 0, 0)}, false},
		"a backup under the removed name": {one, only, only, []pg.Walsender{backup}, true},
		"a stranger without a position":   {one, only, only, []pg.Walsender{sender("pg_receivewal", 0, 0)}, true},
		"nobody is connected":             {one, two, two, nil, true},
	} {
		got, missing := Adopted(pg.SyncView{Setting: c.shows, Senders: c.senders}, c.from, c.to)
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.want, len(missing) == 0, name)
	}
}

func TestSafe(t *testing.T) {
	t.Parallel()
	all := lives("a.1", "b.1", "c.1")
	c := config(1, all[0], all[1:]...)
	for text, want := range map[string]bool{
		"":                           false,
		`ANY 1 ("b.1")`:              true,
		`ANY 1 ("b.1", "c.1")`:       true,
		`FIRST 1 ("B.1")`:            true,
		`ANY 1 ("b.1", "x.1")`:       false,
		`ANY 2 ("b.1", "c.1", "x")`:  true,
		`ANY 1 ("a.1", "b.1")`:       false,
		`ANY 2 (*)`:                  false,
		`FIRST 1 ("pghad!x", "b.1")`: false,
		`FIRST 1 ("pghad!adoption", "pghad!adoption2", "b.1")`: true,
	} {
		setting, err := pg.ParseSyncSetting(text)
		require.NoError(t, err)
		require.Equal(t, want, Safe(c, setting), text)
		require.True(t, Safe(config(0, all[0], all[1:]...), setting), text)
	}
}
