package workload

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Conflict is an acknowledgement that two writers made possible.
type Conflict struct {
	Entry   Entry // the acknowledged write
	Witness Entry // the acknowledged write of another reign that convicts it
	Rule    string
}

// String tells it in one sentence.
func (c Conflict) String() string {
	return fmt.Sprintf("id %d was acknowledged by %s on timeline %d (sent at %s): %s %d, acknowledged by %s on timeline %d at %s",
		c.Entry.ID, c.Entry.Node, c.Entry.Timeline, c.Entry.Sent, c.Rule, c.Witness.ID, c.Witness.Node, c.Witness.Timeline, c.Witness.Done)
}

const (
	ruleSameTerm = "the same timeline as id"
	ruleOldTerm  = "later than the newer timeline of id"
)

// TwoWriters returns the acknowledged writes that break one of two rules. Both
// are judged from the ledger alone, and a cluster with one writer at a time
// breaks neither, whatever the delays of clients and servers are:
//
//  1. Every promotion makes a new timeline, and only the promoted node writes on
//     it. So all acknowledgements of a timeline come from one node. Convicted are
//     those of every node but the first to acknowledge on it.
//  2. A newer timeline begins when no older primary can gain acknowledgements any
//     more. So nothing that was *sent* after an acknowledgement of a newer
//     timeline had been *seen* is acknowledged on an older one. (Seen later is
//     innocent: a deposed primary may release what it had gathered before.)
//
// The timeline of a write is that of its session's server when the session was
// opened. It cannot change under the session: a server leaves the primary's role
// only by a restart.
func TwoWriters(entries []Entry) []Conflict {
	sent := make([]Entry, 0, len(entries))
	for _, entry := range entries {
		if entry.Outcome == Acknowledged {
			sent = append(sent, entry)
		}
	}
	seen := slices.Clone(sent)
	slices.SortFunc(sent, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Sent, b.Sent), cmp.Compare(a.ID, b.ID)) })
	slices.SortFunc(seen, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Done, b.Done), cmp.Compare(a.ID, b.ID)) })

	first := make(map[uint32]Entry) // of each timeline
	for _, entry := range seen {
		if _, known := first[entry.Timeline]; !known {
			first[entry.Timeline] = entry
		}
	}
	var conflicts []Conflict
	var newest Entry // highest timeline seen before the write at hand was sent
	at := 0
	for _, entry := range sent {
		for ; at < len(seen) && seen[at].Done < entry.Sent; at++ {
			if seen[at].Timeline > newest.Timeline {
				newest = seen[at]
			}
		}
		switch owner := first[entry.Timeline]; {
		case owner.Node != entry.Node:
			conflicts = append(conflicts, Conflict{Entry: entry, Witness: owner, Rule: ruleSameTerm})
		case newest.Timeline > entry.Timeline:
			conflicts = append(conflicts, Conflict{Entry: entry, Witness: newest, Rule: ruleOldTerm})
		}
	}
	return conflicts
}

// Late returns the writes that were sent to node on an older timeline after a
// newer one's acknowledgement had been seen: what a deposed primary was asked to
// do. Those that it acknowledged break the second rule of TwoWriters.
func Late(entries []Entry, node string) []Entry {
	seen := make(map[uint32]time.Duration) // the first acknowledgement of each timeline
	for _, entry := range entries {
		if first, known := seen[entry.Timeline]; entry.Outcome == Acknowledged && (!known || entry.Done < first) {
			seen[entry.Timeline] = entry.Done
		}
	}
	var late []Entry
	for _, entry := range entries {
		if entry.Node != node {
			continue
		}
		for timeline, first := range seen {
			if timeline > entry.Timeline && first < entry.Sent {
				late = append(late, entry)
				break
			}
		}
	}
	return late
}
