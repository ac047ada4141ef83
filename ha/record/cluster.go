package record

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// Rec is a decoded record with the revision that guards its next write. A
// record that does not exist has revision zero.
type Rec[T any] struct {
	Value    T
	Revision dcs.Revision
}

// Exists reports whether the key exists.
func (r Rec[T]) Exists() bool { return r.Revision != 0 }

// Guard is the guard of the record's next write: nobody has written it since.
func (r Rec[T]) Guard(key string) dcs.Guard {
	if r.Revision == 0 {
		return dcs.Guard{Key: key, Absent: true}
	}
	return dcs.Guard{Key: key, Revision: r.Revision}
}

// Lock is a lock key as it was read; Holder is its plain value.
type Lock struct {
	Holder  string
	Created dcs.Revision
	Session dcs.SessionID
}

// Held reports whether somebody holds the lock.
func (l Lock) Held() bool { return l.Created != 0 }

// Host is a node's name with its record.
type Host struct {
	Name string
	Rec[Member]
}

// Cluster is everything that the store holds of a cluster, decoded. It is what
// one List returned, which is not a snapshot across keys: whoever builds on
// several of its records guards the write by their revisions.
type Cluster struct {
	Keys Keys

	Leader        Lock
	LeaderTwin    Lock // stands alone where somebody has deleted `leader` by hand: its holder may still work
	EpochManager  Lock
	Alive         []string        // hosts that hold alive/<host>, sorted
	QuorumMembers []quorum.Member // holders of quorum/members/<host>, sorted

	Initialize Rec[string]
	Timeline   Rec[pg.Timeline]
	History    Rec[History]
	Quorum     Rec[Quorum]
	Failover   Rec[FailoverState]
	Promoting  Rec[Promoting]
	Status     Rec[Status]
	Replics    Rec[ReplicsInfo]
	// SwitchoverErr says why `switchover/master` or its state cannot be read. It
	// concerns nobody but the switchover, hence it is not one of Errs.
	SwitchoverLock  Lock
	SwitchoverState Rec[SwitchoverPhase]
	Switchover      Rec[Switchover]
	SwitchoverErr   error
	Maintenance     Maintenance
	// ConfigErr says why `config` cannot be read. Nodes keep what they have then,
	// hence it is not one of Errs.
	Config    Rec[Config]
	ConfigErr error
	Members   []Host     // sorted by name
	Votes     []HeldVote // of all elections that are still there
	Errs      []error    // records that could not be read; their values are zero
	// Ignored are what nodes say of themselves that could not be read: such a node
	// counts as one that says nothing.
	Ignored []error
}

// HeldVote is a vote with its key, for whoever cleans up.
type HeldVote struct {
	Key string
	Vote
}

// Parse decodes what a List of keys.Prefix() returned.
func Parse(keys Keys, kvs []dcs.KV) Cluster {
	c := Cluster{Keys: keys}
	for _, kv := range kvs {
		if err := c.add(kv); err != nil {
			c.Errs = append(c.Errs, err)
		}
	}
	slices.SortFunc(c.QuorumMembers, quorum.Member.Compare)
	return c
}

func (c *Cluster) add(kv dcs.KV) error {
	name, ok := strings.CutPrefix(kv.Key, c.Keys.Prefix())
	if !ok {
		return nil
	}
	switch name {
	case "leader":
		c.Leader = Lock{Holder: string(kv.Value), Created: kv.Created, Session: kv.Session}
	case "leader" + TwinSuffix:
		c.LeaderTwin = Lock{Holder: string(kv.Value), Created: kv.Created, Session: kv.Session}
	case "epoch_manager":
		c.EpochManager = Lock{Holder: string(kv.Value), Created: kv.Created, Session: kv.Session}
	case "initialize":
		c.Initialize = Rec[string]{strings.TrimSpace(string(kv.Value)), kv.Revision}
	case "timeline":
		c.Timeline.Revision = kv.Revision
		if len(kv.Value) > 0 {
			var err error
			if c.Timeline.Value, err = pg.ParseTimeline(string(kv.Value)); err != nil {
				return fmt.Errorf("record %s: %w", kv.Key, err)
			}
		}
	case "history":
		return decodeInto(&c.History, kv)
	case "quorum":
		if err := decodeInto(&c.Quorum, kv); err != nil {
			return err
		}
		if c.Quorum.Value.Version > 0 {
			if err := c.Quorum.Value.Validate(); err != nil {
				return fmt.Errorf("record %s: %w", kv.Key, err)
			}
		}
	case "failover_state":
		return decodeInto(&c.Failover, kv)
	case "current_promoting_host":
		return decodeInto(&c.Promoting, kv)
	case "status":
		return decodeInto(&c.Status, kv)
	case "config":
		c.Config.Revision = kv.Revision
		c.Config.Value, c.ConfigErr = DecodeConfig(kv.Key, kv.Value)
	case "replics_info":
		return decodeInto(&c.Replics, kv)
	default:
		if strings.HasPrefix(name, "switchover/") {
			c.addSwitchover(name, kv)
			return nil
		}
		if strings.HasPrefix(name, "maintenance") {
			return c.addMaintenance(name, kv)
		}
		if err := c.addChild(name, kv); err != nil {
			c.Ignored = append(c.Ignored, err)
		}
	}
	return nil
}

func (c *Cluster) addSwitchover(name string, kv dcs.KV) {
	switch name {
	case "switchover/lock":
		c.SwitchoverLock = Lock{Holder: string(kv.Value), Created: kv.Created, Session: kv.Session}
	case "switchover/state":
		phase := SwitchoverPhase(strings.TrimSpace(string(kv.Value)))
		c.SwitchoverState = Rec[SwitchoverPhase]{phase, kv.Revision}
		switch phase {
		case SwitchoverNone, SwitchoverDone, SwitchoverFailed:
		default:
			if !phase.Open() {
				c.SwitchoverErr = fmt.Errorf("record %s: %.40q is no phase of a switchover", kv.Key, phase)
			}
		}
	case "switchover/master":
		if err := decodeInto(&c.Switchover, kv); err != nil {
			c.SwitchoverErr = err
		}
	}
}

func (c *Cluster) addMaintenance(name string, kv dcs.KV) error {
	text := strings.TrimSpace(string(kv.Value))
	switch name {
	case "maintenance":
		c.Maintenance.Mode = Rec[MaintenanceMode]{MaintenanceMode(text), kv.Revision}
		switch MaintenanceMode(text) {
		case MaintenanceOff, MaintenanceOn, MaintenanceLeaving:
		default:
			return fmt.Errorf("record %s: %.40q is neither %q nor %q nor empty", kv.Key, text, MaintenanceOn, MaintenanceLeaving)
		}
	case "maintenance/ts":
		c.Maintenance.Since = Rec[string]{text, kv.Revision}
	case "maintenance/master":
		c.Maintenance.Master = Rec[string]{text, kv.Revision}
	}
	return nil
}

func (c *Cluster) addChild(name string, kv dcs.KV) error {
	folder, host := path.Split(name)
	folder = strings.TrimSuffix(folder, "/")
	switch {
	case strings.HasSuffix(host, TwinSuffix): // says nothing that its key does not say
	case folder == "alive":
		c.Alive = append(c.Alive, host)
	case folder == "quorum/members":
		member, err := quorum.ParseMember(string(kv.Value))
		if err != nil {
			return fmt.Errorf("lock %s: %w", kv.Key, err)
		}
		c.QuorumMembers = append(c.QuorumMembers, member)
	case folder == "members":
		var rec Rec[Member]
		if err := decodeInto(&rec, kv); err != nil {
			return err
		}
		c.Members = append(c.Members, Host{Name: host, Rec: rec})
	case strings.HasPrefix(folder, "election/"):
		vote, err := Decode[Vote](kv.Key, kv.Value)
		if err != nil {
			return err
		}
		c.Votes = append(c.Votes, HeldVote{Key: kv.Key, Vote: vote})
	}
	return nil
}

func decodeInto[T any](target *Rec[T], kv dcs.KV) error {
	value, err := Decode[T](kv.Key, kv.Value)
	*target = Rec[T]{Value: value, Revision: kv.Revision}
	return err
}

// Member returns what a node says of itself.
func (c Cluster) Member(host string) (Member, bool) {
	for _, h := range c.Members {
		if h.Name == host {
			return h.Value, true
		}
	}
	return Member{}, false
}

// PublishedBy is what a life of a node last said that it holds, zero if it has not
// said so.
func (c Cluster) PublishedBy(m quorum.Member) pg.Position {
	said, ok := c.Member(m.Node)
	if !ok || said.Incarnation != m.Incarnation {
		return pg.Position{}
	}
	return pg.Position{Timeline: said.Timeline, LSN: pg.LSN(said.XlogLSN)}
}

// HighestPledge is the highest election that any node says it has pledged to.
func (c Cluster) HighestPledge() uint64 {
	var highest uint64
	for _, h := range c.Members {
		highest = max(highest, h.Value.Pledge)
	}
	return highest
}

// ValidVotes returns the votes of the election that failover_state describes,
// sorted by member: the right id, nonce and electorate.
func (c Cluster) ValidVotes() []Vote {
	state := c.Failover.Value
	var votes []Vote
	for _, v := range c.Votes {
		if v.ID == state.ID && v.Nonce == state.Nonce && slices.Contains(state.Electorate, v.Member) {
			votes = append(votes, v.Vote)
		}
	}
	slices.SortFunc(votes, func(a, b Vote) int { return a.Member.Compare(b.Member) })
	return votes
}

// InOffice is the term of the present holder of `leader`: the last election
// has ended, its winner holds the lock and is the recorded primary. Otherwise
// it says why nobody is known to be in office.
func (c Cluster) InOffice() (Term, error) {
	state, recorded := c.Failover.Value, c.Quorum.Value
	switch {
	case !c.Leader.Held():
		return Term{}, fmt.Errorf("nobody holds `leader`")
	case state.Phase != PhaseTaken:
		return Term{}, fmt.Errorf("`leader` is %s while election %d is %s: the records are being changed", c.Leader.Holder, state.ID, state.Phase)
	case state.Winner.Node != c.Leader.Holder || recorded.Primary != state.Winner:
		return Term{}, fmt.Errorf("`leader` is %s, the winner of election %d is %s, the recorded primary is %s: the records do not agree",
			c.Leader.Holder, state.ID, state.Winner, recorded.Primary)
	}
	term, ok := c.History.Value.Find(state.ID)
	if !ok {
		return Term{}, fmt.Errorf("`history` has no entry for term %d", state.ID)
	}
	return term, nil
}
