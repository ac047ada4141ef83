// Package role decides what a node is to be right now: lead, follow, take part
// in an election, bootstrap, stop, or wait. It is pure: the same view gives
// the same plan, whatever came before; ha.Node looks, decides and acts again
// and again.
//
// The order of the rules is the order of their weight. The first one is the
// safety rule of the daemon: a server that can be written to without a warrant
// is stopped at once.
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
	InD         bool   // this life is a recorded member or the recorded primary

	// This node.
	Office    bool   // it holds `leader` under a lease that is in force
	Memory    string // the system identifier that it remembers, "" if it has never belonged to a cluster
	Forgotten string // why the store shows less than this node remembers, "" if it does not
	Bootstrap bool   // it may create the cluster
	Pending   bool   // it was creating the cluster when it was interrupted
	Data      Data
	SystemID  string // of the data
	Process   pg.Process
	Role      pg.Role
}

// Action is what to do.
type Action string

const (
	Stop      Action = "stop"      // at once: the server could be written to and must not
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
		return Plan{Stop, "the server can be written to and this node has no lease"}
	}
	if v.StoreErr != "" {
		if !v.Office && v.Memory != "" && v.Data == DataPresent && !v.Pending && v.stopped() {
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

func uninitialized(v View) Plan {
	switch {
	case v.Memory != "" && !v.Pending:
		return Plan{Wait, fmt.Sprintf(
			"the store has no `initialize` record and this node belongs to system %s: the store was emptied or is another one; restore it", v.Memory)}
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
