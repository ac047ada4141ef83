package pgctl

import (
	"context"
	"fmt"

	"github.com/pghad/pghad/pg"
)

// Stop implements ha.Starter.
func (c *Controller) Stop(ctx context.Context, mode pg.StopMode) error {
	if mode != pg.StopFast && mode != pg.StopImmediate {
		return fmt.Errorf("stop PostgreSQL: mode %q: want %s or %s", mode, pg.StopFast, pg.StopImmediate)
	}
	if mode == pg.StopImmediate {
		// Before anything that could block: the operation that runs is given up.
		if err := c.signalStop(mode); err != nil {
			return fmt.Errorf("stop PostgreSQL: %w", err)
		}
		harder := c.clock.AfterFunc(c.cfg.KillAfter, c.killAll)
		defer harder.Stop()
	}
	ctx, done, err := c.beginStop(ctx)
	if err != nil {
		if mode == pg.StopImmediate {
			c.killAll()
		}
		return err
	}
	defer done()
	c.adopt()
	return c.stop(ctx, mode)
}

// stop needs the turn.
func (c *Controller) stop(ctx context.Context, mode pg.StopMode) error {
	c.sideWork.end()
	server := c.running()
	if server != nil {
		c.log.Info("PostgreSQL is being stopped", "mode", string(mode), "pid", server.pid)
	}
	if err := c.signalStop(mode); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	if mode == pg.StopImmediate {
		return c.awaitKilled(ctx, server)
	}
	if server != nil {
		select {
		case <-server.gone:
		case <-c.lifetime.Done(): // nobody looks any more
		case <-ctx.Done():
			return fmt.Errorf("stop PostgreSQL: it is still stopping: %w", context.Cause(ctx))
		}
	}
	if err := c.drain(ctx); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// signalStop asks the postmaster to stop.
func (c *Controller) signalStop(mode pg.StopMode) error {
	c.mu.Lock()
	server := c.server
	if server != nil {
		server.asked = true
	}
	c.mu.Unlock()
	if server == nil {
		return nil
	}
	if mode == pg.StopFast {
		c.forbidSoon()
	}
	return c.cfg.Effects.run("stop "+string(mode), func() error { return server.stop(mode) })
}

// awaitKilled waits until no process is left, with SIGKILL after KillAfter or
// when ctx ends: an immediate stop that is cut off must not leave a server that
// nobody has signalled hard enough.
func (c *Controller) awaitKilled(ctx context.Context, server *postmaster) error {
	deadline := c.clock.Now().Add(c.cfg.KillAfter)
	for {
		left, err := serverProcesses(c.cfg.DataDir)
		if err != nil {
			return fmt.Errorf("stop PostgreSQL: %w", err)
		}
		if len(left) == 0 {
			if server != nil {
				select {
				case <-server.gone: // its parent only has to look
				case <-c.lifetime.Done(): // nobody looks any more
				}
			}
			return nil
		}
		if ctx.Err() != nil || !c.clock.Now().Before(deadline) {
			c.log.Warn("processes of PostgreSQL are killed", "pids", left)
			kill(left)
		}
		if err := c.pause(ctx); err != nil {
			return fmt.Errorf("stop PostgreSQL: wait for %d killed processes to end: %w", len(left), err)
		}
	}
}

// killAll kills every process of the server without waiting.
func (c *Controller) killAll() {
	if left, err := serverProcesses(c.cfg.DataDir); err == nil {
		kill(left)
	}
}
