package pgctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// fenceWait is the wait event of the sleep in which the startup process has asked
// for WAL and found none. The startup process has handled, or
// will handle on waking and before it asks for a receiver, every signal sent
// before: so whoever sees it asleep after the postmaster has re-read the
// configuration knows that no receiver will be asked for again.
const fenceWait = "RecoveryRetrieveRetryInterval"

// fenceQuery is what a new session sees of a fence. pg_stat_activity, because
// pg_stat_wal_receiver hides a receiver that is connecting.
const fenceQuery = `SELECT pg_is_in_recovery(), current_setting('` + revisionParameter + `', true), current_setting('primary_conninfo'),
 current_setting('restore_command'), (SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
 (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'),
 (SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'),
 CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END`

// positionQuery is asked after fenceQuery in the same session: nothing moves any
// more if that one saw a fence.
const positionQuery = `SELECT coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0'),
 pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_block_size')`

// fenceLook is one look at a server that is being fenced.
type fenceLook struct {
	at        time.Time // by the controller's clock, before the look
	standby   bool
	deaf      bool  // the settings of the fence are in force
	receivers []int // process ids
	startup   int   // process id of the startup process
	wait      string
	slept     uint64 // how often the startup process has gone to sleep, counted before the look
	paused    bool
	counted   uint64 // how often it had gone to sleep after the look, see wake
	received  pg.LSN
	replayed  pg.LSN
	geometry  walGeometry
}

// fenced decides by this look and the one before, whose zero value is none. A
// receiver's end can leave WAL that the startup process reads only after its
// sleep, or half a record, which it never will: with more received than
// replayed it has to be seen in two different sleeps, see wake.
func (l fenceLook) fenced(before fenceLook) bool {
	if !l.asleep() {
		return false
	}
	if l.replayed >= l.received {
		return true
	}
	return before.asleep() && before.startup == l.startup && before.replayed == l.replayed && l.slept > before.counted
}

// wake wakes the startup process of a look that saw it asleep, so that it asks
// for WAL once more, and counts how often it has slept so far. It re-reads its
// configuration, which is harmless.
func (l *fenceLook) wake() error {
	var err error
	if l.counted, err = blockings(l.startup); err != nil {
		return err
	}
	if err := syscall.Kill(l.startup, syscall.SIGHUP); err != nil {
		return fmt.Errorf("wake the startup process %d: %w", l.startup, err)
	}
	return nil
}

func (l fenceLook) asleep() bool {
	return l.standby && l.deaf && len(l.receivers) == 0 && l.wait == fenceWait && !l.paused
}

// position of the last durable byte.
func (l fenceLook) position(dataDir string) (pg.Position, error) {
	end := max(l.received, l.replayed)
	timeline, err := timelineOf(filepath.Join(dataDir, "pg_wal"), l.geometry, end)
	if err == nil && timeline == 0 {
		err = fmt.Errorf("no WAL file holds the byte before %s", end)
	}
	return pg.Position{Timeline: timeline, LSN: end}, err
}

// lookFence opens a new session and looks. It is told what the look before saw.
func (c *Controller) lookFence(ctx context.Context, before fenceLook) (fenceLook, error) {
	ctx, cancel := c.short(ctx, "look at the fence")
	defer cancel()
	look := fenceLook{at: c.clock.Now()}
	if before.startup != 0 {
		// Before the look: a sleep counted here and seen below is a later one.
		look.slept, _ = blockings(before.startup) // it may have ended: not fenced then
	}
	session, err := c.connect(ctx)
	if err != nil {
		return look, err
	}
	defer session.close()
	row, err := session.row(ctx, fenceQuery)
	if err != nil {
		return look, err
	}
	look.standby = row[0] == "t"
	look.deaf = c.confirm(row[1]) && c.current().Upstream.IsZero() && row[2] == "" && row[3] == ""
	for text := range strings.FieldsSeq(row[4]) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return look, fmt.Errorf("process id of a walreceiver: %w", err)
		}
		look.receivers = append(look.receivers, pid)
	}
	look.wait = row[5]
	look.paused = row[7] == "t"
	if !look.standby {
		return look, nil
	}
	if look.startup, err = strconv.Atoi(row[6]); err != nil {
		return look, fmt.Errorf("process id of the startup process: %w", err)
	}
	if row, err = session.row(ctx, positionQuery); err != nil {
		return look, err
	}
	var errs [4]error
	look.received, errs[0] = pg.ParseLSN(row[0])
	look.replayed, errs[1] = pg.ParseLSN(row[1])
	look.geometry.segment, errs[2] = strconv.ParseUint(row[2], 10, 64)
	look.geometry.page, errs[3] = strconv.ParseUint(row[3], 10, 64)
	return look, errors.Join(errs[:]...)
}

// Fence implements ha.Fencer.
func (c *Controller) Fence(ctx context.Context) error {
	ctx, done, err := c.begin(ctx, "fence PostgreSQL")
	if err != nil {
		return err
	}
	defer done()
	if err := c.fence(ctx); err != nil {
		return fmt.Errorf("fence PostgreSQL: %w", err)
	}
	return nil
}

func (c *Controller) fence(ctx context.Context) error {
	if server := c.adopt(); server == nil {
		if err := c.startStandby(ctx, pg.Upstream{}); err != nil {
			return err
		}
	} else if err := c.deafen(ctx, server); err != nil {
		return err
	}
	f := &fencing{c: c, since: c.clock.Now()}
	for {
		fenced, err := f.step(ctx)
		if err != nil || fenced {
			return err
		}
		if err := timectx.Sleep(ctx, c.clock, c.cfg.Poll); err != nil {
			return fmt.Errorf("%w; %s", err, f.obstacle())
		}
	}
}

// deafen clears the upstream of a running server, unless it is clear already,
// without waiting for the effect. A server that ran with a placeholder history
// file is restarted.
func (c *Controller) deafen(ctx context.Context, server *postmaster) error {
	found, err := c.removePlaceholders()
	if err != nil {
		return err
	}
	if found {
		if err := c.stop(ctx, pg.StopFast); err != nil {
			return err
		}
		return c.startStandby(ctx, pg.Upstream{})
	}
	// A server that this controller has not started may run with other files
	// than the settings say.
	if _, err := c.prepare(func(s *settings) { s.Upstream = pg.Upstream{} }); err != nil {
		return err
	}
	return c.reload(server)
}

// fencing is one Fence at work.
type fencing struct {
	c         *Controller
	since     time.Time // begin, or the restart
	last      fenceLook
	lastErr   error
	moved     time.Time // when replay was last seen to advance
	ended     bool      // sessions of clients have been ended
	restarted bool
}

// step looks once, and does what the look asks for.
func (f *fencing) step(ctx context.Context) (bool, error) {
	server := f.c.running()
	if server == nil {
		return false, fmt.Errorf("%w: it has exited", pg.ErrNotRunning)
	}
	look, err := f.c.lookFence(ctx, f.last)
	f.lastErr = err
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return false, cause
		}
		if sqlState(err) == stateCannotConnectNow {
			f.since = f.c.clock.Now() // it answers that it is in recovery: a restart would begin that anew
			return false, nil
		}
		return false, f.patience(ctx, "it does not answer a new session")
	}
	if !look.standby {
		return false, errors.New("it runs as a primary: stop it first")
	}
	if look.fenced(f.last) {
		return true, nil
	}
	if look.asleep() {
		if err := look.wake(); err != nil {
			return false, err
		}
	}
	if look.replayed != f.last.replayed || look.received != f.last.received {
		f.moved = look.at
	}
	f.last = look
	if look.paused {
		return false, f.resume(ctx)
	}
	if len(look.receivers) > 0 && f.waited() > f.c.cfg.FencePatience && look.deaf {
		f.endReceivers(look.receivers)
	}
	if look.wait == fenceWait {
		return false, nil // the proof only needs the next look
	}
	return false, f.patience(ctx, "its startup process does not go to sleep")
}

func (f *fencing) waited() time.Duration { return f.c.clock.Now().Sub(f.since) }

// resume ends a pause of replay, behind which the startup process does not see
// that it has to stop the receiver.
func (f *fencing) resume(ctx context.Context) error {
	f.c.log.Info("replay was paused and is resumed to fence PostgreSQL")
	session, err := f.c.connect(ctx)
	if err != nil {
		return err
	}
	defer session.close()
	defer f.c.cfg.Effects.begin("resume replay")()
	return session.exec(ctx, "SELECT pg_wal_replay_resume()")
}

// endReceivers ends receivers by their process ids; PostgreSQL refuses to do it
// by SQL. They do not come back, because only the startup process asks for one.
func (f *fencing) endReceivers(pids []int) {
	for _, pid := range pids {
		if isServerProcess(pid, f.c.cfg.DataDir) {
			f.c.log.Info("a walreceiver is ended to fence PostgreSQL", "pid", pid)
			ended := f.c.cfg.Effects.begin("end receiver")
			_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended by itself
			ended()
		}
	}
}

// patience ends what may hold up the startup process, when nothing has moved for
// some time: first the clients' sessions, then the server, once.
func (f *fencing) patience(ctx context.Context, why string) error {
	now := f.c.clock.Now()
	still := min(now.Sub(f.since), now.Sub(f.moved))
	if !f.ended && still > 5*f.c.cfg.FencePatience && f.lastErr == nil {
		f.ended = true
		f.c.log.Warn("sessions are ended to fence PostgreSQL", "reason", why)
		return f.c.endClients(ctx, false)
	}
	if f.restarted || still <= 10*f.c.cfg.FencePatience {
		return nil
	}
	f.restarted = true
	f.c.log.Warn("PostgreSQL is restarted to fence it", "reason", why)
	quick, cancel := timectx.With(ctx, f.c.clock, 10*f.c.cfg.FencePatience, "fast stop")
	err := f.c.stop(quick, pg.StopFast)
	cancel()
	if err != nil && ctx.Err() == nil {
		err = f.c.stop(ctx, pg.StopImmediate)
	}
	if err == nil {
		err = f.c.startStandby(ctx, pg.Upstream{})
	}
	f.since = f.c.clock.Now()
	f.last = fenceLook{}
	return err
}

// obstacle says for people why the fence is not proven yet.
func (f *fencing) obstacle() string {
	switch {
	case f.lastErr != nil:
		return f.lastErr.Error()
	case !f.last.deaf:
		return "a new session does not show the cleared upstream yet"
	case len(f.last.receivers) > 0:
		return fmt.Sprintf("walreceiver %v still runs", f.last.receivers)
	default:
		return fmt.Sprintf("replay of local WAL is at %s, received %s, the startup process waits for %q", f.last.replayed, f.last.received, f.last.wait)
	}
}

// Position implements ha.Fencer.
func (c *Controller) Position(ctx context.Context) (pg.Position, error) {
	ctx, done, err := c.begin(ctx, "position")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	position, err := c.position(ctx)
	if err != nil {
		return pg.Position{}, fmt.Errorf("position: %w", err)
	}
	return position, nil
}

// position needs the turn. A sleep that cannot be told from the first one after
// a stream is looked at again.
func (c *Controller) position(ctx context.Context) (pg.Position, error) {
	if c.adopt() == nil {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrNotFenced, pg.ErrNotRunning)
	}
	ctx, cancel := c.short(ctx, "proof of the fence")
	defer cancel()
	var before fenceLook
	for {
		look, err := c.lookFence(ctx, before)
		switch {
		case err != nil:
			return pg.Position{}, err
		case look.fenced(before):
			return look.position(c.cfg.DataDir)
		case !look.standby:
			return pg.Position{}, fmt.Errorf("%w: it runs as a primary", pg.ErrNotFenced)
		case !look.deaf || len(look.receivers) > 0 || look.paused:
			return pg.Position{}, fmt.Errorf("%w: upstream cleared: %t, receivers: %d, replay paused: %t",
				pg.ErrNotFenced, look.deaf, len(look.receivers), look.paused)
		}
		if look.asleep() {
			if err := look.wake(); err != nil {
				return pg.Position{}, err
			}
		}
		before = look
		if err := c.pause(ctx); err != nil {
			return pg.Position{}, fmt.Errorf("%w: the startup process waits for %q: %w", pg.ErrNotFenced, look.wait, err)
		}
	}
}
