package pgctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pghad/pghad/pg"
)

// memberSlots are the slots that EnsureSlots was asked for, and when last.
type memberSlots map[string]time.Time

func (c *Controller) slotsNote() note[memberSlots] {
	return note[memberSlots]{c.cfg.account, c.statePath("slots.json")}
}

const slotsQuery = `SELECT slot_name, slot_type, active, coalesce(restart_lsn, '0/0'),
 CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_flush_lsn() END,
 coalesce(wal_status, '') FROM pg_replication_slots`

// slotRow is a slot that there is.
type slotRow struct {
	physical, active bool
	kept             pg.LSN // zero: it holds nothing
	limit            pg.LSN // how far it may be advanced
	lost             bool   // its WAL is gone, and newer versions let nobody use it
}

// EnsureSlots implements ha.SlotKeeper. A slot whose WAL is gone
// (max_slot_wal_keep_size) is made anew when nobody uses it: its standby needs a
// copy, and then the slot.
//
// With Config.MemberSlotsTTL a slot that was asked for once, and for so long was
// not, is dropped when nobody uses it. A slot that was never asked for is somebody
// else's and stays.
func (c *Controller) EnsureSlots(ctx context.Context, slots []pg.Slot) error {
	if len(slots) == 0 {
		return nil
	}
	ctx, done, err := c.begin(ctx, "keep replication slots")
	if err != nil {
		return err
	}
	defer done()
	if err := c.ensureSlots(ctx, slots); err != nil {
		return fmt.Errorf("keep replication slots: %w", err)
	}
	return nil
}

func (c *Controller) ensureSlots(ctx context.Context, slots []pg.Slot) error {
	session, err := c.newSession(ctx, "open a session")
	if err != nil {
		return err
	}
	defer session.close()
	there, err := readSlots(ctx, session)
	if err != nil {
		return err
	}
	for _, slot := range slots {
		row, found := there[slot.Name]
		if err := c.ensureSlot(ctx, session, slot, row, found); err != nil {
			return fmt.Errorf("replication slot %s: %w", slot.Name, err)
		}
	}
	return c.dropForgotten(ctx, session, slots, there)
}

func readSlots(ctx context.Context, s *session) (map[string]slotRow, error) {
	rows, err := s.rows(ctx, slotsQuery)
	if err != nil {
		return nil, err
	}
	there := make(map[string]slotRow, len(rows))
	for _, row := range rows {
		kept, errKept := pg.ParseLSN(row[3])
		limit, errLimit := pg.ParseLSN(row[4])
		if err := errors.Join(errKept, errLimit); err != nil {
			return nil, fmt.Errorf("replication slot %s: %w", row[0], err)
		}
		there[row[0]] = slotRow{physical: row[1] == "physical", active: row[2] == "t", kept: kept, limit: limit, lost: row[5] == "lost"}
	}
	return there, nil
}

// ensureSlot creates, renews or advances one slot.
func (c *Controller) ensureSlot(ctx context.Context, s *session, slot pg.Slot, row slotRow, found bool) error {
	create := "SELECT pg_create_physical_replication_slot(" + quoteLiteral(slot.Name) + ", true)"
	switch {
	case !found:
		return c.cfg.Effects.run("create slot", func() error { return s.exec(ctx, create) })
	case !row.physical:
		return errors.New("there is a logical slot of this name: drop it, or give the member another slot")
	case row.active:
		return nil
	case row.lost:
		c.log.Warn("a replication slot has lost its WAL and is made anew", "slot", slot.Name)
		if err := c.dropSlot(ctx, s, slot.Name); err != nil {
			return err
		}
		return c.cfg.Effects.run("create slot", func() error { return s.exec(ctx, create) })
	}
	target := min(slot.Advance, row.limit)
	if row.kept == 0 || target <= row.kept {
		return nil // it holds nothing, or is far enough
	}
	err := c.cfg.Effects.run("advance slot", func() error {
		return s.exec(ctx, "SELECT pg_replication_slot_advance("+quoteLiteral(slot.Name)+", '"+target.String()+"')")
	})
	if sqlState(err) == stateObjectInUse {
		return nil // its standby has come back meanwhile
	}
	return err
}

// dropSlot drops a slot that nobody uses. One that is gone, or in use by now, is left.
func (c *Controller) dropSlot(ctx context.Context, s *session, name string) error {
	err := c.cfg.Effects.run("drop slot", func() error {
		return s.exec(ctx, "SELECT pg_drop_replication_slot("+quoteLiteral(name)+")")
	})
	if state := sqlState(err); state == stateObjectInUse || state == stateUndefinedObject {
		return nil
	}
	return err
}

const (
	stateObjectInUse     = "55006"
	stateUndefinedObject = "42704"
)

// dropForgotten notes which slots are asked for, and drops those that were, and have
// not been for MemberSlotsTTL. The note is written seldom: it need not be exact.
func (c *Controller) dropForgotten(ctx context.Context, s *session, asked []pg.Slot, there map[string]slotRow) error {
	ttl, now := c.cfg.MemberSlotsTTL, c.clock.Now()
	if ttl <= 0 {
		return nil
	}
	known, _, err := c.slotsNote().read()
	if err != nil {
		return err
	}
	if known == nil {
		known = memberSlots{}
	}
	changed := false
	for _, slot := range asked {
		if last, ok := known[slot.Name]; !ok || now.Sub(last) >= ttl/10 || now.Before(last) {
			known[slot.Name], changed = now, true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		row, found := there[name]
		if now.Sub(known[name]) < ttl || row.active {
			continue
		}
		if found && row.physical {
			c.log.Warn("the replication slot of a member that is gone is dropped", "slot", name, "after", ttl)
			if err := c.dropSlot(ctx, s, name); err != nil {
				return fmt.Errorf("replication slot %s: %w", name, err)
			}
		}
		delete(known, name)
		changed = true
	}
	if !changed {
		return nil
	}
	return c.slotsNote().write(known)
}
