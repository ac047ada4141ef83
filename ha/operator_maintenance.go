package ha

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
)

// MaintenanceState is what the records say of maintenance, with what each node
// says of it. Its JSON is stable: fields are added, never renamed or removed.
type MaintenanceState struct {
	Mode record.MaintenanceMode `json:"mode"`
	// Since is when it was enabled, RFC 3339, and Primary who was the recorded
	// primary then: the node that must confirm the end. Both are "" when it is off.
	Since   string `json:"since"`
	Primary string `json:"primary"`
	// Nodes are all that publish themselves or are recorded, sorted by name.
	Nodes []MaintenanceNode `json:"nodes"`
}

// MaintenanceNode is one node as it stands to maintenance.
type MaintenanceNode struct {
	Name    string `json:"name"`
	Present bool   `json:"present"` // its agent publishes it now
	Keeps   bool   `json:"keeps"`   // it says that it keeps to maintenance
	Why     string `json:"why"`     // what it says that it does or waits for
}

// On reports whether nodes have to keep to it, which lasts until leaving is
// complete.
func (s MaintenanceState) On() bool { return s.Mode != record.MaintenanceOff }

// Waiting are the nodes that are present and do not yet do what the records
// say: keep to maintenance, or not any more.
func (s MaintenanceState) Waiting() []string {
	return s.names(func(n MaintenanceNode) bool { return n.Present && n.Keeps != s.On() })
}

// Absent are the recorded nodes of which nothing is heard. They read the records
// before they do anything, when they come back.
func (s MaintenanceState) Absent() []string {
	return s.names(func(n MaintenanceNode) bool { return !n.Present })
}

func (s MaintenanceState) names(which func(MaintenanceNode) bool) []string {
	names := []string{}
	for _, n := range s.Nodes {
		if which(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

// MaintenanceOf is the state of maintenance in records that were read.
func MaintenanceOf(c record.Cluster) MaintenanceState {
	s := MaintenanceState{
		Mode: c.Maintenance.Mode.Value, Since: c.Maintenance.Since.Value, Primary: c.Maintenance.Master.Value,
		Nodes: []MaintenanceNode{},
	}
	names := map[string]bool{}
	if c.Quorum.Value.Version > 0 {
		for _, m := range c.Quorum.Value.D() {
			names[m.Node] = true
		}
	}
	for _, h := range c.Members {
		names[h.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		said, present := c.Member(name)
		s.Nodes = append(s.Nodes, MaintenanceNode{Name: name, Present: present, Keeps: said.Maintenance, Why: said.Why})
	}
	return s
}

// Maintenance reads the state of maintenance.
func (o *Operator) Maintenance(ctx context.Context) (MaintenanceState, error) {
	now, err := o.read(ctx)
	if err != nil {
		return MaintenanceState{}, fmt.Errorf("maintenance: %w", err)
	}
	return MaintenanceOf(now), nil
}

// EnableMaintenance asks all nodes not to change roles, nor to start, stop or
// promote a server, until DisableMaintenance. Nobody is elected either: a
// cluster without a leader stays without one. It is nothing where maintenance
// is on, and keeps since when that is; it takes back a leaving that is not
// complete. The records do not name by, who asks for it: the log does.
//
// ErrRefused: there is no cluster, or a switchover is at the point where the
// primary has handed over and the target is about to take over.
func (o *Operator) EnableMaintenance(ctx context.Context, by string) error {
	since := o.now()
	err := o.settle(ctx, "enable maintenance", func(now record.Cluster) (dcs.Txn, error) {
		return o.enabling(now, since)
	})
	if err == nil {
		o.cfg.Logger.InfoContext(ctx, "maintenance enabled", "by", by)
	}
	return err
}

func (o *Operator) enabling(now record.Cluster, since string) (dcs.Txn, error) {
	m, keys, state := now.Maintenance, o.cfg.Keys, now.Failover.Value
	primary := now.Quorum.Value.Primary.Node
	switch {
	case m.Mode.Value == record.MaintenanceOn && m.Since.Value != "" && m.Master.Value != "":
		return dcs.Txn{}, nil
	case primary == "":
		return dcs.Txn{}, fmt.Errorf("maintenance %w: the records name no primary; is there a cluster?", ErrRefused)
	case now.SwitchoverState.Value == record.SwitchoverCommitted && state.Phase == record.PhaseWon && state.ID == now.Switchover.Value.Next:
		return dcs.Txn{}, fmt.Errorf("maintenance %w: %s has handed over to %s, which is about to take over; try again when it has",
			ErrRefused, now.Switchover.Value.Hostname, targetOf(now.Switchover.Value))
	}
	if m.On() { // it goes on as what it was
		since, primary = cmp.Or(m.Since.Value, since), cmp.Or(m.Master.Value, primary)
	}
	txn := o.writeMaintenance(m, record.MaintenanceOn, since, primary)
	txn.If = append(txn.If, now.Quorum.Guard(keys.Quorum()), now.SwitchoverState.Guard(keys.SwitchoverState()))
	return txn, nil
}

// writeMaintenance writes the three records, guarded by the revisions read.
func (o *Operator) writeMaintenance(m record.Maintenance, mode record.MaintenanceMode, since, primary string) dcs.Txn {
	keys := o.cfg.Keys
	return dcs.Txn{
		If: []dcs.Guard{
			m.Mode.Guard(keys.Maintenance()), m.Since.Guard(keys.MaintenanceTS()), m.Master.Guard(keys.MaintenanceMaster()),
		},
		Then: []dcs.Op{
			{Key: keys.Maintenance(), Value: []byte(mode)},
			{Key: keys.MaintenanceTS(), Value: []byte(since)},
			{Key: keys.MaintenanceMaster(), Value: []byte(primary)},
		},
	}
}

// DisableMaintenance asks for the end of maintenance. It is complete when the
// node that was the primary at its beginning has compared its data with the
// records and confirmed: see AwaitMaintenance. It is nothing where maintenance
// is off or being left.
func (o *Operator) DisableMaintenance(ctx context.Context) error {
	err := o.settle(ctx, "disable maintenance", func(now record.Cluster) (dcs.Txn, error) {
		m := now.Maintenance
		if !m.On() || m.Mode.Value == record.MaintenanceLeaving && m.Master.Value != "" {
			return dcs.Txn{}, nil
		}
		// Records written by hand may lack who is to confirm.
		primary := cmp.Or(m.Master.Value, now.Quorum.Value.Primary.Node)
		return o.writeMaintenance(m, record.MaintenanceLeaving, m.Since.Value, primary), nil
	})
	if err == nil {
		o.cfg.Logger.InfoContext(ctx, "maintenance disabled")
	}
	return err
}

// ForceMaintenanceOff ends maintenance without the confirmation of the node that
// was the primary at its beginning. Whoever calls it claims to know that no
// server of that node runs that somebody could write to: others may be promoted
// the next moment.
//
// ErrRefused: that node's agent, or its PostgreSQL, is there. It can confirm by
// itself, or has to be stopped first.
func (o *Operator) ForceMaintenanceOff(ctx context.Context) error {
	err := o.settle(ctx, "force the end of maintenance", func(now record.Cluster) (dcs.Txn, error) {
		m := now.Maintenance
		if !m.On() {
			return dcs.Txn{}, nil
		}
		primary := cmp.Or(m.Master.Value, now.Quorum.Value.Primary.Node)
		_, present := now.Member(primary)
		switch {
		case present:
			return dcs.Txn{}, fmt.Errorf("force %w: the agent of %s runs and can confirm the end; stop it and PostgreSQL there first", ErrRefused, primary)
		case slices.Contains(now.Alive, primary):
			return dcs.Txn{}, fmt.Errorf("force %w: PostgreSQL of %s is alive; stop it first", ErrRefused, primary)
		}
		txn := o.writeMaintenance(m, record.MaintenanceOff, "", "")
		if primary != "" {
			txn.If = append(txn.If,
				dcs.Guard{Key: o.cfg.Keys.Member(primary), Absent: true}, dcs.Guard{Key: o.cfg.Keys.Alive(primary), Absent: true})
		}
		return txn, nil
	})
	if err == nil {
		o.cfg.Logger.WarnContext(ctx, "maintenance ended by force")
	}
	return err
}

// settle writes what next makes of the records read, until it makes nothing of
// them: what was asked for is there. So a lost reply settles itself. The write is
// sent again under the revisions just read: from then on the first one cannot
// land any more, or it has.
func (o *Operator) settle(ctx context.Context, what string, next func(record.Cluster) (dcs.Txn, error)) error {
	var unknown error
	for try := 1; ; try++ {
		now, err := o.read(ctx)
		var txn dcs.Txn
		if err == nil {
			txn, err = next(now)
		}
		if err == nil && len(txn.Then) > 0 {
			err = o.commit(ctx, what, txn)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, dcs.ErrAmbiguous):
			unknown = err
		case errors.Is(err, dcs.ErrConflict):
		case unknown != nil:
			return fmt.Errorf("%w; trying again: %v", unknown, err) //nolint:errorlint // an unknown outcome is nothing else
		default:
			return err
		}
		if try == operatorTries {
			return cmp.Or(unknown, err)
		}
		if err := timectx.Sleep(ctx, o.cfg.Clock, o.cfg.Timing.Request/4); err != nil {
			return cmp.Or(unknown, fmt.Errorf("%s: %w", what, err))
		}
	}
}

// AwaitMaintenance waits until maintenance is on, or off, and all nodes that are
// there do accordingly, and tells progress (which may be nil) of every change.
// Nodes that are not there are not waited for: see MaintenanceState.Absent. A
// store that cannot be reached is waited for.
//
// Errors, with what was seen last: the cause of ctx; ErrOvertaken if somebody has
// asked for the opposite.
func (o *Operator) AwaitMaintenance(ctx context.Context, on bool, progress func(MaintenanceState)) (MaintenanceState, error) {
	var (
		state     MaintenanceState
		seen      bool
		overtaken bool
	)
	err := o.follow(ctx, func(now record.Cluster, err error) bool {
		if err != nil {
			return false
		}
		before := state
		state = MaintenanceOf(now)
		changed := !seen || before.Mode != state.Mode || !slices.Equal(before.Nodes, state.Nodes)
		seen = true
		if changed && progress != nil {
			progress(state)
		}
		if on {
			overtaken = state.Mode != record.MaintenanceOn
		} else {
			overtaken = state.Mode == record.MaintenanceOn
		}
		return overtaken || state.On() == on && len(state.Waiting()) == 0
	})
	switch {
	case err != nil:
		return state, fmt.Errorf("wait for maintenance: %w", err)
	case overtaken:
		return state, fmt.Errorf("wait for maintenance: %w: it is %q now", ErrOvertaken, state.Mode)
	}
	return state, nil
}
