package pgctl

import (
	"context"
	"errors"
	"fmt"

	"github.com/pghad/pghad/pg"
)

// Yield implements ha.Yielder.
func (c *Controller) Yield(ctx context.Context, to string) (pg.Position, error) {
	ctx, done, err := c.begin(ctx, "yield")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	end, err := c.yield(ctx, to)
	if err != nil {
		return pg.Position{}, fmt.Errorf("yield to %s: %w", to, err)
	}
	return end, nil
}

// yield needs the turn.
func (c *Controller) yield(ctx context.Context, to string) (pg.Position, error) {
	if c.adopt() == nil {
		return pg.Position{}, pg.ErrNotRunning
	}
	look, err := c.lookPromotion(ctx)
	if err != nil {
		return pg.Position{}, err
	}
	if !look.primary {
		return pg.Position{}, errors.New("it is not a primary")
	}
	if err := c.stop(ctx, pg.StopFast); err != nil {
		return pg.Position{}, err
	}
	return c.shutdownEnd()
}
