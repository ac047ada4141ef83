// Package record holds the keys of a cluster and the versioned values under
// them, shared by Node, API and command line. Values are JSON, except where
// pgconsul or Patroni have plain text. A record of a newer format than this
// code knows is an error (ErrNewer), never guessed at.
package record

import (
	"fmt"
	"strconv"
	"strings"
)

// Keys are the names of a cluster's keys: /<namespace>/<cluster>/...
type Keys struct{ prefix string }

// NewKeys checks both names: 1 to 63 of a-z, 0-9, '-', '_' each, starting with
// a letter or digit.
func NewKeys(namespace, cluster string) (Keys, error) {
	if err := ValidName("namespace", namespace); err != nil {
		return Keys{}, err
	}
	if err := ValidName("cluster", cluster); err != nil {
		return Keys{}, err
	}
	return Keys{prefix: "/" + namespace + "/" + cluster + "/"}, nil
}

// ValidName checks a namespace, cluster or node name. A node's name, with its
// incarnation, must fit PostgreSQL's limit of 63 bytes for application_name,
// hence at most 48.
func ValidName(what, name string) error {
	limit := 63
	if what == "node" {
		limit = 48
		if len(SlotName(name)) > 63 {
			return fmt.Errorf("node name %q: too long with its - and _, which count twice in the name of a replication slot", name)
		}
	}
	if name == "" || len(name) > limit || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" ||
		strings.ContainsAny(name[:1], "-_") {
		return fmt.Errorf("%s name %q: want 1 to %d of a-z, 0-9, - and _, starting with a letter or digit", what, name, limit)
	}
	return nil
}

// TwinSuffix is what the name of the second key of a lock ends with.
const TwinSuffix = ".twin"

// Prefix is what all keys start with.
func (k Keys) Prefix() string { return k.prefix }

// Locks.
func (k Keys) Leader() string               { return k.prefix + "leader" }
func (k Keys) EpochManager() string         { return k.prefix + "epoch_manager" }
func (k Keys) Alive(host string) string     { return k.prefix + "alive/" + host }
func (k Keys) QuorumMember(h string) string { return k.prefix + "quorum/members/" + h }
func (k Keys) SwitchoverLock() string       { return k.prefix + "switchover/lock" }

// Records.
func (k Keys) Initialize() string           { return k.prefix + "initialize" }
func (k Keys) Timeline() string             { return k.prefix + "timeline" }
func (k Keys) History() string              { return k.prefix + "history" }
func (k Keys) Quorum() string               { return k.prefix + "quorum" }
func (k Keys) ReplicsInfo() string          { return k.prefix + "replics_info" }
func (k Keys) FailoverState() string        { return k.prefix + "failover_state" }
func (k Keys) CurrentPromotingHost() string { return k.prefix + "current_promoting_host" }
func (k Keys) Status() string               { return k.prefix + "status" }
func (k Keys) SwitchoverState() string      { return k.prefix + "switchover/state" }
func (k Keys) SwitchoverMaster() string     { return k.prefix + "switchover/master" }
func (k Keys) Maintenance() string          { return k.prefix + "maintenance" }
func (k Keys) MaintenanceTS() string        { return k.prefix + "maintenance/ts" }
func (k Keys) MaintenanceMaster() string    { return k.prefix + "maintenance/master" }
func (k Keys) Config() string               { return k.prefix + "config" }
func (k Keys) Member(host string) string    { return k.prefix + "members/" + host }

// Vote is the key of host's vote in election id.
func (k Keys) Vote(id uint64, host string) string {
	return k.prefix + "election/" + strconv.FormatUint(id, 10) + "/" + host
}

// SlotName is the name of the physical slot kept for a node. Slot names allow
// a-z, 0-9 and _ only, hence "_" becomes "__" and "-" becomes "_m": different
// nodes never share a slot. ValidName keeps it within PostgreSQL's 63 bytes.
func SlotName(node string) string {
	return "pghad_" + strings.NewReplacer("_", "__", "-", "_m").Replace(node)
}
