package pgtest

import (
	"fmt"

	"github.com/pghad/pghad/pg"
)

// What an operator does to a server by SQL, past its controller.

// SignalPromotion is pg_promote(wait => false) of an operator: no fence, no gate,
// no reserved number.
func (c *Cluster) SignalPromotion(node string) error {
	return c.do(node+": pg_promote", func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if p.startup == nil || p.phase == phaseStarting {
			return fmt.Errorf("promote %s: %w: it is no standby", node, ErrRefused)
		}
		p.startup.signalPromotion(p)
		return nil
	})
}

// SwitchWAL is pg_switch_wal of an operator: the rest of the segment is left
// empty.
func (c *Cluster) SwitchWAL(node string) error {
	return c.write(node, "pg_switch_wal", func(p *process) { p.insert(KindSwitch, nil) })
}

// Load writes WAL of about that size, for which nobody waits.
func (c *Cluster) Load(node string, size pg.LSN) error {
	return c.write(node, "load of "+size.String(), func(p *process) {
		for written := pg.LSN(0); written < size; written += bulk {
			p.insert(KindBulk, nil)
		}
	})
}

// write has a primary make WAL, and flush it.
func (c *Cluster) write(node, what string, records func(*process)) error {
	return c.do(node+": "+what, func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if !p.writable() {
			return fmt.Errorf("write on %s: %w: it is no primary", node, ErrRefused)
		}
		records(p)
		if p.flush(); p.ended() {
			return fmt.Errorf("write on %s: %w: no WAL file can be made", node, pg.ErrNotRunning)
		}
		return nil
	})
}

// HoldReplay opens a query on a standby and has a primary write something that
// conflicts with it: replay stands still before that until ReleaseReplay, or until
// the server has no patience with queries any more.
func (c *Cluster) HoldReplay(node, primary string) error {
	return c.do(node+": a query holds up replay", func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		by, err := c.process(primary)
		if err != nil {
			return err
		}
		if p.startup == nil || !by.writable() {
			return fmt.Errorf("hold replay of %s: %w: it needs a standby and a primary", node, ErrRefused)
		}
		p.startup.conflict = by.insert(KindFiller, nil).Start
		by.flush()
		return nil
	})
}

// ReleaseReplay ends the query.
func (c *Cluster) ReleaseReplay(node string) error {
	return c.do(node+": the query that holds up replay ends", func() error {
		p, err := c.process(node)
		if err != nil {
			return err
		}
		if p.startup != nil {
			p.startup.conflict = 0
		}
		return nil
	})
}

// DropSlot is pg_drop_replication_slot of an operator.
func (c *Cluster) DropSlot(node, name string) error {
	return c.do(node+": slot "+name+" is dropped", func() error {
		s := c.server(node)
		if s == nil || s.disk.slots[name] == nil {
			return fmt.Errorf("drop slot %s of %s: there is none", name, node)
		}
		if s.disk.slots[name].used != nil {
			return fmt.Errorf("drop slot %s of %s: %w: it is in use", name, node, ErrRefused)
		}
		delete(s.disk.slots, name)
		return nil
	})
}
