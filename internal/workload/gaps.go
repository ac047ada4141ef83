package workload

import (
	"sync"
	"time"
)

// GapFloor is the shortest gap between two acknowledgements that counts as an
// outage: below it is the noise of a busy machine.
const GapFloor = 100 * time.Millisecond

// Gap is a time without any acknowledgement, from one to the next, in the times
// of the ledger.
type Gap struct {
	From, To time.Duration
}

// Length of the gap.
func (g Gap) Length() time.Duration { return g.To - g.From }

// Gaps collects the gaps between acknowledgements over all writers. Measuring
// begins with the first acknowledgement. Its methods may be called concurrently.
type Gaps struct {
	mu      sync.Mutex
	started bool
	ended   bool
	last    time.Duration
	gaps    []Gap
}

// Acknowledged notes an acknowledgement at at. Times may come slightly out of
// order.
func (g *Gaps) Acknowledged(at time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.note(at)
	}
}

// End ends the measuring: a gap that is still open is closed at at.
func (g *Gaps) End(at time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started && !g.ended {
		g.note(at)
	}
	g.ended = true
}

func (g *Gaps) note(at time.Duration) {
	if g.started && at-g.last >= GapFloor {
		g.gaps = append(g.gaps, Gap{From: g.last, To: at})
	}
	if !g.started || at > g.last {
		g.last = at
	}
	g.started = true
}

// All returns the gaps of GapFloor and above, in order.
func (g *Gaps) All() []Gap {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Gap(nil), g.gaps...)
}

// Longest returns the longest gap that ended after since: with since at a fault,
// the outage that the fault made, counted from the last acknowledgement before
// it. The zero Gap if nothing reached GapFloor.
func (g *Gaps) Longest(since time.Duration) Gap {
	g.mu.Lock()
	defer g.mu.Unlock()
	var longest Gap
	for _, gap := range g.gaps {
		if gap.To > since && gap.Length() > longest.Length() {
			longest = gap
		}
	}
	return longest
}

// Between returns the gaps that reach into a span of time, in order, each in full
// length.
func (g *Gaps) Between(from, to time.Duration) []Gap {
	var found []Gap
	for _, gap := range g.All() {
		if gap.To > from && gap.From < to {
			found = append(found, gap)
		}
	}
	return found
}

// Open returns how long the present gap lasts at now; 0 below GapFloor, before
// the first acknowledgement, and after End.
func (g *Gaps) Open(now time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.started || g.ended || now-g.last < GapFloor {
		return 0
	}
	return now - g.last
}

// Last returns when the last acknowledgement came, and whether there was one.
func (g *Gaps) Last() (time.Duration, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last, g.started
}
