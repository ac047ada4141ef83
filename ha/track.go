package ha

import (
	"context"
	"fmt"
	"strings"

	"github.com/pghad/pghad/ha/quorum"
)

// track lets the quorum tracker do the steps that are ready. It reports whether
// a step is under way whose end is worth another look soon.
func (n *Node) track(ctx context.Context, v look) (busy bool, err error) {
	o := n.office
	if o.tracker == nil {
		if o.tracker, err = n.newTracker(); err != nil {
			return false, err
		}
	}
	if o.tracked != v.server.Generation {
		o.tracked = v.server.Generation
		o.tracker.Forget()
	}
	seen := QuorumSeen{Record: v.records.Quorum.Value, Revision: v.records.Quorum.Revision}
	for _, m := range v.records.QuorumMembers {
		replica := Replica{Member: m}
		if said, ok := v.records.Member(m.Node); ok && said.Incarnation == m.Incarnation {
			replica.Priority = said.Priority
		}
		seen.Replicas = append(seen.Replicas, replica)
	}
	ctx, cancel := o.warrant.soundLease(ctx)
	defer cancel()
	report, err := o.tracker.Step(ctx, o.Lease, seen)
	if o.tracker.Settled() {
		o.warrant.settle(report.Recorded.Config)
	}
	if report.Recorded.Version != seen.Record.Version && n.cfg.Events.Quorum != nil {
		n.cfg.Events.Quorum(QuorumInfo{Version: report.Recorded.Version, Recorded: report.Recorded.Config, Why: report.Step.Why})
	}
	if err != nil {
		return false, fmt.Errorf("quorum: %w", err)
	}
	o.tracking = report.Step.Why
	if len(report.Step.Waits) > 0 {
		o.tracking += " [" + strings.Join(report.Step.Waits, "; ") + "]"
	}
	return report.Step.Kind != quorum.None, nil
}

func (n *Node) newTracker() (*QuorumTracker, error) {
	tracker, err := NewQuorumTracker(QuorumTrackerConfig{
		Store: n.cfg.Store, Keys: n.keys, Postgres: n.cfg.Postgres, Self: n.self(), Mode: n.settings.Mode, Strict: !n.settings.Relaxed,
		RemovalDelay: n.cfg.Timing.RemovalDelay, Request: n.cfg.Timing.Request,
		Clock: n.cfg.Clock, Rand: n.cfg.Rand, Logger: n.cfg.Logger,
		OnStep: func(info QuorumStepInfo) {
			if !info.Done && info.Step.Kind == quorum.WriteRecord && n.office != nil {
				n.office.warrant.propose(info.Step.Record) // before it can land
			}
			n.cfg.Effects.mark("quorum/"+string(info.Step.Kind), info.Done)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("quorum tracker: %w", err)
	}
	return tracker, nil
}
