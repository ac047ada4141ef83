package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghad/pghad/pg"
)

// Model is the Factory of the model. What can happen in several orders happens
// in one of them; the same seed gives the same one. Seed 0 takes the events as
// they come.
func Model(seed uint64) Factory {
	return func(t *testing.T, names []string) Servers {
		t.Helper()
		m, err := newModelServers(names, nil)
		if err != nil {
			t.Fatal(err)
		}
		m.seed = func(int) uint64 { return seed }
		t.Cleanup(m.close)
		return m
	}
}

// modelServers let the model be played with. Operations are goroutines of which
// one runs at a time, handing over at each effect and each wait.
type modelServers struct {
	cluster   *Cluster
	names     []string
	controls  map[string]*Controller
	cut       map[string]bool // "a>b"
	sessions  map[string]*Session
	asked     []statement        // on their way to a server, oldest first
	answers   map[string]Outcome // of rows that the ledger does not know
	limits    map[string]pg.LSN  // "a>b": up to where b receives from a
	unflushed map[string]bool    // nodes on which nothing is flushed
	frozen    map[string]bool    // "node/process", until it is thawed

	tasks   []*modelTask // unfinished, oldest first
	current *modelTask   // the one that runs, nil for the script

	seed func(step int) uint64 // of each step of the recipe
	rand *rand.Rand            // nil: as they come
	slow string                // the node on which nothing happens for a while
}

// How often all timers pass while something is kept, and while something is waited
// for.
const (
	keepRounds  = 4
	awaitRounds = 20
)

// retries is how often an operation that cannot go on is told that it has waited
// long enough, in one wait of the script.
const retries = 4

func newModelServers(names []string, without []Rule) (*modelServers, error) {
	m := &modelServers{
		names: names, controls: map[string]*Controller{}, cut: map[string]bool{}, sessions: map[string]*Session{},
		answers: map[string]Outcome{}, unflushed: map[string]bool{}, frozen: map[string]bool{}, limits: map[string]pg.LSN{}, seed: func(int) uint64 { return 0 },
	}
	// As real servers of the suite are configured: small segments, no timed
	// checkpoint, WAL held by slots only.
	cfg := Config{
		SegmentSize: 1 << 20, WALKeep: 1, Without: without, Batch: 8,
		Reachable: func(from, to string) bool { return !m.cut[from+">"+to] },
	}
	for _, name := range names {
		cfg.Nodes = append(cfg.Nodes, Node{Name: name})
	}
	var err error
	if m.cluster, err = New(cfg); err != nil {
		return nil, err
	}
	for _, name := range names {
		if m.controls[name], err = m.cluster.Controller(name, modelRunner{m, name}); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// close ends what is still under way.
func (m *modelServers) close() {
	for _, t := range slices.Clone(m.tasks) {
		for t.cancel(nil); !t.done; {
			m.resume(t)
		}
	}
}

// beginStep implements stepper.
func (m *modelServers) beginStep(n int, kind stepKind) {
	m.rand = nil
	if seed := m.seed(n); seed != 0 {
		m.rand = rand.New(rand.NewPCG(seed, uint64(n))) //nolint:gosec // reproducible on purpose
		switch m.rand.IntN(8) {
		case 0:
			m.slow = m.names[m.rand.IntN(len(m.names))]
		case 1:
			m.slow = ""
		}
	}
	if kind != stepAct && kind != stepBegin {
		return
	}
	// Some of what is under way comes before the action, and some after it.
	if m.rand == nil {
		m.settle(func() bool { return true })
		return
	}
	for range m.some() {
		if !m.tick() {
			return
		}
	}
}

// some is how many things happen in a while of which nobody knows how long it is:
// none as often as dozens.
func (m *modelServers) some() int { return m.rand.IntN(1 << m.rand.IntN(7)) }

// tick lets one thing happen that needs no time.
func (m *modelServers) tick() bool {
	ready := slices.DeleteFunc(slices.Clone(m.tasks), func(t *modelTask) bool { return !t.ready() })
	enabled := slices.DeleteFunc(m.cluster.Enabled(), func(e Event) bool { return !Quiet(e) && !m.odd(e) || e.Action == actionFlush && m.unflushed[e.Node] })
	if m.slow != "" {
		ready, enabled = m.hold(ready, enabled)
	}
	n := len(m.asked) + len(ready) + len(enabled)
	if n == 0 {
		return false
	}
	i := 0
	if m.rand != nil {
		i = m.rand.IntN(n)
	}
	switch j := i - len(m.asked); {
	case j < 0:
		m.execute(i)
	case j < len(ready):
		m.resume(ready[j])
	default:
		m.fire(enabled[j-len(ready)])
	}
	return true
}

// hold takes out what happens on the slow node.
func (m *modelServers) hold(ready []*modelTask, enabled []Event) (tasks []*modelTask, events []Event) {
	tasks = slices.DeleteFunc(ready, func(t *modelTask) bool { return t.node == m.slow })
	events = slices.DeleteFunc(enabled, func(e Event) bool { return e.Node == m.slow })
	return tasks, events
}

// fire lets an event happen, and cuts a connection by which enough has arrived.
func (m *modelServers) fire(e Event) {
	m.cluster.Fire(e)
	p := m.cluster.server(e.Node).proc
	if len(m.limits) == 0 || p == nil || p.receiver == nil || p.receiver.conn == nil {
		return
	}
	way := p.receiver.conn.to + ">" + e.Node
	if limit, ok := m.limits[way]; ok && p.receiver.written >= limit {
		m.cut[way] = true
		delete(m.limits, way)
	}
}

// reachLimits cuts the ways to a node by which only so much may arrive: less than a
// base backup.
func (m *modelServers) reachLimits(node string) {
	for _, from := range m.names {
		way := from + ">" + node
		if _, limited := m.limits[way]; limited {
			m.cut[way] = true
			delete(m.limits, way)
		}
	}
}

// odd reports whether an event that is rare, or waits for time, happens now.
func (m *modelServers) odd(e Event) bool { return m.rand != nil && !slow(e) && m.rand.IntN(20) == 0 }

// slow reports whether an event waits longer than any recipe takes: a minute for
// timeouts, an hour for checkpoints.
func slow(e Event) bool { return e.Action == actionTimeout || e.Action == actionCheckpoint }

// pass lets the timers pass once: a retry interval, a status interval.
func (m *modelServers) pass() {
	for _, e := range m.cluster.Enabled() {
		if e.Timer() && !slow(e) && e.Node != m.slow {
			m.cluster.Fire(e)
		}
	}
}

// settle lets everything happen that needs no time, while look reports true.
func (m *modelServers) settle(look func() bool) {
	for n := 0; look() && m.tick(); n++ {
		if n == settleLimit {
			panic(fmt.Sprintf("pgtest: %d events and no end: %v", n, m.cluster.Enabled()))
		}
	}
}

// Await implements Time.
func (m *modelServers) Await(done func() bool) bool {
	for retry, round := 0, 0; ; {
		found := false
		m.settle(func() bool { found = done(); return !found })
		switch {
		case found:
			return true
		case round < awaitRounds:
			m.pass()
			round++
		case m.slow != "":
			m.slow, round = "", 0
		case retry < retries && m.lose():
			retry++
			round = 0
		default:
			return false
		}
	}
}

// lose tells the oldest operation that cannot go on that it has waited long
// enough.
func (m *modelServers) lose() bool {
	for _, t := range m.tasks {
		if t.waits != nil && !t.impatient && !t.endless {
			t.impatient = true
			return true
		}
	}
	return false
}

// shortly is a time in which not everything has happened that can.
const shortly = 200 * time.Millisecond

// Pass implements Time.
func (m *modelServers) Pass(d time.Duration, look func() bool) {
	if d < shortly && m.rand != nil {
		for range m.some() {
			if !look() || !m.tick() {
				return
			}
		}
		return
	}
	m.slow = ""
	m.settle(look)
	for range keepRounds {
		if !look() {
			return
		}
		m.pass()
		m.settle(look)
	}
}

// modelTask is an operation of a controller.
type modelTask struct {
	m         *modelServers
	ctx       context.Context
	cancel    context.CancelCauseFunc
	turn      chan struct{} // handed to it
	back      chan struct{} // and back
	waits     func() bool   // nil: it only lets others go first
	node      string        // whose controller works for it now
	endless   bool          // what it waits for has no limit of time
	impatient bool
	done      bool
	err       error
}

// Begin implements Time.
func (m *modelServers) Begin(work func(ctx context.Context) error) Operation {
	t := &modelTask{m: m, turn: make(chan struct{}), back: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	m.tasks = append(m.tasks, t)
	go func() { // its owner is resume, which hands it each turn, up to the last
		<-t.turn
		t.err = work(t.ctx)
		t.done = true
		t.back <- struct{}{}
	}()
	return t
}

// resume lets a task run up to its next stop.
func (m *modelServers) resume(t *modelTask) {
	before := m.current
	m.current = t
	t.turn <- struct{}{}
	<-t.back
	m.current = before
	if t.done {
		m.tasks = slices.DeleteFunc(m.tasks, func(o *modelTask) bool { return o == t })
	}
}

func (t *modelTask) ready() bool {
	return t.waits == nil || t.impatient || t.ctx.Err() != nil || t.waits()
}

// pause hands the turn back until waits reports true.
func (t *modelTask) pause(waits func() bool) {
	t.waits = waits
	t.back <- struct{}{}
	<-t.turn
	t.waits = nil
}

// Done implements Operation.
func (t *modelTask) Done() bool { return t.done }

// Err implements Operation.
func (t *modelTask) Err() error { return t.err }

// Abort implements Operation.
func (t *modelTask) Abort() { t.cancel(context.Canceled) }

// modelRunner is the Runner of a node's controller.
type modelRunner struct {
	m    *modelServers
	node string
}

// Effect implements Runner: others may go first.
func (r modelRunner) Effect(ctx context.Context, name string) error {
	if t := r.m.current; t != nil && !strings.HasPrefix(name, "look/") {
		t.node = r.node
		t.pause(nil)
	}
	if name == "clone/copy" {
		r.m.reachLimits(r.node)
	}
	return context.Cause(ctx)
}

// Await implements Runner: an operation waits. What the script itself looks at is
// there or not.
func (r modelRunner) Await(ctx context.Context, what string, done func() bool) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if done() {
			return nil
		}
		t := r.m.current
		if t == nil {
			return ErrImpatient
		}
		t.node, t.endless = r.node, what == awaitTurn || what == awaitStopped
		t.pause(done)
		if t.impatient {
			t.impatient = false
			if !done() {
				return ErrImpatient
			}
		}
	}
}

// Prepare implements Servers.
func (m *modelServers) Prepare(ctx context.Context) error {
	op := m.Begin(func(context.Context) error {
		first := m.names[0]
		a := m.controls[first]
		err := errors.Join(a.Init(ctx), a.StartPrimary(ctx, mandate{}, pg.SyncSetting{}), a.OpenGate(ctx))
		for _, name := range m.names[1:] {
			up := m.Route(name, first)
			_, cloned := m.controls[name].Clone(ctx, up)
			up.Name = name
			err = errors.Join(err, cloned, m.controls[name].StartStandby(ctx, up))
		}
		return err
	})
	if !m.Await(op.Done) {
		return ErrNoAnswer
	}
	m.settle(func() bool { return true })
	return op.Err()
}

// Control implements Servers.
func (m *modelServers) Control(node string) Control { return m.controls[node] }

// Route implements Servers.
func (m *modelServers) Route(_, to string) pg.Upstream { return pg.Upstream{Host: to, Port: 5432} }
