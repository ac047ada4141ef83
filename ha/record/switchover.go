package record

import (
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// SwitchoverPhase is the value of `switchover/state`, in plain text: how far the
// running or last switchover has come. It is always written together with
// `switchover/master`.
type SwitchoverPhase string

const (
	SwitchoverNone      SwitchoverPhase = ""          // none was ever asked for
	SwitchoverScheduled SwitchoverPhase = "scheduled" // asked for; whoever writes this starts one
	SwitchoverPreparing SwitchoverPhase = "preparing" // the primary waits for the target; writes go on
	SwitchoverStopping  SwitchoverPhase = "stopping"  // the primary stops its server; it can still go back
	SwitchoverCommitted SwitchoverPhase = "committed" // the target is to take over: only forward
	SwitchoverDone      SwitchoverPhase = "done"
	SwitchoverFailed    SwitchoverPhase = "failed" // refused, or rolled back; Switchover.Reason says why
)

// Open reports whether a switchover is asked for or under way.
func (p SwitchoverPhase) Open() bool {
	switch p {
	case SwitchoverScheduled, SwitchoverPreparing, SwitchoverStopping, SwitchoverCommitted:
		return true
	default:
		return false
	}
}

// Switchover is the value of `switchover/master`. Hostname, Timeline and
// Destination are written by whoever asks for it, as in pgconsul, with an ID by
// which that one knows its own; the rest is written by the primary.
type Switchover struct {
	Format      int         `json:"format,omitempty"`
	Hostname    string      `json:"hostname"`              // the primary that is to hand over
	Timeline    pg.Timeline `json:"timeline,omitempty"`    // its timeline; 0: any
	Destination string      `json:"destination,omitempty"` // "": the best
	ID          string      `json:"id,omitempty"`
	By          string      `json:"by,omitempty"` // for people
	At          string      `json:"at,omitempty"` // RFC 3339, for people

	Term   uint64        `json:"term,omitempty"`   // in which the primary has accepted it
	Target quorum.Member `json:"target,omitzero"`  // who is to take over
	Next   uint64        `json:"next,omitempty"`   // the term of the target, from the commit point on
	Reason string        `json:"reason,omitempty"` // what is waited for, or why it failed
}
