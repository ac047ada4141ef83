package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Verdict is the result of a run in one word.
type Verdict string

const (
	VerdictOK         Verdict = "ok"
	VerdictLost       Verdict = "lost"        // an acknowledged row is gone
	VerdictTwoWriters Verdict = "two_writers" // two nodes acknowledged writes at one time
	VerdictStuck      Verdict = "stuck"       // the cluster did not become whole in time
	VerdictBroken     Verdict = "broken"      // no row is gone, but something else that was promised did not hold
	VerdictError      Verdict = "error"       // the run itself went wrong
)

// CheckConfig is what a check needs.
type CheckConfig struct {
	Ledger string // its path; writers have stopped
	Target Target // all nodes that were written to

	// Primary is who the cluster says is its primary. Empty: the node that takes
	// writes on the newest timeline.
	Primary string
	// CatchUp is how long a standby that streams may take to replay what the
	// primary has; 5 s.
	CatchUp time.Duration
}

// Report is what a check found.
type Report struct {
	Acknowledged, Unknown, Failed int

	Primary     string
	Lost        []Loss
	Conflicts   []Conflict
	Resurrected []uint64 // rows that surely had failed, and are there: the ledger's classification is wrong
	Behind      []string // standbys that stream and did not catch up
	Absent      []string // nodes that did not answer or do not stream; nothing is said of their rows
}

// Loss is an acknowledged row that a node does not have.
type Loss struct {
	ID   uint64
	Node string
}

// LostIDs are the acknowledged ids that are missing on at least one node.
func (r Report) LostIDs() []uint64 {
	ids := make([]uint64, 0, len(r.Lost))
	for _, loss := range r.Lost {
		ids = append(ids, loss.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Verdict is the worst that was found. Two writers come before lost rows, which
// they explain.
func (r Report) Verdict() Verdict {
	switch {
	case len(r.Conflicts) > 0:
		return VerdictTwoWriters
	case len(r.Lost) > 0:
		return VerdictLost
	case len(r.Resurrected) > 0:
		return VerdictError
	case len(r.Behind) > 0:
		return VerdictStuck
	default:
		return VerdictOK
	}
}

// Check connects anew to every node and compares the rows with the ledger: every
// acknowledged id is on the primary, and on every standby that streams once it
// has replayed what the primary had when its rows were read. ErrNoPrimary if no
// node takes writes until ctx ends.
func Check(ctx context.Context, config CheckConfig) (Report, error) {
	target := config.Target.withDefaults()
	if err := target.check(); err != nil {
		return Report{}, err
	}
	// Reading millions of rows takes longer than inserting one.
	target.StatementTimeout = max(target.StatementTimeout, time.Minute)
	if config.CatchUp <= 0 {
		config.CatchUp = 5 * time.Second
	}
	run, entries, err := ReadLedger(config.Ledger)
	if err != nil {
		return Report{}, err
	}
	report := Report{Conflicts: TwoWriters(entries)}
	for _, entry := range entries {
		switch entry.Outcome {
		case Acknowledged:
			report.Acknowledged++
		case Failed:
			report.Failed++
		case Unknown:
			report.Unknown++
		}
	}
	primary, err := checkPrimary(ctx, target, config.Primary)
	if err != nil {
		return report, err
	}
	defer primary.close()
	report.Primary = primary.node.Name
	rows, err := readRows(ctx, primary, run)
	if err != nil {
		return report, err
	}
	report.compare(primary.node.Name, entries, rows)
	end, err := primary.query(ctx, `SELECT pg_current_wal_lsn()::text`)
	if err != nil {
		return report, fmt.Errorf("check %s: %w", primary.node.Name, err)
	}
	for _, node := range target.Nodes {
		if node.Name != report.Primary {
			if err := report.checkStandby(ctx, target, node, run, end[0][0], config.CatchUp, entries); err != nil {
				return report, err
			}
		}
	}
	return report, nil
}

// checkPrimary opens a session to the primary: to the named node once it takes
// writes, or to whichever does.
func checkPrimary(ctx context.Context, target Target, name string) (*session, error) {
	if name == "" {
		s, err := openPrimary(ctx, target, "checker")
		if err != nil {
			return nil, fmt.Errorf("check: %w: %w", ErrNoPrimary, err)
		}
		return s, nil
	}
	at := slices.IndexFunc(target.Nodes, func(n Node) bool { return n.Name == name })
	if at < 0 {
		return nil, fmt.Errorf("check: the primary %q is not a node of the target", name)
	}
	for {
		s, err := target.open(ctx, target.Nodes[at], "checker")
		if err == nil && s.writable() {
			return s, nil
		}
		if err == nil {
			s.close()
			err = errors.New("it is a standby")
		}
		if pause(ctx, pollEvery) != nil {
			return nil, fmt.Errorf("check: %w: %s: %w", ErrNoPrimary, name, err)
		}
	}
}

// checkStandby compares one node's rows, if it streams.
func (r *Report) checkStandby(
	ctx context.Context, target Target, node Node, run, end string, patience time.Duration, entries []Entry,
) error {
	s, err := target.open(ctx, node, "checker")
	if err != nil {
		r.Absent = append(r.Absent, node.Name)
		return nil // a node may be down; the report says so
	}
	defer s.close()
	for waited := time.Now(); ; {
		rows, err := s.query(ctx, `SELECT pg_is_in_recovery(),
			EXISTS (SELECT FROM pg_stat_wal_receiver),
			coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)`, end)
		if err != nil {
			return fmt.Errorf("check %s: %w", node.Name, err)
		}
		standby, streams, there := rows[0][0] == "t", rows[0][1] == "t", rows[0][2] == "t"
		switch {
		case standby && streams && there:
			have, err := readRows(ctx, s, run)
			if err != nil {
				return err
			}
			r.compare(node.Name, entries, have)
			return nil
		case !standby:
			r.Absent = append(r.Absent, node.Name)
			return nil
		case time.Since(waited) > patience && streams:
			r.Behind = append(r.Behind, node.Name)
			return nil
		case time.Since(waited) > patience:
			r.Absent = append(r.Absent, node.Name)
			return nil
		}
		if err := pause(ctx, pollEvery); err != nil {
			return fmt.Errorf("check %s: %w", node.Name, err)
		}
	}
}

// compare notes what node lacks of entries, and what it has though it failed.
func (r *Report) compare(node string, entries []Entry, rows map[uint64]bool) {
	for _, entry := range entries {
		switch {
		case entry.Outcome == Acknowledged && !rows[entry.ID]:
			r.Lost = append(r.Lost, Loss{ID: entry.ID, Node: node})
		case entry.Outcome == Failed && rows[entry.ID] && !slices.Contains(r.Resurrected, entry.ID):
			r.Resurrected = append(r.Resurrected, entry.ID)
		}
	}
}

// readRows returns the ids of a run that the session's node has.
func readRows(ctx context.Context, s *session, run string) (map[uint64]bool, error) {
	rows := make(map[uint64]bool)
	err := s.each(ctx, func(row []string) error {
		id, err := strconv.ParseUint(row[0], 10, 64)
		rows[id] = true
		return err
	}, `SELECT id FROM `+Table+` WHERE run = $1`, run)
	if err != nil {
		return nil, fmt.Errorf("read the rows of %s: %w", s.node.Name, err)
	}
	return rows, nil
}
