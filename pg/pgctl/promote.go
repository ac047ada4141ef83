package pgctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Promote implements ha.Promoter.
func (c *Controller) Promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error) {
	ctx, done, err := c.begin(ctx, "promote PostgreSQL")
	if err != nil {
		return pg.Promotion{}, err
	}
	defer done()
	promotion, err := c.promote(ctx, warrant, next)
	if err != nil {
		return pg.Promotion{}, fmt.Errorf("promote PostgreSQL to timeline %d: %w", next, err)
	}
	return promotion, nil
}

func (c *Controller) promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error) {
	if warrant == nil {
		return pg.Promotion{}, fmt.Errorf("%w: none was given", pg.ErrNoWarrant)
	}
	if c.adopt() == nil {
		return pg.Promotion{}, pg.ErrNotRunning
	}
	now, err := c.lookPromotion(ctx)
	if err != nil {
		return pg.Promotion{}, err
	}
	if now.primary {
		if now.timeline != next {
			return pg.Promotion{}, fmt.Errorf("it is a primary of timeline %d already: stop it and start it as a standby first", now.timeline)
		}
		if err := c.declare(ctx); err != nil {
			return pg.Promotion{}, err
		}
		return c.promoted(next)
	}
	if err := c.mustHaveDeadline(); err != nil {
		return pg.Promotion{}, err
	}
	held, err := c.position(ctx)
	if err != nil {
		return pg.Promotion{}, err
	}
	if next <= held.Timeline {
		return pg.Promotion{}, fmt.Errorf("it holds WAL of timeline %d: the next one must be above", held.Timeline)
	}
	if err := c.forgetFuture(ctx, held, next); err != nil {
		return pg.Promotion{}, err
	}
	if err := c.forbidArchiving(); err != nil {
		return pg.Promotion{}, err
	}
	if err := c.change(ctx, func(s *settings) { s.GateOpen = false }); err != nil {
		return pg.Promotion{}, fmt.Errorf("close the gate: %w", err)
	}
	if err := c.endClients(ctx, true); err != nil {
		return pg.Promotion{}, err
	}
	if err := check(warrant); err != nil {
		return pg.Promotion{}, err
	}
	reserved, err := c.reserve(held, next)
	if err == nil {
		err = check(warrant)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		// The last thing: what is declared writable either becomes it, or is stopped.
		err = c.declare(ctx)
		reserved = reserved || err != nil && !errors.Is(err, pg.ErrNoWarrant)
	}
	if err != nil {
		return pg.Promotion{}, errors.Join(err, c.unreserve(ctx, reserved))
	}
	return c.carryOut(ctx, next)
}

// forgetFuture keeps a promotion from beginning on a timeline that this server has
// heard of and never reached. A standby fetches the history of its upstream before
// WAL, and is set on that timeline from then on: its promotion would name that as the
// parent, with switch points that go down. Whoever then asks for the timeline that the
// server really comes from is sent WAL up to the switch that this server has not seen:
// bytes that are not there, which are flushed and acknowledged. So such histories are
// removed, and the server is restarted, fenced as it was, before it is promoted.
func (c *Controller) forgetFuture(ctx context.Context, held pg.Position, next pg.Timeline) error {
	var future []string
	for timeline := held.Timeline + 1; timeline < next; timeline++ {
		path := c.dataPath("pg_wal", historyName(timeline))
		text, err := readIfExists(path)
		if err != nil {
			return err
		}
		if text != "" && !isPlaceholder(text) {
			future = append(future, path)
		}
	}
	if len(future) == 0 {
		return nil
	}
	c.log.Info("the server is restarted without the history of timelines that it has not reached", "holds", held.String(), "files", len(future))
	if err := c.stop(ctx, pg.StopFast); err != nil {
		return err
	}
	for _, path := range future {
		if err := c.cfg.Effects.run("remove history", func() error { return removeIfExists(path) }); err != nil {
			return fmt.Errorf("remove a history file: %w", err)
		}
	}
	if err := syncDir(c.dataPath("pg_wal")); err != nil {
		return err
	}
	if err := c.startStandby(ctx, pg.Upstream{}); err != nil {
		return err
	}
	now, err := c.position(ctx)
	if err == nil && now != held {
		err = fmt.Errorf("after a restart it holds %s, and %s before", now, held)
	}
	return err
}

// reserve makes PostgreSQL choose next: it takes the number after the highest
// in an unbroken row of history files above its own timeline. The placeholders
// say that their timeline left ours at the very beginning of WAL, so a server
// that meets one does not take it for its own future. It reports whether there
// are any.
func (c *Controller) reserve(held pg.Position, next pg.Timeline) (bool, error) {
	directory := c.dataPath("pg_wal")
	var missing []string
	for timeline := held.Timeline + 1; timeline < next; timeline++ {
		there, err := exists(filepath.Join(directory, historyName(timeline)))
		if err != nil {
			return false, err
		}
		if !there {
			missing = append(missing, historyName(timeline))
		}
	}
	if there, err := exists(filepath.Join(directory, historyName(next))); err != nil {
		return false, err
	} else if there {
		return false, fmt.Errorf("there is a history file of timeline %d already: its number has been used: %w", next, pg.ErrWrongTimeline)
	}
	if len(missing) == 0 {
		return false, nil
	}
	if err := c.placeholderNote().write(placeholders{Next: next, Files: missing}); err != nil {
		return false, err
	}
	content := pg.History{{Timeline: held.Timeline, At: placeholderLSN, Reason: placeholderReason}}.String()
	for _, name := range missing {
		if err := c.cfg.account.writeFile(filepath.Join(directory, name), []byte(content)); err != nil {
			return true, err
		}
	}
	return true, nil
}

// placeholderLSN is below every WAL that there is: initdb leaves the first
// segment's number for "none".
const placeholderLSN pg.LSN = 1

// unreserve takes the placeholders back on a path that does not promote, and
// restarts the server that has seen them, fenced as it was. So it does with one
// that may count as writable for its guard, but is not.
func (c *Controller) unreserve(ctx context.Context, reserved bool) error {
	if !reserved {
		return nil
	}
	if _, err := c.removePlaceholders(); err != nil {
		return err
	}
	if err := c.stop(context.WithoutCancel(ctx), pg.StopFast); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return c.startStandby(ctx, pg.Upstream{})
	}
	return nil // it starts as a standby when it is next needed
}

// carryOut promotes. From here on the caller's context does not end it; Stop, the
// server's end and the outer deadline do, and the latter stops the server.
func (c *Controller) carryOut(ctx context.Context, next pg.Timeline) (pg.Promotion, error) {
	ctx, release := c.untilStop(ctx)
	defer release()
	deadline := c.cfg.PromoteTimeout << min(c.slowPromotions, 16)
	c.log.Info("PostgreSQL is promoted", "timeline", uint32(next), "deadline", deadline)
	wait, cancel := timectx.With(ctx, c.clock, deadline, "promotion")
	defer cancel()
	reached, err := c.awaitPromotion(wait)
	if err != nil {
		if ctx.Err() == nil && wait.Err() != nil {
			c.slowPromotions++
		}
		// Nobody knows how far it has come: it must not become writable later.
		return pg.Promotion{}, errors.Join(err, c.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	c.slowPromotions = 0
	if reached != next {
		return pg.Promotion{}, errors.Join(fmt.Errorf("%w: it took %d", pg.ErrWrongTimeline, reached),
			c.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	return c.promoted(next)
}

// untilStop is a context that does not end with the caller's, only with a Stop
// or Close of this controller.
func (c *Controller) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	detached, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stops > 0:
		cancel(errStopRequested)
	case c.closed:
		cancel(errClosed)
	default:
		c.cancelTurn = cancel
	}
	return detached, func() { cancel(nil) }
}

// awaitPromotion asks for the promotion and polls until the server is a primary.
func (c *Controller) awaitPromotion(ctx context.Context) (pg.Timeline, error) {
	server := c.running()
	if server == nil {
		return 0, pg.ErrNotRunning
	}
	asked := false
	for {
		var look promotionLook
		err := c.withKept(ctx, func(s *session) (err error) {
			if !asked {
				ask := func() error { return s.exec(ctx, "SELECT pg_promote(wait => false)") }
				if err := c.cfg.Effects.run("promote", ask); err != nil {
					return err
				}
				asked = true
			}
			look, err = promotionOf(ctx, s)
			return err
		})
		if err == nil && look.primary {
			return look.timeline, nil
		}
		if err != nil && !asked {
			return 0, err
		}
		select {
		case <-server.gone:
			return 0, fmt.Errorf("it has exited: %s", c.lastMessage(server))
		default:
		}
		if pause := c.pause(ctx); pause != nil {
			if err != nil {
				return 0, fmt.Errorf("%w (%w)", pause, err)
			}
			return 0, pause
		}
	}
}

type promotionLook struct {
	primary  bool
	timeline pg.Timeline
}

func (c *Controller) lookPromotion(ctx context.Context) (look promotionLook, err error) {
	ctx, cancel := c.short(ctx, "role of the local PostgreSQL")
	defer cancel()
	err = c.withKept(ctx, func(s *session) (err error) {
		look, err = promotionOf(ctx, s)
		return err
	})
	return look, err
}

// promotionOf asks two things in two queries: between them a standby may become
// a primary, not the other way round.
func promotionOf(ctx context.Context, s *session) (look promotionLook, err error) {
	row, err := s.row(ctx, "SELECT pg_is_in_recovery()")
	if err != nil || row[0] == "t" {
		return look, err
	}
	look.primary = true
	if row, err = s.row(ctx, "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"); err != nil {
		return look, err
	}
	look.timeline, err = parseHexTimeline(row[0])
	return look, err
}

// promoted finishes a promotion that has happened: the placeholders are no longer
// an intention (they stay, see findPlaceholders), the switch point is read, and a
// checkpoint is begun, before which nobody can rewind from this server.
func (c *Controller) promoted(next pg.Timeline) (pg.Promotion, error) {
	history, err := readHistory(c.dataPath("pg_wal"), next)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pg.Promotion{}, err
	}
	promotion := pg.Promotion{Timeline: next}
	if len(history) > 0 {
		promotion.SwitchAt = history[len(history)-1].At
	}
	if err := c.placeholderNote().remove(); err != nil {
		return pg.Promotion{}, err
	}
	if err := c.resendArchive(next, history); err != nil {
		return pg.Promotion{}, err
	}
	c.sideWork.start(c.lifetime, func(ctx context.Context) {
		if err := c.Checkpoint(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("the checkpoint after a promotion has not ended: nobody can rewind from this server yet", "error", err.Error())
		}
	})
	return promotion, nil
}

// endClients ends the sessions of clients, and waits until they are gone if it
// is told to.
func (c *Controller) endClients(ctx context.Context, wait bool) error {
	const clients = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'pghad' AND pid <> pg_backend_pid()"
	return c.endSessions(ctx, "end the sessions of clients", clients, wait)
}

// endSessions terminates the processes that a query names, and waits until none
// of them is left.
func (c *Controller) endSessions(ctx context.Context, what, query string, wait bool) error {
	session, err := c.newSession(ctx, what)
	if err != nil {
		return err
	}
	defer session.close()
	ended := c.cfg.Effects.begin("end sessions")
	rows, err := session.rows(ctx, "SELECT pid, pg_terminate_backend(pid) FROM ("+query+") victims")
	ended()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !wait || len(rows) == 0 {
		return nil
	}
	pids := make([]string, 0, len(rows))
	for _, row := range rows {
		pids = append(pids, row[0])
	}
	left := "SELECT pid FROM pg_stat_activity WHERE pid IN (" + strings.Join(pids, ",") + ")"
	for {
		rows, err := session.rows(ctx, left)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if len(rows) == 0 {
			return nil
		}
		if err := timectx.Sleep(ctx, c.clock, min(c.cfg.Poll, time.Millisecond)); err != nil {
			return fmt.Errorf("%s: %d are left: %w", what, len(rows), err)
		}
	}
}
