package pgtest

import (
	"fmt"
	"slices"

	"github.com/pghad/pghad/pg"
)

// refusedRow is the outcome of a commit that no server has taken.
const refusedRow Outcome = outcomeRefused

// Connect implements Clients.
func (m *modelServers) Connect(session, node string, o SessionOptions) error {
	if err := m.admits(node, true); err != nil {
		return err
	}
	s, err := m.cluster.Connect("client", node)
	if err != nil {
		return err
	}
	if o.Level != "" {
		s.SetLevel(o.Level)
	}
	m.sessions[session] = s
	return nil
}

func (m *modelServers) session(name string) (*Session, error) {
	if s := m.sessions[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("there is no session %q", name)
}

// statement is what a client has asked for and no server has begun.
type statement struct {
	session *Session
	row     string
}

// Commit implements Clients. Until the server begins with it, everything else may
// happen first.
func (m *modelServers) Commit(session, row string) error {
	s, err := m.session(session)
	if err != nil {
		return err
	}
	m.asked = append(m.asked, statement{s, row})
	m.answers[row] = Waiting
	if m.rand == nil {
		m.execute(0)
	}
	return nil
}

// execute has a server begin with a statement.
func (m *modelServers) execute(i int) {
	a := m.asked[i]
	m.asked = slices.Delete(m.asked, i, i+1)
	err := a.session.Insert(a.row)
	if err == nil {
		_, err = a.session.Commit()
	}
	switch {
	case err == nil:
		delete(m.answers, a.row)
	case a.session.Lost():
		m.answers[a.row] = Unknown
	default:
		m.answers[a.row] = refusedRow
	}
}

// Outcome implements Clients.
func (m *modelServers) Outcome(row string) Outcome {
	if answer, ok := m.answers[row]; ok {
		return answer
	}
	c, err := m.cluster.Commit(row)
	if err != nil {
		return "none"
	}
	return c.Outcome
}

// Cancel implements Clients.
func (m *modelServers) Cancel(session string) error { return m.signal(session, (*Session).Cancel) }

// Terminate implements Clients.
func (m *modelServers) Terminate(session string) error {
	return m.signal(session, (*Session).Terminate)
}

// signal has another session on the same server send a signal.
func (m *modelServers) signal(session string, what func(*Session)) error {
	s, err := m.session(session)
	if err != nil {
		return err
	}
	return m.ask(s.p.s.Name, func() error { return m.tell(session, what) })
}

// Disconnect implements Clients.
func (m *modelServers) Disconnect(session string) error { return m.tell(session, (*Session).Close) }

// GiveUp implements Clients.
func (m *modelServers) GiveUp(session string) error { return m.tell(session, (*Session).GiveUp) }

func (m *modelServers) tell(session string, what func(*Session)) error {
	s, err := m.session(session)
	if err == nil {
		what(s)
	}
	return err
}

// admits is why a new session is not let in.
func (m *modelServers) admits(node string, client bool) error {
	return look(m.cluster, func() error {
		p := m.cluster.server(node).proc
		switch {
		case p == nil:
			return ErrRefused
		case p.postmaster.alive && p.postmaster.frozen:
			return ErrNoAnswer
		case !p.admits(), client && !p.postmaster.read.GateOpen:
			return ErrRefused
		}
		return nil
	})
}

// Rows implements Witness.
func (m *modelServers) Rows(node string) ([]string, error) {
	if err := m.admits(node, false); err != nil {
		return nil, err
	}
	var rows []string
	for _, c := range m.cluster.Ledger() {
		if m.cluster.Visible(node, c) {
			rows = append(rows, c.ID)
		}
	}
	slices.Sort(rows)
	return rows, nil
}

// Admits implements Witness.
func (m *modelServers) Admits(node string) error { return m.admits(node, true) }

// Receivers implements Witness.
func (m *modelServers) Receivers(node string) (int, error) {
	if err := m.admits(node, false); err != nil {
		return 0, err
	}
	if m.cluster.Server(node).Receiving {
		return 1, nil
	}
	return 0, nil
}

// Copies implements Witness.
func (m *modelServers) Copies(node string) (int, error) {
	if err := m.admits(node, false); err != nil {
		return 0, err
	}
	return look(m.cluster, func() int { return m.cluster.server(node).proc.backups }), nil
}

// HasHistory implements Witness.
func (m *modelServers) HasHistory(node string, t pg.Timeline) (bool, error) {
	return look(m.cluster, func() bool { return m.cluster.server(node).disk.hasHistory(t) }), nil
}

// Slot implements Witness.
func (m *modelServers) Slot(node, slot string) (string, error) {
	return look(m.cluster, func() string {
		s := m.cluster.server(node).disk.slots[slot]
		switch {
		case s == nil:
			return "absent"
		case s.lost:
			return "lost"
		}
		return "held"
	}), nil
}
