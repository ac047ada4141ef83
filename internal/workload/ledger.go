package workload

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Entry is one write of the ledger.
type Entry struct {
	ID       uint64
	Writer   string
	Node     string // who it was sent to
	Timeline uint32 // of that node when the session was opened: names its reign
	Backend  int
	Pinned   bool // the writer never changes node

	Sent    time.Duration // read before it was sent
	Done    time.Duration // read after its end was seen; 0 without an outcome
	Outcome Outcome       // Unknown if the writer died before it knew
	Reason  string        // why not acknowledged
}

// line is what stands in the file, one JSON object a line: a head when the file
// is opened, a line before a write is sent (with an id and no outcome), a line
// after (with both).
type line struct {
	Run    string     `json:"run,omitempty"`
	Opened *time.Time `json:"opened,omitempty"` // times in the lines that follow count from here

	ID       uint64        `json:"id,omitempty"`
	Writer   string        `json:"writer,omitempty"`
	Node     string        `json:"node,omitempty"`
	Timeline uint32        `json:"timeline,omitempty"`
	Backend  int           `json:"backend,omitempty"`
	Pinned   bool          `json:"pinned,omitempty"`
	At       time.Duration `json:"at,omitempty"`
	Outcome  Outcome       `json:"outcome,omitempty"`
	Reason   string        `json:"reason,omitempty"`
}

// Counts is how many writes ended how. Open ones have no outcome yet.
type Counts struct{ Acknowledged, Unknown, Failed, Open int }

// Ledger is an append-only file of writes. It survives a kill of the process at
// any point, not a power failure: lines are written at once, never fsynced. All
// methods may be called concurrently.
type Ledger struct {
	run  string
	base time.Time // of all times; monotonic

	mu     sync.Mutex
	file   *os.File
	next   uint64
	counts Counts
	broken error // a line could not be written: the file may end in half a line
}

// OpenLedger creates the ledger at path, or goes on with the one that is there:
// with its run and above its ids. Times of a continued ledger are right only as
// far as the wall clock is.
func OpenLedger(path string) (*Ledger, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600) //nolint:gosec // the caller's own path
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	past, err := readLines(file)
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	l := &Ledger{run: past.run, base: time.Now(), file: file, next: past.last + 1}
	if l.run == "" {
		l.run = rand.Text()
	} else {
		l.base = l.base.Add(-l.base.Sub(past.opened)) // goes on in the times of the first opening
	}
	for _, entry := range past.entries {
		l.counts.add(entry.Outcome)
	}
	opened := l.base
	head := line{Run: l.run, Opened: &opened}
	if past.torn {
		_, err = file.WriteString("\n")
	}
	if err == nil {
		err = l.append(head)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	return l, nil
}

// Run names the rows of this ledger in the table.
func (l *Ledger) Run() string { return l.run }

// Now is the present time as entries count it.
func (l *Ledger) Now() time.Duration { return time.Since(l.base) }

// Counts returns how many writes ended how so far.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// Begin gives a write its id and notes it in the file. Only after that may it be
// sent. Sent is set by Begin.
func (l *Ledger) Begin(e Entry) (Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.ID, e.Sent = l.next, l.Now()
	l.next++
	err := l.append(line{
		ID: e.ID, Writer: e.Writer, Node: e.Node, Timeline: e.Timeline, Backend: e.Backend, Pinned: e.Pinned, At: e.Sent,
	})
	if err != nil {
		return e, fmt.Errorf("ledger: note id %d: %w", e.ID, err)
	}
	l.counts.Open++
	return e, nil
}

// End notes how a write ended. seen is when that was seen, by Now.
func (l *Ledger) End(e Entry, seen time.Duration, outcome Outcome, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(line{ID: e.ID, At: seen, Outcome: outcome, Reason: reason}); err != nil {
		return fmt.Errorf("ledger: note the outcome of id %d: %w", e.ID, err)
	}
	l.counts.Open--
	l.counts.add(outcome)
	return nil
}

func (c *Counts) add(outcome Outcome) {
	switch outcome {
	case Acknowledged:
		c.Acknowledged++
	case Failed:
		c.Failed++
	case Unknown:
		c.Unknown++
	}
}

// append writes one line by one write call, so that a kill leaves at most the
// last line torn.
func (l *Ledger) append(content line) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if l.broken == nil {
		_, l.broken = l.file.Write(append(data, '\n'))
	}
	return l.broken
}

// Close closes the file. Writers must have stopped.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}

// ReadLedger reads a ledger back: its run, and its entries in the order of their
// ids. A write without an outcome is unknown, and so is one whose outcome's line
// was torn by a kill.
func ReadLedger(path string) (run string, entries []Entry, err error) {
	file, err := os.Open(path) //nolint:gosec // the caller's own path
	if err != nil {
		return "", nil, fmt.Errorf("open ledger: %w", err)
	}
	past, err := readLines(file)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	return past.run, past.entries, nil
}

// past is what a ledger file holds.
type past struct {
	run     string
	opened  time.Time // first time
	last    uint64    // highest id
	entries []Entry
	torn    bool // the last line has no end
}

func readLines(file io.Reader) (past, error) {
	var p past
	index := make(map[uint64]int)
	reader := bufio.NewReader(file)
	var torn error
	for number := 1; ; number++ {
		data, err := reader.ReadBytes('\n')
		atEnd := errors.Is(err, io.EOF)
		switch {
		case err != nil && !atEnd:
			return past{}, err
		case len(data) == 0:
			return p, nil
		}
		p.torn = atEnd // a line that is whole but for its end counts: the next opening ends it
		var content line
		if err := json.Unmarshal(data, &content); err != nil {
			torn = fmt.Errorf("line %d is not a line of a ledger: %w", number, err)
			continue
		}
		if torn != nil && content.Run == "" {
			return past{}, torn // only a kill tears a line, and the next opening follows it with a head
		}
		torn = nil
		if err := p.take(content, index); err != nil {
			return past{}, fmt.Errorf("line %d: %w", number, err)
		}
	}
}

// take adds one line.
func (p *past) take(content line, index map[uint64]int) error {
	switch {
	case content.Run != "":
		if p.run != "" && p.run != content.Run {
			return fmt.Errorf("two runs, %s and %s, in one file", p.run, content.Run)
		}
		if p.run == "" {
			if content.Opened == nil {
				return errors.New("a head without its time")
			}
			p.run, p.opened = content.Run, *content.Opened
		}
	case content.Outcome == "":
		if _, known := index[content.ID]; known || content.ID == 0 {
			return fmt.Errorf("id %d is sent twice", content.ID)
		}
		index[content.ID] = len(p.entries)
		p.entries = append(p.entries, Entry{
			ID: content.ID, Writer: content.Writer, Node: content.Node, Timeline: content.Timeline, Backend: content.Backend,
			Pinned: content.Pinned, Sent: content.At, Outcome: Unknown, Reason: "the writer ended before it knew",
		})
		p.last = max(p.last, content.ID)
	default:
		at, known := index[content.ID]
		if !known {
			return fmt.Errorf("an outcome for id %d, which was not sent", content.ID)
		}
		p.entries[at].Done, p.entries[at].Outcome, p.entries[at].Reason = content.At, content.Outcome, content.Reason
	}
	return nil
}
