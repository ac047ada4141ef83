package pgtest

import (
	"fmt"
	"slices"

	"github.com/pghad/pghad/pg"
)

// Server is what is true of a server, whether or not anybody could know it.
type Server struct {
	Node       string
	Process    pg.Process
	Role       pg.Role // unknown while no server runs, or recovery is not consistent
	Promoting  bool
	Writable   bool // sessions can commit, were they admitted
	GateOpen   bool // clients are admitted, as the postmaster has read it
	Generation uint64

	// Held is the last durable byte; half a record at the end counts.
	Held     pg.Position
	Replayed pg.LSN // of a standby
	Data     bool   // there is data that could be started

	Receiver  string // node that a receiver streams from, "" if none does
	Receiving bool   // there is a walreceiver, connecting or streaming
	Startup   string // what the startup process waits for
	Setting   pg.SyncSetting
	Commits   bool   // commits wait for standbys: the checkpointer has adopted a setting
	Refusal   string // why the last receiver could not stream, for people
}

// Server looks at one server; the zero Server if there is no such node.
func (c *Cluster) Server(node string) Server {
	return look(c, func() Server {
		s := c.server(node)
		if s == nil {
			return Server{}
		}
		return s.truth()
	})
}

func (s *server) truth() Server {
	w := &s.disk.wal
	t := Server{
		Node: s.Name, Process: s.ended, Role: pg.RoleUnknown, Generation: s.generation, Refusal: s.refusal,
		Held: pg.Position{Timeline: w.timelineAt(w.durable), LSN: w.durable}, Data: s.disk.complete() == nil,
	}
	p := s.proc
	if p == nil {
		return t
	}
	t.Process = s.status(nil).Process
	t.Writable, t.GateOpen = p.writable(), p.postmaster.read.GateOpen
	t.Setting, t.Commits, t.Replayed = p.postmaster.read.Sync, p.sync.defined, p.replayed
	t.Promoting = p.phase == phasePromoting || p.startup != nil && p.startup.promote
	switch p.phase {
	case phasePrimary:
		t.Role = pg.RolePrimary
	case phaseStandby, phasePromoting:
		t.Role = pg.RoleStandby
	case phaseStarting:
	}
	if p.startup != nil {
		t.Startup = p.startup.wait(p)
	}
	if r := p.receiver; r != nil {
		t.Receiving = true
		if r.state == receiverStreaming && r.conn.sender != nil {
			t.Receiver = r.conn.to
		}
	}
	return t
}

// Log is the durable WAL of a server, with everything that it has replayed, as
// identities of records.
func (c *Cluster) Log(node string) []RecordID {
	return look(c, func() []RecordID {
		s := c.server(node)
		if s == nil {
			return nil
		}
		n := s.disk.wal.after(s.disk.wal.durable)
		ids := make([]RecordID, n)
		for i, r := range s.disk.wal.records[:n] {
			ids[i] = r.ID
		}
		return ids
	})
}

// Contains reports whether a server holds a commit durably: the record itself,
// not another one at its LSN.
func (c *Cluster) Contains(node string, commit Commit) bool {
	return look(c, func() bool {
		s := c.server(node)
		return s != nil && s.holds(commit.Record, commit.End)
	})
}

func (s *server) holds(id RecordID, end pg.LSN) bool {
	w := &s.disk.wal
	i := w.after(end - 1)
	return end <= w.durable && i < len(w.records) && w.records[i].ID == id
}

// Visible reports whether a session on a node would see a commit now.
func (c *Cluster) Visible(node string, commit Commit) bool {
	return look(c, func() bool {
		s := c.server(node)
		if s == nil || s.proc == nil || !s.holds(commit.Record, commit.End) {
			return false
		}
		if s.proc.phase == phasePrimary {
			return c.without(RuleWaitingIsHidden) || !slices.ContainsFunc(s.proc.hidden, func(r *Record) bool { return r.ID == commit.Record })
		}
		return s.proc.phase != phaseStarting && s.proc.replayed >= commit.End
	})
}

// Ledger are all commits that clients have ever asked for, in that order.
func (c *Cluster) Ledger() []Commit { return c.LedgerFrom(0) }

// LedgerFrom is Ledger without the first rows.
func (c *Cluster) LedgerFrom(row int) []Commit {
	return look(c, func() []Commit {
		var rows []Commit
		for _, commit := range c.ledger[min(row, len(c.ledger)):] {
			rows = append(rows, *commit)
		}
		return rows
	})
}

// Commit finds a row of the ledger by its client's id.
func (c *Cluster) Commit(id string) (Commit, error) {
	for _, row := range c.Ledger() {
		if row.ID == id {
			return row, nil
		}
	}
	return Commit{}, fmt.Errorf("nobody has committed %q", id)
}

// Steps is how many events, effects and faults there have been.
func (c *Cluster) Steps() uint64 { return look(c, func() uint64 { return c.steps }) }
