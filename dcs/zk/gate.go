package zk

import (
	"context"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
)

// gate lets many calls through a session's connection, or one that changes the
// connection, which would leave the others with unknown outcomes.
type gate struct {
	mu    sync.Mutex
	calls int           // that are inside
	alone chan struct{} // closed when who is alone, or waits to be, is done; nil if nobody is
	empty chan struct{} // closed when no call is inside any more; nil if nobody waits for that
}

// enter waits until nobody is alone. After nil, leave must be called.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		alone := g.alone
		if alone == nil {
			g.calls++
		}
		g.mu.Unlock()
		if alone == nil {
			return nil
		}
		if err := wait(ctx, alone); err != nil {
			return err
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	if g.calls == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// enterAlone keeps new calls out, and waits until the others have left or grace
// has passed: a call that hangs must not keep a session from being renewed.
// After nil, leaveAlone must be called.
func (g *gate) enterAlone(ctx context.Context, clk clock.Clock, grace time.Duration) error {
	var empty chan struct{}
	for {
		g.mu.Lock()
		alone := g.alone
		if alone == nil {
			g.alone = make(chan struct{})
			if g.calls > 0 {
				g.empty = make(chan struct{})
				empty = g.empty
			}
		}
		g.mu.Unlock()
		if alone == nil {
			break
		}
		if err := wait(ctx, alone); err != nil {
			return err
		}
	}
	if empty == nil {
		return nil
	}
	patience := clk.Timer(grace)
	defer patience.Stop()
	select {
	case <-empty:
	case <-patience.C:
	case <-ctx.Done():
		g.leaveAlone()
		return context.Cause(ctx)
	}
	return nil
}

func (g *gate) leaveAlone() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.alone)
	g.alone, g.empty = nil, nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
