package hatest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg/pgtest"
)

// Config describes a world. Hosts and Agent are required.
type Config struct {
	Seed  uint64
	Hosts []string // names of the machines
	Agent Agent    // the program that runs on each of them

	// Postgres, where not nil, puts a PostgreSQL server without data on each host:
	// Env.Postgres controls it. Nodes, Reachable and Now are filled in.
	Postgres *pgtest.Config
	// Guard lets a guard hold each server's deadline: Env.Postgres is an
	// ha.DeadlineSetter then.
	Guard bool
	// Retry is wal_retrieve_retry_interval of the servers; default 1 s.
	Retry time.Duration

	Network Network
	// SlowDown multiplies the durations of what servers and disks do; default 1.
	SlowDown float64

	// Transcript is told everything that happens, a line each; nil: nothing.
	Transcript io.Writer
}

// World is a simulated cluster: machines with clocks and disks, a network, a
// store, and PostgreSQL servers. It is driven by one goroutine, which lets one
// thing happen at a time.
//
// The methods may only be called by that goroutine: from the function given to
// Run, and from what the World itself calls.
type World struct {
	cfg   Config
	base  clock.Clock // the bubble's
	began time.Time
	dcs   *memory.Cluster
	store dcs.Store // of the oracles
	hosts []*host

	jitter, network, durations noise

	mu    sync.Mutex // held for moments only, never over anything that waits
	inbox []*arrival

	spare      []*arrival
	queue      queue
	seq        uint64
	counts     map[digest]uint64
	agents     []*agent // that were ever started
	awaits     []*await
	watches    []*watch
	changed    []string // keys of the store that have changed since the last look
	cuts       map[link]int
	peerCuts   map[string]int
	background []func()
	onMark     []func(a *agent, point string)
	onCommit   []func(host string, txn dcs.Txn)
	onChange   []func(keys []string)
	onPromise  []func(promiseGiven)
	onSave     []func(h *host, before ha.LocalState)
	onEffect   []func(a *agent, h *host, effect string) // on a server
	onGuard    []func(h *host)                          // has stopped the server
	servers    *servers                                 // nil without Config.Postgres

	storeDown         int
	storeStalledUntil time.Duration

	trace      digest
	events     uint64
	storeCalls uint64         // calls sent, and news delivered
	points     map[string]int // crash points passed; guarded by mu
	reached    map[string]int
	draining   bool
	drained    time.Duration // how far the timers of dead agents have been released
}

// Run makes a world inside a bubble of its own and calls drive, which decides
// what happens when, and for how long. When drive returns everything is ended.
func Run(t *testing.T, cfg Config, drive func(w *World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer w.end()
		drive(w)
	})
}

func newWorld(cfg Config) (*World, error) {
	if len(cfg.Hosts) == 0 || cfg.Agent == nil {
		return nil, errors.New("hatest: Hosts and Agent are required")
	}
	cfg.Network = cfg.Network.defaults()
	if cfg.SlowDown == 0 {
		cfg.SlowDown = 1
	}
	w := &World{
		cfg: cfg, base: clock.New(), counts: map[digest]uint64{}, cuts: map[link]int{}, peerCuts: map[string]int{}, trace: newDigest(),
		points: map[string]int{}, reached: map[string]int{},
		jitter: newNoise(cfg.Seed, streamJitter), network: newNoise(cfg.Seed, streamNetwork),
		durations: newNoise(cfg.Seed, streamDurations),
	}
	w.began = w.base.Now()
	for _, name := range append(slices.Clone(cfg.Hosts), operatorHost, storeHost) {
		if w.host(name) != nil {
			return nil, fmt.Errorf("hatest: two hosts are called %q (%q is the operators', %q the store's)", name, operatorHost, storeHost)
		}
		h := &host{world: w, name: name, index: len(w.hosts), time: hostTime{rate: 1}}
		h.clock = &nodeClock{world: w, host: h, base: w.base}
		if cfg.Guard {
			h.guard = &guard{host: h}
		}
		w.hosts = append(w.hosts, h)
	}
	w.dcs = memory.New(memory.Config{
		Clock:   w.host(storeHost).clock,
		Linger:  w.linger,
		Changed: func(keys []string) { w.changed = append(w.changed, keys...) },
	})
	w.store = w.dcs.Client("oracle")
	if cfg.Postgres != nil {
		var err error
		if w.servers, err = newServers(w, *cfg.Postgres, cmp.Or(cfg.Retry, time.Second)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// linger lets some sessions live longer than promised.
func (w *World) linger(id dcs.SessionID) time.Duration {
	roll := w.network.of("linger", w.count(newDigest().str("linger").str(string(id))))
	if !roll.chance(0.3) {
		return 0
	}
	return w.network.of("how long", digest(roll)).spread(50*time.Millisecond, 3*time.Second)
}

func (w *World) host(name string) *host {
	for _, h := range w.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// machines are the hosts that agents run on.
func (w *World) machines() []*host { return w.hosts[:len(w.hosts)-2] }

// now is world time: since the beginning, by a clock that nobody has.
func (w *World) now() time.Duration { return w.base.Since(w.began) }

// Now is the time since the beginning, by a clock that no host has.
func (w *World) Now() time.Duration { return w.now() }

// Start starts an agent on each host, or on those named.
func (w *World) Start(hosts ...string) {
	for _, h := range w.machines() {
		if len(hosts) == 0 || slices.Contains(hosts, h.name) {
			h.start()
		}
	}
	w.settle()
}

// RunFor lets everything happen that happens within d.
func (w *World) RunFor(d time.Duration) { w.RunUntil(d, func() bool { return false }) }

// RunUntil lets things happen until done, for at most d, and reports whether
// it was done.
func (w *World) RunUntil(d time.Duration, done func() bool) bool {
	until := w.now() + d
	for !done() {
		if !w.step(until) {
			return done()
		}
	}
	return true
}

// Store is a connection to the store that is always there and takes no time:
// for oracles, and for what operators do.
func (w *World) Store() dcs.Store { return w.store }

// Cluster is the model of the PostgreSQL servers, for oracles; nil if the world
// has none.
func (w *World) Cluster() *pgtest.Cluster {
	if w.servers == nil {
		return nil
	}
	return w.servers.cluster
}

// Trace is a hash of everything that has happened. The same seed and the same
// code give the same one.
func (w *World) Trace() uint64 { return uint64(w.trace) }

// Events is how many things have happened.
func (w *World) Events() uint64 { return w.events }

// await is a condition that a goroutine of an agent waits for.
type await struct {
	task *task
	id   digest
	what string
	cond func() bool
}

// wakeAwaits lets those go on whose condition holds.
func (w *World) wakeAwaits() {
	if len(w.awaits) == 0 {
		return
	}
	kept := w.awaits[:0]
	for _, a := range w.awaits {
		switch {
		case a.task.over:
		case a.task.agent.paused || !a.cond():
			kept = append(kept, a)
		default:
			delay := w.durations.of("notice", a.id).spread(10*time.Microsecond, time.Millisecond)
			a.task.finish(w.now()+delay, a.id, nil, func() error { return nil })
		}
	}
	clear(w.awaits[len(kept):])
	w.awaits = kept
}

// await is the Await of a model's runner. A limit that is not zero ends it with
// pgtest.ErrImpatient.
func (a *agent) await(ctx context.Context, what string, cond func() bool, limit time.Duration) error {
	w := a.world
	_, err := a.exchange(ctx, "await", what, func(t *task, id digest) {
		w.awaits = append(w.awaits, &await{task: t, id: id, what: what, cond: cond})
		if limit > 0 {
			t.finish(w.now()+limit, id.str("limit"), nil, func() error { return pgtest.ErrImpatient })
		}
	})
	return err
}

// effect is the Effect of a model's runner: it takes its time. Due is called by
// the driver right before the agent goes on, with its error.
func (a *agent) effect(ctx context.Context, name string, on *host, due func() error) error {
	w := a.world
	_, err := a.exchange(ctx, "effect", name, func(t *task, id digest) {
		t.finish(w.now()+max(w.took(name, id), on.hangs(name)), id, func() string { return a.name + " does " + name }, due)
	})
	return err
}

// took is how long an effect takes.
func (w *World) took(_ string, id digest) time.Duration {
	roll := w.durations.of("took", id)
	return time.Duration(float64(roll.spread(200*time.Microsecond, 10*time.Millisecond)) * w.cfg.SlowDown)
}

// committed is told of every transaction that was carried out.
func (w *World) committed(a *agent, txn dcs.Txn) {
	for _, f := range w.onCommit {
		f(a.host.name, txn)
	}
}

// deliverChanges sends the news of the store on their way.
func (w *World) deliverChanges() {
	if len(w.changed) == 0 {
		return
	}
	keys := slices.Clone(w.changed)
	w.changed = w.changed[:0]
	slices.Sort(keys)
	keys = slices.Compact(keys)
	w.watches = slices.DeleteFunc(w.watches, func(wa *watch) bool { return wa.closed })
	for _, wa := range w.watches {
		if slices.ContainsFunc(keys, func(k string) bool { return len(k) >= len(wa.prefix) && k[:len(wa.prefix)] == wa.prefix }) {
			wa.schedule()
		}
	}
	for _, f := range w.onChange {
		f(keys)
	}
}

// reach marks a situation as visited.
func (w *World) reach(what string) { w.reached[what]++ }

func (w *World) printf(format string, args ...any) {
	if w.cfg.Transcript == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeLine(fmt.Sprintf(format, args...))
}

// writeLine writes a line of the transcript. The caller holds mu.
func (w *World) writeLine(line string) {
	if !w.draining {
		_, _ = fmt.Fprintf(w.cfg.Transcript, "%12.6f %s\n", w.now().Seconds(), line)
	}
}

// end kills everything and waits until no goroutine is left.
func (w *World) end() {
	w.mu.Lock()
	w.draining = true
	w.mu.Unlock()
	for _, a := range w.agents {
		a.kill()
	}
	w.dcs.Close()
	w.background = nil
	w.settle()
	for _, a := range w.agents {
		w.requeue(a.held)
		a.held = nil
	}
	for _, h := range w.hosts {
		w.requeue(h.frozen)
		h.frozen = nil
	}
	for n := 0; len(w.queue) > 0 && n < drainLimit; n++ {
		it := w.pop()
		w.drained = max(w.drained, it.due)
		if it.timer != nil && it.timer.take() {
			it.run()
			w.settle()
		}
	}
}

// drainLimit is how many timers of dead agents are released before the test is
// left to fail because of the goroutines that still wait.
const drainLimit = 100_000

// Hosts are the names of the machines, sorted.
func (w *World) Hosts() []string {
	var names []string
	for _, h := range w.machines() {
		names = append(names, h.name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}
