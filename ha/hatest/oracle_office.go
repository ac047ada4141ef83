package hatest

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// tookOffice: whoever writes the leader lock has won by R fenced votes or by the
// vote of the recorded primary, was named by the primary before, is the recorded
// primary that has never stopped, or takes up what it holds already. The records
// are those before the transaction.
func (o *oracle) tookOffice(host string, txn dcs.Txn) {
	s := o.sim
	before := s.records
	if before.Quorum.Value.Version == 0 {
		return // the cluster is being created
	}
	if before.Leader.Held() {
		o.tookUp(host, txn)
		return
	}
	o.outlives(host)
	state := before.Failover.Value
	switch self := s.member(host); {
	case state.Phase == record.PhaseWon && state.Winner != self:
		s.violatef(ruleElection, "%s takes office, and %s is named to do so", host, state.Winner)
	case state.Phase == record.PhaseWon && state.Handover != nil:
		s.world.reach("handover")
		o.inMaintenance(host, "takes over what was handed to it")
		o.complete(host, *state.Handover)
	case state.Phase != record.PhaseWon && before.Quorum.Value.Primary == self:
		s.world.reach("return of the recorded primary")
		o.stillPrimary(host, "returns to office")
	default:
		o.inMaintenance(host, "takes over by an election")
		o.elected(host)
	}
}

// member is the life that a host has now.
func (s *simulation) member(host string) quorum.Member {
	return s.world.host(host).disk.Member(host)
}

// tookUp: the lock moves from one session of a node to another one only where it
// is named by its token, and while the server goes on.
func (o *oracle) tookUp(host string, txn dcs.Txn) {
	s := o.sim
	leader := s.records.Leader
	byToken := slices.ContainsFunc(txn.If, func(g dcs.Guard) bool {
		return g.Key == s.keys.Leader() && g.Created == leader.Created
	})
	if leader.Holder != host || !byToken {
		s.violatef(ruleElection, "%s writes the leader lock that %s holds, named by its token: %t", host, leader.Holder, byToken)
	}
	s.world.reach("leader lock taken up again")
	o.stillPrimary(host, "takes up its term")
}

// stillPrimary: the server is the primary of the recorded timeline, and runs. It may
// have ended while the transaction was on its way: then the agent that has seen it
// run may start it again, and no later one.
func (o *oracle) stillPrimary(host, what string) {
	s := o.sim
	server := s.servers.cluster.Server(host)
	recorded := s.records.Quorum.Value.Primary
	var last record.Term
	for _, term := range s.records.History.Value {
		if term.Primary == host {
			last = term
		}
	}
	if recorded == s.member(host) && !server.Writable {
		o.vain[host] = vain{timeline: last.Timeline, life: s.world.host(host).lives}
		return
	}
	delete(o.vain, host)
	if recorded != s.member(host) || server.Held.Timeline != last.Timeline {
		s.violatef(ruleElection, "%s %s: it is %s, the recorded primary is %s, its server is %s, takes writes: %t, holds %s, and its timeline was %d",
			host, what, s.member(host), recorded, server.Process, server.Writable, server.Held, last.Timeline)
	}
}

// elected: R votes that do not surpass the winner, or that of the recorded
// primary, none of them by a node that still receives.
func (o *oracle) elected(host string) {
	s := o.sim
	recorded := s.records.Quorum.Value
	held := s.servers.cluster.Server(host).Held
	votes, byPrimary := 0, false
	for _, v := range s.records.ValidVotes() {
		server := s.servers.cluster.Server(v.Member.Node)
		if server.Receiving && s.world.host(v.Member.Node).disk.Pledge <= s.records.Failover.Value.ID {
			s.violatef(ruleElection, "%s takes office by a vote of %s, which still receives", host, v.Member)
		}
		if v.HasPosition && v.Position.Compare(held) > 0 {
			continue // it came when the winner had been named by others
		}
		votes++
		byPrimary = byPrimary || v.Member == recorded.Primary && v.HasPosition
	}
	need := len(recorded.D()) - recorded.K
	if s.async() {
		need = 1
	}
	if votes < need && !byPrimary {
		s.violatef(ruleElection, "%s takes office with %s and %d votes that do not surpass it, %d of %v are needed",
			host, held, votes, need, recorded.D())
	}
}

// election looks at what is written into the record of elections.
func (o *oracle) election(host string, value []byte) {
	s := o.sim
	state, err := record.Decode[record.FailoverState](s.keys.FailoverState(), value)
	if err == nil && state.Phase == record.PhaseTaken {
		o.taken = max(o.taken, state.ID)
	}
	if err != nil || state.Phase != record.PhaseWon || state.Handover == nil || s.records.Failover.Value.ID == state.ID {
		return
	}
	s.world.reach("commit point of a switchover")
	o.handsOver(host, state)
	o.clean = ""
	if calm := s.world.now() - o.lastTrouble; o.troubles == 0 && calm > 3*s.plan.Timing.TTL {
		o.clean = host
	}
}

// handsOver: at the commit point of a switchover the old primary has ended (it may
// be a standby again, where the transaction was late), and all that it had written is
// on the target.
func (o *oracle) handsOver(host string, state record.FailoverState) {
	s := o.sim
	h := *state.Handover
	recorded := s.records.Quorum.Value
	if s.destroyed[h.From] || s.destroyed[state.Winner] {
		return // it was sent before the disk was lost
	}
	if h.From != s.member(host) || h.From != recorded.Primary || s.records.Leader.Holder != host {
		s.violatef(ruleHandover, "%s hands over as %s, the recorded primary is %s, and %q leads", host, h.From, recorded.Primary, s.records.Leader.Holder)
	}
	if !slices.Contains(recorded.Members, state.Winner) {
		s.violatef(ruleHandover, "%s hands over to %s, which is not one of %v", host, state.Winner, recorded.Members)
	}
	server := s.servers.cluster.Server(host)
	ended := server.Process == pg.ProcessStopped || server.Process == pg.ProcessCrashed || server.Role == pg.RoleStandby
	if !ended || server.Held != h.Position {
		s.violatef(ruleHandover, "%s hands over at %s, and its server is %s with %s", host, h.Position, server.Process, server.Held)
	}
	o.complete(state.Winner.Node, h)
}

// complete: the one that an office was handed to holds everything of the one
// before, and nothing else.
func (o *oracle) complete(host string, h record.Handover) {
	s := o.sim
	own := s.servers.cluster.Log(host)
	if held := s.servers.cluster.Server(host).Held; held != h.Position {
		s.violatef(ruleHandover, "%s ends at %s, and %s, to which it hands over, holds %s", h.From, h.Position, host, held)
		return
	}
	if of := s.servers.cluster.Log(h.From.Node); s.world.host(h.From.Node).disk.Member(h.From.Node) == h.From &&
		s.servers.cluster.Server(h.From.Node).Held == h.Position && !slices.Equal(of, own) {
		s.violatef(ruleHandover, "%s holds other WAL than %s up to %s", host, h.From, h.Position)
	}
}

// outlives: when somebody takes office, no other server serves any more. Where an
// agent is dead or disturbed and no guard stands in for it, or a clock is wrong, that
// is not promised: then the quorum alone keeps commits safe.
func (o *oracle) outlives(host string) {
	s := o.sim
	for _, h := range s.world.machines() {
		if h.name != host && (s.inTime(h) || s.guarded(h)) && serves(s.servers.cluster.Server(h.name)) {
			s.violatef(ruleOutlives, "%s takes office, and %s still serves", host, h.name)
		}
	}
}

// inTime reports whether the agent of a host can be expected to act in time.
func (s *simulation) inTime(h *host) bool {
	now := s.world.now()
	return h.troubles == 0 && now >= h.calm && h.alive() && now >= h.started+2*s.plan.Timing.TTL
}

// serves reports whether a server takes writes of clients.
func serves(server pgtest.Server) bool {
	return server.Writable && server.GateOpen && server.Process == pg.ProcessRunning
}

// mayServe: a server is started as a primary only by whoever holds the leader
// lock, also if its key was deleted by hand, or has been promised that nobody else
// will.
func (o *oracle) mayServe(node string) {
	s := o.sim
	holder := cmp.Or(s.records.Leader.Holder, s.records.LeaderTwin.Holder)
	if holder == node || s.records.Maintenance.On() || o.isPromised(node) || !s.inTime(s.world.host(node)) {
		return
	}
	s.violatef(rulePromoted, "%s starts as a primary, and %q leads", node, holder)
}

// marked looks at the crash points that tell how a node comes back.
func (o *oracle) marked(a *agent, point string) {
	how, ok := strings.CutPrefix(point, "before rejoin/")
	if !ok || how != "rewind" && how != "clone" {
		return
	}
	name := a.host.name
	o.sim.world.arrive(&arrival{
		identity: identity{host: name, life: a.life, kind: "oracle", key: how},
		enter:    func(digest) { o.rebuilt(name, how) },
	})
}

// rebuilt: a primary that has handed over, and whom nothing has befallen since,
// follows as it is.
func (o *oracle) rebuilt(name, how string) {
	if how == "clone" && !o.copied[name] {
		o.copied[name] = true
		return
	}
	o.rebuilds++
	if o.clean == name {
		o.sim.violatef(ruleHandover, "%s has handed over, and comes back by a %s", name, how)
	}
}

// heard is called for every acknowledgement, and when they are not counted any more.
func (o *oracle) heard() {
	now := o.sim.world.now()
	if gap := now - o.lastAck; o.lastAck > 0 && !o.sim.healed && gap > o.silence {
		o.silence, o.silentTill = gap, now
	}
	o.lastAck = now
}
