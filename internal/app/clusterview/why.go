package clusterview

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/election"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// Explanation says why a cluster is in the state that it is in, for a person who
// has to understand it quickly. Its JSON is stable as that of View.
type Explanation struct {
	Namespace string  `json:"namespace"`
	Cluster   string  `json:"cluster"`
	Verdict   Verdict `json:"verdict"`
	// Locks are leader, epoch_manager and switchover/lock, held or not.
	Locks []Lock `json:"locks"`
	// Term is the one in office; null if nobody is.
	Term *Term `json:"term"`
	// Gate says whether the leader in office admits clients: "open", or why not.
	// It is "" if the leader has not said yet.
	Gate string `json:"gate"`
	// Quorum is null before the cluster has been created.
	Quorum      *Arithmetic  `json:"quorum"`
	Election    *Account     `json:"election"` // null if there has been none
	Switchover  *Switchover  `json:"switchover"`
	Maintenance *Maintenance `json:"maintenance"`
	Nodes       []Words      `json:"nodes"` // all that any record names, sorted by name
	Problems    []string     `json:"problems"`
}

// Verdict says in a sentence whether writes are accepted, and in further ones
// what is waited for or must be known.
type Verdict struct {
	Code    string   `json:"code"`
	Text    string   `json:"text"`
	Details []string `json:"details"`
}

// Codes of a Verdict.
const (
	VerdictAccepting  = "accepting"  // a leader is in office and admits clients
	VerdictStalled    = "stalled"    // so it is, but too few members stream: commits wait
	VerdictClosed     = "closed"     // a leader is in office and does not admit clients yet
	VerdictUnreported = "unreported" // a leader is in office and has not said yet whether it does
	VerdictSwitching  = "switching"  // the leader stops for a switchover, or has handed over
	VerdictWon        = "won"        // an election is won, and the winner not in office
	VerdictElecting   = "electing"   // an election waits for votes
	VerdictNobody     = "nobody"     // nobody leads, and no election is open
	VerdictRestored   = "restored"   // nobody leads, and nodes have seen more than the store shows
	VerdictDisagree   = "disagree"   // the records contradict each other
	VerdictUnreadable = "unreadable" // records cannot be read
	VerdictMissing    = "missing"    // there is no cluster
)

// Lock is a lock and its holder, "" if it is free.
type Lock struct {
	Name    string `json:"name"`
	Holder  string `json:"holder"`
	Session string `json:"session"`
	Token   uint64 `json:"token"` // the fencing token
}

// Term is the time in office of one leader.
type Term struct {
	ID       uint64      `json:"id"`
	Primary  string      `json:"primary"`
	Timeline pg.Timeline `json:"timeline"`
	Since    string      `json:"since"` // RFC 3339, of the primary's clock
}

// Arithmetic is the recorded quorum, counted out.
type Arithmetic struct {
	Quorum
	Nodes  int `json:"nodes"`  // of D, the members and the primary
	Copies int `json:"copies"` // of each acknowledged commit
	// Streaming are the members that stream from the leader in office, as it says.
	Streaming []string `json:"streaming"`
}

// Account is an election with the words of those who have not voted.
type Account struct {
	Election
	Needed  int     `json:"votes_needed"` // unless the recorded primary votes
	Why     string  `json:"why"`          // what the votes come to
	Waiting []Words `json:"waiting"`      // the electorate of an open election without those who voted
}

// Words are what a node says of itself.
type Words struct {
	Node        string `json:"node"`
	Present     bool   `json:"present"` // its agent publishes it now
	Alive       bool   `json:"alive"`   // its PostgreSQL is alive
	Leader      bool   `json:"leader"`  // it holds the lock `leader`
	Role        string `json:"role"`
	State       string `json:"state"`
	Quorum      string `json:"quorum"` // see Node.Quorum
	Pledge      uint64 `json:"pledge"`
	NoFailover  bool   `json:"nofailover"`
	Maintenance bool   `json:"maintenance"` // it keeps to maintenance
	Why         string `json:"why"`
}

// Explain makes the explanation from the records alone.
func Explain(namespace, cluster string, records record.Cluster) Explanation {
	e := Explanation{
		Namespace: namespace,
		Cluster:   cluster,
		Locks: []Lock{
			buildLock("leader", records.Leader),
			buildLock("epoch_manager", records.EpochManager),
			buildLock("switchover/lock", records.SwitchoverLock),
		},
		Quorum:      buildArithmetic(records),
		Switchover:  buildSwitchover(records),
		Maintenance: buildMaintenance(records),
		Nodes:       []Words{},
		Problems:    problems(records),
	}
	for _, name := range names(records) {
		e.Nodes = append(e.Nodes, buildWords(records, name))
	}
	e.Election = buildAccount(records, e.Nodes)
	term, err := records.InOffice()
	if err == nil {
		e.Term = &Term{ID: term.ID, Primary: term.Primary, Timeline: term.Timeline, Since: term.At}
		if opinion, ok := opinion(records); ok {
			e.Gate = opinion.Gate
		}
		e.Verdict = e.inOffice()
	} else {
		e.Verdict = e.outOfOffice(records, err)
	}
	e.remark(records)
	return e
}

func buildLock(name string, lock record.Lock) Lock {
	return Lock{Name: name, Holder: lock.Holder, Session: string(lock.Session), Token: token(lock.Created)}
}

func token(r dcs.Revision) uint64 { return uint64(r) }

func buildArithmetic(records record.Cluster) *Arithmetic {
	q := buildQuorum(records)
	if q == nil {
		return nil
	}
	recorded := records.Quorum.Value.Config
	a := &Arithmetic{Quorum: *q, Nodes: len(recorded.D()), Copies: recorded.W(), Streaming: []string{}}
	opinion, ok := opinion(records)
	if !ok {
		return a
	}
	a.Tracker = opinion.Tracker
	for _, m := range recorded.Members {
		said, _ := records.Member(m.Node)
		if said.Incarnation == m.Incarnation && opinion.Nodes[m.Node].Stream == "streaming" {
			a.Streaming = append(a.Streaming, m.Node)
		}
	}
	return a
}

func buildWords(records record.Cluster, name string) Words {
	n := buildNode(records, name)
	return Words{
		Node: n.Name, Present: n.Present, Alive: n.Alive, Leader: n.Leader, Role: n.Role, State: n.State,
		Quorum: n.Quorum, Pledge: n.Pledge, NoFailover: n.NoFailover, Maintenance: n.Maintenance, Why: n.Why,
	}
}

func buildAccount(records record.Cluster, nodes []Words) *Account {
	built := buildElection(records)
	if built == nil {
		return nil
	}
	recorded, state := records.Quorum.Value.Config, records.Failover.Value
	a := &Account{Election: *built, Waiting: []Words{}}
	if records.Quorum.Value.Version > 0 {
		a.Needed = recorded.R()
	}
	if state.Phase == record.PhaseFencing && a.Needed > 0 {
		a.Why = election.Choose(election.View{
			Recorded: recorded, Votes: cast(records), Present: records.Alive, Published: records.PublishedBy(recorded.Primary),
		}).Why
	}
	for _, name := range a.Missing {
		if i := slices.IndexFunc(nodes, func(w Words) bool { return w.Node == name }); i >= 0 {
			a.Waiting = append(a.Waiting, nodes[i])
		} else {
			a.Waiting = append(a.Waiting, Words{Node: name, Role: "unknown", State: "absent"})
		}
	}
	return a
}

// cast are the votes as those count them who decide by them.
func cast(records record.Cluster) []election.Vote {
	var votes []election.Vote
	for _, v := range records.ValidVotes() {
		votes = append(votes, election.Vote{
			Member: v.Member, Position: v.Position, HasPosition: v.HasPosition, Priority: v.Priority, MayWin: v.MayWin,
		})
	}
	return votes
}

// inOffice is the verdict while somebody leads.
func (e *Explanation) inOffice() Verdict {
	leads := fmt.Sprintf("%s leads in term %d on timeline %s", e.Term.Primary, e.Term.ID, e.Term.Timeline)
	s, q := e.Switchover, e.Quorum
	switch {
	case s != nil && s.Phase == string(record.SwitchoverStopping) && s.Term == e.Term.ID:
		return Verdict{Code: VerdictSwitching, Text: fmt.Sprintf(
			"Writes have stopped for a moment: %s hands over to %s, and goes on as before if that does not succeed.", s.From, or(s.Target, "another node"))}
	case e.Gate == "":
		return Verdict{Code: VerdictUnreported, Text: "Whether writes are accepted is not known yet: " + leads + " and has not said so in this term."}
	case e.Gate != "open":
		return Verdict{
			Code: VerdictClosed, Text: "Nobody is admitted yet: " + leads + " and is not open to clients.",
			Details: []string{"It says: " + sentence(oneLine(strings.TrimPrefix(e.Gate, "closed: ")))},
		}
	case q == nil:
		return Verdict{Code: VerdictDisagree, Text: "Writes seem to be accepted: " + leads + ", and there is no recorded quorum."}
	case len(q.Streaming) < q.K:
		return Verdict{
			Code: VerdictStalled, Text: "Commits wait: " + leads + ", and too few members stream from it.",
			Details: []string{fmt.Sprintf("Each commit must reach %d of %s; streaming: %s. Reads are served.",
				q.K, lives(q.Members), or(strings.Join(q.Streaming, ", "), "none"))},
		}
	}
	return Verdict{Code: VerdictAccepting, Text: fmt.Sprintf("Writes are accepted: %s, and each commit is on %s.", leads, copies(&q.Quorum))}
}

// outOfOffice is the verdict while nobody leads, for a reason.
func (e *Explanation) outOfOffice(records record.Cluster, reason error) Verdict {
	state := records.Failover.Value
	switch {
	case len(records.Errs) > 0:
		return Verdict{
			Code: VerdictUnreadable, Text: "Whether writes are accepted cannot be said: records cannot be read.",
			Details: []string{"See the problems below. Nodes that cannot read them either do nothing new."},
		}
	case !records.Initialize.Exists() && !records.Quorum.Exists() && len(ahead(records)) == 0:
		return Verdict{
			Code: VerdictMissing, Text: "There is no cluster yet: the store has no records of it.",
			Details: []string{"A node with bootstrap: true creates it. Is this the right namespace, and the right name?"},
		}
	case len(ahead(records)) > 0 && !handingOver(records):
		return Verdict{
			Code: VerdictRestored, Text: "Nobody leads: the store shows less than nodes have seen. It was restored from a copy, or is another one.",
			Details: []string{"No node obeys it until its records are written again above everything that was seen; see each node's words."},
		}
	case records.Leader.Held():
		return Verdict{Code: VerdictDisagree, Text: "Whether writes are accepted cannot be said: the records do not agree.", Details: []string{sentence(reason.Error())}}
	case state.Phase == record.PhaseWon:
		return e.awaitingWinner(records)
	case state.Phase == record.PhaseFencing:
		return e.awaitingVotes(records)
	}
	return e.awaitingElection(records)
}

// ahead are the nodes that are bound to an election that the store does not know.
func ahead(records record.Cluster) []string {
	var nodes []string
	for _, h := range records.Members {
		if h.Value.Pledge > records.Failover.Value.ID {
			nodes = append(nodes, h.Name)
		}
	}
	return nodes
}

// handingOver reports whether a pledge above the last election is that of a
// primary that is about to hand over its term.
func handingOver(records record.Cluster) bool {
	nodes := ahead(records)
	return records.SwitchoverState.Value == record.SwitchoverStopping && len(nodes) == 1 && nodes[0] == records.Switchover.Value.Hostname
}

func (e *Explanation) awaitingWinner(records record.Cluster) Verdict {
	state := records.Failover.Value
	winner := state.Winner.Node
	v := Verdict{Code: VerdictWon, Text: fmt.Sprintf("Nobody leads yet: %s has won election %d and is to take over.", winner, state.ID)}
	if state.Handover != nil {
		v.Code = VerdictSwitching
		v.Text = fmt.Sprintf("Nobody leads for a moment: %s has handed over to %s, which is to take over in term %d.", state.Handover.From.Node, winner, state.ID)
	}
	v.Details = []string{e.quote(winner)}
	if state.Deadline > 0 {
		v.Details = append(v.Details, fmt.Sprintf("If it does not, another election is opened %s and a TTL after this one was decided.", durationText(state.Deadline)))
	}
	return v
}

func (e *Explanation) awaitingVotes(records record.Cluster) Verdict {
	state := records.Failover.Value
	v := Verdict{Code: VerdictElecting, Text: fmt.Sprintf("Nobody leads: election %d is open.", state.ID)}
	if e.Election.Why != "" {
		v.Details = append(v.Details, sentence(e.Election.Why))
	}
	for _, w := range e.Election.Waiting {
		v.Details = append(v.Details, e.quote(w.Node))
	}
	return v
}

func (e *Explanation) awaitingElection(records record.Cluster) Verdict {
	v := Verdict{Code: VerdictNobody, Text: "Nobody leads, and no election has been opened yet."}
	recorded := records.Quorum.Value
	switch {
	case recorded.Version == 0:
		v.Details = append(v.Details, "There is no recorded quorum: nobody may open one.")
		return v
	case e.Maintenance != nil:
		v.Text = "Nobody leads, and nobody is elected: maintenance is on."
	case records.LeaderTwin.Held():
		v.Details = append(v.Details, fmt.Sprintf("The key of `leader` was deleted by hand: nobody opens one before %s, which held it, has let go, or its session ends.", records.LeaderTwin.Holder))
	case records.EpochManager.Held():
		v.Details = append(v.Details, fmt.Sprintf("%s holds `epoch_manager` and is to open it.", records.EpochManager.Holder))
	default:
		v.Details = append(v.Details, fmt.Sprintf("Any of %s may open it.", nodesOf(recorded.D())))
	}
	for _, m := range recorded.D() {
		v.Details = append(v.Details, e.quote(m.Node))
	}
	return v
}

func nodesOf(members []quorum.Member) string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Node
	}
	return strings.Join(slices.Compact(names), ", ")
}

// quote is a node in its own words.
func (e *Explanation) quote(node string) string {
	if node == "" {
		return "Which node must confirm is not recorded."
	}
	i := slices.IndexFunc(e.Nodes, func(w Words) bool { return w.Node == node })
	switch {
	case i < 0, !e.Nodes[i].Present && !e.Nodes[i].Alive:
		return "Nothing is heard of " + node + "."
	case !e.Nodes[i].Present:
		return "The agent of " + node + " is not heard of; its PostgreSQL was alive when it was last."
	case e.Nodes[i].Why == "":
		return fmt.Sprintf("%s is there (%s) and waits for nothing.", node, e.Nodes[i].State)
	}
	return fmt.Sprintf("%s says: %s", node, sentence(oneLine(e.Nodes[i].Why)))
}

// remark adds what must be known whoever leads.
func (e *Explanation) remark(records record.Cluster) {
	add := func(format string, args ...any) {
		e.Verdict.Details = append(e.Verdict.Details, fmt.Sprintf(format, args...))
	}
	if m := e.Maintenance; m != nil {
		text := "Maintenance is on"
		if m.Leaving {
			text = fmt.Sprintf("Maintenance is being left and lasts until %s has confirmed", or(m.Primary, "its primary"))
		}
		add("%s: no node starts, stops or promotes a server of its own accord, and nobody is elected.", text)
		if words := e.quote(m.Primary); m.Leaving && !slices.Contains(e.Verdict.Details, words) {
			add("%s", words)
		}
	}
	if s := e.Switchover; s != nil && s.Open && e.Verdict.Code != VerdictSwitching {
		add("%s", openSwitchover(s))
	}
	if nodes := ahead(records); len(nodes) > 0 && e.Verdict.Code != VerdictMissing && !handingOver(records) {
		add("Bound to an election above %d, the last one that the store knows: %s.", records.Failover.Value.ID, strings.Join(nodes, ", "))
	}
	if e.Verdict.Details == nil {
		e.Verdict.Details = []string{}
	}
}

// openSwitchover says what a switchover that is under way waits for.
func openSwitchover(s *Switchover) string {
	to := or(or(s.Target, s.To), "the best")
	var text string
	switch record.SwitchoverPhase(s.Phase) {
	case record.SwitchoverScheduled:
		text = fmt.Sprintf("A switchover from %s to %s is asked for, and %s has not taken it up yet", s.From, to, s.From)
	case record.SwitchoverPreparing:
		text = fmt.Sprintf("A switchover from %s to %s is being prepared; writes go on", s.From, to)
	default:
		text = fmt.Sprintf("A switchover from %s to %s is %s", s.From, to, s.Phase)
	}
	if s.Reason != "" {
		text += ": " + oneLine(s.Reason)
	}
	return text + "."
}

// sentence ends a text like a sentence, and begins it like one.
func sentence(text string) string {
	text = strings.TrimRight(strings.TrimSpace(text), ".")
	return text + "."
}
