package dcstest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
)

// Terms records who held which lock when, in true time, and finds what must not
// be: two holders at one instant, and a fencing token that does not grow. It is
// fed from where the lock is relied on, not from what the lock says of itself:
//
//	term := terms.Begin("leader", "a", lease.Token())
//	work(lease.Context())
//	term.End() // nothing is done in its name any more
//
// Its methods may be called from several goroutines at once.
type Terms struct {
	clock clock.Clock
	begun time.Time

	mu    sync.Mutex
	terms []*Term // in the order in which they began
}

// Term is one period in which one holder relied on one lock.
type Term struct {
	Lock   string
	Holder string
	Token  dcs.Revision
	Begin  time.Time
	Until  time.Time // when it ended; zero while it has not

	terms *Terms
}

// NewTerms makes a record by a clock that shows the same time to all; nil means
// the real one, which in a testing/synctest bubble is the bubble's.
func NewTerms(trueTime clock.Clock) *Terms {
	if trueTime == nil {
		trueTime = clock.New()
	}
	return &Terms{clock: trueTime, begun: trueTime.Now()}
}

// Begin records that a holder relies on the lock from now on.
func (t *Terms) Begin(lock, holder string, token dcs.Revision) *Term {
	t.mu.Lock()
	defer t.mu.Unlock()
	term := &Term{Lock: lock, Holder: holder, Token: token, Begin: t.clock.Now(), terms: t}
	t.terms = append(t.terms, term)
	return term
}

// End records that nothing is done in the name of the term any more. Only the
// first call counts.
func (m *Term) End() {
	m.terms.mu.Lock()
	defer m.terms.mu.Unlock()
	if m.Until.IsZero() {
		m.Until = m.terms.clock.Now()
	}
}

// All are copies of the terms of a lock so far, in the order in which they
// began.
func (t *Terms) All(lock string) []Term {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Term
	for _, term := range t.terms {
		if term.Lock == lock {
			all = append(all, *term)
		}
	}
	return all
}

// Violations are sentences that say what must not be, none if all is well. A
// term includes the instant of its beginning and not that of its end; one that
// has not ended lasts for ever. The next holder of a lock must have a greater
// token, the same holder one that is not smaller: it may have taken its holding
// along into a new session.
func (t *Terms) Violations() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []string
	for i, later := range t.terms {
		for _, earlier := range t.terms[:i] {
			if earlier.Lock != later.Lock {
				continue
			}
			if earlier.Until.IsZero() || later.Begin.Before(earlier.Until) {
				found = append(found, fmt.Sprintf("lock %s has two holders: %s and %s%s", later.Lock, t.show(earlier), t.show(later), overlap(earlier, later)))
			}
			if later.Token < earlier.Token || later.Token == earlier.Token && later.Holder != earlier.Holder {
				found = append(found, fmt.Sprintf("the token of lock %s does not grow: %s, then %s", later.Lock, t.show(earlier), t.show(later)))
			}
		}
	}
	return found
}

// Verify fails the test if there are violations, and logs all terms then.
func (t *Terms) Verify(tb testing.TB) {
	tb.Helper()
	found := t.Violations()
	for _, violation := range found {
		tb.Error(violation)
	}
	if len(found) > 0 {
		tb.Logf("all terms:%s", t)
	}
}

// String lists the terms, one a line.
func (t *Terms) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var text strings.Builder
	for _, term := range t.terms {
		fmt.Fprintf(&text, "\n%s: %s", term.Lock, t.show(term))
	}
	return text.String()
}

// show words a term. The caller holds mu.
func (t *Terms) show(m *Term) string {
	end := "no end"
	if !m.Until.IsZero() {
		end = m.Until.Sub(t.begun).String()
	}
	return fmt.Sprintf("%s with token %d from %s to %s", m.Holder, m.Token, m.Begin.Sub(t.begun), end)
}

// overlap says for how long both were held, if that is known.
func overlap(earlier, later *Term) string {
	end := earlier.Until
	if end.IsZero() || !later.Until.IsZero() && later.Until.Before(end) {
		end = later.Until
	}
	if end.IsZero() {
		return ""
	}
	return fmt.Sprintf(", for %s", end.Sub(later.Begin))
}
