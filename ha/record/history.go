package record

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pghad/pghad/pg"
)

// Term is one entry of `history`: who held the term, on which timeline.
// Timeline is reserved before the promotion; SwitchAt is added after it and
// says where Timeline begins, on which parent.
type Term struct {
	ID       uint64
	Primary  string
	Timeline pg.Timeline
	Parent   pg.Timeline // 0 where the term goes on with the timeline it had
	SwitchAt pg.LSN      // 0 until the promotion is done
	At       string      // RFC 3339, for people
	Loss     *Loss       // what may have been lost where the term began, in mode async
}

// History is the value of `history`: one entry a term, oldest first, append
// only. Its JSON is an array of arrays whose first five elements are Patroni's
// (timeline that ended, LSN, reason, time, new leader), followed by an object
// with what only this software knows.
type History []Term

// With returns the history with one more entry; h itself is not touched.
func (h History) With(term Term) History {
	return append(slices.Clip(h), term)
}

type termExtra struct {
	Term     uint64      `json:"term"`
	Timeline pg.Timeline `json:"timeline"`
	Loss     *Loss       `json:"loss,omitempty"`
}

// MarshalJSON writes the entry as described at History.
func (t Term) MarshalJSON() ([]byte, error) {
	reason := "failover"
	switch {
	case t.Parent == 0:
		reason = "same timeline"
	case t.SwitchAt == 0:
		reason = "reserved"
	}
	return json.Marshal([]any{t.Parent, uint64(t.SwitchAt), reason, t.At, t.Primary, termExtra{t.ID, t.Timeline, t.Loss}}) //nolint:wrapcheck // the caller names the record
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Term) UnmarshalJSON(data []byte) error {
	var fields []json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err //nolint:wrapcheck // the caller names the record
	}
	if len(fields) < 6 {
		return fmt.Errorf("history entry %s: want 6 elements, the last one an object with term and timeline", data)
	}
	var (
		extra  termExtra
		reason string
		lsn    uint64
	)
	for i, target := range []any{&t.Parent, &lsn, &reason, &t.At, &t.Primary, &extra} {
		if err := json.Unmarshal(fields[i], target); err != nil {
			return fmt.Errorf("history entry %s, element %d: %w", data, i+1, err)
		}
	}
	t.SwitchAt, t.ID, t.Timeline, t.Loss = pg.LSN(lsn), extra.Term, extra.Timeline, extra.Loss
	return nil
}

// Find returns the entry of a term.
func (h History) Find(id uint64) (Term, bool) {
	for _, t := range h {
		if t.ID == id {
			return t, true
		}
	}
	return Term{}, false
}

// Promotion returns the entry of the term that has begun a timeline; later terms
// may have gone on with it.
func (h History) Promotion(timeline pg.Timeline) (Term, bool) {
	for _, t := range h {
		if t.Timeline == timeline && t.Parent != 0 {
			return t, true
		}
	}
	return Term{}, false
}

// Lineage is how a timeline came to be, as far as it is recorded: it ends at a
// promotion whose switch was not recorded.
func (h History) Lineage(timeline pg.Timeline) pg.Lineage {
	lineage := pg.Lineage{Timeline: timeline}
	for _, t := range slices.Backward(h) {
		if t.Timeline == timeline && t.Parent != 0 && t.SwitchAt != 0 {
			lineage.History = append(pg.History{{Timeline: t.Parent, At: t.SwitchAt}}, lineage.History...)
			timeline = t.Parent
		}
	}
	return lineage
}

// Newest is the highest timeline number that was ever reserved.
func (h History) Newest() pg.Timeline {
	var newest pg.Timeline
	for _, t := range h {
		newest = max(newest, t.Timeline)
	}
	return newest
}
