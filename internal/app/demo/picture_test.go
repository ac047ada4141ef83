package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/workload"
)

func TestPicture(t *testing.T) {
	t.Parallel()
	p := picture{
		View: clusterview.View{
			Leader: "b", Term: 2, Timeline: 2,
			Quorum: &clusterview.Quorum{K: 1, Members: []clusterview.Life{{Node: "a"}, {Node: "c"}}},
			Nodes:  []clusterview.Node{{Name: "a", Quorum: "member"}, {Name: "b", Quorum: "primary"}, {Name: "c", Quorum: "member", Why: "rewinds"}},
		},
		Looks: []workload.Look{
			{Node: "a", Err: "refused"},
			{Node: "b", Primary: true, LSN: 5000, Counted: 1},
			{Node: "c", Receiving: true, LSN: 4900},
		},
		Down:   map[string]bool{"a": true},
		Counts: workload.Counts{Acknowledged: 1234, Unknown: 2}, Rate: 395.4,
		Open: 120 * time.Millisecond, Longest: 2500 * time.Millisecond,
		Events: []string{"  1.00s  a leads", "  9.00s  b leads"},
	}
	require.Equal(t, strings.TrimPrefix(`
leader b        term 2    timeline 2    commits wait for 1 of a, c

node   role      state             lag  quorum   waits for
a      -         killed                 member
b      primary   running                primary
c      standby   streaming       100 B  member   rewinds

rows 1234 acknowledged, 2 unknown, 0 failed, 395 a second
outage 120 ms now, 2500 ms the longest

  1.00s  a leads
  9.00s  b leads`, "\n"), strings.Join(p.lines(), "\n"))
	require.Contains(t, strings.Join(picture{}.lines(), "\n"), "leader nobody")
	p.Stale = true
	require.Contains(t, p.lines()[0], "leader b        term 2    timeline 2    the store does not answer")
	p.Down["b"] = true
	require.Contains(t, strings.Join(p.lines(), "\n"), "b      primary   no agent")
}

func TestEventsKeepTheLast(t *testing.T) {
	t.Parallel()
	e := &events{most: 2}
	for _, line := range []string{"1", "2", "3"} {
		e.add(line)
	}
	lines, total := e.last()
	require.Equal(t, []string{"2", "3"}, lines)
	require.Equal(t, 3, total)
}

func TestMissing(t *testing.T) {
	t.Parallel()
	whole := func() clusterview.View {
		return clusterview.View{
			Leader: "a", Term: 1, Gate: "open",
			Quorum: &clusterview.Quorum{Mode: ModeQuorum, K: 1, Members: []clusterview.Life{{Node: "b"}, {Node: "c"}}},
			Nodes:  []clusterview.Node{{Name: "a"}, {Name: "b", Quorum: "member", Sync: "quorum"}, {Name: "c", Quorum: "member", Sync: "quorum"}},
		}
	}
	require.Empty(t, missing(whole(), 3))
	tests := map[string]func(*clusterview.View){
		"no leader is in office":      func(v *clusterview.View) { v.Term = 0 },
		"does not admit clients":      func(v *clusterview.View) { v.Gate = "closed" },
		"the quorum is":               func(v *clusterview.View) { v.Quorum.Members = v.Quorum.Members[:1] },
		"a does not say yet that b s": func(v *clusterview.View) { v.Nodes[1].Sync = "" },
		"node c does not count: it i": func(v *clusterview.View) { v.Nodes[2].Quorum = clusterview.FormerLife },
	}
	for want, spoil := range tests {
		view := whole()
		spoil(&view)
		require.Contains(t, missing(view, 3), want)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options Options
		err     string
	}{
		"no such script":             {Options{Script: "flood"}, "use one of dcs-freeze, dcs-outage, freeze-agent, freeze-node, hang-agent, kill-agent, kill-node, kill-postmaster, rejoin, restart-agent, switchover"},
		"no such mode":               {Options{Script: "rejoin", Mode: "sync"}, "use quorum or async"},
		"no such sabotage":           {Options{Script: "rejoin", Sabotage: "bribe"}, "use one of fail-write, lose, two-writers"},
		"sabotage that has no sense": {Options{Script: "rejoin", Sabotage: "fail-write"}, "rejoin does not promise"},
		"sabotage without a script":  {Options{Sabotage: "lose"}, "belong to a script"},
		"JSON without a script":      {Options{JSON: true}, "belong to a script"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Run(t.Context(), test.options)
			require.ErrorContains(t, err, test.err)
		})
	}
}
