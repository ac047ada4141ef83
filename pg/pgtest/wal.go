package pgtest

import (
	"hash/fnv"
	"slices"
	"sort"

	"github.com/pghad/pghad/pg"
)

// Kind is what a WAL record is.
type Kind string

const (
	KindCommit        Kind = "commit"
	KindFiller        Kind = "filler" // anything that nobody waits for
	KindCheckpoint    Kind = "checkpoint"
	KindShutdown      Kind = "shutdown checkpoint"
	KindEndOfRecovery Kind = "end of recovery"
	KindBulk          Kind = "bulk"   // what a load leaves behind: long
	KindSwitch        Kind = "switch" // of pg_switch_wal: fills the segment
)

// RecordID is the hidden identity of a WAL record. No server knows it: two
// records of different lineages can share timeline, LSN and length, and are
// still two records.
type RecordID uint64

// Record is one WAL record. It never changes.
type Record struct {
	ID       RecordID
	Kind     Kind
	Timeline pg.Timeline
	Start    pg.LSN
	End      pg.LSN
	Prev     pg.LSN   // where the record before it starts, as in every real record
	Commits  []string // ids that clients have given to what is committed
}

// Position is the end of the record.
func (r *Record) Position() pg.Position { return pg.Position{Timeline: r.Timeline, LSN: r.End} }

// firstLSN is where the WAL of a new cluster begins.
const firstLSN pg.LSN = 0x1000000

// bulk is how long a record of a load is.
const bulk pg.LSN = 64 << 10

// length is how long a record is, in bytes. Commits differ, so that the records
// of two lineages begin at the same LSN sometimes, and mostly not (X7).
func length(kind Kind, commits []string) pg.LSN {
	switch kind {
	case KindCommit:
		h := fnv.New32a()
		for _, id := range commits {
			_, _ = h.Write([]byte(id))
		}
		return 64 + 8*pg.LSN(h.Sum32()%8)
	case KindFiller:
		return 96
	case KindEndOfRecovery:
		return 48
	case KindCheckpoint, KindShutdown:
		return 120
	case KindBulk:
		return bulk
	case KindSwitch: // depends on where it begins
	}
	return 64
}

// wal is the WAL that a server holds in its files, and with it everything that
// it has ever replayed: from begins what it could still send.
type wal struct {
	records []*Record
	partial pg.LSN // bytes of an incomplete record behind the last one
	durable pg.LSN // survives the end of the machine; at most tail
	from    pg.LSN // older WAL has been removed
}

// end is where the last complete record ends.
func (w *wal) end() pg.LSN {
	if last := w.last(); last != nil {
		return last.End
	}
	return firstLSN
}

// tail is the last byte held, of an incomplete record too.
func (w *wal) tail() pg.LSN { return w.end() + w.partial }

func (w *wal) last() *Record {
	if len(w.records) == 0 {
		return nil
	}
	return w.records[len(w.records)-1]
}

// after is the index of the first record that ends after lsn.
func (w *wal) after(lsn pg.LSN) int {
	return sort.Search(len(w.records), func(i int) bool { return w.records[i].End > lsn })
}

// before is the last record that ends at or before lsn, nil if there is none.
func (w *wal) before(lsn pg.LSN) *Record {
	if i := w.after(lsn); i > 0 {
		return w.records[i-1]
	}
	return nil
}

// timelineAt is the timeline of the last byte before lsn, as the name of the
// WAL file says it.
func (w *wal) timelineAt(lsn pg.LSN) pg.Timeline {
	if r := w.before(lsn); r != nil {
		return r.Timeline
	}
	return 1
}

func (w *wal) contains(r *Record) bool {
	i := w.after(r.Start)
	return i < len(w.records) && w.records[i] == r
}

// shared is up to where two servers hold the same records.
func (w *wal) shared(other *wal) pg.LSN {
	n := sort.Search(min(len(w.records), len(other.records)), func(i int) bool { return w.records[i] != other.records[i] })
	if n == 0 {
		return firstLSN
	}
	return w.records[n-1].End
}

// cut forgets everything from lsn on, which must be the end of a record.
func (w *wal) cut(lsn pg.LSN) {
	w.records = slices.Clip(w.records[:w.after(lsn)])
	w.partial = 0
	w.durable = min(w.durable, lsn)
}

// loseUnflushed is what the end of the machine does.
func (w *wal) loseUnflushed() {
	durable := w.durable
	i := w.after(durable)
	w.records = slices.Clip(w.records[:i])
	w.partial = 0
	if end := w.end(); durable > end {
		w.partial = durable - end
	}
}

// extend writes received records behind what is held, as far as they continue
// it. Records that are held already are skipped; other records at their place
// are overwritten, but never below kept, which has been replayed. It reports
// whether everything up to upto could be read as WAL afterwards.
func (w *wal) extend(records []*Record, upto, kept pg.LSN) bool {
	for _, r := range records {
		switch {
		case r.End <= w.end() && w.contains(r):
			continue
		case r.Start < w.end():
			before := w.before(r.Start)
			if r.Start < kept || !follows(before, r) {
				continue // other bytes in a place that nobody reads any more
			}
			w.cut(r.Start)
		}
		if !follows(w.last(), r) {
			return false
		}
		w.records = append(w.records, r)
		w.partial = 0
	}
	if upto > w.end() {
		w.partial = upto - w.end()
	}
	return true
}

// follows reports whether a reader that stands behind before takes r for the
// next record: it begins there, and points back to it.
func follows(before, r *Record) bool {
	if before == nil {
		return r.Start == firstLSN
	}
	return r.Start == before.End && r.Prev == before.Start
}

// clone is an independent copy. The records themselves are shared.
func (w *wal) clone() wal {
	c := *w
	c.records = slices.Clone(w.records)
	return c
}

// lineage is a timeline with the history that a server believes in.
type lineage = pg.Lineage

// readable reports whether recovery along l would take r: it lies on the
// timeline, or on an ancestor before that was left.
func readable(l lineage, r *Record) bool { return l.Contains(r.Position()) }

// timelineOfPoint is the timeline on which l passes lsn.
func timelineOfPoint(l lineage, lsn pg.LSN) pg.Timeline {
	for _, s := range l.History {
		if lsn < s.At {
			return s.Timeline
		}
	}
	return l.Timeline
}
