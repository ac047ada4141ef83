// Package timectx makes contexts that end by an injected clock, with a cause.
// The clock's own WithTimeout is not used: it supports no cause, and the mock's
// is not cancelled synchronously with its parent.
package timectx

import (
	"context"
	"fmt"
	"time"

	"github.com/benbjohnson/clock"
)

// With returns a context that ends after d by clk, with a cause that wraps
// context.DeadlineExceeded and names what took too long. A d of zero or less
// ends it at once. The cancel function must be called.
func With(ctx context.Context, clk clock.Clock, d time.Duration, what string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	overdue := fmt.Errorf("%s took longer than %s: %w", what, d, context.DeadlineExceeded)
	if d <= 0 {
		cancel(overdue)
		return ctx, func() {}
	}
	timer := clk.AfterFunc(d, func() { cancel(overdue) })
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}

// Sleep waits for d by clk or until ctx ends, and then returns its cause.
func Sleep(ctx context.Context, clk clock.Clock, d time.Duration) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if d <= 0 {
		return nil
	}
	timer := clk.Timer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
