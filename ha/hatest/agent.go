package hatest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// ErrDead is what every call of an agent to the world returns after the agent
// has been killed. Nothing that it does has an effect any more.
var ErrDead = errors.New("this agent has been killed")

// Agent is the program that runs on a host: ha.Node in our own simulations, or
// anything else. It must touch the world through env only, return soon after
// ctx ends, and wait for its goroutines. It is started anew after a crash, and
// finds what is on its Disk.
type Agent func(ctx context.Context, env Env) error

// Env is everything that an agent has of its host. A new one is made for each
// start.
type Env struct {
	Name     string // of the host
	Address  string // under which other hosts reach its server
	Port     int
	Life     int // how many agents were started on this host before
	Store    dcs.Store
	Clock    clock.Clock
	Wall     func() time.Time
	Rand     io.Reader
	Disk     ha.Disk
	Postgres ha.PostgresController // nil without Config.Postgres
	// Peers asks the agents of other hosts, at the APIURL that they have; Serve
	// lets handler answer what they ask of this one, for the rest of its life.
	Peers   ha.Peers
	Serve   func(handler PromiseHandler)
	APIURL  string
	Logger  *slog.Logger
	Effects ha.Effects // crash points
}

// host is a machine: its clocks, its disk, and at most one living agent.
type host struct {
	world  *World
	name   string
	index  int
	time   hostTime // guarded by world.mu
	clock  *nodeClock
	frozen []*item // timers that wait for the monotonic clock to go on
	disk   ha.LocalState
	agent  *agent
	lives  int
	down   bool // the machine is off
	halted bool // all its processes are stopped
	// The next agent is started when they go on.
	awaited bool
	// Something keeps the agent or its server from acting in time, or the store
	// or its clock from keeping to what was agreed: now, or until calm.
	troubles int
	calm     time.Duration
	// Its clock goes at another rate than it may: now, or until steady.
	rates   int
	steady  time.Duration
	robbed  time.Duration // until when the store may have given away what the host holds
	thawed  time.Duration // when the machine last stood still
	started time.Duration // when the last agent was
	parked  []*item       // what its server would do
	failing []string      // effects on its server that fail; see host.failure
	hanging []hang        // effects on its server that take long
	guard   *guard        // of its server; nil without Config.Guard
	// sessions are all that agents of this host were granted.
	sessions []dcs.SessionID
}

// agent is one life of the program on a host.
type agent struct {
	host   *host
	world  *World
	life   int
	name   string // of its connection to the store
	clock  *nodeClock
	ctx    context.Context
	cancel context.CancelCauseFunc
	dead   bool // guarded by world.mu
	paused bool
	held   []*item // what waits for the end of a pause
	hangs  bool    // its looks at its server do not return
	hung   []*task // those looks
	serve  PromiseHandler
	tasks  []*task // under way; guarded by world.mu
	ended  bool    // the program has returned
	err    error
}

// task is one exchange of an agent with the world, for which a goroutine of the
// agent waits.
type task struct {
	agent *agent
	done  chan struct{}
	err   error
	over  bool // done, or given up; guarded by world.mu
}

// exchange brings an operation to the bus and waits until the world has
// finished it, or ctx has ended (gaveUp, with its cause), or the agent is dead.
// Begin is called by the driver.
func (a *agent) exchange(ctx context.Context, kind, key string, begin func(t *task, id digest)) (gaveUp bool, err error) {
	w := a.world
	t := &task{agent: a, done: make(chan struct{})}
	w.mu.Lock()
	if a.dead {
		w.mu.Unlock()
		return false, ErrDead
	}
	a.tasks = append(a.tasks, t)
	w.mu.Unlock()
	w.arrive(&arrival{
		identity: identity{host: a.host.name, life: a.life, kind: kind, key: key},
		enter:    func(id digest) { begin(t, id) },
	})
	select {
	case <-t.done:
		return false, t.err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.dead {
		return false, ErrDead
	}
	a.forget(t)
	return true, context.Cause(ctx)
}

// forget takes a task off the list. The caller holds world.mu.
func (a *agent) forget(t *task) {
	t.over = true
	for i, other := range a.tasks {
		if other == t {
			a.tasks[i] = a.tasks[len(a.tasks)-1]
			a.tasks = a.tasks[:len(a.tasks)-1]
			return
		}
	}
}

// finish schedules the end of a task: the agent's goroutine goes on with err.
func (t *task) finish(due time.Duration, id digest, label func() string, result func() error) {
	t.agent.world.schedule(&item{due: due, id: id.str("finish"), agent: t.agent, label: label, run: func() {
		t.end(result())
	}})
}

// end lets the agent's goroutine go on. It is called by the driver.
func (t *task) end(err error) {
	w := t.agent.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if !t.over {
		t.agent.forget(t)
		t.err = err
		close(t.done)
	}
}

// kill ends the agent as kill -9 does: nothing that it still does reaches the
// world. It may be called by the agent's own goroutine, from a crash point.
func (a *agent) kill() {
	w := a.world
	w.mu.Lock()
	if a.dead {
		w.mu.Unlock()
		return
	}
	a.dead, a.paused = true, false
	for _, t := range a.tasks {
		t.over, t.err = true, ErrDead
		close(t.done)
	}
	a.tasks = nil
	w.mu.Unlock()
	a.cancel(ErrDead)
}

// stop asks the agent to end, as SIGTERM does.
func (a *agent) stop(exit ha.Exit) { a.cancel(exit.Cause()) }

// pause stops the agent's program like SIGSTOP: no reply, timer or news reaches
// it. What it has sent goes on.
func (a *agent) pause() { a.paused = true }

// resume lets it go on. Everything that has come due is there at once.
func (a *agent) resume() {
	if !a.paused {
		return
	}
	a.paused = false
	for _, it := range a.held {
		it.due = a.world.now()
		a.world.schedule(it)
	}
	a.held = nil
}

// alive reports whether the host runs an agent that has not been killed.
func (h *host) alive() bool { return h.agent != nil && !h.agent.dead && !h.agent.ended }

// start starts a new agent on the host.
func (h *host) start() {
	w := h.world
	if h.alive() || h.down {
		return
	}
	if h.halted {
		h.awaited = true
		return
	}
	a := h.newAgent()
	h.agent, h.started = a, w.now()
	env := a.env()
	env.Disk, env.Peers, env.APIURL = &disk{agent: a}, &peers{agent: a}, apiURL(h.name)
	if w.servers != nil {
		env.Postgres = w.servers.controller(a, h.name)
	}
	a.run(w.cfg.Agent, env)
}

// newAgent makes another life of a program on the host.
func (h *host) newAgent() *agent {
	h.lives++
	a := &agent{host: h, world: h.world, life: h.lives, name: fmt.Sprintf("%s.%d", h.name, h.lives)}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	h.world.agents = append(h.world.agents, a)
	return a
}

// run runs the program.
func (a *agent) run(program Agent, env Env) {
	w := a.world
	go func() {
		err := program(a.ctx, env)
		w.mu.Lock()
		defer w.mu.Unlock()
		a.ended, a.err = true, err
	}()
}

func (a *agent) env() Env {
	h, w := a.host, a.world
	clk := &nodeClock{world: w, host: h, agent: a, base: w.base}
	a.clock = clk
	env := Env{
		Name: h.name, Address: h.name, Port: 5432, Life: a.life - 1,
		Store: &store{agent: a, client: w.dcs.Client(a.name)},
		Clock: clk, Wall: clk.Wall,
		Rand: &noisyReader{noise: w.jitter, id: newDigest().str(h.name).num(uint64(a.life))}, //nolint:gosec // small
		Serve: func(handler PromiseHandler) {
			w.mu.Lock()
			defer w.mu.Unlock()
			a.serve = handler
		},
		Logger: slog.New(slog.DiscardHandler),
		Effects: ha.Effects{
			Before: func(name string) { a.mark(name, "before") },
			After:  func(name string) { a.mark(name, "after") },
		},
	}
	if w.cfg.Transcript != nil {
		env.Logger = slog.New(&logHandler{world: w, agent: a, level: slog.LevelInfo})
	}
	return env
}

// mark is a crash point.
func (a *agent) mark(name, when string) {
	w := a.world
	w.mu.Lock()
	if a.dead {
		w.mu.Unlock()
		return
	}
	point := when + " " + name
	w.points[point]++
	w.mu.Unlock()
	for _, hook := range w.onMark {
		hook(a, point)
	}
}

// does is a crash point within what an agent does to a server: right before the
// effect, which does not happen if the agent is killed.
func (w *World) does(a *agent, h *host, effect string) {
	if a.host == h {
		a.mark(effect, "does")
	}
	if a.dead {
		return
	}
	for _, f := range w.onEffect {
		f(a, h, effect)
	}
}

// disk keeps the agent's local state on its host.
type disk struct{ agent *agent }

var _ ha.Disk = (*disk)(nil)

func (d *disk) Load() (ha.LocalState, error) {
	if d.agent.dead {
		return ha.LocalState{}, ErrDead
	}
	return d.agent.host.disk, nil
}

// Save is durable when it returns. A crash before that leaves the old state or
// the new one.
func (d *disk) Save(state ha.LocalState) error {
	a := d.agent
	h, w := a.host, a.world
	_, err := a.exchange(context.Background(), "disk", "save", func(t *task, id digest) {
		took := w.durations.of("fsync", id).spread(100*time.Microsecond, 10*time.Millisecond)
		written := w.durations.of("written", id).between(0, took)
		w.after(written, id, nil, func() {
			// An agent that died meanwhile has written, unless its machine has
			// died, or another one runs.
			if h.agent == a && !h.down {
				before := h.disk
				h.disk = state
				for _, f := range w.onSave {
					f(h, before)
				}
			}
		})
		t.finish(w.now()+took, id, func() string {
			return fmt.Sprintf("%s saved pledge %d, seen %d/%d, published %s, floor %s", h.name,
				state.Pledge, state.SeenTerm, state.SeenQuorum, state.Published, state.Floor)
		}, func() error { return nil })
	})
	return err
}

// KillAgent ends the agent of a host as kill -9 does. Its server lives on.
func (w *World) KillAgent(name string) {
	if h := w.host(name); h != nil && h.agent != nil {
		h.agent.kill()
		w.settle()
	}
}

// PauseAgent stops the program of a host as SIGSTOP does: no reply, timer or
// news reaches it. Its server and its clocks go on.
func (w *World) PauseAgent(name string) {
	if h := w.host(name); h != nil && h.alive() {
		h.agent.pause()
	}
}

// ResumeAgent ends a pause: what has come due meanwhile is there at once.
func (w *World) ResumeAgent(name string) {
	if h := w.host(name); h != nil && h.agent != nil {
		h.agent.resume()
	}
}

// StepWall sets the time of day of a host forward or back. Its timers do not
// notice.
func (w *World) StepWall(name string, by time.Duration) {
	if h := w.host(name); h != nil {
		h.changeTime(func(t *hostTime) { t.wall += by })
	}
}

// SetRate makes both clocks of a host run faster (more than 1) or slower than
// time does.
func (w *World) SetRate(name string, rate float64) {
	if h := w.host(name); h != nil && rate > 0 {
		h.changeTime(func(t *hostTime) { t.rate = rate })
	}
}
