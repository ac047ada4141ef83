package ha

import (
	"context"
	"time"

	"github.com/pghad/pghad/ha/switchover"
	"github.com/pghad/pghad/pg"
)

// switchOver lets the coordinator do one step, if a switchover is asked for. It
// reports whether the turn is over, and after which pause one is under way that is
// worth another look.
func (n *Node) switchOver(ctx context.Context, v look) (done bool, pause time.Duration, err error) {
	if v.records.Switchover.Value.ID != n.leaving || !v.records.SwitchoverState.Value.Open() {
		n.leaving = ""
	}
	if n.coordinator.Idle(v.records) {
		return false, n.cfg.Timing.Observe, nil
	}
	out, err := n.coordinator.Step(ctx, n.switchoverSeen(v))
	if err != nil {
		return true, shortPause, err
	}
	if out.HandedOver {
		n.handedOver(ctx)
		return true, 0, nil
	}
	switch out.Plan.Action {
	case switchover.Wait:
		n.why = "switchover: " + out.Plan.Why
	case switchover.Checkpoint:
		n.why = "switchover: a checkpoint is written"
	default:
	}
	if out.Again {
		return true, 0, nil
	}
	return false, shortPause, nil
}

// handedOver ends the term: the server is stopped, `leader` is deleted.
func (n *Node) handedOver(ctx context.Context) {
	n.writable = false
	n.endOffice(ctx, true, ErrHandedOver)
}

// resolveSwitchover goes on after the pledge.
func (n *Node) resolveSwitchover(ctx context.Context, v look) error {
	out, err := n.coordinator.Resolve(ctx, n.switchoverSeen(v))
	switch {
	case err != nil:
		return err
	case out.HandedOver:
		n.handedOver(ctx)
	case out.Office != nil:
		n.renewOffice(out.Office)
	}
	return nil
}

func (n *Node) switchoverSeen(v look) SwitchoverSeen {
	seen := SwitchoverSeen{
		Office: n.office.Office, Records: v.records, Server: v.server, Maintenance: n.memory.State().Maintenance,
		Upstream: func(host string) (up pg.Upstream, err error) { return n.upstreamOf(v, host) },
	}
	if _, known := n.office.warrant.settled(); !known {
		seen.Busy = "a change of the quorum has an unknown outcome"
	} else if !v.server.GateOpen {
		seen.Busy = "the primary does not admit clients yet"
	}
	return seen
}
