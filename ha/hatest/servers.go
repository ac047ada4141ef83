package hatest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// servers lets the model of PostgreSQL live in a world: what its processes may
// do next happens when its time has come.
type servers struct {
	world   *World
	cluster *pgtest.Cluster
	due     map[pgtest.Event]*pending
	round   uint64
	changed bool                 // something has happened to the model since the last look
	fired   []func(pgtest.Event) // are told of every event, after it
	touched func()               // is told when something has changed otherwise
	retry   time.Duration        // wal_retrieve_retry_interval
	timeout time.Duration        // of connections
	lazy    float64              // share of events that take a process long
}

// statusInterval is wal_receiver_status_interval.
const statusInterval = 10 * time.Second

// pending is an event that waits for its time.
type pending struct {
	event pgtest.Event
	round uint64 // of the last look that found it enabled
	gone  bool
}

// newServers puts a PostgreSQL server on each host.
func newServers(w *World, cfg pgtest.Config, retry time.Duration) (*servers, error) {
	s := &servers{world: w, due: map[pgtest.Event]*pending{}, retry: retry, timeout: 60 * time.Second, lazy: 0.005}
	for _, h := range w.machines() {
		cfg.Nodes = append(cfg.Nodes, pgtest.Node{Name: h.name})
	}
	cfg.Reachable = w.Reachable
	cfg.Now = func() time.Time { return epoch.Add(w.now()) }
	cluster, err := pgtest.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	s.cluster = cluster
	s.changed = true
	w.background = append(w.background, s.refresh)
	return s, nil
}

// controller makes a controller of the server on a host, for one agent.
func (s *servers) controller(a *agent, name string) *controller {
	c, err := s.cluster.Controller(name, &runner{agent: a, servers: s, host: s.world.host(name)})
	if err != nil {
		panic(err) // every host has a server
	}
	return &controller{Controller: c, agent: a}
}

// controller is that of the model, except for two things: Status can hang, and a
// Stop ends whatever else is under way at once. When several goroutines of an agent
// do something because of one event (a lease that ends), which of them comes first
// must not matter, hence it waits at the bus until the others have come to rest.
type controller struct {
	*pgtest.Controller
	agent *agent
}

// Status implements ha.Observer. While the agent hangs it heeds no context.
func (c *controller) Status(ctx context.Context) (pg.Status, error) {
	if a := c.agent; a.hangs {
		_, err := a.exchange(context.WithoutCancel(ctx), "hang", "look", func(t *task, _ digest) {
			if !a.hangs {
				t.end(nil)
				return
			}
			a.hung = append(a.hung, t)
		})
		if err != nil {
			return pg.Status{}, fmt.Errorf("status: %w", err)
		}
	}
	return c.Controller.Status(ctx)
}

// Stop implements ha.Starter.
func (c *controller) Stop(ctx context.Context, mode pg.StopMode) error {
	if err := c.agent.effect(ctx, "stop/ask", c.agent.host, func() error { return nil }); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return c.Controller.Stop(ctx, mode)
}

// touch says that something other than an event is about to change the model.
// It is called by the driver.
func (s *servers) touch() {
	s.changed = true
	if s.touched != nil {
		s.touched()
	}
}

// refresh schedules what has become possible and drops what no longer is.
func (s *servers) refresh() {
	if !s.changed {
		return
	}
	s.changed = false
	s.round++
	enabled := s.cluster.Enabled()
	for _, e := range enabled {
		if p := s.due[e]; p != nil {
			p.round = s.round
			continue
		}
		p := &pending{event: e, round: s.round}
		s.due[e] = p
		s.plan(p)
	}
	if len(s.due) == len(enabled) {
		return
	}
	for e, p := range s.due { // in no order: only forgets
		if p.round != s.round {
			p.gone = true
			delete(s.due, e)
		}
	}
}

// plan gives an event its time.
func (s *servers) plan(p *pending) {
	w, e := s.world, p.event
	id := w.count(newDigest().str(e.Node).str(e.Process).str(e.Action))
	w.schedule(&item{
		due: w.now() + s.delay(e, id), id: id, label: e.String,
		server: p, run: func() { s.fire(p) },
	})
}

func (s *servers) fire(p *pending) {
	delete(s.due, p.event)
	s.changed = true
	if s.cluster.Fire(p.event) {
		for _, f := range s.fired {
			f(p.event)
		}
	}
}

// delay is how long a process takes to do what it may do.
func (s *servers) delay(e pgtest.Event, id digest) time.Duration {
	w := s.world
	roll := w.durations.of("event", id)
	switch {
	case e.Rare():
		if roll.chance(0.9) {
			return never // it does the ordinary thing instead
		}
	case e.Action == "wake":
		return s.retry
	case e.Action == "timeout":
		return s.timeout
	case e.Action == "status":
		return statusInterval
	case e.Timer():
		return roll.spread(5*time.Second, 5*time.Minute)
	}
	if w.durations.of("lazy", id).chance(s.lazy) {
		return roll.spread(10*time.Millisecond, 3*time.Second)
	}
	return time.Duration(float64(roll.spread(20*time.Microsecond, 2*time.Millisecond)) * w.cfg.SlowDown)
}

// runner brings what a controller does to the bus.
type runner struct {
	agent   *agent
	servers *servers
	host    *host // of the server
}

var (
	_ pgtest.Runner = (*runner)(nil)
	_ pgtest.Clock  = (*runner)(nil)
)

// Now is the time of the agent's host.
func (r *runner) Now() time.Time { return r.agent.clock.Now() }

// Effect takes its time, and then fails if an incident says so.
func (r *runner) Effect(ctx context.Context, name string) error {
	return r.agent.effect(ctx, name, r.host, func() error {
		if strings.HasPrefix(name, "look/") {
			return nil
		}
		r.servers.touch()
		if err := r.host.failure(name); err != nil {
			return err
		}
		r.agent.world.does(r.agent, r.host, name)
		return nil
	})
}

// patience is how long a controller tries the gentle way of something.
const patience = 2 * time.Second

// yieldPatience is how long a switchover waits for standbys that are not its
// target.
const yieldPatience = 300 * time.Millisecond

// Await waits for the condition. A wait for which there is a harder way ends
// with pgtest.ErrImpatient.
func (r *runner) Await(ctx context.Context, what string, done func() bool) error {
	limit := time.Duration(0)
	switch {
	case strings.HasPrefix(what, "the fence"), what == "the end of the old processes":
		limit = patience
	case strings.HasPrefix(what, "the flush of the target"):
		limit = patience * 3 / 4
	case strings.HasPrefix(what, "the flush of the other"), strings.HasPrefix(what, "the end of the server"):
		limit = patience / 4
	case what == "the promotion":
		limit = 10 * patience
	case what == "the flush of the other standbys", what == "the end of the server that yields":
		limit = yieldPatience
	}
	return r.agent.await(ctx, what, done, limit)
}
