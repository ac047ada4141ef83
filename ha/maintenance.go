package ha

import (
	"context"
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// keep is what a node without a term does in maintenance: its server is left as
// it is, and what it says of itself goes on.
func (n *Node) keep(ctx context.Context, v look) (time.Duration, error) {
	term, up, ok := n.leaderOf(v)
	if !ok {
		return n.cfg.Timing.Observe, nil
	}
	if !n.follows(term, up) && n.streamsAlready(v, term, up) {
		if err := n.goOnFollowing(ctx, v, term, up); err != nil {
			return n.cfg.Timing.Observe, err
		}
	}
	if n.counts(v) {
		n.joinMembership(ctx)
		n.keepSlots(ctx, v)
	} else {
		n.dropMembership(ctx)
	}
	return n.cfg.Timing.Observe, nil
}

// leaderOf is the term in office of another node, and where its server is; false
// while there is none, which is what maintenance may be for.
func (n *Node) leaderOf(v look) (record.Term, pg.Upstream, bool) {
	if v.storeErr != nil {
		return record.Term{}, pg.Upstream{}, false
	}
	term, err := v.records.InOffice()
	if err != nil || term.Primary == n.cfg.Name {
		return record.Term{}, pg.Upstream{}, false
	}
	up, err := n.upstreamOf(v, term.Primary)
	return term, up, err == nil
}

// confirmsMaintenance reports whether maintenance is to end, and this node is one
// that has to confirm that.
func (n *Node) confirmsMaintenance(v look) bool {
	m := v.records.Maintenance
	return v.storeErr == nil && m.Mode.Value == record.MaintenanceLeaving && n.forgotten(v.records) == "" &&
		(m.Master.Value == n.cfg.Name || n.leads(v))
}

// leads reports whether this node holds `leader` under a lease in force.
func (n *Node) leads(v look) bool {
	return n.office != nil && n.office.Lease.Check() == nil && v.records.Leader.Created == n.office.Lease.Token()
}

// leaveMaintenance confirms the end of maintenance, on the node that was the
// primary when it began, which keeps to it no longer: its server serves in a term,
// or is no primary. Nobody else acts before that: a primary in maintenance has no
// deadline. The holder of `leader` confirms too, where that is somebody else by now.
func (n *Node) leaveMaintenance(ctx context.Context, v look) error {
	m := v.records.Maintenance
	switch {
	case !n.confirmsMaintenance(v) || n.memory.State().Maintenance:
		return nil
	case !n.leads(v) && (v.primary() || !v.stopped() && !v.standby()):
		return nil // it takes up its term, or is fenced, first
	}
	asked, cancel := n.request(ctx, "confirming the end of maintenance")
	defer cancel()
	if n.office != nil {
		// Until then the guard of the server keeps it for as long as maintenance might
		// have lasted.
		if err := n.setDeadline(asked, n.office); err != nil {
			return err
		}
	}
	keys := n.keys
	err := n.cfg.Effects.run("maintenance/confirm", func() error {
		_, err := n.cfg.Store.Commit(asked, dcs.Txn{
			If: []dcs.Guard{
				m.Mode.Guard(keys.Maintenance()), m.Since.Guard(keys.MaintenanceTS()), m.Master.Guard(keys.MaintenanceMaster()),
			},
			Then: []dcs.Op{{Key: keys.Maintenance()}, {Key: keys.MaintenanceTS()}, {Key: keys.MaintenanceMaster()}},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("empty the maintenance records: %w", err)
	}
	n.cfg.Logger.InfoContext(ctx, "maintenance has ended")
	n.poke()
	return nil
}
