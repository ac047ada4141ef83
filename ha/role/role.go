// Package role decides what a node is to be right now: lead, follow, take part
// in an election, bootstrap, stop, or wait. It is pure: the same view gives
// the same plan, whatever came before; ha.Node looks, decides and acts again
// and again.
//
// The order of the rules is the order of their weight. The first one is the
// safety rule of the daemon: a server that can be written to without a warrant
// is stopped at once, unless the store gives it one in the same moment.
package role

import (
	"fmt"

	"github.com/pghad/pghad/pg"
)

// Data is what lies in the data directory.
type Data string

const (
	DataNone       Data = "none"
	DataIncomplete Data = "incomplete" // an interrupted copy: never to be started
	DataPresent    Data = "present"
)

// View is what a node knows when it decides.
type View struct {
	Name string

	// The store.
	StoreErr    string // "" if it was read
	Initialized string // the cluster's system identifier, "" if there is none
	Records     bool   // quorum and failover_state exist
	RecordsErr  string // a record that cannot be read (newer, corrupt), or records that disagree
	Leader      string // holder of `leader`, "" if nobody
	Mine        bool   // `leader` is the very holding that this node remembers, by token and nonce
	MayReturn   bool   // nobody holds `leader`, nobody is about to, and this life on its timeline is the recorded primary
	InD         bool   // this life is a recorded member or the recorded primary
	Deposed     bool   // another life is the recorded primary
	Maintenance bool   // it is on, or was when the store was last read

	// This node.
	Office    bool   // it has a term, and a warrant for it: a lease, promises, or maintenance
	Memory    string // the system identifier that it remembers, "" if it has never belonged to a cluster
	Forgotten string // why the store shows less than this node remembers, "" if it does not
	Bootstrap bool   // it may create the cluster
	Existing  bool   // of the data that it has
	Pending   bool   // it was creating the cluster when it was interrupted
	Data      Data
	SystemID  string // of the data
	Process   pg.Process
	Role      pg.Role
	Silent    bool // it runs and does not say what it is
	Serving   bool // it has said just now that it is a primary, on the timeline of the recorded term
}

// Action is what to do.
type Action string

const (
	Stop      Action = "stop"      // at once: the server could be written to and must not
	TakeUp    Action = "take-up"   // the term that its running primary belongs to
	Vacate    Action = "vacate"    // delete its own `leader`: no server of that term is left
	Keep      Action = "keep"      // maintenance: leave every server as it is
	Bootstrap Action = "bootstrap" // create the cluster
	Lead      Action = "lead"
	Follow    Action = "follow" // the holder of `leader`
	Elect     Action = "elect"
	Stand     Action = "stand" // run as a fenced standby and wait
	Foreign   Action = "foreign"
	Wait      Action = "wait" // leave everything as it is
)

// Plan is the action and why.
type Plan struct {
	Action Action
	Why    string
}

// String is for people and tests.
func (p Plan) String() string { return string(p.Action) + ": " + p.Why }

func (v View) stopped() bool { return v.Process == pg.ProcessStopped || v.Process == pg.ProcessCrashed }

// Decide says what the node is to be.
func Decide(v View) Plan {
	if v.Role == pg.RolePrimary && !v.Office {
		return unwarranted(v)
	}
	if v.StoreErr != "" {
		if v.Office {
			return Plan{Lead, "the store does not answer (" + v.StoreErr + "), and the warrant of this node's term is in force"}
		}
		if !v.Maintenance && v.Memory != "" && v.Data == DataPresent && !v.Pending && v.stopped() {
			return Plan{Stand, "the store does not answer (" + v.StoreErr + "): reads can be served meanwhile"}
		}
		return Plan{Wait, "the store does not answer (" + v.StoreErr + "): an error is not an absent leader"}
	}
	if v.RecordsErr != "" {
		return Plan{Wait, v.RecordsErr}
	}
	if v.Initialized == "" {
		return uninitialized(v)
	}
	if v.Data == DataPresent && v.SystemID != "" && v.SystemID != v.Initialized && !v.Pending {
		return Plan{Foreign, fmt.Sprintf("the data directory belongs to system %s, the cluster is system %s", v.SystemID, v.Initialized)}
	}
	if v.Forgotten != "" {
		return Plan{Wait, v.Forgotten}
	}
	if !v.Records {
		return Plan{Wait, "the cluster's quorum and failover_state records are missing; nothing is done until they are restored"}
	}
	return member(v)
}

// unwarranted: the server can be written to, and this node has no warrant for
// that. Only the store can give it one back.
func unwarranted(v View) Plan {
	trusted := v.StoreErr == "" && v.RecordsErr == "" && v.Records && v.Forgotten == "" &&
		v.SystemID != "" && v.SystemID == v.Initialized
	switch {
	case trusted && v.Mine && v.Serving:
		return Plan{TakeUp, "`leader` is this node's own holding, and its server runs as the primary of that term"}
	case trusted && v.MayReturn && v.Serving:
		return Plan{TakeUp, "there is no leader, and this node runs as the recorded primary"}
	case trusted && v.Mine && v.Silent:
		return Plan{Wait, "`leader` is this node's own holding, and its server does not say what it is: nobody else leads until that expires"}
	case v.Maintenance && !v.Deposed:
		return Plan{Keep, "maintenance is on: no server is started or stopped"}
	default:
		return Plan{Stop, "the server can be written to and this node has no warrant for that"}
	}
}

func uninitialized(v View) Plan {
	switch {
	case v.Memory != "" && !v.Pending:
		return Plan{Wait, fmt.Sprintf(
			"the store has no `initialize` record and this node belongs to system %s: the store was emptied or is another one; restore it", v.Memory)}
	case v.Data == DataPresent && v.Bootstrap && v.Existing:
		return Plan{Bootstrap, "the cluster does not exist yet and this node may create it of the data that it has"}
	case v.Data == DataPresent && !v.Pending:
		return Plan{Wait, "the store has no `initialize` record and the data directory is not empty: this node does not create a cluster over existing data"}
	case v.Bootstrap || v.Pending:
		return Plan{Bootstrap, "the cluster does not exist yet and this node may create it"}
	default:
		return Plan{Wait, "the cluster does not exist yet; set bootstrap: true on the node that is to create it"}
	}
}

func member(v View) Plan {
	switch {
	case v.Office:
		return Plan{Lead, "this node holds the leader lock"}
	case v.Maintenance:
		return Plan{Keep, "maintenance is on: no server is started, stopped or turned"}
	case v.Mine && (v.stopped() || v.Role == pg.RoleStandby):
		return Plan{Vacate, "`leader` is this node's own holding, and no server of that term is left"}
	case v.Mine:
		return Plan{Wait, "`leader` is this node's own holding, and its server does not say what it is: nobody else leads until that expires"}
	case v.Leader == v.Name:
		return Plan{Stand, "`leader` bears this node's name but not its session: waiting for it to expire"}
	case v.Leader != "":
		return Plan{Follow, v.Leader + " is the leader"}
	case v.InD:
		return Plan{Elect, "there is no leader"}
	case v.Data == DataPresent && !v.Pending:
		return Plan{Stand, "there is no leader, and this node is not a recorded member: it has no vote"}
	default:
		return Plan{Wait, "there is no leader to copy the data from"}
	}
}
