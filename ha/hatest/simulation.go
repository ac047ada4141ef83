package hatest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// Result is what came of a plan.
type Result struct {
	Plan      Plan
	Violation *Violation // the first one; nil if there was none
	Excuse    string     // why the cluster could not be expected to recover, if it did not
	Trace     uint64
	Simulated time.Duration
	Events    uint64
	Failovers int // promotions after the first term

	Operations int // of clients that may go to any server
	Succeeded  int
	StoreCalls uint64
	Points     map[string]int // crash points passed
	Reached    map[string]int // situations visited
}

// Violation is an invariant that did not hold.
type Violation struct {
	Rule string
	Text string
	At   time.Duration
}

func (v *Violation) String() string { return fmt.Sprintf("%s at %s: %s", v.Rule, v.At, v.Text) }

// Simulate runs a plan on clusters of ha.Node. Transcript may be nil.
func Simulate(t *testing.T, plan Plan, transcript io.Writer) Result {
	t.Helper()
	return SimulateAgent(t, plan, NodeAgent(plan), transcript)
}

// NodeAgent is ha.Node as it ships, configured as the plan says.
func NodeAgent(plan Plan) Agent {
	return func(ctx context.Context, env Env) error {
		node, err := ha.NewNode(ha.NodeConfig{
			Cluster: cluster, Name: env.Name, Store: env.Store, Postgres: env.Postgres, Disk: env.Disk,
			Host: env.Address, Port: env.Port, Timing: plan.Timing, Mode: plan.Mode, Bootstrap: env.Name == "a", Version: "simulated",
			Peers: env.Peers, APIURL: env.APIURL, Clock: env.Clock, Wall: env.Wall, Rand: env.Rand, Logger: env.Logger, Effects: env.Effects,
		})
		if err != nil {
			return fmt.Errorf("agent of %s: %w", env.Name, err)
		}
		env.Serve(node.Promise)
		return node.Run(ctx)
	}
}

// cluster is the name of the simulated cluster.
const cluster = "sim"

// SimulateAgent runs a plan with any agent that keeps the records of ha.
func SimulateAgent(t *testing.T, plan Plan, agent Agent, transcript io.Writer) Result {
	t.Helper()
	var result Result
	cfg := Config{
		Seed: plan.Seed, Hosts: plan.nodeNames(), Agent: agent, Network: plan.Network, SlowDown: plan.SlowDown,
		Postgres: &pgtest.Config{}, Guard: plan.Guard, Retry: plan.Retry, Transcript: transcript,
	}
	Run(t, cfg, func(w *World) {
		s, err := newSimulation(w, plan)
		if err != nil {
			t.Fatal(err)
		}
		s.run()
		s.result.Plan, s.result.Trace, s.result.Events = plan, w.Trace(), w.Events()
		s.result.Simulated, s.result.StoreCalls = w.now(), w.storeCalls
		s.result.Points, s.result.Reached = w.points, w.reached
		result = s.result
	})
	return result
}

// simulation is one run of a plan.
type simulation struct {
	world    *World
	plan     Plan
	servers  *servers
	keys     record.Keys
	records  record.Cluster // as the store holds them now
	workload noise
	clients  []*client
	waiting  []Incident // for a crash point
	open     map[uint64]func()
	// destroyed are lives whose disk was lost from outside.
	destroyed map[quorum.Member]bool
	strikes   uint64
	// maintained is when an operator has last asked for the end of maintenance.
	maintained time.Duration
	healed     bool
	gone       string // the node that was lost when all was well
	oracle     oracle
	result     Result
}

func newSimulation(w *World, plan Plan) (*simulation, error) {
	s := &simulation{world: w, plan: plan, open: map[uint64]func(){}, destroyed: map[quorum.Member]bool{}, workload: newNoise(plan.Seed, streamWorkload)}
	var err error
	if s.keys, err = record.NewKeys("service", cluster); err != nil {
		return nil, fmt.Errorf("simulation: %w", err)
	}
	s.servers = w.servers
	for n, rate := range plan.Rates {
		if n < len(w.machines()) {
			w.machines()[n].time.rate = rate
		}
	}
	s.oracle.init(s)
	w.onChange = append(w.onChange, s.readRecords)
	w.onChange = append(w.onChange, s.oracle.keptTo)
	w.onCommit = append(w.onCommit, s.oracle.committed)
	w.onMark = append(w.onMark, s.oracle.marked, s.hook)
	w.onPromise = append(w.onPromise, s.oracle.promised)
	w.onSave = append(w.onSave, s.oracle.saved)
	w.onEffect = append(w.onEffect, s.oracle.acted)
	w.onGuard = append(w.onGuard, s.oracle.stopped)
	s.servers.fired = append(s.servers.fired, s.oracle.fired)
	s.servers.touched = func() { s.oracle.dirty = true }
	w.background = append(w.background, s.oracle.check)
	for n, i := range plan.Incidents {
		if i.Point != "" {
			s.waiting = append(s.waiting, i)
			continue
		}
		w.after(i.At, newDigest().str("incident").num(uint64(n)), nil, func() { s.strike(i) })
	}
	s.expectAt()
	return s, nil
}

// readRecords keeps the decoded records up to date, as far as oracles look at
// them: what nodes publish of themselves changes all the time.
func (s *simulation) readRecords(changed []string) {
	watched := func(key string) bool {
		return slices.Contains(s.oracle.read, key) || strings.HasPrefix(key, s.oracle.votes)
	}
	if !slices.ContainsFunc(changed, watched) {
		return
	}
	kvs, err := s.world.store.List(context.Background(), s.keys.Prefix())
	if err != nil {
		return
	}
	s.records = record.Parse(s.keys, slices.DeleteFunc(kvs, func(kv dcs.KV) bool { return !watched(kv.Key) }))
	s.oracle.recordsChanged()
}

// run is the life of the cluster: it comes into being, has trouble, and must be
// well again in a while after the trouble has ended.
func (s *simulation) run() {
	w := s.world
	s.startClients()
	w.Start()
	stop := func() bool { return s.result.Violation != nil }
	if w.RunUntil(s.plan.Length, stop) {
		return
	}
	s.oracle.heard()
	s.heal()
	s.loseTheRest()
	w.printf("=== healed, core %v", s.core())
	well := func() bool { return stop() || s.wellSince() >= s.plan.Timing.TTL }
	if !s.recovers(well) {
		return
	}
	if s.plan.Leaves != "" && !stop() {
		s.gone = s.plan.Leaves
		s.loseTheRest()
		s.oracle.well = -1
		w.printf("=== %s is lost, core %v", s.gone, s.core())
		if !s.recovers(well) {
			return
		}
	}
	if !stop() {
		s.oracle.final()
		s.expectInTheEnd()
	}
}

func (s *simulation) violatef(rule, format string, args ...any) {
	if s.result.Violation == nil {
		s.result.Violation = &Violation{Rule: rule, Text: fmt.Sprintf(format, args...), At: s.world.now()}
		s.world.printf("!!! %s", s.result.Violation)
	}
}

// core are the nodes that are well in the end.
func (s *simulation) core() []string {
	names := s.plan.Core
	if len(names) == 0 {
		names = s.plan.nodeNames()
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == s.gone })
}

// recovers lets the cluster become well. It gives up early when the same excuse
// has been there for a while.
func (s *simulation) recovers(well func() bool) bool {
	const look = 30 * time.Second
	for left, same := s.recovery(), 0; left > 0; left -= look {
		if s.world.RunUntil(min(left, look), well) {
			s.result.Excuse = ""
			return true
		}
		before := s.result.Excuse
		if s.result.Excuse = s.excuse(); s.result.Excuse == "" || s.result.Excuse != before {
			same = 0
		} else if same++; same == 3 {
			return false
		}
	}
	if s.result.Excuse == "" {
		s.violatef(ruleLiveness, "%s after the end of all trouble: %s", s.recovery(), s.unwell())
	}
	return false
}

// loseTheRest ends the machines that do not come back.
func (s *simulation) loseTheRest() {
	for _, h := range s.world.machines() {
		if !slices.Contains(s.core(), h.name) {
			s.crash(h)
		} else if !h.alive() {
			h.start()
		}
	}
	s.world.settle()
}

// recovery is how long the cluster has to become well.
func (s *simulation) recovery() time.Duration {
	t := s.plan.Timing
	wait := 6*t.TTL + 6*t.ElectionTimeout + 4*t.RemovalDelay + 6*s.plan.Retry + 60*time.Second
	return time.Duration(float64(wait) * (1 + s.plan.SlowDown/10))
}

// lookEvery is how often it is looked whether the cluster is well.
const lookEvery = 200 * time.Millisecond

// wellSince is for how long the cluster has been well.
func (s *simulation) wellSince() time.Duration {
	o := &s.oracle
	if now := s.world.now(); o.looked < 0 || now-o.looked > lookEvery {
		o.looked = now
		s.tidy()
		if s.unwell() != "" {
			o.well = -1
		} else if o.well < 0 {
			o.well = now
		}
	}
	if o.well < 0 {
		return 0
	}
	return s.world.now() - o.well
}

// unwell says what keeps the cluster from being well, or nothing.
func (s *simulation) unwell() string {
	leader := s.records.Leader.Holder
	if !s.records.Leader.Held() {
		return "nobody holds the leader lock"
	}
	if !slices.Contains(s.core(), leader) {
		return leader + " holds the leader lock and is gone"
	}
	primary := s.servers.cluster.Server(leader)
	if !primary.Writable || !primary.GateOpen {
		return fmt.Sprintf("the server of %s is %s, role %s, gate open: %t", leader, primary.Process, primary.Role, primary.GateOpen)
	}
	recorded := s.records.Quorum.Value
	if recorded.Primary.Node != leader {
		return fmt.Sprintf("the recorded primary is %s, the leader is %s", recorded.Primary, leader)
	}
	for _, name := range s.core() {
		if name == leader {
			continue
		}
		if server := s.servers.cluster.Server(name); server.Receiver != leader {
			return fmt.Sprintf("%s (%s, %s) streams from %q, not from %s: %s", name, server.Process, server.Startup, server.Receiver, leader, server.Refusal)
		}
		member := s.world.host(name).disk.Member(name)
		if !slices.Contains(recorded.Members, member) {
			return fmt.Sprintf("%s is not a recorded member: %v", member, recorded.Config)
		}
	}
	if len(recorded.Members) != len(s.core())-1 {
		return fmt.Sprintf("the quorum is not whole: %v", recorded.Config)
	}
	if phase := s.records.SwitchoverState.Value; phase.Open() {
		return fmt.Sprintf("a switchover is %s: %s", phase, s.records.Switchover.Value.Reason)
	}
	if s.records.Maintenance.On() {
		return fmt.Sprintf("maintenance is %q since %s under %s", s.records.Maintenance.Mode.Value, s.records.Maintenance.Since.Value, s.records.Maintenance.Master.Value)
	}
	return ""
}

// excuse names why the cluster could not be expected to become well.
func (s *simulation) excuse() string {
	if why := s.tooFewLives(); why != "" {
		return why
	}
	if why := s.lossUnknown(); why != "" {
		return why
	}
	return s.copiesNeeded()
}

// tooFewLives: nobody may take over, because too few of the lives that the
// record counts on are left.
func (s *simulation) tooFewLives() string {
	recorded := s.records.Quorum.Value
	left := 0
	for _, m := range recorded.D() {
		h := s.world.host(m.Node)
		if h == nil || !slices.Contains(s.core(), m.Node) || h.disk.Member(m.Node) != m {
			continue
		}
		if m == recorded.Primary {
			return ""
		}
		left++
	}
	need := len(recorded.Members) - recorded.K + 1
	if s.async() {
		need = 1
	}
	if left < need {
		return fmt.Sprintf("too few lives: of %v only %d are left, an election needs %d", recorded.D(), left, need)
	}
	return ""
}

// lossUnknown: in mode async, the primary that is gone had published a timeline
// that nobody who is left holds.
func (s *simulation) lossUnknown() string {
	primary := s.records.Quorum.Value.Primary
	if !s.async() || s.records.Leader.Held() || slices.Contains(s.core(), primary.Node) && s.member(primary.Node) == primary {
		return ""
	}
	kv, err := s.world.store.Get(context.Background(), s.keys.Member(primary.Node))
	if err != nil {
		return ""
	}
	said, err := record.Decode[record.Member](kv.Key, kv.Value)
	if err != nil || said.Incarnation != primary.Incarnation {
		return ""
	}
	for _, name := range s.core() {
		if s.servers.cluster.Server(name).Held.Timeline >= said.Timeline {
			return ""
		}
	}
	return fmt.Sprintf("loss unknown: %s has published timeline %d, and nobody who is left holds it", primary, said.Timeline)
}

// copiesNeeded: the primary cannot reach k acknowledgements, because the
// members that would have to give them have diverged, or need WAL that is gone,
// and each of their copies is needed until it has: only a copy beside the data
// could help.
func (s *simulation) copiesNeeded() string {
	recorded := s.records.Quorum.Value
	primary := s.servers.cluster.Server(recorded.Primary.Node)
	if !primary.Writable {
		return ""
	}
	streaming, stranded := 0, 0
	log := s.servers.cluster.Log(primary.Node)
	for _, m := range recorded.Members {
		switch own := s.servers.cluster.Log(m.Node); {
		case s.servers.cluster.Server(m.Node).Receiver == primary.Node:
			streaming++
		case !slices.Contains(s.core(), m.Node) || s.world.host(m.Node).disk.Member(m.Node) != m: // that life is gone
		case s.asks(m.Node):
			stranded++
		case len(own) <= len(log) && slices.Equal(own, log[:len(own)]):
			return "" // nothing keeps it from following
		default:
			stranded++
		}
	}
	if streaming < recorded.K && stranded > 0 {
		return fmt.Sprintf("copies needed: %d of %v stream, %d cannot follow, and %d must acknowledge", streaming, recorded.Members, stranded, recorded.K)
	}
	return ""
}

// asks reports whether a node waits to hear that its copy is not needed.
func (s *simulation) asks(name string) bool {
	kv, err := s.world.store.Get(context.Background(), s.keys.Member(name))
	if err != nil {
		return false
	}
	said, err := record.Decode[record.Member](kv.Key, kv.Value)
	return err == nil && said.Rejoin != ""
}

// protected are the keys that nobody writes without saying which value is
// replaced.
func protected(keys record.Keys) (all, byLeader []string) {
	byLeader = []string{keys.Quorum(), keys.Timeline(), keys.History(), keys.Status(), keys.ReplicsInfo()}
	all = []string{
		keys.Leader(), keys.FailoverState(), keys.CurrentPromotingHost(), keys.Initialize(), keys.SwitchoverState(), keys.SwitchoverMaster(),
		keys.Maintenance(), keys.MaintenanceTS(), keys.MaintenanceMaster(),
	}
	return append(all, byLeader...), byLeader
}

func guards(txn dcs.Txn, key string) bool {
	return slices.ContainsFunc(txn.If, func(g dcs.Guard) bool { return g.Key == key })
}

// lsnOf is for messages.
func lsnOf(row pgtest.Commit) pg.Position { return pg.Position{Timeline: row.Timeline, LSN: row.End} }
