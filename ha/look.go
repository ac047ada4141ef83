package ha

import (
	"context"
	"errors"
	"fmt"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/pg"
)

// look is what a node has just read: the store's records and its own server.
type look struct {
	records  record.Cluster
	storeErr error
	server   pg.Status
	data     role.Data
	disk     pg.OnDisk // valid while no server runs and data is present
}

func (v look) recorded() quorum.Config { return v.records.Quorum.Value.Config }

// stopped reports whether no process of the server is left.
func (v look) stopped() bool {
	return v.server.Process == pg.ProcessStopped || v.server.Process == pg.ProcessCrashed
}

// standby reports whether the server runs, answers and is a standby.
func (v look) standby() bool {
	return v.server.Health == pg.HealthAlive && v.server.Role == pg.RoleStandby
}

// primary reports whether the server runs, answers and can be written to.
func (v look) primary() bool {
	return v.server.Health == pg.HealthAlive && v.server.Role == pg.RolePrimary
}

// ReadRecords reads and decodes everything the store holds of a cluster.
func ReadRecords(ctx context.Context, store dcs.Store, keys record.Keys) (record.Cluster, error) {
	kvs, err := store.List(ctx, keys.Prefix())
	if err != nil {
		return record.Cluster{}, fmt.Errorf("list %s: %w", keys.Prefix(), err)
	}
	return record.Parse(keys, kvs), nil
}

// look reads the server first and the store second: a decision never rests on
// records older than the server's state.
func (n *Node) look(ctx context.Context) look {
	var v look
	asked, cancel := n.request(ctx, "status of the server")
	status, err := n.cfg.Postgres.Status(asked)
	cancel()
	if err != nil {
		status = pg.Status{Process: pg.ProcessRunning, Health: pg.HealthUnknown, Role: pg.RoleUnknown, Err: err.Error()}
	}
	v.server, v.data = status, role.DataPresent
	if v.stopped() {
		v.disk, v.data = n.onDisk(ctx)
	}
	asked, cancel = n.request(ctx, "reading the store")
	defer cancel()
	v.records, v.storeErr = ReadRecords(asked, n.cfg.Store, n.keys)
	if v.storeErr == nil {
		if err := n.remember(v.records); err != nil {
			v.storeErr = fmt.Errorf("what it says could not be kept: %w", err)
		}
	}
	return v
}

func (n *Node) onDisk(ctx context.Context) (pg.OnDisk, role.Data) {
	disk, err := n.cfg.Postgres.OnDisk(ctx)
	switch {
	case errors.Is(err, pg.ErrNoData):
		return disk, role.DataNone
	case errors.Is(err, pg.ErrIncompleteCopy) || (err == nil && n.memory.State().Copying):
		return disk, role.DataIncomplete
	case err != nil:
		n.cfg.Logger.WarnContext(ctx, "data directory cannot be read", "error", err)
	}
	return disk, role.DataPresent
}

// remember keeps the highest term and quorum version that were read, before
// anything is done on their strength.
func (n *Node) remember(records record.Cluster) error {
	if n.forgotten(records) != "" {
		return nil
	}
	state, recorded := records.Failover.Value, records.Quorum.Value
	return n.memory.Update(func(s *LocalState) {
		if state.ID > s.SeenTerm {
			s.SeenTerm, s.SeenTermNonce = state.ID, state.Nonce
		}
		if recorded.Version > s.SeenQuorum {
			s.SeenQuorum, s.SeenQuorumNonce = recorded.Version, recorded.Nonce
		}
		// A life that is recorded has created the cluster, also if the reply to
		// that never came: its data is no longer a draft.
		if s.Creating && recorded.InD(s.Member(n.cfg.Name)) {
			s.Creating, s.SystemID = false, records.Initialize.Value
		}
	})
}

// forgotten says why the store cannot be believed: it shows less than this node
// has read before, or the same number of another origin.
func (n *Node) forgotten(records record.Cluster) string {
	local, state, recorded := n.memory.State(), records.Failover.Value, records.Quorum.Value
	switch {
	case state.ID < local.SeenTerm || (state.ID == local.SeenTerm && state.Nonce != local.SeenTermNonce):
		return fmt.Sprintf("the store shows election %d (%s) and this node has seen %d (%s): it was restored or is another one; "+
			"an operator must rewrite its records", state.ID, state.Nonce, local.SeenTerm, local.SeenTermNonce)
	case recorded.Version < local.SeenQuorum || (recorded.Version == local.SeenQuorum && recorded.Nonce != local.SeenQuorumNonce):
		return fmt.Sprintf("the store shows quorum version %d (%s) and this node has seen %d (%s): it was restored or is another one; "+
			"an operator must rewrite its records", recorded.Version, recorded.Nonce, local.SeenQuorum, local.SeenQuorumNonce)
	default:
		return ""
	}
}

// own is the holding of `leader` that stands, if it is this node's: the one that
// it remembers; or one of a term whose number it has made up itself, with a nonce
// that nobody else knew, by a transaction to which there was no reply.
func (v look) own(local LocalState, name string) (OfficeMark, bool) {
	leader, state := v.records.Leader, v.records.Failover.Value
	stands := OfficeMark{Term: state.ID, Nonce: state.Nonce, Token: leader.Created}
	if !leader.Held() || leader.Holder != name || state.Winner != local.Member(name) {
		return stands, false // a number of its own may be that of a term which it has handed over
	}
	made := local.PledgeOwn && state.ID == local.Pledge && state.Nonce == local.PledgeNonce && state.Phase == record.PhaseTaken
	return stands, stands == local.Office || made
}

// note keeps what others have to know of this look: whether maintenance is on,
// whether a promise may be given, and what the warrant depends on.
func (n *Node) note(v look) {
	// Who is to confirm its end keeps to it no longer: nobody else may act before
	// that is so.
	on := v.records.Maintenance.On() && !n.confirmsMaintenance(v)
	if v.storeErr == nil && on != n.memory.State().Maintenance && n.forgotten(v.records) == "" {
		if err := n.memory.Update(func(s *LocalState) { s.Maintenance = on }); err != nil {
			n.cfg.Logger.Warn("local state", "error", err)
		}
	}
	n.preparePromises(v)
	if v.stopped() || v.standby() {
		n.stuck.Store(false)
	}
	if n.office == nil {
		return
	}
	var peers []Peer
	for _, h := range v.records.Members {
		if h.Value.APIURL != "" {
			peers = append(peers, Peer{Name: h.Name, APIURL: h.Value.APIURL})
		}
	}
	fit := v.primary() && n.office.unwell.IsZero() && !n.stuck.Load()
	n.office.warrant.seen(fit, n.memory.State().Maintenance, peers)
}

// role is the view that the pure decision takes.
func (v look) role(n *Node) role.View {
	local := n.memory.State()
	view := role.View{
		Name: n.cfg.Name, Bootstrap: n.cfg.Bootstrap, Existing: n.cfg.Existing, Memory: local.SystemID, Pending: local.Creating,
		Data: v.data, SystemID: v.disk.SystemID, Process: v.server.Process, Role: v.server.Role,
		Office:      n.office != nil && n.office.warrant.Check() == nil,
		Maintenance: local.Maintenance,
	}
	if v.server.SystemID != "" {
		view.SystemID = v.server.SystemID
	}
	// A server that does not say what it is, and that this process did not
	// start as a standby, may be writable: an orphan of an earlier agent.
	if v.server.Role == pg.RoleUnknown && n.writable && !v.stopped() {
		view.Role, view.Silent = pg.RolePrimary, true
	}
	if v.storeErr != nil {
		view.StoreErr = v.storeErr.Error()
		return view
	}
	if len(v.records.Errs) > 0 {
		view.RecordsErr = errors.Join(v.records.Errs...).Error()
	}
	view.Initialized = v.records.Initialize.Value
	view.Records = v.records.Quorum.Value.Version > 0 && v.records.Failover.Value.ID > 0
	view.Leader = v.records.Leader.Holder
	_, own := v.own(local, n.cfg.Name)
	view.Mine = n.office == nil && own
	view.MayReturn = n.elector.mayReturn(v.records) == nil
	if last, err := lastTerm(v.records); err == nil {
		view.Serving = v.primary() && v.server.Timeline == last.Timeline
	}
	view.InD = v.recorded().InD(local.Member(n.cfg.Name))
	view.Deposed = view.Records && v.recorded().Primary != local.Member(n.cfg.Name)
	view.Forgotten = n.forgotten(v.records)
	return view
}
