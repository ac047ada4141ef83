package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// Format is the format number that this code writes and the newest that it reads.
const Format = 1

// ErrNewer says that a record was written by a newer version of the software.
var ErrNewer = errors.New("record of a newer format")

// Quorum is the value of `quorum`. It is changed by taking office and by the
// steps of the QuorumTracker, by nothing else. Versions carry a nonce: equal
// numbers with other nonces are not equal.
type Quorum struct {
	Format  int    `json:"format"`
	Version uint64 `json:"version"`
	Nonce   string `json:"nonce"`
	quorum.Config
}

// Next is the next version of the record, with config.
func (q Quorum) Next(nonce string, config quorum.Config) Quorum {
	return Quorum{Format: Format, Version: q.Version + 1, Nonce: nonce, Config: config}
}

// Phase is how far an election has come.
type Phase string

const (
	PhaseFencing Phase = "fencing" // open: nodes fence and vote
	PhaseWon     Phase = "won"     // a winner is named and has not yet taken office
	PhaseTaken   Phase = "taken"   // the winner has created `leader`: the election has ended
)

// FailoverState is the value of `failover_state`: the running or last election.
type FailoverState struct {
	Format         int             `json:"format"`
	ID             uint64          `json:"id"` // the term of who wins
	Nonce          string          `json:"nonce"`
	Phase          Phase           `json:"phase"`
	Manager        string          `json:"manager,omitempty"` // who opened it
	Electorate     []quorum.Member `json:"electorate,omitempty"`
	QuorumRevision uint64          `json:"quorum_revision,omitempty"` // the frozen one
	Deadline       Duration        `json:"deadline,omitempty"`        // counted by each node from when it first saw the id
	Winner         quorum.Member   `json:"winner,omitzero"`
	Reason         string          `json:"reason,omitempty"` // for people
	// Handover is set where no votes were cast: the primary of the term before
	// has named its successor, see package switchover.
	Handover *Handover `json:"handover,omitempty"`
	// Loss is set where the winner may lack acknowledged commits, in mode async.
	Loss *Loss `json:"loss,omitempty"`
}

// Loss is what is known of the commits that an election in mode async may have
// lost. What the primary acknowledged after it had last published is not known.
type Loss struct {
	Of        quorum.Member `json:"of"`        // the primary before
	Published pg.Position   `json:"published"` // by it, last
	Bytes     uint64        `json:"bytes"`     // of WAL up to there that the winner does not hold
}

// Handover says where the WAL of a primary ends that has handed over its term.
type Handover struct {
	From     quorum.Member `json:"from"`
	Position pg.Position   `json:"position"` // the end of its shutdown checkpoint
}

// Open reports whether the election has not ended yet.
func (f FailoverState) Open() bool { return f.Phase == PhaseFencing || f.Phase == PhaseWon }

// Vote is one atomic vote: what a fenced node holds.
type Vote struct {
	Format      int           `json:"format"`
	ID          uint64        `json:"id"`
	Nonce       string        `json:"nonce"` // of the election
	Member      quorum.Member `json:"member"`
	Position    pg.Position   `json:"position"`
	HasPosition bool          `json:"has_position"` // false: its fence counts, it cannot win
	Priority    int           `json:"priority"`
	MayWin      bool          `json:"may_win"`
}

// Promoting is the value of `current_promoting_host`: this host finishes this
// term, any other lets go.
type Promoting struct {
	Host string `json:"host"`
	Term uint64 `json:"term"`
}

// Member is the value of `members/<host>`: what a node says of itself.
// conn_url, api_url, role, state, xlog_location and timeline are as in Patroni.
type Member struct {
	ConnURL     string       `json:"conn_url"`
	APIURL      string       `json:"api_url,omitempty"`
	Role        string       `json:"role"`  // primary, replica, uninitialized
	State       string       `json:"state"` // running, streaming, stopped, crashed, starting, ...
	XlogLSN     uint64       `json:"xlog_location,omitempty"`
	Timeline    pg.Timeline  `json:"timeline,omitempty"`
	Format      int          `json:"format"`
	Version     string       `json:"version"` // of pghad
	Server      int          `json:"server_version,omitempty"`
	Received    pg.LSN       `json:"received_lsn,omitempty"`
	Replayed    pg.LSN       `json:"replayed_lsn,omitempty"`
	Pledge      uint64       `json:"pledge"`
	Incarnation string       `json:"incarnation,omitempty"`
	Why         string       `json:"why,omitempty"` // what the node does or waits for
	Floor       *pg.Position `json:"floor,omitempty"`
	Priority    int          `json:"priority,omitempty"`
	NoFailover  bool         `json:"nofailover,omitempty"`
	Pending     []string     `json:"pending_restart,omitempty"`
	Rejoin      string       `json:"rejoin,omitempty"` // nonce of a question: is my copy needed?
	Upstream    string       `json:"upstream,omitempty"`
	Maintenance bool         `json:"maintenance,omitempty"` // the node has seen it and keeps to it
	Config      *ConfigState `json:"config,omitempty"`
	Sampled     time.Time    `json:"sampled"`
}

// Status is the value of `status`: the leader's opinion of the cluster.
type Status struct {
	Format  int                   `json:"format"`
	Term    uint64                `json:"term"`
	Leader  string                `json:"leader"`
	Flushed pg.LSN                `json:"flushed_lsn"`
	Gate    string                `json:"gate"` // open, or why clients are not admitted
	Tracker string                `json:"tracker"`
	Nodes   map[string]NodeStatus `json:"nodes"`
	// Spared answers the members that asked whether their copy is needed: host
	// to the nonce of the question. It is given when k other members have
	// flushed a position that was read after the question had been seen.
	Spared map[string]string `json:"spared,omitempty"`
}

// NodeStatus is the leader's opinion of one node.
type NodeStatus struct {
	Health string `json:"health"` // alive, unknown
	Stream string `json:"stream"` // state of its walsender, or "none"
	Lag    uint64 `json:"lag_bytes"`
	Sync   string `json:"sync_state,omitempty"`
}

// ReplicsInfo is the value of `replics_info`: pg_stat_replication of the
// primary. A hint, never proof.
type ReplicsInfo struct {
	Format  int            `json:"format"`
	Sampled time.Time      `json:"sampled"`
	Senders []pg.Walsender `json:"senders"`
}

// Encode returns the JSON of a value.
func Encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("record: %T cannot be encoded: %v", v, err)) // our own types only
	}
	return data
}

// Decode reads the JSON of key's value into T. An empty value is the zero T.
func Decode[T any](key string, data []byte) (T, error) {
	var value T
	if len(data) == 0 {
		return value, nil
	}
	var head struct {
		Format int `json:"format"`
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		if err := json.Unmarshal(data, &head); err != nil {
			return value, fmt.Errorf("record %s: %w", key, err)
		}
		if head.Format > Format {
			return value, fmt.Errorf("record %s: %w: format %d, this version reads up to %d; upgrade this node",
				key, ErrNewer, head.Format, Format)
		}
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return value, fmt.Errorf("record %s: %w", key, err)
	}
	return value, nil
}

// Duration is a time.Duration that JSON shows with its unit: "10s".
type Duration time.Duration

// MarshalText writes the duration with its unit.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a duration with its unit.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err //nolint:wrapcheck // the caller names the record
}
