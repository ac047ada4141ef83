package quorum

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

func lives(names ...string) []Member {
	all := make([]Member, len(names))
	for i, name := range names {
		m, err := ParseMember(name)
		if err != nil {
			panic(err)
		}
		all[i] = m
	}
	return all
}

func config(k int, primary Member, members ...Member) Config {
	return Config{Mode: ModeQuorum, Primary: primary, Members: members, K: k}
}

func requireNone(t *testing.T, way []string) {
	t.Helper()
	require.Empty(t, way, "\n"+strings.Join(way, "\n"))
}

// ends reports where a world without further faults ends, "" if where it must:
// the members are those that are up, k is half of them rounded up.
func (u *universe) ends(s state) string {
	end, step := u.calm(s)
	c := u.records.values[end.rec]
	nobody := len(u.view(end).Candidates) == 0 && u.strict && c.K > 0
	if nobody && c.K == 1 && len(c.Members) > 0 {
		return "" // nobody to replace the last ones by: commits wait
	}
	if step.Kind != None {
		return fmt.Sprintf("without faults it stays at: %s", step)
	}
	var up []Member
	for i, m := range u.lives {
		if i != int(s.primary) && s.gone&bit(i) == 0 {
			up = append(up, m)
		}
	}
	slices.SortFunc(up, Member.Compare)
	want := Config{Mode: c.Mode, Primary: c.Primary, Members: up, K: (len(up) + 1) / 2}
	if !c.Equal(want) || u.settings.values[end.conf].String() != c.Setting().String() {
		return fmt.Sprintf("without faults it ends at %s in force '%s', not at %s: %s", c, u.settings.values[end.conf], want, step)
	}
	return ""
}

// Everything that can happen to one and two standbys: appends, flushes, lagging
// walsenders and checkpointer, crashes of the tracker also inside a write,
// members that come and go, failovers. Then, from every state, the way to what
// is wanted.
func TestEveryStateOfSmallClusters(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		for n := 1; n <= 2; n++ {
			t.Run(fmt.Sprintf("standbys %d strict %t", n, strict), func(t *testing.T) {
				t.Parallel()
				u := newUniverse(lives("a.1", "b.1", "c.1")[:n+1]...)
				u.strict, u.acks = strict, true
				count, way := u.walk(u.records0(state{crashes: 1, toggles: 2, failovers: 1, writes: 255}), u.ends)
				requireNone(t, way)
				t.Logf("%d states", count)
			})
		}
	}
}

// records0 is every record of a prefix of the standbys, at rest, with the
// budgets of faults given.
func (u *universe) records0(budget state) []state {
	var starts []state
	for n := range len(u.lives) {
		for k := range n + 1 {
			s := u.start(config(k, u.lives[0], u.lives[1:n+1]...))
			s.crashes, s.toggles, s.failovers, s.writes = budget.crashes, budget.toggles, budget.failovers, budget.writes
			starts = append(starts, s)
		}
	}
	return starts
}

func TestProbeNeverMeetsShownPriority(t *testing.T) {
	t.Parallel()
	all := lives("a.1", "b.1", "c.1", "d.1")
	c := config(2, all[0], all[1:]...)
	first := Probe(c, pg.SyncView{})
	require.Equal(t, `FIRST 2 ("pghad!adoption", "b.1", "c.1", "d.1")`, first.String())
	view := pg.SyncView{Setting: c.Setting(), Senders: []pg.Walsender{
		{Name: "b.1", State: "streaming", Flush: 5, Priority: 2}, {Name: "c.1", State: "streaming", Flush: 9, Priority: 1},
	}}
	require.Equal(t, `FIRST 2 ("pghad!adoption", "c.1", "b.1", "d.1")`, Probe(c, view).String())
	view.Senders[0].Priority = 3
	require.Equal(t, `FIRST 2 ("pghad!adoption", "pghad!adoption2", "c.1", "b.1", "d.1")`, Probe(c, view).String())
}
