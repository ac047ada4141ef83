package pg

import (
	"fmt"
	"slices"
	"strings"
)

// Switch is one line of a timeline history file: Timeline ended at At, where
// the next one begins.
type Switch struct {
	Timeline Timeline
	At       LSN
	Reason   string
}

// History is the content of a timeline history file: the ancestors of a
// timeline, oldest first.
type History []Switch

// ParseHistory reads a timeline history file: lines of timeline (decimal), LSN
// and reason, separated by white space; empty lines and lines that start with
// # are ignored. Timelines must grow. LSNs usually do; one is below its
// predecessor's when a server was promoted that had the files of a timeline but
// had not yet reached its beginning.
func ParseHistory(text string) (History, error) {
	var history History
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return nil, fmt.Errorf("history line %d %q: want timeline, LSN and reason", number+1, line)
		}
		timeline, err := ParseTimeline(fields[0])
		if err != nil {
			return nil, fmt.Errorf("history line %d: %w", number+1, err)
		}
		at, err := ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("history line %d: %w", number+1, err)
		}
		if n := len(history); n > 0 && history[n-1].Timeline >= timeline {
			return nil, fmt.Errorf("history line %d: timeline %d does not follow timeline %d", number+1, timeline, history[n-1].Timeline)
		}
		history = append(history, Switch{Timeline: timeline, At: at, Reason: strings.Join(fields[2:], " ")})
	}
	return history, nil
}

// String returns the content of a history file.
func (h History) String() string {
	var b strings.Builder
	for _, s := range h {
		fmt.Fprintf(&b, "%d\t%s\t%s\n", s.Timeline, s.At, s.Reason)
	}
	return b.String()
}

// Has reports whether a timeline is one of the ancestors.
func (h History) Has(timeline Timeline) bool {
	return slices.ContainsFunc(h, func(s Switch) bool { return s.Timeline == timeline })
}

// Lineage is a timeline and how it came to be. It is what decides whether a
// server may follow another one.
type Lineage struct {
	Timeline Timeline
	History  History
}

// Contains reports whether WAL held up to p is part of this lineage: p lies on
// the timeline itself, or on an ancestor not past the point where that
// ancestor was left. It relies on timeline numbers being used once.
func (l Lineage) Contains(p Position) bool {
	if p.Timeline == l.Timeline {
		return true
	}
	for i, s := range l.History {
		if s.Timeline == p.Timeline {
			return p.LSN <= l.History.left(i)
		}
	}
	return false
}

// Owner returns the timeline of this lineage that wrote the last byte before
// end: the oldest ancestor that was not left before it, else the timeline
// itself.
func (l Lineage) Owner(end LSN) Timeline {
	for i, s := range l.History {
		if end <= l.History.left(i) {
			return s.Timeline
		}
	}
	return l.Timeline
}

// left is the end of what ancestor i contributes: where it was left, or where a
// later ancestor was, if that is earlier.
func (h History) left(i int) LSN {
	at := h[i].At
	for _, later := range h[i+1:] {
		at = min(at, later.At)
	}
	return at
}
