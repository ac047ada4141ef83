package pgctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// statusStatement is the name under which the kept session has statusQuery
// prepared.
const statusStatement = "status"

// statusQuery reads everything that Status says, in one row of JSON. It works
// on versions 13 to 18, on primaries and standbys; the verb is overriddenQuery.
const statusQuery = `
SELECT json_build_object(
 'version', current_setting('server_version_num')::int,
 'system', (SELECT system_identifier::text FROM pg_control_system()),
 'recovery', r.recovery,
 'flushed', CASE WHEN r.recovery THEN NULL ELSE pg_current_wal_flush_lsn() END,
 'file', CASE WHEN r.recovery THEN NULL ELSE pg_walfile_name(pg_current_wal_flush_lsn()) END,
 'received', CASE WHEN r.recovery THEN pg_last_wal_receive_lsn() END,
 'replayed', CASE WHEN r.recovery THEN pg_last_wal_replay_lsn() END,
 'paused', CASE WHEN r.recovery THEN pg_is_wal_replay_paused() ELSE false END,
 'segment', pg_size_bytes(current_setting('wal_segment_size')),
 'page', current_setting('wal_block_size')::int,
 'conninfo', current_setting('primary_conninfo'),
 'sync', current_setting('synchronous_standby_names'),
 'revision', current_setting('` + revisionParameter + `', true),
 'started', to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
 'startup', (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'),
 'receiver', (SELECT json_build_object('state', status, 'host', sender_host, 'port', sender_port, 'slot', slot_name, 'timeline', received_tli)
   FROM pg_stat_wal_receiver),
 'senders', ` + sendersQuery + `,
 'slots', (SELECT json_agg(slot_name ORDER BY slot_name) FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary),
 'settings', (SELECT json_build_object('pending', json_agg(name ORDER BY name) FILTER (WHERE pending_restart),
   'overridden', %s) FROM pg_settings)
)::text FROM (SELECT pg_is_in_recovery() AS recovery) r`

// statusRow is the answer to statusQuery.
type statusRow struct {
	Version  int          `json:"version"`
	System   string       `json:"system"`
	Recovery bool         `json:"recovery"`
	Flushed  pg.LSN       `json:"flushed"`
	File     string       `json:"file"`
	Received *pg.LSN      `json:"received"`
	Replayed pg.LSN       `json:"replayed"`
	Paused   bool         `json:"paused"`
	Segment  uint64       `json:"segment"`
	Page     uint64       `json:"page"`
	Conninfo string       `json:"conninfo"`
	Sync     string       `json:"sync"`
	Revision string       `json:"revision"`
	Started  time.Time    `json:"started"`
	Startup  string       `json:"startup"`
	Receiver *receiverRow `json:"receiver"`
	Senders  senderRows   `json:"senders"`
	Slots    []string     `json:"slots"`
	Settings settingsRow  `json:"settings"`
}

// settingsRow is what statusQuery says of the server's settings.
type settingsRow struct {
	Pending    []string `json:"pending"`
	Overridden []string `json:"overridden"`
}

// receiverRow is pg.Receiver as statusQuery names its fields.
type receiverRow struct {
	State    string      `json:"state"`
	Host     string      `json:"host"`
	Port     int         `json:"port"`
	Slot     string      `json:"slot"`
	Timeline pg.Timeline `json:"timeline"`
}

// sendersQuery reads the walsenders as one value of JSON, a senderRows. Those of
// controllers that only ask something are left out.
const sendersQuery = `(SELECT json_agg(json_build_object('pid', pid, 'name', application_name, 'state', state, 'flush', flush_lsn,
 'replay', replay_lsn, 'sync', sync_state, 'priority', sync_priority))
 FROM pg_stat_replication WHERE NOT (application_name = 'pghad' AND state = 'startup'))`

// senderRow is pg.Walsender as sendersQuery names its fields.
type senderRow struct {
	PID      int    `json:"pid"`
	Name     string `json:"name"`
	State    string `json:"state"`
	Flush    pg.LSN `json:"flush"`
	Replay   pg.LSN `json:"replay"`
	Sync     string `json:"sync"`
	Priority int    `json:"priority"`
}

type senderRows []senderRow

// sorted returns the walsenders by name, then process id.
func (rows senderRows) sorted() []pg.Walsender {
	var senders []pg.Walsender
	for _, row := range rows {
		senders = append(senders, pg.Walsender(row))
	}
	slices.SortFunc(senders, func(a, b pg.Walsender) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.PID, b.PID))
	})
	return senders
}

// Status implements ha.Observer.
func (c *Controller) Status(ctx context.Context) (pg.Status, error) {
	server := c.adopt()
	status := c.processStatus()
	if server == nil {
		return c.absentStatus(ctx, status)
	}
	row, err := c.askStatus(ctx)
	if err != nil && ctx.Err() == nil && c.running() == server && c.mayAskAgain(err) {
		row, err = c.askStatus(ctx)
	}
	if err != nil {
		if c.running() != server {
			return c.absentStatus(ctx, c.processStatus()) // it has ended meanwhile
		}
		c.silent(&status, server)
		status.Err = err.Error()
		if sqlState(err) == stateCannotConnectNow && status.Process == pg.ProcessRunning {
			status.Process = pg.ProcessStarting
		}
		status.Recovering = recoveringFile(c.cfg.DataDir)
		return status, nil
	}
	status.AnsweredAt = c.clock.Now()
	c.answered()
	status.Health = pg.HealthAlive
	if status.Process == pg.ProcessStarting {
		status.Process = pg.ProcessRunning
	}
	return status, c.fill(&status, row)
}

// silent notes that a server has not answered, and since when.
func (c *Controller) silent(status *pg.Status, server *postmaster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silence.server != server || c.silence.since.IsZero() {
		c.silence = silence{server, status.SampledAt}
	}
	status.Health, status.UnknownSince = pg.HealthUnknown, c.silence.since
}

// answered ends a silence.
func (c *Controller) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silence = silence{}
}

// silence is when a server was asked first that has not answered since.
type silence struct {
	server *postmaster // nil with since set: what is left of one without a postmaster
	since  time.Time
}

// mayAskAgain: a kept session may have ended with an earlier server or by an
// administrator, and a promotion in the middle of the query makes a function
// fail. A new session settles both. A timeout is not asked twice.
func (c *Controller) mayAskAgain(err error) bool {
	return !errors.Is(err, context.DeadlineExceeded) && sqlState(err) != stateCannotConnectNow
}

func (c *Controller) askStatus(ctx context.Context) (row statusRow, err error) {
	ctx, cancel := c.short(ctx, "status of the local PostgreSQL")
	defer cancel()
	err = c.withWatch(ctx, func(s *session) error {
		result := s.conn.ExecPrepared(ctx, statusStatement, nil, nil, nil).Read()
		if result.Err != nil {
			return because(ctx, result.Err)
		}
		if len(result.Rows) != 1 {
			return fmt.Errorf("status: %d rows instead of one", len(result.Rows))
		}
		if err := json.Unmarshal(result.Rows[0][0], &row); err != nil {
			return fmt.Errorf("status: %w", err)
		}
		return nil
	})
	return row, err
}

// processStatus is what is known without asking the server.
func (c *Controller) processStatus() pg.Status {
	file := c.pidFile()
	c.mu.Lock()
	defer c.mu.Unlock()
	status := pg.Status{
		SampledAt:  c.clock.Now(),
		Generation: c.generation,
		Process:    c.ended,
		Health:     pg.HealthDead,
	}
	if c.server == nil {
		return status
	}
	status.Postgres = c.server.pid
	status.GateOpen = c.confirmed.GateOpen
	status.Process = pg.ProcessStarting
	if file.pid == c.server.pid {
		switch file.status {
		case "ready":
			status.Process = pg.ProcessRunning
		case "stopping":
			status.Process = pg.ProcessStopping
		}
	}
	if c.server.asked {
		status.Process = pg.ProcessStopping
	}
	return status
}

// absentStatus is the status without a postmaster. Dead means that no process
// is left; the last backends of a killed postmaster are waited for, which takes
// milliseconds, so that who was woken by its end sees it dead at once.
func (c *Controller) absentStatus(ctx context.Context, status pg.Status) (pg.Status, error) {
	wait, cancel := timectx.With(ctx, c.clock, c.cfg.KillAfter, "end of PostgreSQL's processes")
	defer cancel()
	for {
		left, err := serverProcesses(c.cfg.DataDir)
		if err != nil {
			return status, err
		}
		if len(left) == 0 {
			c.answered()
			return status, nil
		}
		if c.pause(wait) != nil {
			c.silent(&status, nil)
			status.Err = fmt.Sprintf("the postmaster has ended, %d of its processes have not", len(left))
			return status, nil
		}
	}
}

func (c *Controller) fill(status *pg.Status, row statusRow) error {
	status.GateOpen = c.gateOf(row.Revision)
	c.confirm(row.Revision)
	status.Version = row.Version
	status.SystemID = row.System
	status.Replayed = row.Replayed
	status.ReplayPaused = row.Paused
	if row.Receiver != nil {
		receiver := pg.Receiver(*row.Receiver)
		status.Receiver = &receiver
	}
	status.Upstream = withoutPassword(row.Conninfo)
	status.Senders = row.Senders.sorted()
	status.Slots = row.Slots
	status.Pending = row.Settings.Pending
	status.Overridden = row.Settings.Overridden
	c.reclaim(status.Overridden)
	status.Startup = row.Startup
	status.StartedAt = row.Started
	var err error
	if status.Sync, err = pg.ParseSyncSetting(row.Sync); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if !row.Recovery {
		status.Role = pg.RolePrimary
		status.Flushed = row.Flushed
		status.Timeline, err = parseHexTimeline(row.File[:min(8, len(row.File))])
		return err
	}
	status.Role = pg.RoleStandby
	if row.Received != nil {
		status.Received, status.ReceivedValid = *row.Received, true
	}
	status.Timeline, err = timelineOf(c.dataPath("pg_wal"), walGeometry{row.Segment, row.Page}, status.Held().LSN)
	return err
}

var passwordInConninfo = regexp.MustCompile(`(?i)\b(password|sslpassword)\s*=\s*('(\\.|[^'\\])*'|(\\.|[^\s\\])*)`)

func withoutPassword(conninfo string) string {
	return strings.TrimSpace(passwordInConninfo.ReplaceAllString(conninfo, ""))
}

// WaitChange implements ha.Observer.
func (c *Controller) WaitChange(ctx context.Context, seen uint64) (uint64, error) {
	for {
		c.mu.Lock()
		generation, changed, closed := c.generation, c.changed, c.closed
		c.mu.Unlock()
		if generation != seen {
			return generation, nil
		}
		if closed {
			return generation, fmt.Errorf("wait for a start or end of PostgreSQL: %w", errClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return generation, fmt.Errorf("wait for a start or end of PostgreSQL: %w", context.Cause(ctx))
		case <-c.lifetime.Done():
			return generation, fmt.Errorf("wait for a start or end of PostgreSQL: %w", errClosed)
		}
	}
}

// OnDisk implements ha.Observer.
func (c *Controller) OnDisk(ctx context.Context) (pg.OnDisk, error) {
	_, done, err := c.begin(ctx, "look at the data directory")
	if err != nil {
		return pg.OnDisk{}, err
	}
	defer done()
	if c.adopt() == nil {
		if err := c.repair(); err != nil {
			return pg.OnDisk{}, err
		}
	}
	return c.onDisk()
}

func (c *Controller) onDisk() (pg.OnDisk, error) {
	if err := c.checkComplete(); err != nil {
		return pg.OnDisk{}, err
	}
	control, err := c.readControlFile()
	if errors.Is(err, os.ErrNotExist) {
		err = &pg.FaultError{Kind: pg.ErrCorrupt, Path: c.cfg.DataDir, Err: err, Remedy: cloneRemedy}
	}
	if err != nil {
		return pg.OnDisk{}, fmt.Errorf("look at the data directory: %w", err)
	}
	disk := pg.OnDisk{SystemID: control.systemID(), State: control.stateName(), Clean: control.clean(), Timeline: control.timeline}
	if disk.Version, err = majorOfData(c.cfg.DataDir); err != nil {
		return pg.OnDisk{}, err
	}
	disk.Standby, err = exists(c.dataPath(signalFile))
	return disk, err
}

// SelfCheck implements ha.Observer. The message is transactional, so it is a
// commit of its own that waits for the local flush and for nobody's
// acknowledgement. It takes a new session, which a stopped postmaster does not give,
// and has Config.SelfCheckTimeout. One that hangs, as on a frozen disk, leaves its
// server process behind until the disk goes on; until then the next ones fail at
// once and leave no others.
func (c *Controller) SelfCheck(ctx context.Context) error {
	if err := c.selfCheck(ctx); err != nil {
		return fmt.Errorf("self-check: %w", err)
	}
	return nil
}

func (c *Controller) selfCheck(ctx context.Context) error {
	c.mu.Lock()
	hung := c.hung
	c.mu.Unlock()
	if hung.pid != 0 && isServerProcess(hung.pid, c.cfg.DataDir) {
		return fmt.Errorf("the one that began at %s has not come back: process %d of the server hangs", hung.since.Format(time.RFC3339), hung.pid)
	}
	ctx, cancel := timectx.With(ctx, c.clock, c.cfg.SelfCheckTimeout, "write of the local PostgreSQL")
	defer cancel()
	begun := hungCheck{since: c.clock.Now()}
	session, err := c.newSession(ctx, "new session")
	if err != nil {
		return err
	}
	defer session.close()
	err = session.exec(ctx, "SELECT pg_logical_emit_message(true, 'pghad', 'self-check')")
	if err != nil && ctx.Err() != nil {
		begun.pid = int(session.conn.PID())
	}
	c.mu.Lock()
	c.hung = begun
	c.mu.Unlock()
	return err
}

// hungCheck is a self-check that was given up.
type hungCheck struct {
	pid   int // of its server process; 0: none
	since time.Time
}

// newSession opens a session for an operation; pg.ErrNotRunning without a
// server.
func (c *Controller) newSession(ctx context.Context, what string) (*session, error) {
	if c.adopt() == nil {
		return nil, fmt.Errorf("%s: %w", what, pg.ErrNotRunning)
	}
	session, err := c.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return session, nil
}
