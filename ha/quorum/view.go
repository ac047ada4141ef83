package quorum

import (
	"fmt"
	"strings"

	"github.com/pghad/pghad/pg"
)

// Candidate is a replica that holds its own membership lock: it says that it
// is highly available, and which life it is.
type Candidate struct {
	Member   Member
	Priority int  // higher is admitted earlier, and kept longer in sync mode
	NoSync   bool // it must not be waited for: never admitted, removed if recorded
}

// View is what Next looks at. It is a value; Next neither changes nor keeps it.
type View struct {
	// Recorded is the record as read. Its primary is the server of Sync.
	Recorded Config
	// Sync is a look at the primary through a new session.
	Sync pg.SyncView
	// Candidates are the replicas that may be counted, in any order.
	Candidates []Candidate
	// Lost are recorded members that have been away for longer than the removal
	// delay. A life that a newer one of the same node has replaced need not be
	// listed: Next sees that itself.
	Lost []Member
	// Progress is what the caller remembers of its own steps; zero after a start.
	Progress Progress

	// Mode is the mode that is wanted; "" is the recorded one.
	Mode Mode
	// Strict forbids to lower k below 1 once it is 1: without members commits
	// wait. A wish for ModeAsync overrides it.
	Strict bool
	// MaxK bounds k from above; 0 means only by half of the members, rounded up.
	MaxK int
	// MaxLag is how many bytes a replica may be behind the primary's flush
	// position to be admitted.
	MaxLag uint64
	// HoldWidening, where not empty, is why the setting must not yet follow a
	// record that asks less of it (for example: too few nodes have the record's
	// version on disk). The record itself is not held up.
	HoldWidening string
}

// Kind is what a Step asks the caller to do.
type Kind string

const (
	None          Kind = "none"           // nothing to do, or nothing that can be done: see Why and Waits
	WriteRecord   Kind = "write record"   // write Step.Record
	WriteSetting  Kind = "write setting"  // put Step.Setting in force
	Checkpoint    Kind = "checkpoint"     // run two CHECKPOINTs, one after the other
	AwaitAdoption Kind = "await adoption" // look again when the walsenders have re-read the setting
	ReadBarrier   Kind = "read barrier"   // take a new look; its flush position is the barrier
	AwaitBarrier  Kind = "await barrier"  // look again when members have flushed the barrier
)

// Step is the one next thing to do.
type Step struct {
	Kind Kind
	// Record is what to write; of the steps on the way to it, what will be written.
	Record Config
	// Setting is what to put in force.
	Setting pg.SyncSetting
	// Proves says of a WriteSetting that every walsender which re-reads will show it.
	Proves bool
	// Why says what the step is good for, for people.
	Why string
	// Waits are the walsenders and members that are waited for, for people.
	Waits []string
	// Alarms are findings that a person must look at, such as two walsenders
	// under one name. They are part of Why too.
	Alarms []string
}

// String is for people and test scripts.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(string(s.Kind))
	switch s.Kind {
	case WriteRecord:
		fmt.Fprintf(&b, " %s %s", s.Record.Mode, s.Record)
	case WriteSetting:
		fmt.Fprintf(&b, " '%s'", s.Setting)
	default:
	}
	fmt.Fprintf(&b, ": %s", s.Why)
	if len(s.Waits) > 0 {
		fmt.Fprintf(&b, " [%s]", strings.Join(s.Waits, "; "))
	}
	return b.String()
}

// Idle reports whether the step leaves the caller nothing to carry out now: it
// looks again later.
func (s Step) Idle() bool { return s.Kind == None || s.Kind == AwaitAdoption || s.Kind == AwaitBarrier }

// senders are all walsenders under exactly m's application_name.
func senders(view pg.SyncView, m Member) []pg.Walsender {
	var found []pg.Walsender
	for _, s := range view.Senders {
		if s.Name == m.String() {
			found = append(found, s)
		}
	}
	return found
}

// sender is m's walsender. One name is one walsender: of two none counts.
func sender(view pg.SyncView, m Member) (pg.Walsender, bool) {
	found := senders(view, m)
	if len(found) != 1 || found[0].Flush == 0 {
		return pg.Walsender{}, false
	}
	return found[0], true
}

// Streams reports whether m can acknowledge commits now: exactly one walsender
// runs under its name, it streams (one that catches up releases nobody), and
// its flush position is known.
func Streams(view pg.SyncView, m Member) bool {
	s, ok := sender(view, m)
	return ok && s.State == "streaming"
}

// streaming counts the members that stream.
func streaming(view pg.SyncView, members []Member) int {
	n := 0
	for _, m := range members {
		if Streams(view, m) {
			n++
		}
	}
	return n
}
