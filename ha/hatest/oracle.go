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
	ruleHandover = "handover that is not complete"
	rulePromise  = "promise broken"
	ruleQuiet    = "change of roles in maintenance"
	ruleLoss     = "loss that is not published"

	ruleExpectation = "expectation"
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

	taken    uint64 // the newest term that was ever taken
	promises []promiseGiven
	quiet    map[string]bool // nodes that have said that they keep to the maintenance

	// For expectations.
	lastAck     time.Duration // zero: there was none
	silence     time.Duration // the longest time without one
	silentTill  time.Duration
	copied      map[string]bool // has had its first copy
	vain        map[string]vain // of a node that has returned to office when its server had ended
	rebuilds    int
	clean       string        // has handed over, and there was no trouble before and since
	troubles    int           // that last
	lastTrouble time.Duration // when one last began or ended
}

// vain is a return to office with a server that had ended, by one life of the agent.
type vain struct {
	timeline pg.Timeline
	life     int
}

func (o *oracle) init(s *simulation) {
	o.sim, o.well, o.looked = s, -1, -1
	o.promoted, o.rows = map[pg.Timeline]string{}, map[string]pgtest.Commit{}
	o.quiet, o.copied, o.vain = map[string]bool{}, map[string]bool{}, map[string]vain{}
	o.keys, o.byLeader = protected(s.keys)
	o.read = []string{
		s.keys.Leader(), s.keys.Leader() + record.TwinSuffix, s.keys.Quorum(), s.keys.History(), s.keys.FailoverState(), s.keys.SwitchoverState(), s.keys.SwitchoverMaster(),
		s.keys.Maintenance(), s.keys.MaintenanceTS(), s.keys.MaintenanceMaster(),
	}
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
	case "end of local WAL": // of a start as a primary
		if o.sim.servers.cluster.Server(e.Node).Writable {
			o.becamePrimary(e.Node)
		}
	}
}

// acknowledged: whoever has become primary in the meantime has it, too. A
// paused primary may release what it had gathered before the others were fenced.
func (o *oracle) acknowledged(row pgtest.Commit) {
	s := o.sim
	o.heard()
	if s.async() && o.newest > row.Timeline && !s.guarded(s.world.host(row.Node)) {
		s.world.reach("two servers take writes")
		return // whom nobody has stopped in time
	}
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
	if v, ok := o.vain[node]; ok && v.timeline == t && v.life != s.world.host(node).lives {
		s.violatef(ruleElection, "%s is primary of timeline %d again without an election, and had ended before it returned to office", node, t)
	}
	if other, used := o.promoted[t]; used && other != node {
		s.violatef(ruleTimeline, "%s is primary of timeline %d, and %s was, too", node, t, other)
	}
	if _, again := o.promoted[t]; !again {
		if len(o.promoted) > 0 {
			s.result.Failovers++
			o.inMaintenance(node, "is promoted")
		}
		o.mayPromote(node, t)
	} else {
		o.mayServe(node)
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
	if s.async() {
		o.published(node)
		return
	}
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
	if o.sim.records.Maintenance.Mode.Value != record.MaintenanceOn {
		clear(o.quiet) // who is to confirm its end keeps to it no longer, and others may begin another one
	}
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
		if slices.Contains(o.keys, op.Key) && !guards(txn, op.Key) && host != operatorHost {
			o.sim.violatef(ruleGuard, "%s wrote %s whatever it was", host, op.Key)
		}
		if slices.Contains(o.byLeader, op.Key) && !guards(txn, o.sim.keys.Leader()) {
			o.sim.violatef(ruleGuard, "%s wrote %s whoever leads", host, op.Key)
		}
		switch {
		case op.Key == o.sim.keys.Leader() && !op.Delete:
			o.tookOffice(host, txn)
		case op.Key == o.sim.keys.FailoverState():
			o.election(host, op.Value)
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
	if s.async() {
		return
	}
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
