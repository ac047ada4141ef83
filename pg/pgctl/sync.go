package pgctl

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pghad/pghad/pg"
)

// SetSync implements ha.SyncSetter. The value is kept across restarts of the
// server and of the controller, and across rewinds and clones.
func (c *Controller) SetSync(ctx context.Context, setting pg.SyncSetting) error {
	ctx, done, err := c.begin(ctx, "set synchronous_standby_names")
	if err != nil {
		return err
	}
	defer done()
	if err := c.setSync(ctx, setting.String()); err != nil {
		return fmt.Errorf("set synchronous_standby_names to %q: %w", setting, err)
	}
	return nil
}

func (c *Controller) setSync(ctx context.Context, value string) error {
	if c.adopt() != nil {
		return c.change(ctx, func(s *settings) { s.Sync = value })
	}
	edit := func(s *settings) { s.Sync = value }
	if err := c.repair(); err != nil {
		return err
	}
	if c.checkComplete() == nil {
		_, err := c.prepare(edit)
		return err
	}
	// Only remembered: there is no data to write it to, and each start writes it.
	s := c.current()
	edit(&s)
	return c.remember(s)
}

// SyncView implements ha.SyncSetter. It first ends a change of the settings that
// was cut off, with this controller's context or with the life of the one before
// it: what it shows stays in force until the next SetSync.
func (c *Controller) SyncView(ctx context.Context) (pg.SyncView, error) {
	ctx, cancel := c.short(ctx, "view of synchronous replication")
	defer cancel()
	view, settled, err := c.syncView(ctx)
	if err == nil && !settled {
		if err = c.settle(ctx); err == nil {
			view, _, err = c.syncView(ctx)
		}
	}
	if err != nil {
		return pg.SyncView{}, fmt.Errorf("view of synchronous replication: %w", err)
	}
	return view, nil
}

// syncView looks once, and reports whether the settings that were written last
// are in force.
func (c *Controller) syncView(ctx context.Context) (view pg.SyncView, settled bool, err error) {
	session, err := c.newSession(ctx, "open a session")
	if err != nil {
		return view, false, err
	}
	defer session.close()
	row, err := session.row(ctx, `SELECT current_setting('synchronous_standby_names'),
 CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_flush_lsn() END,
 `+sendersQuery+`, current_setting('`+revisionParameter+`', true)`)
	if err != nil {
		return view, false, err
	}
	settled = c.confirm(row[3])
	if view.Setting, err = pg.ParseSyncSetting(row[0]); err != nil {
		return view, settled, err
	}
	if view.Flush, err = pg.ParseLSN(row[1]); err != nil {
		return view, settled, err
	}
	if row[2] != "" {
		var senders senderRows
		err = json.Unmarshal([]byte(row[2]), &senders)
		view.Senders = senders.sorted()
	}
	return view, settled, err
}

// DropSenders implements ha.SyncSetter. Those are meant that run when it is
// called; standbys may connect again, to walsenders that know the new setting.
func (c *Controller) DropSenders(ctx context.Context) error {
	const senders = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'"
	return c.endSessions(ctx, "end the walsenders", senders, true)
}

// Checkpoint implements ha.SyncSetter.
func (c *Controller) Checkpoint(ctx context.Context) error {
	session, err := c.newSession(ctx, "checkpoint")
	if err != nil {
		return err
	}
	defer session.close()
	if err := session.exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// OpenGate implements ha.Gatekeeper. A line of Config.HBA that PostgreSQL does
// not understand is an error, and the gate stays closed for everybody.
func (c *Controller) OpenGate(ctx context.Context) error {
	ctx, done, err := c.begin(ctx, "open the gate")
	if err != nil {
		return err
	}
	defer done()
	if c.adopt() == nil {
		return fmt.Errorf("open the gate: %w", pg.ErrNotRunning)
	}
	if err := c.change(ctx, func(s *settings) { s.GateOpen = true }); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	session, err := c.newSession(ctx, "open the gate")
	if err != nil {
		return err
	}
	defer session.close()
	rows, err := session.rows(ctx, "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
	if err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	if len(rows) == 0 {
		return nil
	}
	wrong := make([]string, 0, len(rows))
	for _, row := range rows {
		wrong = append(wrong, "line "+row[0]+": "+row[1])
	}
	if err := c.change(ctx, func(s *settings) { s.GateOpen = false }); err != nil {
		return fmt.Errorf("close the gate again: %w", err)
	}
	return fmt.Errorf("open the gate: the rules for clients are not valid, correct HBA: %s", strings.Join(wrong, "; "))
}
