package pgctl

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

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
const identifyQuery = `SELECT pg_is_in_recovery(), (SELECT timeline_id FROM pg_control_checkpoint()),
 CASE WHEN pg_is_in_recovery() THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0'))
  ELSE pg_current_wal_flush_lsn() END`

// Identify implements ha.Follower. One connection does it all: a walsender that
// is connected to a database speaks both protocols.
func (c *Controller) Identify(ctx context.Context, up pg.Upstream) (pg.Remote, error) {
	remote, err := c.identify(ctx, up)
	if err != nil {
		return pg.Remote{}, fmt.Errorf("identify the server at %s: %w", up.Address(), err)
	}
	return remote, nil
}

func (c *Controller) identify(ctx context.Context, up pg.Upstream) (remote pg.Remote, err error) {
	if up.IsZero() {
		return remote, errors.New("no address was given")
	}
	connect, cancel := timectx.With(ctx, c.clock, c.cfg.ConnectTimeout, "connection to "+up.Address())
	defer cancel()
	conn, err := dial(connect, address{
		host: up.Host, port: up.Port, user: c.cfg.ReplicationUser, password: c.cfg.ReplicationPassword,
		database: c.cfg.Database, sslMode: c.cfg.SSLMode,
	}, map[string]string{"replication": "database", "application_name": "pghad", "search_path": "pg_catalog", "synchronous_commit": "local"})
	if err != nil {
		return remote, err
	}
	s := &session{conn}
	defer s.close()
	ctx, cancelQuery := c.short(ctx, "identification of "+up.Address())
	defer cancelQuery()
	row, err := s.row(ctx, "IDENTIFY_SYSTEM")
	if err != nil {
		return remote, err
	}
	if len(row) < 3 {
		return remote, fmt.Errorf("IDENTIFY_SYSTEM answered %d columns", len(row))
	}
	remote.SystemID = row[0]
	if remote.Lineage.Timeline, err = pg.ParseTimeline(row[1]); err != nil {
		return remote, err
	}
	if remote.Lineage.Timeline > 1 {
		if remote.Lineage.History, err = remoteHistory(ctx, s, remote.Lineage.Timeline); err != nil {
			return remote, err
		}
	}
	if row, err = s.row(ctx, identifyQuery); err != nil {
		return remote, err
	}
	remote.Standby = row[0] == "t"
	if remote.CheckpointTimeline, err = pg.ParseTimeline(row[1]); err != nil {
		return remote, err
	}
	remote.Flushed, err = pg.ParseLSN(row[2])
	return remote, err
}

func remoteHistory(ctx context.Context, s *session, timeline pg.Timeline) (pg.History, error) {
	row, err := s.row(ctx, "TIMELINE_HISTORY "+strconv.FormatUint(uint64(timeline), 10))
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %w", timeline, err)
	}
	if len(row) < 2 {
		return nil, fmt.Errorf("history of timeline %d: %d columns", timeline, len(row))
	}
	text := row[1]
	if strings.HasPrefix(text, `\x`) { // some versions say bytea, and mean it
		if decoded, err := hex.DecodeString(text[2:]); err == nil {
			text = string(decoded)
		}
	}
	return pg.ParseHistory(text)
}
