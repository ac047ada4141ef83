package pgtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/pghad/pghad/pg"
)

// Outcome is what a client knows of a commit.
type Outcome string

const (
	Waiting Outcome = "waiting" // the client has no answer yet
	Acked   Outcome = "acked"
	// Cancelled: the client was told success, with a warning that the commit may
	// not be replicated. It counts as unknown (P1).
	Cancelled Outcome = "cancelled"
	Unknown   Outcome = "unknown" // the connection was lost
)

// Commit is one transaction that a client has asked to commit: a row of the
// ledger.
type Commit struct {
	ID       string
	Client   string
	Node     string
	Timeline pg.Timeline
	Record   RecordID
	End      pg.LSN
	Level    Level
	Outcome  Outcome
	Asked    uint64   // step
	Answered uint64   // step, 0 while it waits
	Released []string // names of the walsenders whose reply released it
}

// ErrRefused says that a session was not admitted, or that the server does not
// take the statement.
var ErrRefused = errors.New("refused")

// Session is a client's connection to one server. It never moves to another.
type Session struct {
	p      *process
	label  string
	client string
	frozen bool
	level  Level

	rows     []string // inserted, not committed
	record   *Record  // of the commit under way
	commit   *Commit
	released bool // woken: the answer can be given
	lost     bool // for the client: its connection is gone
	told     signal
}

// signal is what a frozen backend has been told and will do when it goes on.
type signal int

const (
	toldNothing signal = iota
	toldToCancel
	toldToEnd
)

// Connect opens a session of a client. Where packets do not pass, or the
// postmaster is frozen, a real client would hang; here it is refused.
func (c *Cluster) Connect(client, node string) (*Session, error) {
	var session *Session
	err := c.do(client+" connects to "+node, func() error {
		s := c.server(node)
		switch {
		case s == nil:
			return fmt.Errorf("connect to %s: there is no such node", node)
		case !c.reachable(client, node):
			return fmt.Errorf("connect to %s: %w: it cannot be reached", node, ErrRefused)
		case s.proc == nil || !s.proc.admits():
			return fmt.Errorf("connect to %s: %w: it does not admit sessions", node, ErrRefused)
		case !s.proc.postmaster.read.GateOpen:
			return fmt.Errorf("connect to %s: %w: its gate is closed", node, ErrRefused)
		}
		c.clients++
		session = &Session{p: s.proc, label: "session " + strconv.Itoa(c.clients), client: client, level: c.cfg.Level}
		s.proc.sessions = append(s.proc.sessions, session)
		return nil
	})
	return session, err
}

// SetLevel sets synchronous_commit of the session (P5).
func (s *Session) SetLevel(l Level) {
	c := s.p.s.c
	_ = c.do(s.label+" sets synchronous_commit", func() error { s.level = l; return nil })
}

// Begin starts a transaction; what was inserted and not committed is forgotten.
func (s *Session) Begin() error {
	return s.p.s.c.do(s.label+" begins", func() error { s.rows = nil; return s.usable() })
}

// Insert adds a row with an id that no other commit has.
func (s *Session) Insert(id string) error {
	return s.p.s.c.do(s.label+" inserts "+id, func() error {
		if err := s.usable(); err != nil {
			return err
		}
		if !s.p.writable() {
			return fmt.Errorf("insert on %s: %w: it is in recovery or stopping", s.p.s.Name, ErrRefused)
		}
		s.rows = append(s.rows, id)
		return nil
	})
}

// Commit asks for the commit of what was inserted and returns its row of the
// ledger, whose outcome comes by events.
func (s *Session) Commit() (Commit, error) {
	var row Commit
	err := s.p.s.c.do(s.label+" commits", func() error {
		if err := s.usable(); err != nil {
			return err
		}
		if len(s.rows) == 0 || !s.p.writable() {
			return fmt.Errorf("commit on %s: %w: nothing was inserted", s.p.s.Name, ErrRefused)
		}
		c := s.p.s.c
		s.record, s.released = s.p.insert(KindCommit, s.rows), false
		s.p.hidden = append(s.p.hidden, s.record)
		s.commit = &Commit{
			ID: s.rows[0], Client: s.client, Node: s.p.s.Name, Timeline: s.record.Timeline, Record: s.record.ID, End: s.record.End,
			Level: s.level, Outcome: Waiting, Asked: c.steps + 1,
		}
		s.rows = nil
		c.ledger = append(c.ledger, s.commit)
		row = *s.commit
		return nil
	})
	return row, err
}

func (s *Session) usable() error {
	switch {
	case s.lost:
		return fmt.Errorf("%s on %s: %w: the connection is lost", s.label, s.p.s.Name, ErrRefused)
	case s.commit != nil:
		return fmt.Errorf("%s on %s: %w: a commit is under way", s.label, s.p.s.Name, ErrRefused)
	}
	return nil
}

// Lost reports whether the connection is lost.
func (s *Session) Lost() bool { return look(s.p.s.c, func() bool { return s.lost }) }

// Busy reports whether a commit is under way.
func (s *Session) Busy() bool { return look(s.p.s.c, func() bool { return s.commit != nil }) }

// Name is the session's in events: its process.
func (s *Session) Name() string { return s.label }

// Cancel asks the server to cancel what the session waits for. A commit that
// waits for standbys is then told success, with a warning (P1).
func (s *Session) Cancel() {
	_ = s.p.s.c.do(s.label+" is cancelled", func() error { s.tell(toldToCancel); return nil })
}

// Terminate is pg_terminate_backend: a commit under way stays what it is on the
// server (P2).
func (s *Session) Terminate() {
	_ = s.p.s.c.do(s.label+" is terminated", func() error { s.tell(toldToEnd); return nil })
}

// Close is the end of the client's connection. The backend of a commit under way
// does not notice: it goes on waiting, and nobody sees the row before.
func (s *Session) Close() {
	_ = s.p.s.c.do(s.label+" ends", func() error {
		if s.lost {
			return nil
		}
		s.lost, s.rows = true, nil
		if s.commit == nil {
			s.p.removeSession(s)
			return nil
		}
		s.answer(Unknown)
		return nil
	})
}

// GiveUp is what a driver does whose caller has lost patience, pgx for one: it
// asks for a cancel and closes the connection. The commit is visible then, on no
// standby, and its client knows nothing (P1).
func (s *Session) GiveUp() {
	s.Close()
	s.Cancel()
}

// tell sends a signal to the backend.
func (s *Session) tell(what signal) {
	s.told = max(s.told, what)
	if !s.frozen {
		s.obey()
	}
}

// obey handles a signal.
func (s *Session) obey() {
	what := s.told
	s.told = toldNothing
	switch {
	case !slices.Contains(s.p.sessions, s):
	case what == toldToEnd:
		s.lose()
		s.p.removeSession(s)
	case what == toldToCancel && s.waits() && !s.released && !s.p.s.c.without(RuleCancelSaysSuccess):
		s.finish(Cancelled)
	}
}

// waits reports whether the commit is durable here and waits for standbys.
func (s *Session) waits() bool {
	return s.commit != nil && s.record.End <= s.p.flushed() && s.p.sync.waitsFor(s)
}

// waitsFor reports whether a commit of the session waits.
func (s *syncRep) waitsFor(session *Session) bool {
	p := session.p
	local := session.level == LevelLocal && !p.s.c.without(RuleLevelOfSession)
	defined := s.defined
	if p.s.c.without(RuleCheckpointerAdopts) {
		defined = !p.postmaster.read.Sync.Empty()
	}
	return !local && defined && session.record.End > s.releasedFor(session)
}

func (s *Session) events(a *agenda) {
	if s.frozen {
		return
	}
	a.may(!s.p.postmaster.alive && !s.released, s.label, "exit", func() {
		s.lose()
		s.p.removeSession(s)
	})
	a.may(s.told != toldNothing, s.label, "signal", s.obey)
	flushed := s.commit != nil && (s.record.End <= s.p.flushed() || s.p.s.c.without(RuleFlushBeforeAnswer))
	done := flushed && (s.released || !s.p.sync.waitsFor(s))
	if s.lost { // nobody is told
		a.may(done, s.label, "finish", func() { s.finish(Acked) })
		return
	}
	a.may(done, s.label, "acknowledge", func() { s.finish(Acked) })
}

// finish gives the answer. From now on others see what was committed.
func (s *Session) finish(o Outcome) {
	s.answer(o)
	s.show()
	if s.lost {
		s.p.removeSession(s)
	}
}

// answer tells the client, unless that has gone.
func (s *Session) answer(o Outcome) {
	if s.commit.Outcome == Waiting {
		s.commit.Outcome, s.commit.Answered = o, s.p.s.c.steps+1
	}
}

func (s *Session) show() {
	s.p.hidden = slices.DeleteFunc(slices.Clone(s.p.hidden), func(r *Record) bool { return r == s.record })
	s.commit, s.record, s.released = nil, nil, false
}

// lose is the end of the backend: no answer, but what is durable is committed.
func (s *Session) lose() {
	s.lost, s.rows = true, nil
	switch {
	case s.commit == nil:
	case s.p.s.c.without(RuleTerminatedIsCommitted):
		s.answer(Unknown)
		s.commit, s.record, s.released = nil, nil, false
	default:
		s.answer(Unknown)
		s.show()
	}
}
