package ha

import (
	"context"
	"time"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/pg"
)

// NodeStatus is everything that a node knows at its last look, and why it waits.
type NodeStatus struct {
	Name     string
	At       time.Time
	Plan     string // what the node is to be: lead, follow, elect, ...
	Because  string // why that
	Why      string // what it waits for, or what went wrong, "" if nothing
	Server   pg.Status
	Local    LocalState
	StoreErr string

	Leader   string
	Term     uint64 // of this node's office, 0 if it has none
	Until    time.Time
	Recorded quorum.Config
	Version  uint64 // of the recorded quorum
	Election record.FailoverState
	Upstream pg.Upstream
	Member   bool   // holds quorum/members/<host>
	Tracker  string // what the quorum tracker did or waits for
}

// Status returns the node's last look. Safe for use at any time.
func (n *Node) Status() NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

// announce makes the turn visible: in Status, in the log and by an event when
// the plan or the reason for waiting has changed.
func (n *Node) announce(ctx context.Context, plan role.Plan, v look) {
	status := NodeStatus{
		Name: n.cfg.Name, At: n.cfg.Wall(), Plan: string(plan.Action), Because: plan.Why, Why: n.why,
		Server: v.server, Local: n.memory.State(), Leader: v.records.Leader.Holder,
		Recorded: v.recorded(), Version: v.records.Quorum.Value.Version, Election: v.records.Failover.Value,
		Upstream: n.following.upstream, Member: n.membership != nil,
	}
	if v.storeErr != nil {
		status.StoreErr = v.storeErr.Error()
	}
	if status.Why == "" && (plan.Action == role.Wait || plan.Action == role.Stand) {
		status.Why = plan.Why
	}
	if n.office != nil {
		status.Term, status.Until, status.Tracker = n.office.Term, n.office.Lease.Until(), n.office.tracking
	}
	before := n.status
	n.mu.Lock()
	n.status = status
	n.mu.Unlock()
	if plan != n.plan || before.Why != status.Why {
		n.plan = plan
		n.cfg.Logger.InfoContext(ctx, "plan", "action", string(plan.Action), "because", plan.Why, "waits", status.Why)
		if n.cfg.Events.Plan != nil {
			n.cfg.Events.Plan(PlanInfo{Action: string(plan.Action), Why: status.Why})
		}
	}
}
