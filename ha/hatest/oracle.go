package hatest

import (
	"slices"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// The rules that an oracle can find broken. They read the model and the store,
// never the agents.
const (
	ruleLost     = "acknowledged commit lost"
	ruleLatent   = "acknowledged commit on too few of D"
	ruleWriters  = "two nodes gain acknowledgements"
	ruleTimeline = "timeline used twice"
	ruleElection = "office without an election"
	ruleGuard    = "unguarded write"
	ruleOutlives = "primary outlives its lease"
	ruleLiveness = "liveness"
	rulePromoted = "promotion without an office"
)

// oracle looks after every event whether the invariants hold.
type oracle struct {
	sim      *simulation
	keys     []string // protected
	byLeader []string
	read     []string // keys of the records that are looked at
	votes    string   // what the keys of votes begin with

	acked    []pgtest.Commit
	top      pgtest.Commit // the newest acknowledged commit of the newest timeline
	promoted map[pg.Timeline]string
	primary  string // that was promoted last
	newest   pg.Timeline
	dirty    bool                     // something has happened on which latent loss depends
	rows     map[string]pgtest.Commit // under way, by session
	well     time.Duration
	looked   time.Duration
}

func (o *oracle) init(s *simulation) {
	o.sim, o.well, o.looked = s, -1, -1
	o.promoted, o.rows = map[pg.Timeline]string{}, map[string]pgtest.Commit{}
	o.keys, o.byLeader = protected(s.keys)
	o.read = []string{s.keys.Leader(), s.keys.Quorum(), s.keys.History(), s.keys.FailoverState()}
	o.votes = s.keys.Prefix() + "election/"
}

// fired is told of every event of a server, after it.
func (o *oracle) fired(e pgtest.Event) {
	switch e.Action {
	case "receive": // may overwrite what nobody has read
		o.dirty = true
	case "acknowledge":
		o.dirty = true
		if row, ok := o.rows[e.Process]; ok {
			delete(o.rows, e.Process)
			o.acknowledged(row)
		}
	case "writable":
		o.becamePrimary(e.Node)
	}
}

// acknowledged: whoever has become primary in the meantime has it, too. A
// paused primary may release what it had gathered before the others were fenced.
func (o *oracle) acknowledged(row pgtest.Commit) {
	s := o.sim
	o.acked = append(o.acked, row)
	if row.Timeline > o.top.Timeline || (row.Timeline == o.top.Timeline && row.End > o.top.End) {
		o.top = row
	}
	if o.primary != "" && o.newest > row.Timeline && !s.servers.cluster.Contains(o.primary, row) {
		s.violatef(ruleWriters, "%s acknowledged %s (%s), and %s is primary of timeline %d without it",
			row.Node, row.ID, lsnOf(row), o.primary, o.newest)
	}
}

// becamePrimary: a new primary has everything that was ever acknowledged, and
// its timeline is nobody else's.
func (o *oracle) becamePrimary(node string) {
	s := o.sim
	server := s.servers.cluster.Server(node)
	t := server.Held.Timeline
	if other, used := o.promoted[t]; used && other != node {
		s.violatef(ruleTimeline, "%s is primary of timeline %d, and %s was, too", node, t, other)
	}
	if _, again := o.promoted[t]; !again {
		if len(o.promoted) > 0 {
			s.result.Failovers++
		}
		o.mayPromote(node, t)
	}
	o.promoted[t] = node
	if t < o.newest {
		return // a promotion of an older term has come to its end; it can acknowledge nothing
	}
	o.newest, o.primary = t, node
	o.hasAll(node)
}

func (o *oracle) hasAll(node string) {
	s := o.sim
	for _, row := range o.acked {
		if !s.servers.cluster.Contains(node, row) {
			s.violatef(ruleLost, "%s is primary without %s (%s), which %s acknowledged", node, row.ID, lsnOf(row), row.Node)
			return
		}
	}
}

// mayPromote: the history says that this node has reserved the timeline.
func (o *oracle) mayPromote(node string, t pg.Timeline) {
	if t == 1 {
		return
	}
	ours := func(term record.Term) bool { return term.Timeline == t && term.Primary == node }
	if !slices.ContainsFunc(o.sim.records.History.Value, ours) {
		o.sim.violatef(rulePromoted, "%s is primary of timeline %d, which it has not reserved", node, t)
	}
}

func (o *oracle) recordsChanged() {
	o.dirty = true
	seen := map[pg.Timeline]bool{}
	for _, term := range o.sim.records.History.Value {
		if term.Parent != 0 && seen[term.Timeline] {
			o.sim.violatef(ruleTimeline, "the history reserves timeline %d twice", term.Timeline)
		}
		seen[term.Timeline] = true
	}
}

// committed looks at every transaction that the store has carried out.
func (o *oracle) committed(host string, txn dcs.Txn) {
	for _, op := range txn.Then {
		if slices.Contains(o.keys, op.Key) && !guards(txn, op.Key) {
			o.sim.violatef(ruleGuard, "%s wrote %s whatever it was", host, op.Key)
		}
		if slices.Contains(o.byLeader, op.Key) && !guards(txn, o.sim.keys.Leader()) {
			o.sim.violatef(ruleGuard, "%s wrote %s whoever leads", host, op.Key)
		}
		if op.Key == o.sim.keys.Leader() && !op.Delete {
			o.tookOffice(host)
		}
	}
}

// tookOffice: whoever takes the leader lock has won by R fenced votes, or by the
// vote of the recorded primary. The records are those before the transaction.
func (o *oracle) tookOffice(host string) {
	s := o.sim
	before := s.records
	recorded := before.Quorum.Value
	if recorded.Version == 0 {
		return // the cluster is being created
	}
	o.outlives(host)
	held := s.servers.cluster.Server(host).Held
	votes, byPrimary := 0, false
	for _, v := range before.ValidVotes() {
		server := s.servers.cluster.Server(v.Member.Node)
		if server.Receiving && s.world.host(v.Member.Node).disk.Pledge <= before.Failover.Value.ID {
			s.violatef(ruleElection, "%s takes office by a vote of %s, which still receives", host, v.Member)
		}
		if v.HasPosition && v.Position.Compare(held) > 0 {
			continue // it came when the winner had been named by others
		}
		votes++
		byPrimary = byPrimary || v.Member == recorded.Primary && v.HasPosition
	}
	if need := len(recorded.D()) - recorded.K; votes < need && !byPrimary {
		s.violatef(ruleElection, "%s takes office with %s and %d votes that do not surpass it, %d of %v are needed",
			host, held, votes, need, recorded.D())
	}
}

// outlives: when somebody takes office, no other server serves any more. Where an
// agent is dead or disturbed, or a clock is wrong, that is not promised: then the
// quorum alone keeps commits safe.
func (o *oracle) outlives(host string) {
	s := o.sim
	for _, h := range s.world.machines() {
		now := s.world.now()
		if h.name == host || h.troubles > 0 || now < h.calm || !h.alive() || now < h.started+2*s.plan.Timing.TTL {
			continue
		}
		server := s.servers.cluster.Server(h.name)
		if server.Writable && server.GateOpen && server.Process == pg.ProcessRunning {
			s.violatef(ruleOutlives, "%s takes office, and %s still serves", host, h.name)
		}
	}
}

// check is the oracle of latent loss: whatever election the record permits now
// finds everything that was acknowledged.
func (o *oracle) check() {
	if !o.dirty {
		return
	}
	o.dirty = false
	s := o.sim
	recorded := s.records.Quorum.Value
	if o.top.Node == "" || recorded.Version == 0 || recorded.K == 0 {
		return
	}
	holders := 0
	for _, m := range recorded.D() {
		h := s.world.host(m.Node)
		holds := h != nil && h.disk.Member(m.Node) == m && s.servers.cluster.Contains(m.Node, o.top)
		if holds || s.destroyed[m] {
			holders++
		}
	}
	if holders < recorded.K+1 {
		s.violatef(ruleLatent, "%s (%s), acknowledged by %s, is on %d of %v, the record counts on %d",
			o.top.ID, lsnOf(o.top), o.top.Node, holders, recorded.D(), recorded.K+1)
	}
}

// final is the last look: the primary has everything.
func (o *oracle) final() {
	o.hasAll(o.sim.records.Quorum.Value.Primary.Node)
}
