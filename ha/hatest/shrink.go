package hatest

import (
	"testing"
	"time"
)

// Shrink looks for a smaller plan that breaks the same rule: it drops incidents
// for as long as that goes on, at most limit runs. It returns the last plan
// that did, and what came of it.
func Shrink(t *testing.T, r Result, limit int, run func(*testing.T, Plan) Result) Result {
	t.Helper()
	if r.Violation == nil {
		return r
	}
	still := func(p Plan) bool {
		if limit <= 0 {
			return false
		}
		limit--
		next := run(t, p)
		if next.Violation == nil || next.Violation.Rule != r.Violation.Rule {
			return false
		}
		r = next
		return true
	}
	shrinkIncidents(func() Plan { return r.Plan }, still)
	for _, simpler := range []func(*Plan){
		func(p *Plan) { p.Network.Loss = 0 },
		func(p *Plan) { p.Network.Stale = 0 },
		func(p *Plan) { p.SlowDown = 1 },
		func(p *Plan) { p.Rates = nil },
		func(p *Plan) { p.Core = nil },
		func(p *Plan) { p.Leaves = "" },
		func(p *Plan) { p.Length = min(p.Length, r.Violation.At+time.Second) },
	} {
		p := r.Plan
		simpler(&p)
		_ = still(p)
	}
	return r
}

// shrinkIncidents is ddmin over the incidents: it drops halves, then quarters,
// and so on; single ones for as long as any of them can be dropped. Now is the
// smallest plan so far.
func shrinkIncidents(now func() Plan, still func(Plan) bool) {
	for size := max(len(now().Incidents)/2, 1); ; {
		dropped := false
		for from := 0; from < len(now().Incidents); {
			if still(now().without(from, min(from+size, len(now().Incidents)))) {
				dropped = true
			} else {
				from += size
			}
		}
		switch {
		case size > 1:
			size /= 2
		case !dropped:
			return
		}
	}
}
