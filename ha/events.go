package ha

import (
	"time"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// Events are optional functions that are called as things happen, from the
// node's own goroutine: they must return promptly and must not call the Node.
type Events struct {
	Plan      func(PlanInfo)      // the node's plan, or why it waits, has changed
	Election  func(ElectionInfo)  // a step of an election by this node
	Office    func(OfficeInfo)    // this node takes or leaves office
	Promotion func(PromotionInfo) // this node's server was promoted
	Gate      func(GateInfo)      // clients are admitted
	Rejoin    func(RejoinInfo)    // the node follows, rewinds or clones
	Quorum    func(QuorumInfo)    // the recorded quorum has changed
	// Config: the record of the cluster's configuration is another one.
	Config func(ConfigInfo)
	// Switchover: this node has advanced one.
	Switchover func(SwitchoverInfo)
}

// SwitchoverInfo is a phase of a switchover.
type SwitchoverInfo struct {
	ID     string
	Phase  string // as in record.SwitchoverPhase
	Target quorum.Member
	Why    string
}

// PlanInfo says what the node is doing and why.
type PlanInfo struct {
	Action string
	Why    string
}

// ElectionInfo is one step of an election.
type ElectionInfo struct {
	ID     uint64
	Step   string // opened, voted, named, taken, returned, taken up
	Winner quorum.Member
	Vote   pg.Position
	Why    string
	Loss   *record.Loss // what may be lost with the winner named, in mode async
}

// OfficeInfo says that a term begins or ends on this node.
type OfficeInfo struct {
	Term   uint64
	Begins bool
	Cause  error // why it ended
}

// PromotionInfo describes a promotion.
type PromotionInfo struct {
	Term     uint64
	Timeline pg.Timeline
	SwitchAt pg.LSN
	Took     time.Duration
}

// GateInfo says that clients are admitted, and what had been waited for.
type GateInfo struct {
	Term    uint64
	Barrier pg.LSN
}

// RejoinInfo says how the node comes back to a primary.
type RejoinInfo struct {
	Term   uint64
	Action string // follow, rewind, clone
	From   string
	Floor  pg.Position
	Err    error
}

// QuorumInfo is the recorded quorum after a change.
type QuorumInfo struct {
	Version  uint64
	Recorded quorum.Config
	Why      string
}

// Effects is called by name before and after each effect that leaves a trace
// outside the process: a store transaction, a pledge, a start, a stop, a
// promotion, a rewind. It exists so that a test can end the process exactly
// there. Nil functions are not called.
type Effects struct {
	Before func(name string)
	After  func(name string)
}

// run carries out one effect between its two marks.
func (e Effects) run(name string, effect func() error) error {
	e.mark(name, false)
	err := effect()
	e.mark(name, true)
	return err
}

// mark is one of the two marks of an effect.
func (e Effects) mark(name string, done bool) {
	switch {
	case !done && e.Before != nil:
		e.Before(name)
	case done && e.After != nil:
		e.After(name)
	}
}
