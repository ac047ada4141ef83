package workload

import (
	"context"
	"strconv"
	"sync"
)

// Look is what a node says of itself to a client that may read statistics.
type Look struct {
	Node string
	Err  string // why it does not answer; all else is zero then

	Primary   bool
	Timeline  uint32 // of a primary
	LSN       uint64 // what a primary has flushed, or a standby replayed
	Receiving bool   // a standby: its walreceiver streams
	Counted   int    // a primary: streaming standbys whose acknowledgements count
}

// Looker looks at all nodes of a target, over one kept session each. One
// goroutine uses it.
type Looker struct {
	target   Target
	sessions []*session
}

// NewLooker returns a Looker. Close must be called. The user must be a member of
// pg_monitor, or standbys do not seem to stream.
func NewLooker(target Target) (*Looker, error) {
	if err := target.check(); err != nil {
		return nil, err
	}
	target = target.withDefaults()
	target.StatementTimeout = target.ConnectTimeout
	return &Looker{target: target, sessions: make([]*session, len(target.Nodes))}, nil
}

// Look asks all nodes at the same time.
func (l *Looker) Look(ctx context.Context) []Look {
	looks := make([]Look, len(l.sessions))
	var asks sync.WaitGroup
	for i := range l.sessions {
		asks.Go(func() {
			look, err := l.ask(ctx, i)
			if err != nil {
				look = Look{Err: err.Error()}
			}
			look.Node = l.target.Nodes[i].Name
			looks[i] = look
		})
	}
	asks.Wait()
	return looks
}

func (l *Looker) ask(ctx context.Context, i int) (Look, error) {
	s := l.sessions[i]
	if s == nil {
		var err error
		if s, err = l.target.open(ctx, l.target.Nodes[i], "looker"); err != nil {
			return Look{}, err
		}
		l.sessions[i] = s
	}
	// A walreceiver proves what a walsender's row does not: a base backup shows
	// there as a streaming standby too.
	rows, err := s.query(ctx, `SELECT NOT pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN 0 ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END,
		(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint,
		EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
		(SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('quorum', 'sync'))`)
	if err != nil {
		s.close()
		l.sessions[i] = nil
		return Look{}, err
	}
	return readLook(rows[0])
}

func readLook(row []string) (Look, error) {
	timeline, err := strconv.ParseUint(row[1], 10, 32)
	if err != nil {
		return Look{}, err
	}
	var lsn uint64
	if row[2] != "" { // a standby that has replayed nothing
		if lsn, err = strconv.ParseUint(row[2], 10, 64); err != nil {
			return Look{}, err
		}
	}
	counted, err := strconv.Atoi(row[4])
	if err != nil {
		return Look{}, err
	}
	return Look{Primary: row[0] == "t", Timeline: uint32(timeline), LSN: lsn, Receiving: row[3] == "t", Counted: counted}, nil
}

// Close ends the sessions.
func (l *Looker) Close() {
	for i, s := range l.sessions {
		if s != nil {
			s.close()
			l.sessions[i] = nil
		}
	}
}

// Whole reports whether one node is the primary, all others stream, and it
// counts each of them.
func Whole(looks []Look) bool { return whole(looks, len(looks)-1) }

// WholeAsync reports whether one node is the primary, all others stream, and it
// waits for none of them.
func WholeAsync(looks []Look) bool { return whole(looks, 0) }

func whole(looks []Look, counts int) bool {
	primaries, receiving, counted := 0, 0, 0
	for _, look := range looks {
		switch {
		case look.Primary:
			primaries++
			counted = look.Counted
		case look.Receiving:
			receiving++
		}
	}
	return primaries == 1 && receiving == len(looks)-1 && counted == counts
}
