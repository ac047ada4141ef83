package pgtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Runner is how a Controller meets the simulator: every effect and every wait of
// it passes through. Both return when ctx ends.
type Runner interface {
	// Effect is asked before each sub-effect, by name: "promote/signal". It may
	// block, which delays or pauses the agent. An error means that the effect
	// does not happen, and ends the operation. An agent dies by errors from all
	// calls, those that are under way too; ctx alone does not end everything.
	Effect(ctx context.Context, name string) error

	// Await blocks until done reports true. It is to be asked after every event
	// and effect, not any more after Await has returned; it takes the cluster's
	// lock itself, and changes nothing in the world.
	// ErrImpatient says that it has taken long enough, as the controller's own
	// limits of time do in reality. Fence then ends the receiver, and the second
	// time restarts the server; a restart that does not stop fast stops at once; a
	// start kills what is left of the server before; Promote stops the server.
	// Elsewhere it is an error like any other.
	Await(ctx context.Context, what string, done func() bool) error
}

// Clock is what a Runner may implement beside: the time of its node, for
// pg.Status.SampledAt.
type Clock interface {
	Now() time.Time
}

// ErrImpatient says that an Await has taken long enough.
var ErrImpatient = errors.New("waited long enough")

// Driver is a Runner for scripts without a simulator: effects happen at once,
// and a wait fires the cluster's events in their order until it is over. It is
// for one goroutine.
type Driver struct {
	Cluster *Cluster
	// Accept restricts the events that a wait fires; nil means Quiet. Timers are
	// fired too, when nothing else is left.
	Accept func(Event) bool
	// Before, where not nil, is asked before each effect.
	Before func(name string) error
}

var _ Runner = (*Driver)(nil)

// driverRounds is how often a Driver lets all timers pass before it says that a
// wait has taken long enough.
const driverRounds = 5

// Effect implements Runner.
func (d *Driver) Effect(ctx context.Context, name string) error {
	if d.Before != nil {
		if err := d.Before(name); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// Await implements Runner.
func (d *Driver) Await(ctx context.Context, what string, done func() bool) error {
	accept := d.Accept
	if accept == nil {
		accept = Quiet
	}
	for round, fired := 0, 0; ; fired++ {
		if done() {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		enabled := d.Cluster.Enabled()
		if i := slices.IndexFunc(enabled, accept); i >= 0 {
			if fired > settleLimit {
				return fmt.Errorf("wait for %s: %d events and no end: %v", what, fired, enabled[i])
			}
			d.Cluster.Fire(enabled[i])
			continue
		}
		if round++; round > driverRounds {
			return fmt.Errorf("wait for %s: %w", what, ErrImpatient)
		}
		for _, e := range enabled {
			if e.Timer() && (d.Accept == nil || d.Accept(e)) {
				d.Cluster.Fire(e)
			}
		}
	}
}
