package workload

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pollEvery is how often each node is asked while somebody looks for the
// primary.
const pollEvery = 10 * time.Millisecond

// locator finds the node that takes writes by asking all nodes, each over a kept
// session of its own: a stand-in for libpq's target_session_attrs=read-write. It
// asks only while somebody looks. Of several nodes that say yes the one with the
// newest timeline is taken.
type locator struct {
	target  Target
	cancel  context.CancelCauseFunc
	polls   sync.WaitGroup
	looking atomic.Int64

	mu      sync.Mutex
	answers []answer      // by node
	changed chan struct{} // closed and replaced with each answer
	wake    chan struct{} // closed and replaced when somebody begins to look
}

// answer is what a node said last.
type answer struct {
	asked    time.Time
	timeline uint32 // 0: no, or no answer
}

func newLocator(target Target) *locator {
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &locator{
		target: target, cancel: cancel, answers: make([]answer, len(target.Nodes)),
		changed: make(chan struct{}), wake: make(chan struct{}),
	}
	for i := range target.Nodes {
		l.polls.Go(func() { l.poll(ctx, i) })
	}
	return l
}

// stop ends the polls and waits for them.
func (l *locator) stop() {
	l.cancel(context.Canceled)
	l.polls.Wait()
}

// primary waits for a node that takes writes, asked after the call began.
func (l *locator) primary(ctx context.Context) (Node, error) {
	began := time.Now()
	l.mu.Lock()
	l.looking.Add(1)
	close(l.wake)
	l.wake = make(chan struct{})
	l.mu.Unlock()
	defer l.looking.Add(-1)
	for {
		node, found, changed := l.best(began)
		if found {
			return node, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Node{}, context.Cause(ctx)
		}
	}
}

func (l *locator) best(since time.Time) (node Node, found bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var newest uint32
	for i, a := range l.answers {
		if a.timeline > newest && a.asked.After(since) {
			node, newest = l.target.Nodes[i], a.timeline
		}
	}
	return node, newest > 0, l.changed
}

// poll asks node i as long as somebody looks.
func (l *locator) poll(ctx context.Context, i int) {
	var s *session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	for ctx.Err() == nil {
		l.mu.Lock()
		wake := l.wake
		l.mu.Unlock()
		if l.looking.Load() == 0 {
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
		asked := time.Now()
		s = l.ask(ctx, i, s)
		a := answer{asked: asked}
		if s != nil {
			a.timeline = s.timeline
		}
		l.mu.Lock()
		l.answers[i] = a
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
		_ = pause(ctx, pollEvery) // the loop looks at ctx
	}
}

// ask asks once over s, or over a new session if s is nil or broken. It returns
// nil if there is no answer.
func (l *locator) ask(ctx context.Context, i int, s *session) *session {
	if s != nil {
		if s.look(ctx) == nil {
			return s
		}
		s.close()
	}
	target := l.target
	target.StatementTimeout = target.ConnectTimeout // a probe waits no longer than a connection attempt
	s, err := target.open(ctx, target.Nodes[i], "locator")
	if err != nil {
		return nil
	}
	return s
}
