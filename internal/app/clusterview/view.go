package clusterview

import (
	"github.com/pghad/pghad/pg"
)

// View is a picture of a cluster. Its JSON is stable: fields are added, never
// renamed or removed, and lists are never null.
type View struct {
	Namespace string `json:"namespace"`
	Cluster   string `json:"cluster"`
	// SystemID is PostgreSQL's system identifier, "" if the cluster has not
	// been created yet.
	SystemID string `json:"system_id"`
	// Leader holds the lock `leader`; "" if nobody does.
	Leader string `json:"leader"`
	// Term and Timeline are those of the leader in office. Term is 0, and
	// Timeline the last recorded one, while nobody is: Why says why.
	Term     uint64      `json:"term"`
	Timeline pg.Timeline `json:"timeline"`
	// Gate says whether the leader admits clients: "open", or why not. It is ""
	// if the leader has not said yet.
	Gate string `json:"gate"`
	// Why says what the cluster waits for, "" if a leader is in office.
	Why string `json:"why"`
	// Quorum is null before the cluster has been created.
	Quorum *Quorum `json:"quorum"`
	// Election is the running or last one; null if there has been none.
	Election *Election `json:"election"`
	// Switchover is the running or last one; null if none was ever asked for.
	Switchover *Switchover `json:"switchover"`
	// Maintenance is null while it is off.
	Maintenance *Maintenance `json:"maintenance"`
	// Nodes are all that any record names, sorted by name.
	Nodes []Node `json:"nodes"`
	// Problems are records that cannot be read, or contradict each other.
	Problems []string `json:"problems"`
}

// Quorum is who holds acknowledged commits.
type Quorum struct {
	Version uint64 `json:"version"`
	Mode    string `json:"mode"`
	Primary Life   `json:"primary"`
	Members []Life `json:"members"` // without the primary
	// K members confirm each commit, beside the primary: it then has K + 1
	// copies.
	K int `json:"k"`
	// Votes are needed to elect a primary, unless the recorded one votes.
	Votes int `json:"votes_needed"`
	// Tracker is what the leader does to change the quorum, or waits for.
	Tracker string `json:"tracker"`
}

// Life is one life of a node's data.
type Life struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
}

// Election is a running or past election.
type Election struct {
	ID      uint64 `json:"id"`    // the term of who wins
	Phase   string `json:"phase"` // fencing, won, taken
	Open    bool   `json:"open"`
	Manager string `json:"manager"` // who opened it
	Winner  string `json:"winner"`
	Reason  string `json:"reason"`
	// Votes are those that are still recorded, sorted by node. Missing are the
	// nodes of the electorate from whom an open election has none.
	Votes   []Vote   `json:"votes"`
	Missing []string `json:"missing"`
	// Handover is set where nobody votes, because the primary has named its
	// successor in a switchover.
	Handover *Handover `json:"handover"`
}

// Handover is where the WAL of a primary ends that has handed over.
type Handover struct {
	From     string      `json:"from"`
	Timeline pg.Timeline `json:"timeline"`
	LSN      pg.LSN      `json:"lsn"`
}

// Vote is what one fenced node holds.
type Vote struct {
	Node        string      `json:"node"`
	Timeline    pg.Timeline `json:"timeline"`
	LSN         pg.LSN      `json:"lsn"`
	HasPosition bool        `json:"has_position"`
	Priority    int         `json:"priority"`
	MayWin      bool        `json:"may_win"`
}

// Switchover is a running or past one.
type Switchover struct {
	ID    string `json:"id"`
	Phase string `json:"phase"` // scheduled, preparing, stopping, committed, done, failed
	Open  bool   `json:"open"`  // asked for or under way
	From  string `json:"from"`
	// To is the node that was asked for, "" for the best; Target is the one that
	// the primary has chosen, "" until it has taken the switchover up.
	To     string `json:"to"`
	Target string `json:"target"`
	By     string `json:"by"` // who asked for it
	At     string `json:"at"` // when, RFC 3339
	// Term is the one in which the primary has taken it up, Next that of the
	// target, from the point on where there is no way back; 0 before.
	Term uint64 `json:"term"`
	Next uint64 `json:"next_term"`
	// Reason is what is waited for, or why it failed.
	Reason string `json:"reason"`
}

// Maintenance is on, or being left.
type Maintenance struct {
	Mode    string `json:"mode"`    // enable, disable
	Leaving bool   `json:"leaving"` // it ends when Primary has confirmed
	Since   string `json:"since"`   // RFC 3339
	Primary string `json:"primary"` // who was the recorded primary when it began
	// Waiting are the nodes that are there and do not say that they keep to it.
	Waiting []string `json:"waiting"`
}

// Quorum membership of a node.
const (
	InQuorumPrimary = "primary" // the recorded primary
	InQuorumMember  = "member"
	// FormerLife: another incarnation of this node is recorded; this one does
	// not count.
	FormerLife = "former life"
	NotCounted = ""
)

// Node is one node, as it and the leader say.
type Node struct {
	Name string `json:"name"`
	// Present says that the node keeps a record of itself now. Without, all
	// that follows is what others know.
	Present bool   `json:"present"`
	Leader  bool   `json:"leader"` // it holds the lock `leader`
	Role    string `json:"role"`   // primary, replica, uninitialized, unknown
	State   string `json:"state"`  // running, streaming, stopped, ..., absent
	Alive   bool   `json:"alive"`  // it holds the lock alive/<node>: its PostgreSQL is alive

	// Timeline is that of the WAL held, 0 if not known. Flushed is the last
	// durable byte of a primary, Received and Replayed are those of a replica;
	// "0/0" if not known.
	Timeline pg.Timeline `json:"timeline"`
	Flushed  pg.LSN      `json:"flushed_lsn"`
	Received pg.LSN      `json:"received_lsn"`
	Replayed pg.LSN      `json:"replayed_lsn"`
	// Lag is the WAL in bytes that the leader had and the node had not; null if
	// that is not known, or for the leader itself.
	Lag *uint64 `json:"lag_bytes"`
	// Sync is sync_state of pg_stat_replication on the leader: quorum, async,
	// ..., "" if not known.
	Sync string `json:"sync_state"`
	// Quorum is its membership: primary, member, "former life" or "".
	Quorum      string `json:"quorum"`
	Incarnation string `json:"incarnation"`
	// Pledge is the highest election to which it has bound itself.
	Pledge uint64 `json:"pledge"`
	// Why says what it does or waits for.
	Why string `json:"why"`
	// Maintenance: it says that it keeps to maintenance.
	Maintenance bool `json:"maintenance"`

	ConnURL       string   `json:"conn_url"`
	APIURL        string   `json:"api_url"`
	Upstream      string   `json:"upstream"`
	Priority      int      `json:"failover_priority"`
	NoFailover    bool     `json:"nofailover"`
	Pending       []string `json:"pending_restart"`
	ServerVersion int      `json:"server_version"`
	Version       string   `json:"version"`
}

// Node returns the node of that name.
func (v View) Node(name string) (Node, bool) {
	for _, n := range v.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}
