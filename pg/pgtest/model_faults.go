package pgtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// process is the model's name of a process that a recipe names.
func (m *modelServers) process(name string) (string, error) {
	session, ok := strings.CutPrefix(name, "backend ")
	if !ok {
		return name, nil
	}
	if m.sessions[session] == nil {
		return "", fmt.Errorf("there is no session %q", session)
	}
	return m.sessions[session].Name(), nil
}

// find is process, of which everybody knows only the postmaster: all others have to be
// asked for.
func (m *modelServers) find(node, process string) (string, error) {
	if process != processPostmaster && !strings.HasPrefix(process, "backend ") {
		if err := m.admits(node, false); err != nil {
			return "", err
		}
	}
	return m.process(process)
}

// Freeze implements Faults.
func (m *modelServers) Freeze(node, process string) error {
	if process == actionFlush {
		m.unflushed[node] = true
		return nil
	}
	name, err := m.find(node, process)
	if err != nil {
		return err
	}
	err = m.cluster.Freeze(node, name)
	if err == nil {
		m.frozen[node+"/"+process] = true
	}
	return err
}

// Thaw implements Faults.
func (m *modelServers) Thaw(node, process string) error {
	if process == actionFlush {
		m.unflushed[node] = false
		return nil
	}
	name, err := m.process(process)
	if err != nil {
		return err
	}
	if !m.frozen[node+"/"+process] {
		return fmt.Errorf("%s of %s is not frozen", process, node)
	}
	delete(m.frozen, node+"/"+process)
	_ = m.cluster.Thaw(node, name) // it may have ended
	return nil
}

// Kill implements Faults.
func (m *modelServers) Kill(node, process string) error {
	if process == processPostmaster {
		return m.cluster.KillPostmaster(node)
	}
	return m.cluster.KillBackend(node)
}

// Cut implements Faults.
func (m *modelServers) Cut(from, to string) error {
	m.cut[from+">"+to] = true
	return nil
}

// CutAfter implements Faults.
func (m *modelServers) CutAfter(from, to string, size pg.LSN) error {
	m.limits[from+">"+to] = look(m.cluster, func() pg.LSN { return m.cluster.server(to).disk.wal.tail() + size })
	return nil
}

// Heal implements Faults.
func (m *modelServers) Heal() error {
	clear(m.cut)
	clear(m.limits)
	return nil
}

// Expire implements Faults.
func (m *modelServers) Expire(a, b string) error {
	for _, e := range m.cluster.Enabled() {
		if e.Action == actionTimeout && m.cluster.connects(e, a, b) {
			m.cluster.Fire(e)
		}
	}
	return nil
}

// connects reports whether an event is the end of a connection between two nodes.
func (c *Cluster) connects(e Event, a, b string) bool {
	return look(c, func() bool {
		s := c.server(e.Node)
		if s == nil || s.proc == nil {
			return false
		}
		other := ""
		if r := s.proc.receiver; r != nil && r.label == e.Process {
			if up := c.at(r.up); up != nil {
				other = up.Name
			}
			if r.conn != nil {
				other = r.conn.to
			}
		}
		for _, w := range s.proc.senders {
			if w.label == e.Process {
				other = w.conn.from
			}
		}
		return e.Node == a && other == b || e.Node == b && other == a
	})
}

// FillDisk implements Faults.
func (m *modelServers) FillDisk(node string) error { return m.cluster.FillDisk(node) }

// FreeDisk implements Faults.
func (m *modelServers) FreeDisk(node string) error { return m.cluster.FreeDisk(node) }

// PowerOff implements Faults.
func (m *modelServers) PowerOff(node string) error { return m.cluster.CrashNode(node) }

// LoseDisk implements Faults.
func (m *modelServers) LoseDisk(node string) error { return m.cluster.LoseDisk(node) }

// WriteHistory implements Faults.
func (m *modelServers) WriteHistory(node string, t pg.Timeline, h pg.History) error {
	return m.cluster.WriteHistory(node, t, h)
}

// RemoveHistory implements Faults.
func (m *modelServers) RemoveHistory(node string, t pg.Timeline) error {
	return m.cluster.RemoveHistory(node, t)
}

// LeaveLock implements Faults. The model has no lock files: no start of a
// controller minds one that is stale.
func (m *modelServers) LeaveLock(string) error { return nil }

// Tear implements Faults.
func (m *modelServers) Tear(row, from, to string) error {
	m.settle(func() bool { return true })
	if err := errors.Join(m.Connect(row, from, SessionOptions{}), m.Commit(row, row)); err != nil {
		return err
	}
	for len(m.asked) > 0 {
		m.execute(0)
	}
	sender, receiver := from+"/sender "+to, to+"/"+processReceiver
	for _, next := range []struct{ process, action string }{
		{from + "/" + processWAL, actionFlush}, {sender, actionShipPart}, {receiver, "receive"}, {receiver, actionFlush},
	} {
		enabled := m.cluster.Enabled()
		i := slices.IndexFunc(enabled, func(e Event) bool {
			return strings.HasPrefix(e.Node+"/"+e.Process, next.process) && e.Action == next.action
		})
		if i < 0 {
			return fmt.Errorf("tear %s: no %s of %s: %w", row, next.action, next.process, ErrRefused)
		}
		m.cluster.Fire(enabled[i])
	}
	return m.Cut(from, to)
}

// CrashPromotion implements Faults.
func (m *modelServers) CrashPromotion(node, before string) error {
	step, ok := map[string]promotionStep{"signal": promotionSignal, "history": promotionHistory, "record": promotionRecord}[before]
	if !ok {
		return fmt.Errorf("a promotion has no step %q", before)
	}
	if err := m.cluster.SignalPromotion(node); err != nil {
		return err
	}
	reached := func() bool {
		p := m.cluster.server(node).proc
		return p != nil && p.startup != nil && p.startup.step == step
	}
	if !m.Await(func() bool { return look(m.cluster, reached) }) {
		return fmt.Errorf("promotion of %s: it did not come to its step %q: %w", node, before, ErrRefused)
	}
	return m.cluster.KillBackend(node)
}

// ask is a superuser's new session, in which something is asked for.
func (m *modelServers) ask(node string, what func() error) error {
	if err := m.admits(node, false); err != nil {
		return err
	}
	return what()
}

// SignalPromotion implements Operator.
func (m *modelServers) SignalPromotion(node string) error {
	return m.ask(node, func() error { return m.cluster.SignalPromotion(node) })
}

// SwitchWAL implements Operator.
func (m *modelServers) SwitchWAL(node string) error {
	return m.ask(node, func() error { return m.cluster.SwitchWAL(node) })
}

// Load implements Operator.
func (m *modelServers) Load(node string, size pg.LSN) error {
	return m.ask(node, func() error { return m.cluster.Load(node, size) })
}

// PauseReplay implements Operator.
func (m *modelServers) PauseReplay(node string) error {
	return m.ask(node, func() error {
		err := m.cluster.PauseReplay(node)
		frozen := func() bool { u := m.cluster.server(node).proc.startup; return u != nil && u.frozen }
		if err == nil && look(m.cluster, frozen) {
			err = fmt.Errorf("%s: %w: replay is not paused before the startup process goes on", node, ErrRefused)
		}
		return err
	})
}

// ResumeReplay implements Operator.
func (m *modelServers) ResumeReplay(node string) error {
	return m.ask(node, func() error { return m.cluster.ResumeReplay(node) })
}

// HoldReplay implements Operator.
func (m *modelServers) HoldReplay(node, primary string) error {
	return m.ask(node, func() error {
		return m.ask(primary, func() error { return m.cluster.HoldReplay(node, primary) })
	})
}

// ReleaseReplay implements Operator.
func (m *modelServers) ReleaseReplay(node string) error { return m.cluster.ReleaseReplay(node) }

// DropSlot implements Operator.
func (m *modelServers) DropSlot(node, slot string) error {
	return m.ask(node, func() error { return m.cluster.DropSlot(node, slot) })
}

// LimitSlots implements Operator.
func (m *modelServers) LimitSlots(_ string, size pg.LSN) error {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	m.cluster.cfg.SlotWALKeep = size
	return nil
}

// Receive implements Operator.
func (m *modelServers) Receive(node, name string) error {
	_, err := m.cluster.AddReceiver("client", node, name)
	return err
}
