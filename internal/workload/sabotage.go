package workload

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Lose deletes count acknowledged rows behind the checker's back: it proves that
// Check would have seen a loss. The deletion is an ordinary commit on the primary
// and reaches the standbys. It returns the ids.
func Lose(ctx context.Context, target Target, ledger string, count int) ([]uint64, error) {
	target = target.withDefaults()
	run, entries, err := ReadLedger(ledger)
	if err != nil {
		return nil, err
	}
	var ids []uint64
	var texts []string
	for _, entry := range entries {
		if entry.Outcome == Acknowledged && len(ids) < count {
			ids = append(ids, entry.ID)
			texts = append(texts, strconv.FormatUint(entry.ID, 10))
		}
	}
	if len(ids) < count {
		return nil, fmt.Errorf("lose %d rows: only %d are acknowledged", count, len(ids))
	}
	s, err := openPrimary(ctx, target, "sabotage")
	if err != nil {
		return nil, fmt.Errorf("lose %d rows: %w", count, err)
	}
	defer s.close()
	rows, err := s.query(ctx, `DELETE FROM `+Table+` WHERE run = $1 AND id = ANY ($2::bigint[]) RETURNING id`,
		run, "{"+strings.Join(texts, ",")+"}")
	if err != nil {
		return nil, fmt.Errorf("lose %d rows on %s: %w", count, s.node.Name, err)
	}
	if len(rows) != count {
		return nil, fmt.Errorf("lose %d rows on %s: %d were there", count, s.node.Name, len(rows))
	}
	return ids, nil
}
