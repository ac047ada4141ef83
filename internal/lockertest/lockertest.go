// Package lockertest lets the conformance suite of stores run ha.Locker.
// Package dcstest, which knows nothing of ha, takes locks as a function.
package lockertest

import (
	"context"
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/timectx"
)

// Contend competes for a lock by ha.Locker. It is a dcstest.Harness.Lock.
func Contend(ctx context.Context, c dcstest.Contender) error {
	locker, err := ha.NewLocker(ha.LockerConfig{
		Store: c.Store,
		Clock: c.Clock,
		// The margin is ample: on a loaded machine the work needs it to stop.
		TTL: c.TTL, RenewEvery: c.TTL / 6, Request: c.TTL / 6, Margin: c.TTL / 3,
	})
	if err != nil {
		return fmt.Errorf("lock of contender %s: %w", c.Name, err)
	}
	for ctx.Err() == nil {
		var token dcs.Revision
		_ = locker.Hold(ctx, c.Key, []byte(c.Name), func(ctx context.Context, lease *ha.Lease) error {
			token = lease.Token()
			return c.Work(ctx, token)
		})
		if token != 0 {
			// Who was asked to give the lock up lets others come first.
			_ = timectx.Sleep(ctx, c.Clock, 100*time.Millisecond)
		}
	}
	closing, cancel := timectx.With(context.WithoutCancel(ctx), c.Clock, time.Minute, "closing the locker")
	defer cancel()
	if err := locker.Close(closing); err != nil {
		return fmt.Errorf("lock of contender %s: %w", c.Name, err)
	}
	return nil
}
