// Package rejoin decides how a node comes back to a primary: follow it, rewind
// to it, copy it anew, or wait. It is pure; ha.Node carries it out.
//
// Timeline numbers are used once, so lineage is decided by number, switch LSN
// and history: a node follows when the WAL that it holds is part of the
// primary's lineage, and must be rewound or copied when it has diverged. Both
// destroy a copy of the data. A recorded life does that only when no election
// is open and k other members are known to hold what the primary holds.
package rejoin

import (
	"fmt"

	"github.com/pghad/pghad/pg"
)

// View is what a node knows of itself and of the primary it is to follow.
type View struct {
	HasData      bool // a data directory that can be started
	Own          pg.Position
	Remote       pg.Lineage  // of the primary
	Expected     pg.Timeline // the timeline recorded for the primary's term
	Checkpointed pg.Timeline // the timeline in the primary's control file
	Recorded     bool        // this very life is one of D: its copy may be needed
	Spared       bool        // the primary has said that k other members hold what it holds
	ElectionOpen bool
	NoRewind     string // why a rewind is impossible, "" if it is not known to be
	NoStream     string // why following is impossible although the WAL fits, "" if it is not known to be
}

// Action is what to do.
type Action string

const (
	Follow Action = "follow" // stream from the primary
	Rewind Action = "rewind"
	Clone  Action = "clone"
	Ask    Action = "ask" // ask the primary whether this copy is needed
	Wait   Action = "wait"
)

// Plan is the action and why.
type Plan struct {
	Action Action
	Why    string
}

// String is for people and tests.
func (p Plan) String() string { return string(p.Action) + ": " + p.Why }

// Decide says how the node comes back.
func Decide(v View) Plan {
	switch {
	case v.Remote.Timeline != v.Expected:
		return Plan{Wait, fmt.Sprintf("the primary is on timeline %d and its term's is %d", v.Remote.Timeline, v.Expected)}
	case !v.HasData:
		return Plan{Clone, "there is no data"}
	case v.Remote.Contains(v.Own) && v.NoStream == "":
		return Plan{Follow, fmt.Sprintf("%s is part of timeline %d", v.Own, v.Remote.Timeline)}
	case v.ElectionOpen:
		return Plan{Wait, "an election is open: nothing may be destroyed"}
	case v.Recorded && !v.Spared:
		return Plan{Ask, fmt.Sprintf("%s cannot follow timeline %d; this copy may be needed until k other members hold what the primary holds",
			v.Own, v.Remote.Timeline)}
	case v.NoStream != "":
		return Plan{Clone, v.NoStream}
	case v.NoRewind != "":
		return Plan{Clone, v.NoRewind}
	case v.Checkpointed != v.Remote.Timeline:
		return Plan{Wait, fmt.Sprintf("the primary has not finished its first checkpoint on timeline %d", v.Remote.Timeline)}
	default:
		return Plan{Rewind, fmt.Sprintf("%s has diverged from timeline %d", v.Own, v.Remote.Timeline)}
	}
}
