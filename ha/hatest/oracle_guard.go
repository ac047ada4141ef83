package hatest

import (
	"slices"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg/pgtest"
)

// async reports whether commits wait for nobody: then nothing but leases and guards
// keeps two servers from taking writes at one time, and a failover may lose some.
func (s *simulation) async() bool { return s.plan.Mode == quorum.ModeAsync }

// guarded reports whether the guard of a host can be expected to have stopped its
// server by now, if its deadline has passed. A machine that stood still needs a
// moment.
func (s *simulation) guarded(h *host) bool {
	now := s.world.now()
	return h.guard != nil && !h.halted && now > h.thawed+guardDelay && h.guard.paused == 0 && now > h.guard.thawed+guardDelay &&
		h.rates == 0 && now >= h.steady && now >= h.robbed
}

// published: what a new primary lacks of what was acknowledged, the election has
// said that it may: it, or one before whose winner was never promoted. It is lost from then on.
func (o *oracle) published(node string) {
	s := o.sim
	before := len(o.acked)
	var lost pgtest.Commit
	o.acked = slices.DeleteFunc(o.acked, func(row pgtest.Commit) bool {
		has := s.servers.cluster.Contains(node, row)
		if !has {
			lost = row
		}
		return !has
	})
	if len(o.acked) == before {
		return
	}
	s.world.reach("commits lost in mode async")
	said := func(term record.Term) bool { return term.Loss != nil && term.Timeline > lost.Timeline }
	if !slices.ContainsFunc(s.records.History.Value, said) {
		s.violatef(ruleLoss, "%s is primary without %d acknowledged commits, %s (%s) among them, and no term since says anything of a loss",
			node, before-len(o.acked), lost.ID, lsnOf(lost))
	}
}

// stopped is told when a guard stops a server: in maintenance none does.
func (o *oracle) stopped(h *host) { o.inMaintenance(h.name, "is stopped by its guard") }
