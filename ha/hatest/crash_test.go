package hatest_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/hatest"
)

// readPlan reads one of testdata/plans.
func readPlan(t *testing.T, name string) hatest.Plan {
	t.Helper()
	text, err := os.ReadFile("testdata/plans/" + name + ".plan")
	require.NoError(t, err)
	p, err := hatest.ParsePlan(string(text))
	require.NoError(t, err)
	return p
}

// scenario is what happens while agents die: a plan, without what it expects
// when nobody dies.
type scenario struct {
	plan   hatest.Plan
	begins time.Duration // of what happens
	points []string      // that are passed from then on
}

// newScenario finds out which crash points what happens passes: those that are
// passed more often than without it.
func newScenario(t *testing.T, name string) scenario {
	t.Helper()
	s := scenario{plan: readPlan(t, name)}
	s.plan.Expect = nil
	s.begins = s.plan.Incidents[0].At
	calm := s.plan
	calm.Incidents = nil
	without, with := simulate(t, calm).Points, simulate(t, s.plan).Points
	for _, point := range slices.Sorted(maps.Keys(with)) {
		if name, isEffect := strings.CutPrefix(point, "before "); isEffect {
			require.Contains(t, hatest.CrashPoints(), name)
		}
		if with[point] > without[point] {
			s.points = append(s.points, point)
		}
	}
	require.NotEmpty(t, s.points, name)
	return s
}

// strike runs the scenario with more incidents, at points that are passed from
// its beginning on.
func (s scenario) strike(t *testing.T, strikes ...hatest.Incident) {
	t.Helper()
	p := s.plan
	p.Incidents = slices.Clone(p.Incidents)
	for n := range strikes {
		strikes[n].At, strikes[n].Host, strikes[n].Args = s.begins, "any", []string{"self"}
	}
	p.Incidents = append(p.Incidents, strikes...)
	r := simulate(t, p)
	if r.Violation != nil {
		t.Errorf("%v: %s", strikes, r.Violation)
		saveFailureAs(t, r, strings.Map(plain, fmt.Sprint(strikes)))
	}
	if r.Excuse != "" && *marks {
		sayf("%v: excused: %s\n", strikes, r.Excuse)
	}
}

// plain is for names of files.
func plain(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}

// TestCrashPoints ends the agent right before and right after each effect of a
// failover, of a switchover, of an outage of the store and of a restart of the
// agent, and of what follows: another run each time.
func TestCrashPoints(t *testing.T) {
	for _, name := range []string{"failover", "switchover", "dcs-outage", "agent-restart"} {
		s := newScenario(t, name)
		if name == "failover" { // with the birth of the cluster
			s.begins, s.points = 0, nil
			for _, point := range hatest.CrashPoints() {
				s.points = append(s.points, "before "+point, "after "+point)
			}
		}
		if !*sweep {
			s.plan.Length = min(s.plan.Length, 70*time.Second)
		}
		for _, point := range s.points {
			strikes := []hatest.Incident{{Verb: "kill-agent", Nth: 1, For: time.Second}}
			switch {
			case *sweep:
				strikes = append(strikes,
					hatest.Incident{Verb: "kill-agent", Nth: 2, For: 3 * time.Second},
					hatest.Incident{Verb: "kill-agent", Nth: 3, For: 20 * time.Second},
					hatest.Incident{Verb: "kill-agent", Nth: 1, For: 20 * time.Second},
					hatest.Incident{Verb: "crash", Nth: 1, For: 5 * time.Second},
					hatest.Incident{Verb: "crash", Nth: 2, For: 15 * time.Second},
					hatest.Incident{Verb: "pause-agent", Nth: 1, For: 15 * time.Second},
					hatest.Incident{Verb: "pause-agent", Nth: 2, For: 15 * time.Second},
					hatest.Incident{Verb: "pause-host", Nth: 2, For: 15 * time.Second},
					hatest.Incident{Verb: "dcs-cut", Nth: 1, For: 15 * time.Second},
					hatest.Incident{Verb: "dcs-cut", Nth: 2, For: 15 * time.Second},
				)
			case strings.HasPrefix(point, "after "):
				continue
			}
			for _, strike := range strikes {
				strike.Point = point
				s.strike(t, strike)
			}
		}
	}
}

// pairs is how many pairs of crash points are struck without -sweep.
const pairs = 24

// TestPairsOfCrashPoints ends two agents, or one twice, in one switchover.
func TestPairsOfCrashPoints(t *testing.T) {
	s := newScenario(t, "switchover")
	var all [][2]hatest.Incident
	for i, first := range s.points {
		for j, second := range s.points {
			if j < i {
				continue
			}
			again := 1
			if i == j {
				again = 2
			}
			for _, down := range []time.Duration{500 * time.Millisecond, 12 * time.Second} {
				all = append(all, [2]hatest.Incident{
					{Point: first, Verb: "kill-agent", Nth: 1, For: down},
					{Point: second, Verb: "kill-agent", Nth: again, For: time.Second},
				})
			}
		}
	}
	if !*sweep {
		order := rand.New(rand.NewPCG(*first, 0)).Perm(len(all))
		for n := range min(pairs, len(all)) {
			s.strike(t, all[order[n]][:]...)
		}
		return
	}
	for _, pair := range all {
		s.strike(t, pair[:]...)
	}
}
