package rejoin

import "github.com/pghad/pghad/pg"

// SpareView is what a primary knows when a recorded member asks whether its
// copy is needed. The member is not counted in it.
type SpareView struct {
	K int // acknowledgements that a commit waits for
	// Flushed is how many other recorded members have flushed a position that
	// was read after the question had been seen.
	Flushed int
	// Resting is how many other recorded members lie still, with everything that
	// was acknowledged before this term on them: fenced for this term, asking
	// too, and not below a floor.
	Resting int
	// Admitted says that clients have been admitted in this term: something may
	// have been acknowledged in it that a member at rest does not hold.
	Admitted bool
	// Pending says that another member was spared for the sake of members at
	// rest and does not stream yet: its copy is gone.
	Pending bool
}

// Spared reports whether the copy is not needed: with the primary's own, k
// others hold what any acknowledged commit needs.
//
// Members at rest count only until clients have been admitted in this term, and
// for one member at a time. Without them two members that have both diverged
// would wait for each other for ever.
func Spared(v SpareView) bool {
	if v.Flushed >= v.K {
		return true
	}
	return !v.Admitted && !v.Pending && v.Flushed+v.Resting >= v.K
}

// Holds reports whether a server that holds WAL up to own, on a timeline with
// this lineage, holds all of timeline's WAL up to at.
func Holds(own pg.Position, lineage pg.Lineage, timeline pg.Timeline, at pg.LSN) bool {
	if own.Timeline == timeline {
		return own.LSN >= at
	}
	return own.Timeline == lineage.Timeline && lineage.Contains(pg.Position{Timeline: timeline, LSN: at})
}
