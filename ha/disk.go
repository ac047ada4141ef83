package ha

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// LocalState is what a node must not forget. It is kept outside the data
// directory, so that no rewind or copy touches it, and is durable before the
// node acts on it.
type LocalState struct {
	Format   int    `json:"format"`
	SystemID string `json:"system_id,omitempty"` // the cluster that the node belongs to

	// Incarnation names this life of the data. A node without a state file, or
	// freshly cloned, begins a new one.
	Incarnation string `json:"incarnation,omitempty"`

	// Pledge is the highest election to which the node has bound itself: it
	// streams from no primary of an older term.
	Pledge      uint64 `json:"pledge"`
	PledgeNonce string `json:"pledge_nonce,omitempty"`
	// PledgeOwn: the node has made up the number for a transaction of its own, and
	// nobody knows of it until that has landed. It could land only until the store
	// shows an election above PledgeAfter, which the node is bound to in any case.
	PledgeOwn   bool   `json:"pledge_own,omitempty"`
	PledgeAfter uint64 `json:"pledge_after,omitempty"`

	// SeenTerm and SeenQuorum are the highest that the node has read. A store
	// that shows less, or the same number with another nonce, is not obeyed.
	SeenTerm        uint64 `json:"seen_term,omitempty"`
	SeenTermNonce   string `json:"seen_term_nonce,omitempty"`
	SeenQuorum      uint64 `json:"seen_quorum,omitempty"`
	SeenQuorumNonce string `json:"seen_quorum_nonce,omitempty"`

	// Published is the highest position that the node has voted with. Data that
	// is found behind it has been rolled back: a new life.
	Published pg.Position `json:"published"`

	// Copying is set while a rewind or clone may have changed the data: its end
	// is not known yet. Floor is the position below which the node does not
	// count, zero once it is passed. FloorTerm is the term of the primary that
	// was copied: what the copy holds beyond the floor was streamed in it.
	Copying   bool        `json:"copying,omitempty"`
	Floor     pg.Position `json:"floor"`
	FloorTerm uint64      `json:"floor_term,omitempty"`

	// Office is the holding of `leader` under which this node's server serves, or
	// served last. By it an agent that was restarted knows its own.
	Office OfficeMark `json:"office,omitzero"`

	// Promising is the longest promise not to fence that this node may have given,
	// zero if there can be none: a restart waits it out. Nanoseconds.
	Promising time.Duration `json:"promising,omitempty"`

	// Maintenance is what the store said last.
	Maintenance bool `json:"maintenance,omitempty"`

	// Creating is set from before initdb until the cluster's records exist: the
	// data holds nothing that anybody has been told about.
	Creating bool `json:"creating,omitempty"`
}

// OfficeMark names one holding of `leader`: no other one has the same token and
// nonce.
type OfficeMark struct {
	Term  uint64       `json:"term"`
	Nonce string       `json:"nonce"`
	Token dcs.Revision `json:"token"`
}

// Member is the life that the state describes, of node name.
func (s LocalState) Member(name string) quorum.Member {
	return quorum.Member{Node: name, Incarnation: s.Incarnation}
}

// bind raises the pledge to an election that the store shows.
func (s *LocalState) bind(id uint64, nonce string) {
	s.Pledge, s.PledgeNonce, s.PledgeOwn, s.PledgeAfter = id, nonce, false, 0
}

// bindOwn raises the pledge to a number for a transaction of this node's own,
// which is guarded by the election after.
func (s *LocalState) bindOwn(id uint64, nonce string, after uint64) {
	if !s.PledgeOwn {
		after = max(after, s.Pledge)
	}
	s.Pledge, s.PledgeNonce, s.PledgeOwn, s.PledgeAfter = id, nonce, true, max(after, s.PledgeAfter)
}

// bars reports whether the pledge keeps the node from an election that the store
// shows. A number of its own does not when there is a newer election than the one
// that it was made up after: its transaction is guarded by that one, and can no
// longer land.
func (s LocalState) bars(id uint64, nonce string) bool {
	if s.Pledge == id && s.PledgeNonce == nonce {
		return false
	}
	if s.PledgeOwn {
		return id <= s.PledgeAfter
	}
	return id <= s.Pledge
}

// BelowFloor reports whether the node does not count yet.
func (s LocalState) BelowFloor() bool { return s.Copying || s.Floor != (pg.Position{}) }

// Disk keeps a LocalState. Save returns when the state is durable; a crash in
// the middle leaves the old one.
type Disk interface {
	Load() (LocalState, error) // the zero state if none was ever saved
	Save(state LocalState) error
}

// Memory is a LocalState with its Disk. It is not safe for use by several
// goroutines at once.
type Memory struct {
	disk   Disk
	state  LocalState
	unsure bool // a write has failed: the disk may hold another state
}

// OpenMemory loads the state.
func OpenMemory(disk Disk) (*Memory, error) {
	state, err := disk.Load()
	if err != nil {
		return nil, fmt.Errorf("local state: %w", err)
	}
	return &Memory{disk: disk, state: state}, nil
}

// State returns a copy.
func (m *Memory) State() LocalState { return m.state }

// Update changes the state and makes it durable. On an error the state in
// memory is the old one: the caller must not act on the new one.
func (m *Memory) Update(change func(*LocalState)) error {
	next := m.state
	change(&next)
	if next == m.state && !m.unsure {
		return nil
	}
	lowered := next.Pledge < m.state.Pledge && (!m.state.PledgeOwn || next.Pledge <= m.state.PledgeAfter)
	if lowered || next.SeenTerm < m.state.SeenTerm {
		return fmt.Errorf("local state: a pledge or a term seen cannot be lowered: %d to %d, %d to %d",
			m.state.Pledge, next.Pledge, m.state.SeenTerm, next.SeenTerm)
	}
	if err := m.disk.Save(next); err != nil {
		m.unsure = true
		return fmt.Errorf("local state: %w", err)
	}
	m.state, m.unsure = next, false
	return nil
}

// stateFormat is the format that this code writes and the newest that it reads.
const stateFormat = 1

// FileDisk keeps the state in dir/state.json. The directory is created.
func FileDisk(dir string) (Disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server's user must be able to pass through
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return fileDisk{dir: dir}, nil
}

type fileDisk struct{ dir string }

func (d fileDisk) path() string { return filepath.Join(d.dir, "state.json") }

func (d fileDisk) Load() (LocalState, error) {
	data, err := os.ReadFile(d.path())
	if errors.Is(err, os.ErrNotExist) {
		return LocalState{}, nil
	}
	if err != nil {
		return LocalState{}, err //nolint:wrapcheck // names the file already
	}
	var state LocalState
	if err := json.Unmarshal(data, &state); err != nil {
		return LocalState{}, fmt.Errorf("%s: %w; it holds this node's pledge: restore it, or remove it to begin a new life of the node", d.path(), err)
	}
	if state.Format > stateFormat {
		return LocalState{}, fmt.Errorf("%s has format %d, this version reads up to %d: upgrade this node", d.path(), state.Format, stateFormat)
	}
	return state, nil
}

func (d fileDisk) Save(state LocalState) error {
	state.Format = stateFormat
	data, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err //nolint:wrapcheck // a plain struct
	}
	return replaceFile(d.dir, d.path(), data)
}

// replaceFile writes a file so that after a crash it is the old one or the new
// one, and durable when the call returns.
func replaceFile(dir, path string, data []byte) error {
	file, err := os.CreateTemp(dir, ".state-*")
	if err != nil {
		return err //nolint:wrapcheck // names the file already
	}
	defer os.Remove(file.Name()) //nolint:errcheck // gone already if all went well
	if _, err = file.Write(append(data, '\n')); err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return err //nolint:wrapcheck // names the file already
	}
	folder, err := os.Open(dir) //nolint:gosec // the caller's own directory
	if err != nil {
		return err //nolint:wrapcheck // names the file already
	}
	err = folder.Sync()
	if closeErr := folder.Close(); err == nil {
		err = closeErr
	}
	return err //nolint:wrapcheck // names the file already
}
