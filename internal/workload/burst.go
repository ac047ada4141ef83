package workload

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Burst is a set of sessions on one node that are opened while it is well, and later
// write as fast as it lets them: they find out for how long it acknowledges. Their rows
// belong to no ledger's run.
type Burst struct {
	run      string
	sessions []*session
}

// burstPatience is how long the node may take to open a session.
const burstPatience = 10 * time.Second

// BurstResult is what a burst has found.
type BurstResult struct {
	Acknowledged int           // writes
	Last         time.Duration // from the call of Run to the last acknowledgement; 0 without any
}

// OpenBurst opens n sessions on a node that takes writes. Close must be called.
func OpenBurst(ctx context.Context, target Target, name string, n int) (*Burst, error) {
	if err := target.check(); err != nil {
		return nil, err
	}
	target = target.withDefaults()
	target.ConnectTimeout = burstPatience
	at := slices.IndexFunc(target.Nodes, func(n Node) bool { return n.Name == name })
	if at < 0 {
		return nil, fmt.Errorf("workload: the target has no node %q", name)
	}
	b := &Burst{run: "burst of " + time.Now().UTC().Format(time.RFC3339Nano)}
	for range n {
		s, err := target.open(ctx, target.Nodes[at], "burst")
		if err == nil {
			b.sessions = append(b.sessions, s)
			if !s.writable() {
				err = fmt.Errorf("%s takes no writes", name)
			}
		}
		if err != nil {
			b.Close()
			return nil, fmt.Errorf("workload: open a burst: %w", err)
		}
	}
	return b, nil
}

// Run lets each session send a write, calls begun, and lets each write again as soon as
// it has an answer. A session ends with its first write that is not
// acknowledged, which the statement timeout bounds. Run returns when all have ended, or
// ctx has. It is called once.
//
// The node may stand still when Run is called, and go on by what begun does.
func (b *Burst) Run(ctx context.Context, begun func() error) (BurstResult, error) {
	var (
		mu      sync.Mutex
		result  BurstResult
		writing sync.WaitGroup
	)
	start := time.Now()
	for i, s := range b.sessions {
		writing.Go(func() {
			for n := 0; ; n++ {
				id := strconv.Itoa(n*len(b.sessions) + i)
				_, err := s.query(ctx, `INSERT INTO `+Table+` (run, id, writer, node, timeline) VALUES ($1, $2, 'burst', $3, $4)`,
					b.run, id, s.node.Name, strconv.FormatUint(uint64(s.timeline), 10))
				if outcome, _ := classify(err, s.warned); outcome != Acknowledged {
					return
				}
				mu.Lock()
				result.Acknowledged++
				result.Last = max(result.Last, time.Since(start))
				mu.Unlock()
			}
		})
	}
	err := begun()
	writing.Wait()
	return result, err
}

// Close ends the sessions. On nil it does nothing.
func (b *Burst) Close() {
	if b == nil {
		return
	}
	for _, s := range b.sessions {
		s.close()
	}
}
