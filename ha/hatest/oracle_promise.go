package hatest

import (
	"slices"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
)

// promiseGiven is a promise of which the primary has heard, by world time.
type promiseGiven struct {
	by          quorum.Member
	host        string
	primary     string
	term        uint64
	sent, given time.Duration
	length      time.Duration
}

// until is when the server of a primary that counts as it should has stopped at
// the latest, if it has nothing else to rely on.
func (p promiseGiven) until(drift float64) time.Duration {
	return p.sent + time.Duration(float64(p.length)*(1-drift)/(1+drift))
}

// promised remembers a promise.
func (o *oracle) promised(p promiseGiven) {
	now, drift := o.sim.world.now(), o.sim.plan.Timing.MaxDrift
	o.promises = slices.DeleteFunc(o.promises, func(old promiseGiven) bool { return old.until(drift) <= now })
	o.promises = append(o.promises, p)
}

// isPromised reports whether so many members have promised a node not to fence
// that nobody else can be elected, or nobody else could be in any case.
func (o *oracle) isPromised(primary string) bool {
	now, recorded := o.sim.world.now(), o.sim.records.Quorum.Value
	given := 0
	for _, m := range recorded.Members {
		if slices.ContainsFunc(o.promises, func(p promiseGiven) bool {
			return p.primary == primary && p.by == m && p.until(o.sim.plan.Timing.MaxDrift) > now
		}) {
			given++
		}
	}
	needed := recorded.K
	if o.sim.async() {
		needed = len(recorded.Members)
	}
	if needed == 0 { // every vote is needed, and its own is not given
		return o.sim.member(primary) == recorded.Primary
	}
	return given >= needed
}

// saved: a member binds itself to no open election while a promise that it has
// given is in force, also when its agent was restarted. It may follow whoever was
// elected without it, or named by that very primary: then the term is over for
// which it was given.
func (o *oracle) saved(h *host, before ha.LocalState) {
	s := o.sim
	now, pledge, state := s.world.now(), h.disk.Pledge, s.records.Failover.Value
	if pledge <= before.Pledge || h.disk.Incarnation != before.Incarnation || h.rates > 0 || now < h.steady {
		return
	}
	if pledge < state.ID || pledge == state.ID && state.Phase == record.PhaseTaken {
		return
	}
	for _, p := range o.promises {
		over := p.term < o.taken || state.ID == pledge && state.Handover != nil && state.Handover.From.Node == p.primary
		if p.host == h.name && p.by == h.disk.Member(h.name) && pledge > p.term && now < p.until(s.plan.Timing.MaxDrift) && !over {
			s.violatef(rulePromise, "%s pledges %d, and has promised %s in term %d not to, at %s for %s",
				h.name, pledge, p.primary, p.term, p.given, p.length)
		}
	}
}
