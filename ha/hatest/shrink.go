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
	r = shrinkIncidents(r, still, &r)
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

// shrinkIncidents is ddmin over the incidents: it drops halves, quarters, and
// so on, down to single ones.
func shrinkIncidents(r Result, still func(Plan) bool, last *Result) Result {
	for size := (len(r.Plan.Incidents) + 1) / 2; size > 0; {
		dropped := false
		for from := 0; from < len(last.Plan.Incidents); {
			to := min(from+size, len(last.Plan.Incidents))
			if still(last.Plan.without(from, to)) {
				dropped = true
				continue
			}
			from = to
		}
		if size == 1 && !dropped {
			break
		}
		if !dropped || size > 1 {
			size = max(size/2, 1)
		}
		if size == 1 && len(last.Plan.Incidents) == 0 {
			break
		}
	}
	return *last
}
