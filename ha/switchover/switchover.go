// Package switchover decides how a primary hands over to another node on
// purpose: accept what was asked for, wait until the target is close, stop, hand
// over, or give up and go on as before. It is pure; ha.SwitchoverCoordinator
// carries it out.
//
// The phases are records: each is written before what it announces is done, so
// that whoever comes next goes on from there. Up to the commit point everything
// can be taken back, and the cluster has the primary that it had; after it there
// is only the way forward, and if the target fails an election decides.
package switchover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// Phase is how far a switchover has come.
type Phase string

const (
	None      Phase = ""
	Scheduled Phase = "scheduled" // asked for
	Preparing Phase = "preparing" // accepted; the target catches up while writes go on
	Stopping  Phase = "stopping"  // the primary stops; it can still go back
	Committed Phase = "committed" // only the target may take over, or an election decides
	Done      Phase = "done"
	Failed    Phase = "failed" // refused or rolled back
)

// Open reports whether a switchover is asked for or under way.
func (p Phase) Open() bool {
	return p == Scheduled || p == Preparing || p == Stopping || p == Committed
}

// MaxLag is how many bytes of WAL the target may be behind, received and
// replayed, when the primary is stopped: what is missing is sent, and replayed,
// while nobody can write.
const MaxLag = 1 << 20

// Candidate is a recorded member that could take over.
type Candidate struct {
	Member     quorum.Member
	Streams    bool   // from this primary, under this very life's name
	Lag        uint64 // bytes of WAL not flushed there yet
	ReplayLag  uint64 // bytes of WAL not replayed there yet
	Priority   int    // higher is preferred
	NoFailover bool   // it must not lead
	BelowFloor bool   // its copy is not complete yet
	Unknown    bool   // what it says of itself cannot be read, or is another life's
}

// fault says why a node can never be the target, "" if it can.
func (c Candidate) fault() string {
	switch {
	case c.NoFailover:
		return fmt.Sprintf("%s may not lead (nofailover)", c.Member.Node)
	case c.Unknown:
		return fmt.Sprintf("the agent of %s does not publish itself", c.Member)
	case c.BelowFloor:
		return fmt.Sprintf("the copy of %s is not complete yet", c.Member.Node)
	default:
		return ""
	}
}

// behind says what the target still lacks, "" if it is close enough.
func (c Candidate) behind() string {
	switch {
	case !c.Streams:
		return fmt.Sprintf("%s does not stream", c.Member.Node)
	case c.Lag > MaxLag:
		return fmt.Sprintf("%s is %d bytes of WAL behind, at most %d are handed over", c.Member.Node, c.Lag, MaxLag)
	case c.ReplayLag > MaxLag:
		return fmt.Sprintf("%s has %d bytes of WAL to replay, at most %d are handed over", c.Member.Node, c.ReplayLag, MaxLag)
	default:
		return ""
	}
}

// Request is what was asked for.
type Request struct {
	Hostname    string      // the primary that is to hand over
	Timeline    pg.Timeline // its timeline; 0: any
	Destination string      // "": the best
}

// View is what the holder of the leader lock knows.
type View struct {
	Self     quorum.Member
	Term     uint64
	Timeline pg.Timeline
	Recorded quorum.Config

	Phase    Phase
	Garbled  string // why the records of the switchover cannot be read, "" if they can
	Request  Request
	Accepted uint64        // the term in which it was accepted
	Target   quorum.Member // chosen then
	Next     uint64        // the target's term, once committed

	Candidates  []Candidate // all other recorded members
	Maintenance bool
	Busy        string // what must end first: a change of the quorum, a gate that is closed; "" if nothing
	Prepared    bool   // a checkpoint was written since it was accepted
	Trouble     string // why handing over did not succeed, "" if it was not tried

	Elapsed time.Duration // since this node saw the phase
	Prepare time.Duration // limit of preparing
}

// Action is what to do next.
type Action string

const (
	Idle       Action = "idle"
	Accept     Action = "accept" // write preparing with Target
	Fail       Action = "fail"   // write failed with Why; everything stays as it was
	Checkpoint Action = "checkpoint"
	Wait       Action = "wait"
	Stop       Action = "stop" // write stopping
	HandOver   Action = "hand-over"
	Finish     Action = "finish" // write done
)

// Plan is the action and why.
type Plan struct {
	Action Action
	Target quorum.Member
	Why    string
}

// String is for people and tests.
func (p Plan) String() string {
	s := string(p.Action)
	if p.Target != (quorum.Member{}) {
		s += " " + p.Target.String()
	}
	if p.Why != "" {
		s += ": " + p.Why
	}
	return s
}

// Decide says what the holder of the leader lock does next.
func Decide(v View) Plan {
	switch {
	case v.Garbled != "":
		return Plan{Action: Fail, Why: v.Garbled}
	case v.Phase == Scheduled:
		return decideScheduled(v)
	case v.Phase == Committed && v.Next == v.Term:
		return Plan{Action: Finish, Target: v.Self}
	case !v.Phase.Open():
		return Plan{Action: Idle}
	case v.Phase == Committed:
		return Plan{Action: Fail, Why: fmt.Sprintf("%s did not take over in term %d; %s leads in term %d", v.Target.Node, v.Next, v.Self.Node, v.Term)}
	case v.Accepted != v.Term:
		return Plan{Action: Fail, Why: fmt.Sprintf("the primary of term %d did not come to its end; %s leads in term %d", v.Accepted, v.Self.Node, v.Term)}
	case v.Phase == Preparing:
		return decidePreparing(v)
	case v.Trouble != "":
		return Plan{Action: Fail, Why: v.Trouble}
	case v.Maintenance:
		return Plan{Action: Fail, Why: "maintenance was enabled"}
	}
	// Whoever was killed here may come back when the target has gone.
	if c, ok := v.target(); !ok || c.fault() != "" || !c.Streams {
		return Plan{Action: Fail, Why: notNow(v)}
	}
	return Plan{Action: HandOver, Target: v.Target}
}

// notNow says why the target cannot take over at this moment, "" if it can.
func notNow(v View) string {
	c, ok := v.target()
	if !ok {
		return fmt.Sprintf("%s is no recorded member any more", v.Target)
	}
	return cmp.Or(c.fault(), c.behind(), v.Busy)
}

// target is the candidate that was chosen.
func (v View) target() (Candidate, bool) {
	for _, c := range v.Candidates {
		if c.Member == v.Target {
			return c, true
		}
	}
	return Candidate{}, false
}

func decideScheduled(v View) Plan {
	r := v.Request
	switch {
	case r.Hostname != v.Self.Node:
		return Plan{Action: Fail, Why: fmt.Sprintf("it asks %q to hand over, and the primary is %s", r.Hostname, v.Self.Node)}
	case r.Timeline != 0 && r.Timeline != v.Timeline:
		return Plan{Action: Fail, Why: fmt.Sprintf("it was asked for on timeline %d, and the primary is on %d", r.Timeline, v.Timeline)}
	case v.Maintenance:
		return Plan{Action: Fail, Why: "maintenance is enabled: nobody changes roles"}
	}
	if why := Impossible(v.Self, v.Candidates, r.Destination); why != "" {
		return Plan{Action: Fail, Why: why}
	}
	if target, ok := Choose(v.Candidates, r.Destination); ok {
		return Plan{Action: Accept, Target: target}
	}
	if v.Elapsed > v.Prepare {
		return Plan{Action: Fail, Why: fmt.Sprintf("no possible target has streamed for %s", v.Prepare)}
	}
	return Plan{Action: Wait, Why: "no possible target streams"}
}

func decidePreparing(v View) Plan {
	why := notNow(v)
	if _, ok := v.target(); !ok {
		return Plan{Action: Fail, Why: why}
	}
	if why == "" && !v.Prepared && v.Elapsed > v.Prepare {
		why = "the checkpoint has not come to its end"
	}
	switch {
	case v.Maintenance:
		return Plan{Action: Fail, Why: "maintenance was enabled"}
	case v.Elapsed > v.Prepare && why != "":
		return Plan{Action: Fail, Why: fmt.Sprintf("not ready in %s: %s", v.Prepare, why)}
	case v.Elapsed > v.Prepare:
		return Plan{Action: Fail, Why: fmt.Sprintf("not ready in %s", v.Prepare)}
	case why != "":
		return Plan{Action: Wait, Target: v.Target, Why: why}
	case !v.Prepared:
		return Plan{Action: Checkpoint, Target: v.Target}
	default:
		return Plan{Action: Stop, Target: v.Target}
	}
}

// Impossible says why the primary can hand over to nobody, or not to the
// destination, whatever they catch up; "" if it can. Candidates are all recorded
// members but the primary.
func Impossible(primary quorum.Member, candidates []Candidate, destination string) string {
	if destination == "" {
		var faults []string
		for _, c := range candidates {
			fault := c.fault()
			if fault == "" {
				return ""
			}
			faults = append(faults, fault)
		}
		if len(faults) == 0 {
			return fmt.Sprintf("%s is the only recorded member: there is nobody to hand over to", primary.Node)
		}
		return "nobody can take over: " + strings.Join(faults, "; ")
	}
	if destination == primary.Node {
		return destination + " is the primary already"
	}
	for _, c := range candidates {
		if c.Member.Node == destination {
			return c.fault()
		}
	}
	return destination + " is no recorded member of the quorum: only one that confirms commits can take over"
}

// Choose picks the target: the destination, or of those that stream the one
// that is close, then has the highest priority, then lacks least. It reports false
// while none of them streams.
func Choose(candidates []Candidate, destination string) (quorum.Member, bool) {
	possible := slices.DeleteFunc(slices.Clone(candidates), func(c Candidate) bool {
		return c.fault() != "" || !c.Streams || destination != "" && c.Member.Node != destination
	})
	if len(possible) == 0 {
		return quorum.Member{}, false
	}
	best := slices.MinFunc(possible, func(a, b Candidate) int {
		return cmp.Or(
			cmp.Compare(far(a), far(b)),
			cmp.Compare(b.Priority, a.Priority),
			cmp.Compare(a.Lag+a.ReplayLag, b.Lag+b.ReplayLag),
			a.Member.Compare(b.Member),
		)
	})
	return best.Member, true
}

func far(c Candidate) int {
	if c.behind() != "" {
		return 1
	}
	return 0
}
