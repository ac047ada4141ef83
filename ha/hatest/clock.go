package hatest

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/internal/timectx"
)

// epoch is world time zero: the instant at which every bubble begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// never is so far away that no run gets there.
const never = 100 * 365 * 24 * time.Hour

// afterlife is how far the clock of a dead agent jumps: its goroutines find
// that everything they had has expired, and end.
const afterlife = 1000 * time.Hour

// hostTime is how the clocks of one host run. It is guarded by the world's
// lock: agents read it while they run, the driver changes it while they wait.
type hostTime struct {
	base      time.Duration // world time of the last change
	mono      time.Duration // monotonic clock at base
	wall      time.Duration // wall clock at base
	boot      time.Duration // monotonic clock that does not stand still, at base
	rate      float64       // of both, 1 is exact
	suspended bool          // the monotonic clock stands still
}

func (h *hostTime) at(now time.Duration) (mono, wall time.Duration) {
	passed := time.Duration(float64(now-h.base) * h.rate)
	wall = h.wall + passed
	if h.suspended {
		return h.mono, wall
	}
	return h.mono + passed, wall
}

// bootAt is the clock that counts while the machine is suspended, too.
func (h *hostTime) bootAt(now time.Duration) time.Duration {
	return h.boot + time.Duration(float64(now-h.base)*h.rate)
}

// rebase makes now the point from which the clocks are counted.
func (h *hostTime) rebase(now time.Duration) {
	h.boot = h.bootAt(now)
	h.mono, h.wall = h.at(now)
	h.base = now
}

// when is the world time at which the monotonic clock, which must not be
// suspended, shows mono: rounded up.
func (h *hostTime) when(mono time.Duration) time.Duration {
	left := mono - h.mono
	if left <= 0 {
		return h.base
	}
	due := h.base + time.Duration(math.Ceil(float64(left)/h.rate))
	for {
		if shown, _ := h.at(due); shown >= mono {
			return due
		}
		due++
	}
}

// timer is one armed timer of a node's clock.
type timer struct {
	host     *host
	deadline time.Duration // by the host's monotonic clock
	stop     func() bool   // of the runtime's timer that only serves to be stopped
	fire     func()
}

// take reports whether the timer is still armed, and disarms it.
func (t *timer) take() bool { return t.stop() }

// timerDue reports whether the timer's own clock has reached its deadline, and
// puts it back if not.
func (w *World) timerDue(it *item) bool {
	h := it.timer.host
	if h.time.suspended {
		h.frozen = append(h.frozen, it)
		return false
	}
	if due := h.time.when(it.timer.deadline); due > w.now() {
		it.due = due
		w.schedule(it)
		return false
	}
	return true
}

// nodeClock is the clock of one agent: that of its host. Timers are released by
// the bus, one at a time. A Timer must not be Reset (make a new one per wait);
// tickers run by world time and go on while the agent is paused.
type nodeClock struct {
	world *World
	host  *host
	agent *agent // nil: a clock of the world's own parts
	base  clock.Clock
}

var _ clock.Clock = (*nodeClock)(nil)

// elapsed is what the two clocks show.
func (c *nodeClock) elapsed() (mono, wall time.Duration) {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	mono, wall = c.host.time.at(c.world.now())
	if c.agent != nil && c.agent.dead {
		mono, wall = mono+afterlife, wall+afterlife
	}
	return mono, wall
}

func (c *nodeClock) Now() time.Time {
	mono, _ := c.elapsed()
	return epoch.Add(mono)
}

// Wall is the host's time of day.
func (c *nodeClock) Wall() time.Time {
	_, wall := c.elapsed()
	return epoch.Add(wall)
}

func (c *nodeClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *nodeClock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

// arm makes a timer that the bus releases.
func (c *nodeClock) arm(d time.Duration, fire func()) *clock.Timer {
	handle := c.base.AfterFunc(never, func() {})
	mono, _ := c.elapsed()
	t := &timer{host: c.host, deadline: mono + d, stop: handle.Stop, fire: fire}
	a := &arrival{identity: identity{host: c.host.name, kind: "timer", key: d.String()}}
	if c.agent != nil {
		a.life = c.agent.life
	}
	a.enter = func(id digest) {
		it := &item{id: id, agent: c.agent, timer: t, run: t.fire}
		it.label = func() string { return fmt.Sprintf("%s timer of %s", c.host.name, d) }
		if c.host.time.suspended && !c.world.draining {
			c.host.frozen = append(c.host.frozen, it)
			return
		}
		if it.due = c.world.drained + d; !c.world.draining {
			it.due = max(c.host.time.when(t.deadline), c.world.now())
		}
		c.world.schedule(it)
	}
	c.world.arrive(a)
	return handle
}

func (c *nodeClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	return c.arm(d, func() { go f() })
}

func (c *nodeClock) Timer(d time.Duration) *clock.Timer {
	ch := make(chan time.Time, 1)
	t := c.arm(d, func() { ch <- c.Now() })
	t.C = ch
	return t
}

func (c *nodeClock) After(d time.Duration) <-chan time.Time { return c.Timer(d).C }

func (c *nodeClock) Sleep(d time.Duration) {
	if d > 0 {
		<-c.Timer(d).C
	}
}

func (c *nodeClock) Tick(d time.Duration) <-chan time.Time { return c.base.Tick(d) }
func (c *nodeClock) Ticker(d time.Duration) *clock.Ticker  { return c.base.Ticker(d) }

func (c *nodeClock) WithTimeout(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return timectx.With(parent, c, d, "waiting")
}

func (c *nodeClock) WithDeadline(parent context.Context, d time.Time) (context.Context, context.CancelFunc) {
	return timectx.With(parent, c, c.Until(d), "waiting")
}
