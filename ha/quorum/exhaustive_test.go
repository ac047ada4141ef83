package quorum

import (
	"flag"
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

// exhaustive walks the small worlds with all faults combined: minutes and some
// gigabytes, against seconds for one or two faults at a time.
var exhaustive = flag.Bool("exhaustive", false, "walk small worlds with all faults combined")

// Everything that can happen to one and two standbys: commits, flushes, lagging
// walsenders and checkpointer, crashes of the tracker also inside a write,
// members that come and go, failovers. Then, from every state, the way to what
// is wanted.
func TestEveryStateOfSmallClusters(t *testing.T) {
	t.Parallel()
	all := state{crashes: 1, toggles: 2, failovers: 1, writes: 255}
	for _, strict := range []bool{false, true} {
		for n := 1; n <= 2; n++ {
			t.Run(fmt.Sprintf("standbys %d strict %t", n, strict), func(t *testing.T) {
				t.Parallel()
				budgets := []state{{crashes: 1, writes: 255}, {toggles: 1, writes: 255}, {failovers: 1, writes: 255}}
				if n == 1 {
					budgets = []state{{crashes: 1, toggles: 1, failovers: 1, writes: 255}}
				}
				if *exhaustive {
					budgets = []state{all}
				}
				for _, budget := range budgets {
					u := newUniverse(lives("a.1", "b.1", "c.1")[:n+1]...)
					u.strict, u.acks = strict, true
					count, way := u.walk(u.rest(budget), u.ends)
					requireNone(t, way)
					t.Logf("%d states", count)
				}
			})
		}
	}
}

// Five standbys, every record, every number of them away, mixed walsenders, a
// crash between any two writes: the inequality holds for every setting that is
// in force anywhere. Positions are left out, and the walk ends after one change
// of the record and what leads to it.
func TestEveryRecordOfFiveStandbys(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict %t", strict), func(t *testing.T) {
			t.Parallel()
			total := 0
			for recorded := range 6 {
				for k := range recorded + 1 {
					for away := range 1 << 2 {
						u := newUniverse(lives("a.1", "b.1", "c.1", "d.1", "e.1", "f.1")...)
						u.strict = strict
						s := u.start(config(k, u.lives[0], u.lives[1:recorded+1]...))
						// The first one or two members, and the last candidate.
						s.gone = uint8(away&1)<<1 | uint8(away>>1)<<2 | uint8(away&1)<<5
						s.up &^= uint8(away>>1) << 2 // b.1 goes on streaming without its lock
						s.crashes, s.writes = 1, 4
						if *exhaustive {
							s.writes = 6
						}
						count, way := u.walk([]state{s}, nil)
						requireNone(t, way)
						total += count
					}
				}
			}
			t.Logf("%d states", total)
		})
	}
}

// Whatever an operator or an earlier office has put in force, with any mix of
// walsenders, and a crash at any time: no record is written that claims more
// than is true, and in the end all is well.
func TestForeignSettingsAreMended(t *testing.T) {
	t.Parallel()
	for _, foreign := range []string{"", "ANY 1 (*)", `ANY 1 ("b.1")`, `ANY 1 ("x.1", "b.1")`, `FIRST 1 ("b.1", "c.1")`, `2 ("b.1", "x.9", "c.1")`, `ANY 2 ("b.1", "c.1")`} {
		t.Run(foreign, func(t *testing.T) {
			t.Parallel()
			setting, err := pg.ParseSyncSetting(foreign)
			require.NoError(t, err)
			u := newUniverse(lives("a.1", "b.1", "c.1")...)
			u.acks, u.strict = true, true
			var starts []state
			for _, s := range u.rest(state{crashes: 1, writes: 255}) {
				for _, backends := range []bool{false, true} {
					s.conf = u.settings.id(setting)
					s.file, s.dirty = s.conf, true
					s.copies[1] = s.conf
					s.defined = backends
					starts = append(starts, s)
				}
			}
			count, way := u.walk(starts, u.ends)
			requireNone(t, way)
			t.Logf("%d states", count)
		})
	}
}

// A new life of a recorded node is another member.
func newLife(strict bool) (*universe, []state) {
	u := newUniverse(lives("a.1", "b.1", "c.1", "b.2")...)
	u.acks, u.strict, u.dead = true, strict, bit(1)
	var starts []state
	for k := range 3 {
		s := u.start(config(k, u.lives[0], u.lives[1], u.lives[2]))
		s.crashes, s.writes = 1, 255
		starts = append(starts, s)
		s.gone |= bit(2)
		s.up &^= bit(2)
		starts = append(starts, s)
	}
	return u, starts
}

func TestNewLifeIsAnotherMember(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		u, starts := newLife(strict)
		_, way := u.walk(starts, u.ends)
		requireNone(t, way)
	}
}

// rest is every record of a prefix of the standbys, at rest, with the
// budgets of faults given.
func (u *universe) rest(budget state) []state {
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
