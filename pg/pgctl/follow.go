package pgctl

import (
	"context"
	"errors"
	"fmt"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Follow implements ha.Follower. A server that ran with a placeholder history
// file is restarted instead of reloaded, see pg/doc.go and the promotion.
func (c *Controller) Follow(ctx context.Context, up pg.Upstream) error {
	ctx, done, err := c.begin(ctx, "follow")
	if err != nil {
		return err
	}
	defer done()
	if c.adopt() == nil {
		return fmt.Errorf("follow %s: %w", up.Address(), pg.ErrNotRunning)
	}
	if err := c.startStandby(ctx, up); err != nil {
		return fmt.Errorf("follow %s: %w", up.Address(), err)
	}
	return nil
}

// identifyQuery is what the replication protocol does not say.
const identifyQuery = `SELECT pg_is_in_recovery(), (SELECT timeline_id FROM pg_control_checkpoint())`

// Identify implements ha.Follower. One connection does it all: a walsender that
// is connected to a database speaks both protocols.
//
// Position and timeline are of one answer, in which a standby says of its
// received WAL only what is of the timeline that it replays: the functions of
// SQL, asked one after another, could pair a timeline with a position that lies
// on the next one.
func (c *Controller) Identify(ctx context.Context, up pg.Upstream) (pg.Remote, error) {
	remote, err := c.identify(ctx, up)
	if err != nil {
		return pg.Remote{}, fmt.Errorf("identify the server at %s: %w", up.Address(), err)
	}
	return remote, nil
}

func (c *Controller) identify(ctx context.Context, up pg.Upstream) (remote pg.Remote, err error) {
	s, remote, fresh, err := c.greetAgain(ctx, up)
	if err != nil {
		return remote, err
	}
	defer func() {
		if err != nil || !fresh {
			s.close()
			return
		}
		c.remote.keep(s, up.Address(), c.clock)
	}()
	ctx, cancel := c.short(ctx, "identification of "+up.Address())
	defer cancel()
	row, err := s.row(ctx, identifyQuery)
	if err != nil {
		return remote, err
	}
	if remote.CheckpointTimeline, err = pg.ParseTimeline(row[1]); err != nil {
		return remote, err
	}
	if remote.Standby = row[0] == "t"; !remote.Standby {
		// It may have been promoted since it said its timeline; once a primary it
		// stays one. A standby has been one then, too.
		if err := askSystem(ctx, s, &remote); err != nil {
			return remote, err
		}
	}
	if remote.Lineage.Timeline == 1 {
		return remote, nil
	}
	text, err := historyText(ctx, s, remote.Lineage.Timeline)
	if sqlState(err) == stateUndefinedFile {
		err = &pg.FaultError{Kind: pg.ErrNoHistory, Path: historyName(remote.Lineage.Timeline), Address: up.Address(), Err: err, Remedy: historyRemedy}
	}
	if err != nil {
		return remote, err
	}
	if remote.Lineage.History, err = pg.ParseHistory(text); err != nil {
		return remote, fmt.Errorf("history of timeline %d: %w", remote.Lineage.Timeline, err)
	}
	return remote, nil
}

// greet opens a replication connection to another server and asks for its
// system, timeline and position.
func (c *Controller) greet(ctx context.Context, up pg.Upstream) (_ *session, remote pg.Remote, err error) {
	if up.IsZero() {
		return nil, remote, errors.New("no address was given")
	}
	ctx, cancel := timectx.With(ctx, c.clock, c.cfg.ConnectTimeout, "connection to "+up.Address())
	defer cancel()
	conn, err := dial(ctx, address{
		host: up.Host, port: up.Port, user: c.cfg.ReplicationUser, password: c.cfg.ReplicationPassword,
		database: c.cfg.Database, sslMode: c.cfg.SSLMode,
	}, map[string]string{"replication": "database", "application_name": "pghad", "search_path": "pg_catalog", "synchronous_commit": "local"})
	if err != nil {
		return nil, remote, dialFault(up.Address(), err)
	}
	s := &session{conn}
	if err := askSystem(ctx, s, &remote); err != nil {
		s.close()
		return nil, remote, err
	}
	return s, remote, nil
}

func askSystem(ctx context.Context, s *session, remote *pg.Remote) error {
	row, err := s.row(ctx, "IDENTIFY_SYSTEM")
	if err != nil {
		return err
	}
	if len(row) < 3 {
		return fmt.Errorf("IDENTIFY_SYSTEM answered %d columns", len(row))
	}
	remote.SystemID = row[0]
	if remote.Lineage.Timeline, err = pg.ParseTimeline(row[1]); err != nil {
		return err
	}
	remote.Flushed, err = pg.ParseLSN(row[2])
	return err
}

// historyText fetches a history file over a replication connection.
func historyText(ctx context.Context, s *session, timeline pg.Timeline) (string, error) {
	row, err := s.row(ctx, "TIMELINE_HISTORY "+timeline.String())
	if err != nil {
		return "", fmt.Errorf("history of timeline %d: %w", timeline, err)
	}
	if len(row) < 2 {
		return "", fmt.Errorf("history of timeline %d: %d columns", timeline, len(row))
	}
	return row[1], nil
}
