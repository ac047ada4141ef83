package hatest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// guard is pghad-guard on one host: it holds the deadline until which the server
// may run writable, by two clocks of the host, and stops the server at once when
// either has passed it, whatever has become of the agent. It can be stopped like
// any program, and it stops with its machine.
type guard struct {
	host   *host
	set    bool
	boot   time.Duration // the deadline by the clock that also counts while the machine is suspended
	wall   time.Duration // the deadline by the time of day
	life   uint64        // generation of the server that runs writable, or is about to; zero: none
	paused int
	thawed time.Duration // when it last was paused
	passed bool          // the deadline has, which is final for this server: it is about to be stopped
	late   bool          // it has had something to do while it could not
	armed  uint64
}

// guardDelay is how long a guard takes at most to act.
const guardDelay = 50 * time.Millisecond

var _ ha.DeadlineSetter = (*controller)(nil)

// errUnguarded is what a controller without a guard says of deadlines.
var errUnguarded = fmt.Errorf("the server has no guard: %w", errors.ErrUnsupported)

// SetDeadline implements ha.DeadlineSetter.
func (c *controller) SetDeadline(ctx context.Context, left func() time.Duration) error {
	g := c.agent.host.guard
	if g == nil {
		return errUnguarded
	}
	return c.guarded(ctx, "guard/deadline", func() error {
		return g.setDeadline(left())
	})
}

// StartPrimary implements ha.Starter.
func (c *controller) StartPrimary(ctx context.Context, warrant pg.Warrant, setting pg.SyncSetting) error {
	if err := c.declare(ctx, 1); err != nil {
		return fmt.Errorf("start as a primary: %w", err)
	}
	return c.Controller.StartPrimary(ctx, warrant, setting)
}

// Promote implements ha.Promoter.
func (c *controller) Promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error) {
	if err := c.declare(ctx, 0); err != nil {
		return pg.Promotion{}, fmt.Errorf("promote: %w", err)
	}
	return c.Controller.Promote(ctx, warrant, next)
}

// declare tells the guard that the server is about to run writable: this one, or
// the next.
func (c *controller) declare(ctx context.Context, next uint64) error {
	g := c.agent.host.guard
	if g == nil {
		return nil
	}
	return c.guarded(ctx, "guard/declare", func() error {
		if !g.set || g.left() <= 0 {
			return fmt.Errorf("%w: the guard has no deadline that is ahead", pg.ErrNoWarrant)
		}
		g.life = g.server().Generation + next
		return nil
	})
}

func (c *controller) guarded(ctx context.Context, what string, do func() error) error {
	return c.agent.effect(ctx, what, c.agent.host, func() error {
		if err := c.agent.host.failure(what); err != nil {
			return err
		}
		return do()
	})
}

func (g *guard) server() pgtest.Server { return g.host.world.servers.cluster.Server(g.host.name) }

// setDeadline is called by the driver, when the request has come.
func (g *guard) setDeadline(left time.Duration) error {
	boot, wall := g.now()
	if g.passed && g.server().Generation == g.life {
		return errors.New("the deadline has passed, and the server is being stopped")
	}
	g.set, g.boot, g.wall = true, boot+left, wall+left
	if server := g.server(); server.Writable {
		g.life = server.Generation
	}
	g.look()
	return nil
}

func (g *guard) now() (boot, wall time.Duration) {
	w := g.host.world
	w.mu.Lock()
	defer w.mu.Unlock()
	_, wall = g.host.time.at(w.now())
	return g.host.time.bootAt(w.now()), wall
}

// left is how long it is to the deadline, in world time.
func (g *guard) left() time.Duration {
	boot, wall := g.now()
	return time.Duration(float64(min(g.boot-boot, g.wall-wall)) / g.host.time.rate)
}

// look stops the server if its deadline has passed, and looks again when it will
// have.
func (g *guard) look() {
	if !g.set || g.passed {
		return
	}
	w := g.host.world
	g.armed++
	armed := g.armed
	id := w.count(newDigest().str("guard").str(g.host.name))
	if left := g.left(); left > 0 {
		w.after(left+1, id, nil, func() {
			if g.armed == armed {
				g.look()
			}
		})
		return
	}
	g.passed = true
	w.after(w.durations.of("guard", id).between(0, guardDelay), id, nil, func() {
		if g.armed == armed {
			g.stop()
		}
	})
}

// stop stops the server at once, if it still is the one that runs writable.
func (g *guard) stop() {
	w := g.host.world
	if g.host.halted || g.paused > 0 {
		g.late = true
		return
	}
	g.passed = false
	if g.server().Generation != g.life || w.servers.cluster.KillBackend(g.host.name) != nil {
		return
	}
	w.servers.touch()
	w.reach("guard stops a server")
	w.printf("the guard of %s stops the server: its deadline has passed", g.host.name)
	for _, f := range w.onGuard {
		f(g.host)
	}
}

// resume lets the guard see to what it could not do before.
func (g *guard) resume() {
	if g.late {
		g.late = false
		w := g.host.world
		id := w.count(newDigest().str("guard").str(g.host.name))
		w.after(w.durations.of("guard", id).between(0, guardDelay), id, nil, g.stop)
	}
}

// pause stops the guard's program.
func (g *guard) pause() (undo func()) {
	g.paused++
	return func() {
		if g.paused--; g.paused == 0 {
			g.thawed = g.host.world.now()
			g.resume()
		}
	}
}

// die is kill -9: the kernel ends the server with its guard. The next server has
// another guard.
func (g *guard) die() {
	if g.server().Generation == g.life {
		_ = g.host.world.servers.cluster.KillBackend(g.host.name) // else there is none to end
	}
	g.forget()
}

// forget is the end of the machine.
func (g *guard) forget() {
	g.set, g.life, g.passed, g.late = false, 0, false, false
	g.armed++
}
