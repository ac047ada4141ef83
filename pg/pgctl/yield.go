package pgctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Yield implements ha.Yielder. Before it stops the server, while clients still
// write, it has the standbys flush a position: an error until then, for example
// because the target does not follow, leaves the primary as it was and wraps
// pg.ErrNotStopped. Which of the others are frozen or cut off is known from then
// on, and their walsenders are ended with the server's sessions, so that they
// cost no time.
//
// What takes long in a shutdown is its checkpoint: run Checkpoint right before.
func (c *Controller) Yield(ctx context.Context, to string) (pg.Position, error) {
	ctx, done, err := c.begin(ctx, "yield")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	end, err := c.yield(ctx, to)
	if err != nil {
		return pg.Position{}, fmt.Errorf("yield to %s: %w", to, err)
	}
	return end, nil
}

// yield needs the turn.
func (c *Controller) yield(ctx context.Context, to string) (pg.Position, error) {
	server := c.adopt()
	if server == nil {
		return pg.Position{}, pg.ErrNotRunning
	}
	y := &yielding{c: c, server: server, to: to}
	defer y.close()
	if err := y.prepare(ctx); err != nil {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrNotStopped, err)
	}
	if err := y.stop(ctx); err != nil {
		return pg.Position{}, err
	}
	end, err := c.shutdownEnd()
	if err != nil {
		return pg.Position{}, err
	}
	c.log.Info("PostgreSQL has yielded", "to", to, "end", end.String())
	return end, nil
}

// yielding is one Yield at work.
type yielding struct {
	c       *Controller
	server  *postmaster
	to      string
	mark    pg.LSN    // what a standby that is fit has flushed
	senders []*sender // those of the last look
}

// sender is a walsender that was looked at.
type sender struct {
	pid     int
	name    string
	started string // by which a later process of this number is told apart
	streams bool   // it ships WAL; a copy or a mere question ends with the sessions
	flush   pg.LSN
	process *handle // nil if it had ended before it could be opened
	proven  bool    // it was seen again after that
	ending  bool    // it has been told to end
}

const yieldQuery = `SELECT pid, application_name, coalesce(flush_lsn, '0/0'), extract(epoch FROM backend_start), state IN ('catchup', 'streaming')
 FROM pg_stat_replication`

// prepare writes a record and waits until the target has flushed it, and the
// others have, or have not for some time. Nothing is stopped by it.
func (y *yielding) prepare(ctx context.Context) error {
	session, err := y.c.newSession(ctx, "look at the standbys")
	if err != nil {
		return err
	}
	defer session.close()
	if err := y.write(ctx, session); err != nil {
		return err
	}
	begin := y.c.clock.Now()
	for {
		if err := y.look(ctx, session); err != nil {
			return fmt.Errorf("look at the standbys: %w", err)
		}
		waited := y.c.clock.Now().Sub(begin)
		fit, missing := y.fit(), y.missing()
		switch {
		case fit && (missing == 0 || waited >= y.c.cfg.YieldPatience):
			return nil
		case !y.follows() && waited >= y.c.cfg.YieldPatience:
			return errors.New("this standby does not stream from here")
		case !fit && waited >= 5*y.c.cfg.YieldPatience:
			return fmt.Errorf("the standby has not flushed %s within %s", y.mark, waited.Round(time.Millisecond))
		}
		if err := timectx.Sleep(ctx, y.c.clock, min(y.c.cfg.Poll, time.Millisecond)); err != nil {
			return fmt.Errorf("wait until the standby has flushed %s: %w", y.mark, err)
		}
	}
}

// write commits the record behind which a standby that is fit comes at once.
func (y *yielding) write(ctx context.Context, session *session) error {
	ctx, cancel := y.c.short(ctx, "write for the standbys")
	defer cancel()
	row, err := session.row(ctx, "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'pghad', 'yield') END")
	if err != nil {
		return fmt.Errorf("write for the standbys: %w", err)
	}
	if row[0] == "" {
		return errors.New("it is not a primary")
	}
	y.mark, err = pg.ParseLSN(row[0])
	return err
}

// look reads the walsenders and opens the processes of those that are new. One
// that is seen with its number and its start before and after that is surely the
// process that was opened.
func (y *yielding) look(ctx context.Context, session *session) error {
	ctx, cancel := y.c.short(ctx, "look at the standbys")
	defer cancel()
	rows, err := session.rows(ctx, yieldQuery)
	if err != nil {
		return err
	}
	before := y.senders
	y.senders = nil
	for _, row := range rows {
		pid, err := strconv.Atoi(row[0])
		if err != nil {
			return err
		}
		flush, err := pg.ParseLSN(row[2])
		if err != nil {
			return err
		}
		seen := &sender{pid: pid, name: row[1], started: row[3], flush: flush, streams: row[4] == "t"}
		for _, old := range before {
			if old.pid == seen.pid && old.started == seen.started && old.process != nil {
				seen.process, seen.proven, old.process = old.process, true, nil
			}
		}
		if seen.process == nil {
			if process, err := openServerProcess(pid, y.c.cfg.DataDir); err == nil {
				seen.process = process
			}
		}
		y.senders = append(y.senders, seen)
	}
	closeSenders(before)
	return nil
}

// follows reports whether the target streams from here.
func (y *yielding) follows() bool {
	for _, s := range y.senders {
		if s.name == y.to && s.streams {
			return true
		}
	}
	return false
}

// fit reports whether the target has flushed the mark.
func (y *yielding) fit() bool { return y.target() != nil }

// target is the walsender that serves the target: of several with its name, of
// which some may be left from a connection that has broken, one that is fit.
func (y *yielding) target() *sender {
	for _, s := range y.senders {
		if s.name == y.to && s.streams && s.flush >= y.mark && s.proven {
			return s
		}
	}
	return nil
}

// missing is how many of the others have not flushed the mark, or are not known
// well enough to be ended.
func (y *yielding) missing() int {
	n, target := 0, y.target()
	for _, s := range y.senders {
		if s != target && s.streams && (s.flush < y.mark || !s.proven) {
			n++
		}
	}
	return n
}

// stop stops the server, and returns when no process of it is left. A walsender
// whose standby does not take what is sent holds it up until wal_sender_timeout:
// in the end, because it waits for the standby's flush, and before the shutdown
// checkpoint already if its connection is full.
func (y *yielding) stop(ctx context.Context) error {
	c, target := y.c, y.target()
	c.sideWork.end()
	c.log.Info("PostgreSQL is being stopped", "mode", string(pg.StopFast), "pid", y.server.pid, "to", y.to)
	if err := c.signalStop(pg.StopFast); err != nil {
		return err
	}
	served, release := y.watch(ctx, target)
	defer release()
	unfit := func(s *sender) bool { return s.streams && s.flush < y.mark }
	ending := y.end(unfit, "its standby was not fit before the stop")
	for until := c.clock.Now().Add(c.cfg.YieldPatience); ; {
		timer := c.clock.Timer(y.pause(until, ending))
		select {
		case <-y.server.gone:
			timer.Stop()
			return c.drain(ctx)
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("it is still stopping: %w", context.Cause(ctx))
		case <-served:
			served = nil // the target has everything: the others get a moment for the rest
			until = c.clock.Now().Add(c.cfg.YieldPatience / 6)
		case <-timer.C:
			if !c.clock.Now().Before(until) {
				unfit = func(*sender) bool { return true }
			}
			ending = y.end(unfit, "its standby holds up the shutdown")
		}
		timer.Stop()
	}
}

// pause is how long to wait for the end of walsenders. One that has been told to
// end while its connection is full waits with its last words, and takes a second
// signal.
func (y *yielding) pause(until time.Time, ending int) time.Duration {
	left := until.Sub(y.c.clock.Now())
	if ending > 0 || left <= 0 {
		return 2 * y.c.cfg.Poll
	}
	return left
}

// watch says when a walsender has ended.
func (y *yielding) watch(ctx context.Context, s *sender) (served <-chan struct{}, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	closed, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if s.process.wait(ctx, y.c.clock, y.c.cfg.Poll, y.c.cfg.DataDir) == nil {
			close(closed)
		}
	}()
	return closed, func() {
		cancel()
		<-done
	}
}

// end ends walsenders, but not the target's, and returns how many it has found.
func (y *yielding) end(which func(*sender) bool, why string) int {
	target, found := y.target(), 0
	for _, s := range y.senders {
		if s == target || !s.proven || !which(s) || !isWalsenderOf(s.pid, y.server.pid) {
			continue
		}
		found++
		if !s.ending {
			y.c.log.Warn("a walsender is ended", "pid", s.pid, "standby", s.name, "reason", why)
		}
		s.ending = true
		if err := s.process.signal(syscall.SIGTERM); err != nil {
			y.c.log.Warn("a walsender cannot be ended", "pid", s.pid, "standby", s.name, "error", err.Error())
		}
	}
	return found
}

func (y *yielding) close() { closeSenders(y.senders) }

func closeSenders(senders []*sender) {
	for _, s := range senders {
		if s.process != nil {
			s.process.close()
		}
	}
}
