package ha_test

import (
	"context"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// overlaps are the cases in which two nodes compete for the lock while the way
// to the store fails for one of them or both. What they did is put in order by
// true time.
func overlaps() []lockCase {
	const meaning = "two holders work at the same time."
	slow := [2]float64{0.9, 1.1}
	var cases []lockCase
	for _, tc := range []struct {
		name  string
		who   victim
		rates [2]float64
		usual fault // before the trouble
		then  func(storeCall) fault
	}{
		{"HolderPartitioned", holder, [2]float64{1, 1}, fault{}, partitioned},
		{"ContenderPartitioned", contender, [2]float64{1, 1}, fault{}, partitioned},
		{"BothPartitioned", both, [2]float64{1, 1}, fault{}, partitioned},
		{"HolderHalfOpen", holder, [2]float64{1, 1}, fault{}, halfOpen},
		{"BothHalfOpen", both, [2]float64{1, 1}, fault{}, halfOpen},
		{"SlowReplies", holder, [2]float64{1, 1}, fault{reply: 800 * time.Millisecond}, partitioned},
		{"SlowRequests", holder, [2]float64{1, 1}, fault{request: 800 * time.Millisecond}, partitioned},
		{"SlowClock", holder, slow, fault{}, partitioned},
		{"SlowClockHalfOpen", holder, slow, fault{}, halfOpen},
		{"RenewalsLost", holder, [2]float64{1, 1}, fault{}, func(c storeCall) fault { return fault{lost: c.kind == callRenew} }},
		{"ProofsLost", holder, [2]float64{1, 1}, fault{}, func(c storeCall) fault { return fault{lost: c.proves()} }},
	} {
		cases = append(cases, lockCase{"NoOverlap" + tc.name, meaning, func(b *lockBench) {
			noOverlap(b, tc.who, tc.rates, tc.usual, tc.then)
		}})
	}
	return cases
}

type victim int

const (
	holder victim = iota
	contender
	both
)

// competitor is a node that takes the lock as often as it can, and keeps it for
// as long as it may.
type competitor struct {
	name  string
	l     *ha.Locker
	f     *faultyStore
	usual fault
	seen  *sightings
}

// sighting is one term as true time saw it: last is a moment at which its lease
// was in force. A late goroutine makes a term shorter here, never longer, so
// that a loaded machine raises no false alarm.
type sighting struct {
	by          *competitor
	token       dcs.Revision
	begin, last time.Time
	over        bool
}

// sightings is the checker of terms.
type sightings struct {
	mu    sync.Mutex
	terms []*sighting
}

func (s *sightings) begin(by *competitor, token dcs.Revision) *sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	term := &sighting{by: by, token: token, begin: now, last: now}
	s.terms = append(s.terms, term)
	return term
}

// inForce notes that the lease was in force at a moment before now.
func (s *sightings) inForce(term *sighting, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	term.last = at
}

func (s *sightings) end(term *sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	term.over = true
}

func (s *sightings) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.terms)
}

// newest returns the last term and whether it is over.
func (s *sightings) newest() (*competitor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	term := s.terms[len(s.terms)-1]
	return term.by, term.over
}

// requireOrder fails if a term had begun before an earlier one, by its token,
// had ended.
func (s *sightings) requireOrder(b *lockBench) {
	b.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, earlier := range s.terms {
		for _, later := range s.terms {
			if later.token <= earlier.token {
				continue
			}
			require.Falsef(b.t, later.begin.Before(earlier.last), "%s held the lock (token %d) while %s still did (token %d), for %s",
				later.by.name, later.token, earlier.by.name, earlier.token, earlier.last.Sub(later.begin))
		}
	}
}

func (c *competitor) compete(ctx context.Context, key string) {
	for ctx.Err() == nil {
		lease, err := c.l.Acquire(ctx, key, []byte(c.name))
		if err != nil {
			continue
		}
		term := c.seen.begin(c, lease.Token())
		for ctx.Err() == nil {
			at := time.Now()
			if lease.Check() != nil {
				break
			}
			c.seen.inForce(term, at)
			timer := time.NewTimer(5 * time.Millisecond)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		c.seen.end(term)
		_ = lease.Release(context.WithoutCancel(ctx)) // it expires
	}
}

// heal takes the trouble away.
func (c *competitor) heal() { c.f.setRule(func(storeCall) fault { return c.usual }) }

func noOverlap(b *lockBench, who victim, rates [2]float64, usual fault, trouble func(storeCall) fault) {
	seen := &sightings{}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	nodes := make([]*competitor, 2)
	for i, name := range []string{"a", "b"} {
		clk := newRatedClock(rates[i])
		l, f := b.node(brief, func(cfg *ha.LockerConfig) {
			cfg.Clock = clk
			if rates[i] != 1 {
				cfg.MaxDrift, cfg.Margin = 0.1, time.Second/2
			}
		})
		nodes[i] = &competitor{name: name, l: l, f: f, usual: usual, seen: seen}
		nodes[i].heal()
		wg.Go(func() { nodes[i].compete(ctx, b.key) })
		b.until("a holds the lock", func() bool { return seen.count() > 0 })
	}
	for range 2 {
		oneChange(b, seen, nodes, who, trouble)
	}
	cancel()
	wg.Wait()
	seen.requireOrder(b)
	require.GreaterOrEqual(b.t, seen.count(), 3)
}

// oneChange lets trouble come, and waits for another term.
func oneChange(b *lockBench, seen *sightings, nodes []*competitor, who victim, trouble func(storeCall) fault) {
	b.t.Helper()
	terms := seen.count()
	holding, _ := seen.newest()
	other := nodes[0]
	if other == holding {
		other = nodes[1]
	}
	renewals := func(n int) {
		until := holding.f.count(callRenew) + n
		b.until("the holder has renewed", func() bool { return holding.f.count(callRenew) >= until || seen.count() > terms })
	}
	over := func() bool {
		_, over := seen.newest()
		return over || seen.count() > terms
	}
	renewals(1)
	if who != holder {
		other.f.setRule(trouble)
		renewals(1)
	}
	holding.f.setRule(trouble)
	if who != holder {
		b.until("the holder gives up", over)
		other.heal()
	}
	if who == both {
		holding.heal()
	}
	b.until("the lock changes hands", func() bool { return seen.count() > terms })
	holding.heal()
}
