// Package election decides what a node does while a cluster has no leader: open
// an election, fence and vote, name a winner, take office, or wait and say for
// whom. It is pure: no clock, store or server; ha.Elector carries it out.
//
// The rules are those of a quorum of recorded copies. D is the recorded members
// and the recorded primary; every acknowledged commit is on W = k+1 of them.
// R = |D|-W+1 fenced votes of D share a node with every such set, so the most
// advanced of R voters holds every acknowledged commit. So does the recorded
// primary alone, once it is a fenced standby. A vote counts only for the very
// life (node and incarnation) that is recorded, and only for the election (id
// and nonce) that it was given in.
//
// In mode async a commit is on the primary alone, and R would be all of D. There
// the votes of those who can be expected to vote decide, and say what may be lost.
package election

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// Phase is how far an election has come.
type Phase string

const (
	PhaseNone    Phase = ""        // no election was ever recorded
	PhaseFencing Phase = "fencing" // open: nodes fence and vote
	PhaseWon     Phase = "won"     // a winner is named and has not yet taken office
	PhaseTaken   Phase = "taken"   // ended: the winner has taken office
)

// Vote is what one fenced node holds.
type Vote struct {
	Member      quorum.Member
	Position    pg.Position
	HasPosition bool // false: its fence counts, it cannot win
	Priority    int  // higher wins among equals
	MayWin      bool
}

// View is what a node knows when it looks at an election. Votes holds the valid
// votes of the election ID only: the caller has compared id and nonce.
type View struct {
	Self          quorum.Member
	Recorded      quorum.Config
	LeaderPresent bool
	// LettingGo held the leader lock, whose key was deleted by hand, and has not let
	// go of it yet.
	LettingGo string

	ID         uint64 // of the running or last election
	Phase      Phase
	Electorate []quorum.Member
	Winner     quorum.Member
	Votes      []Vote
	// Handover: nobody has voted. The primary of the term before has named its
	// successor, when all that it had written was on it.
	Handover bool

	Pledge        uint64 // own
	HighestPledge uint64 // of all nodes that say theirs

	Manager     string // who holds the manager's lock, "" if nobody
	ManagerIsMe bool   // under this very lease

	// Promised is how long this node is still bound by a promise not to fence.
	Promised time.Duration

	Overdue  time.Duration // how long this node has seen the election at its phase
	Deadline time.Duration // of the election
	TTL      time.Duration

	// What follows matters in mode async only.

	// Present are the nodes whose agents are alive: their votes are waited for until
	// the deadline.
	Present []string
	// Published is what the recorded primary last said that it holds.
	Published pg.Position
	// MaxLag is how much less than that the winner may hold. Bytes of WAL.
	MaxLag uint64
}

// Action is what to do next.
type Action string

const (
	Idle     Action = "idle"      // there is a leader
	Open     Action = "open"      // freeze a new election ID with Electorate
	CastVote Action = "vote"      // pledge ID, fence, read the position, vote
	Name     Action = "name"      // record Winner
	TakeOver Action = "take-over" // this node is the winner: create `leader`
	Wait     Action = "wait"
)

// Plan is the next action and why. Missing names whose votes are waited for.
type Plan struct {
	Action     Action
	ID         uint64
	Electorate []quorum.Member
	Winner     quorum.Member
	Why        string
	Missing    []quorum.Member
	// Lossy: commits that were acknowledged may be lost with this winner, in mode
	// async. Lag is what is known of that: how much less the winner holds than the
	// recorded primary has published, in bytes of WAL.
	Lossy bool
	Lag   uint64
}

// String is for people and for tests.
func (p Plan) String() string {
	var b strings.Builder
	b.WriteString(string(p.Action))
	if p.ID != 0 {
		fmt.Fprintf(&b, " %d", p.ID)
	}
	if p.Winner != (quorum.Member{}) {
		fmt.Fprintf(&b, " %s", p.Winner)
	}
	if p.Why != "" {
		fmt.Fprintf(&b, ": %s", p.Why)
	}
	return b.String()
}

// Decide says what the node does next.
func Decide(v View) Plan {
	switch {
	case v.LeaderPresent:
		return Plan{Action: Idle}
	case v.LettingGo != "":
		return Plan{Action: Wait, Why: fmt.Sprintf("the key of `leader` was deleted, and %s, which held it, has not let go yet", v.LettingGo)}
	case !v.Recorded.InD(v.Self):
		return Plan{Action: Wait, Why: fmt.Sprintf("%s is not one of the recorded members of %s", v.Self, v.Recorded)}
	case v.Phase == PhaseFencing:
		return decideFencing(v)
	case v.Phase == PhaseWon:
		return decideWon(v)
	default:
		return open(v, "there is no leader")
	}
}

func open(v View, why string) Plan {
	if v.Promised > 0 {
		// The primary may be well and only cut off from the store.
		return bound(v, why)
	}
	if v.Manager != "" && !v.ManagerIsMe {
		return Plan{Action: Wait, Why: fmt.Sprintf("%s, and %s coordinates the election", why, v.Manager)}
	}
	return Plan{
		Action: Open, ID: max(v.ID, v.Pledge, v.HighestPledge) + 1, Electorate: v.Recorded.D(), Why: why,
	}
}

func bound(v View, why string) Plan {
	return Plan{Action: Wait, ID: v.ID, Why: fmt.Sprintf("%s; this node has promised the primary not to fence for another %s", why, v.Promised)}
}

func decideFencing(v View) Plan {
	switch {
	case v.Pledge > v.ID:
		return open(v, fmt.Sprintf("this node has pledged %d, above the open election %d", v.Pledge, v.ID))
	case !slices.Contains(v.Electorate, v.Self):
		return Plan{Action: Wait, ID: v.ID, Why: fmt.Sprintf("%s is not in the electorate", v.Self)}
	case !slices.ContainsFunc(v.Votes, func(vote Vote) bool { return vote.Member == v.Self }):
		if choice := Choose(v); v.ManagerIsMe && v.Overdue > v.Deadline && choice.Action == Name {
			choice.ID = v.ID // the others are enough, and this node has not been able to fence itself
			return choice
		}
		if v.Promised > 0 {
			return bound(v, fmt.Sprintf("election %d is open", v.ID))
		}
		return Plan{Action: CastVote, ID: v.ID}
	}
	choice := Choose(v)
	choice.ID = v.ID
	if choice.Action == Name && v.Manager != "" && !v.ManagerIsMe {
		return Plan{Action: Wait, ID: v.ID, Why: v.Manager + " is to name the winner"}
	}
	return choice
}

func decideWon(v View) Plan {
	switch {
	case v.Winner == v.Self && (v.Pledge == v.ID || v.Handover && v.Pledge < v.ID):
		return Plan{Action: TakeOver, ID: v.ID, Winner: v.Winner}
	case v.Overdue > v.Deadline+v.TTL, v.Handover && v.Overdue > v.Deadline:
		return open(v, fmt.Sprintf("%s won election %d and has not taken office in %s", v.Winner, v.ID, v.Overdue))
	default:
		return Plan{Action: Wait, ID: v.ID, Why: fmt.Sprintf("%s won and takes office", v.Winner)}
	}
}

// Choose names the winner among the valid votes of an election over the
// recorded quorum, or says who is missing. Votes of members that are not in D
// are not counted.
func Choose(v View) Plan {
	recorded := v.Recorded
	counted, missing := count(recorded, v.Votes)
	primaryVoted := slices.ContainsFunc(counted, func(v Vote) bool { return v.Member == recorded.Primary && v.HasPosition })
	lossy := recorded.Mode == quorum.ModeAsync && len(counted) < recorded.R() && !primaryVoted
	switch awaited := v.awaited(missing); {
	case lossy && len(awaited) > 0:
		return Plan{Action: Wait, Missing: awaited, Why: fmt.Sprintf(
			"mode async: until %s after the election began the votes of those present are waited for, missing: %s",
			v.Deadline, names(awaited))}
	case !lossy && len(counted) < recorded.R() && !primaryVoted:
		return Plan{Action: Wait, Missing: missing, Why: fmt.Sprintf(
			"%d of the %d votes needed (%d copies of every commit among %d nodes), missing: %s",
			len(counted), recorded.R(), recorded.W(), len(recorded.D()), names(missing))}
	}
	held := slices.DeleteFunc(slices.Clone(counted), func(v Vote) bool { return !v.HasPosition })
	if len(held) == 0 {
		return Plan{Action: Wait, Missing: missing, Why: "no voter has a position that counts, missing: " + names(missing)}
	}
	slices.SortFunc(held, better)
	best := held[0]
	if !best.MayWin {
		return Plan{Action: Wait, Missing: missing, Why: fmt.Sprintf(
			"%s holds the most, %s, and may not win (nofailover)", best.Member, best.Position)}
	}
	plan := Plan{Action: Name, Winner: best.Member, Missing: missing, Why: fmt.Sprintf(
		"%s holds the most, %s, of %d votes", best.Member, best.Position, len(counted))}
	if lossy {
		return v.bounded(plan, best)
	}
	return plan
}

// awaited are those of the missing whose vote an asynchronous election waits for.
func (v View) awaited(missing []quorum.Member) []quorum.Member {
	if v.Overdue > v.Deadline {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(missing), func(m quorum.Member) bool { return !slices.Contains(v.Present, m.Node) })
}

// bounded lets a winner take over without proof that it holds every acknowledged
// commit, if it holds about as much as the primary last published.
func (v View) bounded(plan Plan, best Vote) Plan {
	primary := v.Recorded.Primary
	plan.Lossy = true
	switch {
	case v.Published.Timeline > best.Position.Timeline:
		return Plan{Action: Wait, Missing: plan.Missing, Why: fmt.Sprintf(
			"%s holds the most, %s, and %s has published %s: how much is between them is not known",
			best.Member, best.Position, primary, v.Published)}
	case v.Published.Timeline == best.Position.Timeline && v.Published.LSN > best.Position.LSN:
		plan.Lag = uint64(v.Published.LSN - best.Position.LSN)
	}
	if plan.Lag > v.MaxLag {
		return Plan{Action: Wait, Missing: plan.Missing, Why: fmt.Sprintf(
			"%s holds the most, %s, %d bytes less than %s has published: more than the %d bytes that may be lost (maximum_lag_on_failover)",
			best.Member, best.Position, plan.Lag, primary, v.MaxLag)}
	}
	plan.Why += fmt.Sprintf("; mode async: %d bytes that %s has published may be lost, and what it wrote after that", plan.Lag, primary)
	return plan
}

// better orders votes: newest timeline of the WAL held, then LSN, then who may
// win, then priority, then name.
func better(a, b Vote) int {
	return cmp.Or(
		b.Position.Compare(a.Position),
		cmp.Compare(btoi(b.MayWin), btoi(a.MayWin)),
		cmp.Compare(b.Priority, a.Priority),
		a.Member.Compare(b.Member),
	)
}

// count keeps one vote of each member of D and says who of D has not voted.
func count(recorded quorum.Config, votes []Vote) (counted []Vote, missing []quorum.Member) {
	for _, m := range recorded.D() {
		i := slices.IndexFunc(votes, func(v Vote) bool { return v.Member == m })
		if i < 0 {
			missing = append(missing, m)
		} else {
			counted = append(counted, votes[i])
		}
	}
	return counted, missing
}

func names(members []quorum.Member) string {
	if len(members) == 0 {
		return "nobody"
	}
	out := make([]string, len(members))
	for i, m := range members {
		out[i] = m.String()
	}
	return strings.Join(out, ", ")
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
