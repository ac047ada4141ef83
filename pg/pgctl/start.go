package pgctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pghad/pghad/pg"
)

// StartStandby implements ha.Starter. On a server that already runs as a standby
// it waits until that admits the controller and then does what Follow does.
// Clients are admitted by Config.HBA: a standby serves reads.
func (c *Controller) StartStandby(ctx context.Context, up pg.Upstream) error {
	ctx, done, err := c.begin(ctx, "start PostgreSQL as a standby")
	if err != nil {
		return err
	}
	defer done()
	if err := c.startStandby(ctx, up); err != nil {
		return fmt.Errorf("start PostgreSQL as a standby of %s: %w", up.Address(), err)
	}
	return nil
}

// startStandby needs the turn.
func (c *Controller) startStandby(ctx context.Context, up pg.Upstream) error {
	edit := func(s *settings) { s.Upstream, s.GateOpen = up, true }
	if server := c.adopt(); server != nil {
		if err := c.awaitReady(ctx, server, nil); err != nil {
			return err
		}
		if err := c.mustBeStandby(ctx); err != nil {
			return err
		}
		found, err := c.removePlaceholders()
		if err != nil {
			return err
		}
		if !found {
			return c.change(ctx, edit)
		}
		// It has run with a placeholder history file and may believe in it.
		if err := c.stop(ctx, pg.StopFast); err != nil {
			return err
		}
	}
	return c.launch(ctx, edit, nil)
}

// mustBeStandby refuses a server that runs as a primary.
func (c *Controller) mustBeStandby(ctx context.Context) error {
	session, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer session.close()
	row, err := session.row(ctx, "SELECT pg_is_in_recovery()")
	if err != nil {
		return err
	}
	if row[0] != "t" {
		return errors.New("it runs as a primary: stop it first")
	}
	return nil
}

// StartPrimary implements ha.Starter. The warrant is checked right before the
// server is started and at each look until it admits the controller; a server
// whose warrant ends meanwhile is stopped at once.
func (c *Controller) StartPrimary(ctx context.Context, warrant pg.Warrant, setting pg.SyncSetting) error {
	ctx, done, err := c.begin(ctx, "start PostgreSQL as a primary")
	if err != nil {
		return err
	}
	defer done()
	if c.adopt() != nil {
		return errors.New("start PostgreSQL as a primary: it is running already: stop it first, or promote it")
	}
	if warrant == nil {
		return fmt.Errorf("start PostgreSQL as a primary: %w: none was given", pg.ErrNoWarrant)
	}
	if err := c.mustHaveDeadline(); err != nil {
		return fmt.Errorf("start PostgreSQL as a primary: %w", err)
	}
	err = c.launch(ctx, func(s *settings) {
		s.Upstream, s.GateOpen, s.Sync = pg.Upstream{}, false, setting.String()
	}, warrant)
	if err != nil {
		return fmt.Errorf("start PostgreSQL as a primary: %w", err)
	}
	return nil
}

// launch starts the server on complete data, as a primary if there is a warrant,
// and returns when it admits the controller.
func (c *Controller) launch(ctx context.Context, edit func(*settings), warrant pg.Warrant) error {
	if err := c.repair(); err != nil {
		return err
	}
	if err := c.checkComplete(); err != nil {
		return err
	}
	disk, err := c.onDisk()
	if err != nil {
		return err
	}
	if err := c.belong(disk.SystemID); err != nil {
		return err
	}
	if err := c.drain(ctx); err != nil {
		return err
	}
	if err := c.removeStaleLocks(); err != nil {
		return err
	}
	if _, err := c.removePlaceholders(); err != nil {
		return err
	}
	if err := c.forbidArchiving(); err != nil {
		return err
	}
	if err := c.placeSignal(warrant == nil); err != nil {
		return err
	}
	if _, err := c.prepare(edit); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := check(warrant); err != nil {
		return err
	}
	server, err := c.spawn(ctx, warrant != nil)
	if err != nil {
		return err
	}
	c.log.Info("PostgreSQL is started", "pid", server.pid, "standby", warrant == nil)
	return c.awaitReady(ctx, server, warrant)
}

// placeSignal makes the data start as a standby, or not.
func (c *Controller) placeSignal(standby bool) error {
	if err := c.cfg.account.removeDurably(c.dataPath("recovery.signal")); err != nil {
		return err
	}
	path := c.dataPath(signalFile)
	if !standby {
		return c.cfg.account.removeDurably(path)
	}
	there, err := exists(path)
	if err != nil || there {
		return err
	}
	return c.cfg.account.writeFile(path, nil)
}

func check(warrant pg.Warrant) error {
	if warrant == nil {
		return nil
	}
	if err := warrant.Check(); err != nil {
		if errors.Is(err, pg.ErrNoWarrant) {
			return err
		}
		return fmt.Errorf("%w: %w", pg.ErrNoWarrant, err)
	}
	return nil
}

// awaitReady waits until the server admits the controller. Starting takes as long as
// recovery takes; but a server that is up and turns the controller down for a reason
// that stays has ReloadTimeout to think better of it.
func (c *Controller) awaitReady(ctx context.Context, server *postmaster, warrant pg.Warrant) error {
	var last error
	var refused time.Time
	for {
		if err := check(warrant); err != nil {
			return errors.Join(err, c.stop(context.WithoutCancel(ctx), pg.StopImmediate))
		}
		if file := c.pidFile(); file.pid == server.pid && file.status == "ready" {
			if last = c.admits(ctx, warrant != nil); last == nil {
				return nil
			}
			switch now := c.clock.Now(); {
			case !isRefusal(last):
				refused = time.Time{}
			case refused.IsZero():
				refused = now
			case now.Sub(refused) >= c.cfg.ReloadTimeout:
				return c.turnedDown(ctx, last, warrant)
			}
		}
		select {
		case <-server.gone:
			return c.exitError(server)
		default:
		}
		if err := c.pause(ctx); err != nil {
			if warrant != nil {
				// Nobody would look at the warrant any more.
				err = errors.Join(err, c.stop(context.WithoutCancel(ctx), pg.StopImmediate))
			}
			if last != nil {
				return fmt.Errorf("it does not admit the controller yet: %w (%w)", err, last)
			}
			return fmt.Errorf("it is still in recovery or starting: %w", err)
		}
	}
}

// isRefusal reports whether a server has turned a session down for another reason
// than that it is starting or stopping.
func isRefusal(err error) bool {
	const operatorIntervention = "57"
	state := sqlState(err)
	return state != "" && !strings.HasPrefix(state, operatorIntervention)
}

// turnedDown gives a server up that runs and does not admit the controller. A
// primary is stopped: nobody could say what it does.
func (c *Controller) turnedDown(ctx context.Context, err error, warrant pg.Warrant) error {
	if s, ok := find(err.Error(), diskSigns); ok {
		err = &pg.FaultError{Kind: s.kind, Path: c.cfg.DataDir, Err: err, Remedy: s.remedy}
	}
	err = fmt.Errorf("it runs and does not admit the controller: %w", err)
	if warrant != nil {
		err = errors.Join(err, c.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	return err
}

// admits opens the kept session. On a primary it also waits for the
// checkpointer's main loop: only then do commits wait for standbys.
func (c *Controller) admits(ctx context.Context, primary bool) error {
	return c.withKept(ctx, func(s *session) error {
		if !primary {
			return s.exec(ctx, "SELECT 1")
		}
		row, err := s.row(ctx, "SELECT pg_is_in_recovery(), (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'checkpointer')")
		if err != nil {
			return err
		}
		if row[0] != "f" {
			return errors.New("it is in recovery")
		}
		// Not its wait event alone: a checkpointer that writes waits for other things.
		if row[1] == "" {
			return errors.New("the checkpointer has not begun")
		}
		return nil
	})
}
