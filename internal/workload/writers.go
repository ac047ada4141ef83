package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// WritersConfig says how much is written, and where to.
type WritersConfig struct {
	Target Target
	Ledger *Ledger
	Count  int           // how many writers; 4
	Every  time.Duration // one insert of each writer in this time; 10 ms
	Logger *slog.Logger  // nil: none
}

// Writers insert rows through whichever node takes writes, each row in a
// transaction of its own, over a session that is kept until it breaks.
type Writers struct {
	ledger *Ledger
	gaps   Gaps
	newest atomic.Int64 // when the youngest session with an acknowledgement was opened, by the ledger
	crew
}

// crew is a set of writer goroutines: who stops them, and what ended them early.
type crew struct {
	cancel   context.CancelCauseFunc // ends waits, not statements
	stopping context.Context
	workers  sync.WaitGroup
	logger   *slog.Logger

	mu  sync.Mutex
	err error
}

func newCrew(logger *slog.Logger) crew {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	return crew{stopping: ctx, cancel: cancel, logger: logger}
}

// fail notes the first error and stops all.
func (c *crew) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.cancel(err)
}

// stop ends the workers and waits until each has seen the end of its statement,
// at most the statement timeout later.
func (c *crew) stop() error {
	c.cancel(context.Canceled)
	c.workers.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// StartWriters starts writing. The table must exist (CreateTable). Stop must be
// called.
func StartWriters(config WritersConfig) (*Writers, error) {
	if err := config.Target.check(); err != nil {
		return nil, err
	}
	if config.Ledger == nil {
		return nil, errors.New("workload: writers need a ledger")
	}
	target := config.Target.withDefaults()
	count, every := config.Count, config.Every
	if count <= 0 {
		count = 4
	}
	if every <= 0 {
		every = 10 * time.Millisecond
	}
	w := &Writers{ledger: config.Ledger, crew: newCrew(config.Logger)}
	find := newLocator(target)
	var running sync.WaitGroup
	for i := range count {
		writer := &writer{name: "writer-" + strconv.Itoa(i+1), target: target, ledger: w.ledger, crew: &w.crew, gaps: &w.gaps, newest: &w.newest}
		running.Add(1)
		w.workers.Go(func() {
			defer running.Done()
			// Spread over the interval, so that writers do not move in step.
			if pause(w.stopping, every*time.Duration(i)/time.Duration(count)) == nil {
				writer.run(find, every)
			}
		})
	}
	w.workers.Go(func() {
		running.Wait()
		find.stop()
	})
	return w, nil
}

// Gaps are the gaps between the acknowledgements of all writers.
func (w *Writers) Gaps() *Gaps { return &w.gaps }

// Resumed reports whether a write was acknowledged over a session that was opened
// after since: proof that clients have found a primary again, and not only that
// the last answers of the old one came in.
func (w *Writers) Resumed(since time.Duration) bool { return w.newest.Load() > int64(since) }

// Stop ends writing and measuring, and waits for both: at most the statement
// timeout. The error says why writing ended early: the ledger could not be
// written.
func (w *Writers) Stop() error {
	w.gaps.End(w.ledger.Now())
	return w.crew.stop()
}

// writer is one of Writers or PinnedWriters.
type writer struct {
	name   string
	target Target
	ledger *Ledger
	crew   *crew
	gaps   *Gaps         // nil: pinned
	newest *atomic.Int64 // of Writers
}

// run writes through whichever node is the primary until the crew stops.
func (w *writer) run(find *locator, every time.Duration) {
	ctx := w.crew.stopping
	for ctx.Err() == nil {
		node, err := find.primary(ctx)
		if err != nil {
			return
		}
		opened := int64(w.ledger.Now()) // or later
		s, err := w.target.open(ctx, node, w.name)
		if err != nil {
			_ = pause(ctx, pollEvery) // the loop looks at ctx
			continue
		}
		if s.writable() {
			w.crew.logger.Debug("writer found the primary", "writer", w.name, "node", node.Name, "timeline", s.timeline)
			w.insertAll(s, opened, every)
		}
		s.close()
	}
}

// insertAll inserts over s, one row each interval, until one is not acknowledged
// or the crew stops.
func (w *writer) insertAll(s *session, opened int64, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if !w.insert(s) {
			return
		}
		if newest := w.newest.Load(); newest < opened {
			w.newest.CompareAndSwap(newest, opened) // if it fails, another session is as young, or this one's next write tries again
		}
		select {
		case <-tick.C:
		case <-w.crew.stopping.Done():
			return
		}
	}
}

// insert writes one row and notes its fate. It reports whether the session is
// good for another.
func (w *writer) insert(s *session) bool {
	entry, err := w.ledger.Begin(Entry{
		Writer: w.name, Node: s.node.Name, Timeline: s.timeline, Backend: s.backend, Pinned: w.gaps == nil,
	})
	if err != nil {
		w.crew.fail(err)
		return false
	}
	// A statement that was sent is not abandoned when the crew stops: its
	// outcome is worth the wait, which the statement timeout bounds.
	_, err = s.query(context.Background(),
		`INSERT INTO `+Table+` (run, id, writer, node, timeline) VALUES ($1, $2, $3, $4, $5)`,
		w.ledger.Run(), strconv.FormatUint(entry.ID, 10), w.name, s.node.Name, strconv.FormatUint(uint64(s.timeline), 10))
	seen := w.ledger.Now()
	outcome, reason := classify(err, s.warned)
	if err := w.ledger.End(entry, seen, outcome, reason); err != nil {
		w.crew.fail(err)
		return false
	}
	if outcome != Acknowledged {
		w.crew.logger.Debug("write not acknowledged", "writer", w.name, "node", s.node.Name, "id", entry.ID,
			"outcome", string(outcome), "reason", reason)
		return false
	}
	if w.gaps != nil {
		w.gaps.Acknowledged(seen)
	}
	return true
}

// PinnedConfig says which nodes get a pinned writer.
type PinnedConfig struct {
	Target Target
	Ledger *Ledger
	Every  time.Duration // 100 ms
	Logger *slog.Logger  // nil: none
}

// PinnedWriters are one writer a node. Each keeps to its node whatever that is,
// and writes whenever the node lets it: two nodes that take writes at one time
// both end up in the ledger.
type PinnedWriters struct {
	config PinnedConfig
	crew
}

// StartPinnedWriters starts one writer for each node of the target. Stop must be
// called.
func StartPinnedWriters(config PinnedConfig) (*PinnedWriters, error) {
	if err := config.Target.check(); err != nil {
		return nil, err
	}
	if config.Ledger == nil {
		return nil, errors.New("workload: pinned writers need a ledger")
	}
	config.Target = config.Target.withDefaults()
	if config.Every <= 0 {
		config.Every = 100 * time.Millisecond
	}
	p := &PinnedWriters{config: config, crew: newCrew(config.Logger)}
	for _, node := range config.Target.Nodes {
		p.Add(node)
	}
	return p, nil
}

// Add starts a writer for one more node. Not to be called after Stop.
func (p *PinnedWriters) Add(node Node) {
	w := &writer{name: "pinned-" + node.Name, target: p.config.Target, ledger: p.config.Ledger, crew: &p.crew}
	p.workers.Go(func() { w.runPinned(node, p.config.Every) })
}

// Stop ends writing and waits for it: at most the statement timeout.
func (p *PinnedWriters) Stop() error { return p.stop() }

// runPinned writes to node, whenever it takes writes, until the crew stops. The
// session is kept across the roles of the node for as long as the node keeps it.
func (w *writer) runPinned(node Node, every time.Duration) {
	var s *session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	ctx := w.crew.stopping
	for {
		if s == nil {
			s, _ = w.target.open(ctx, node, w.name) // a node may be down; the next round tries again
		} else if !s.writable() && s.look(ctx) != nil {
			s.close()
			s = nil
		}
		if s != nil && s.writable() && !w.insert(s) {
			s.close()
			s = nil
		}
		if pause(ctx, every) != nil {
			return
		}
	}
}

// String describes counts for people.
func (c Counts) String() string {
	return fmt.Sprintf("%d acknowledged, %d unknown, %d failed", c.Acknowledged, c.Unknown, c.Failed)
}
