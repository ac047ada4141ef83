package hatest_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/hatest"
)

// Two incidents of many are needed for a failure, far from each other: they are
// what is left.
func TestShrink(t *testing.T) {
	t.Parallel()
	runs := 0
	run := func(_ *testing.T, p hatest.Plan) hatest.Result {
		runs++
		r := hatest.Result{Plan: p}
		is := func(verb string) bool {
			return slices.ContainsFunc(p.Incidents, func(i hatest.Incident) bool { return i.Verb == verb })
		}
		if is("crash") && is("expire") {
			r.Violation = &hatest.Violation{Rule: "both", At: time.Minute}
		}
		return r
	}
	var p hatest.Plan
	for range 20 {
		p.Incidents = append(p.Incidents, hatest.Incident{Verb: "isolate"})
	}
	p.Incidents[3].Verb, p.Incidents[17].Verb = "crash", "expire"
	small := hatest.Shrink(t, run(t, p), 200, run)
	require.Equal(t, []hatest.Incident{{Verb: "crash"}, {Verb: "expire"}}, small.Plan.Incidents)
	require.Less(t, runs, 100)
}

func TestPlansThatCannotBeRead(t *testing.T) {
	t.Parallel()
	good := hatest.NewPlan(1).String()
	for _, tc := range []struct{ line, says string }{
		{"dance", `unknown word "dance"`},
		{"at 3s explode a", `unknown incident "explode"`},
		{"at soon crash a", "invalid duration"},
		{"at 3s crash", "the line ends too early"},
		{"at 3s crash a b", `want "for" and a duration, not "b"`},
		{"at 3s crash a for 2s more", `"more" is too much`},
		{"on before a 1 crash a", "want a crash point in quotes"},
		{"from soon on \"before a\" any 1 crash a", "want a time"},
		{"from 3s at 4s crash a", "want a time"},
		{"network speed=3", `unknown setting "speed"`},
		{"at 3s garbage pile", `unknown kind of rubbish ["pile"]`},
		{"expect luck 1", `unknown expectation "luck"`},
		{"expect failovers -1", "invalid syntax"},
		{"expect writes often", "invalid duration"},
		{"expect at 3s rebuilds 0", "of the whole run"},
		{"expect leader", "the line ends too early"},
		{"expect leader a b", `"b" is too much`},
	} {
		_, err := hatest.ParsePlan(good + tc.line + "\n")
		require.ErrorContains(t, err, tc.says, "%s", tc.line)
		require.ErrorContains(t, err, "plan line")
	}
	_, err := hatest.ParsePlan("seed 1\n")
	require.ErrorContains(t, err, "are required")
}
