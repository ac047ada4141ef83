package hatest

import (
	"cmp"
	"container/heap"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing/synctest"
	"time"
)

// identity says what an operation is, independently of when it arrives. Two
// operations that arrive at one instant are put in order by it.
type identity struct {
	host string
	life int // of the agent
	kind string
	key  string
	// stack is that of the caller, which is looked at when all else is equal: two
	// goroutines of an agent that ask the same at one instant, from two places.
	stack [stackDepth]uintptr
}

const stackDepth = 16

func (id *identity) digest() digest {
	return newDigest().str(id.host).num(uint64(id.life)).str(id.kind).str(id.key) //nolint:gosec // small, not negative
}

func compareIdentities(a, b *identity) int {
	return cmp.Or(
		strings.Compare(a.host, b.host),
		cmp.Compare(a.life, b.life),
		strings.Compare(a.kind, b.kind),
		strings.Compare(a.key, b.key),
	)
}

// callers describes a stack by names and lines: program counters differ from
// one build to the next.
func (id *identity) callers() string {
	var b strings.Builder
	n := slices.Index(id.stack[:], 0)
	if n < 0 {
		n = stackDepth
	}
	if n == 0 {
		return ""
	}
	frames := runtime.CallersFrames(id.stack[:n])
	for {
		frame, more := frames.Next()
		fmt.Fprintf(&b, "%s:%d ", frame.Function, frame.Line)
		if !more {
			return b.String()
		}
	}
}

// arrival is an operation that a goroutine of an agent has brought to the bus
// and that the driver has not looked at yet.
type arrival struct {
	identity
	enter func(id digest) // by the driver: schedules what follows
}

// item is something that the driver will do at a time.
type item struct {
	due   time.Duration // world time
	seq   uint64        // order among equals: that of scheduling
	id    digest
	agent *agent // not nil: not while it is paused, not when it is dead
	timer *timer // not nil: only by its own clock, and not when it was stopped
	// server is not nil for what a server's process does: not while its machine
	// is halted, and not if it is no longer possible.
	server *pending
	label  func() string
	run    func()
}

// queue is a heap of items by due time, then by order of scheduling.
type queue []*item

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	if q[i].due != q[j].due {
		return q[i].due < q[j].due
	}
	return q[i].seq < q[j].seq
}

func (q *queue) Push(x any) {
	if it, ok := x.(*item); ok { // nothing else is pushed
		*q = append(*q, it)
	}
}

func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return last
}

// arrive brings an operation to the bus. It may be called from any goroutine of
// the bubble, and does not block.
func (w *World) arrive(a *arrival) {
	runtime.Callers(2, a.stack[:])
	w.mu.Lock()
	w.inbox = append(w.inbox, a)
	w.mu.Unlock()
}

// intake schedules what has arrived. In what order it arrived makes no
// difference.
func (w *World) intake() {
	w.mu.Lock()
	batch := w.inbox
	w.inbox = w.spare[:0]
	w.mu.Unlock()
	if len(batch) > 1 {
		slices.SortStableFunc(batch, func(a, b *arrival) int {
			if c := compareIdentities(&a.identity, &b.identity); c != 0 {
				return c
			}
			if a.stack == b.stack {
				return 0
			}
			return strings.Compare(a.callers(), b.callers())
		})
	}
	for i, a := range batch {
		a.enter(w.count(a.digest()))
		batch[i] = nil
	}
	w.spare = batch
}

// count makes the identities of operations that happen several times distinct.
func (w *World) count(id digest) digest {
	w.counts[id]++
	return id.num(w.counts[id])
}

// schedule makes it so that run is called at a time, by the driver.
func (w *World) schedule(it *item) {
	w.seq++
	it.seq = w.seq
	heap.Push(&w.queue, it)
}

// after schedules something that belongs to no agent.
func (w *World) after(d time.Duration, id digest, label func() string, run func()) {
	w.schedule(&item{due: w.now() + max(d, 0), id: id, label: label, run: run})
}

// step does the next thing that is due at until or before, and reports false
// if there is none: then it is until.
func (w *World) step(until time.Duration) bool {
	for {
		it := w.next(until)
		if it == nil {
			return false
		}
		if wait := it.due - w.now(); wait > 0 {
			time.Sleep(wait)
		}
		if w.release(it) {
			return true
		}
	}
}

// next takes the earliest item that is due at until or before. Without one it
// lets the time until then pass.
func (w *World) next(until time.Duration) *item {
	if len(w.queue) == 0 || w.queue[0].due > until {
		if wait := until - w.now(); wait > 0 {
			time.Sleep(wait)
		}
		return nil
	}
	return w.pop()
}

func (w *World) pop() *item {
	it, _ := heap.Pop(&w.queue).(*item) // nothing else is pushed
	return it
}

// release does one thing, and lets everything that follows from it come to
// rest. It reports false if the thing was obsolete or must wait longer.
func (w *World) release(it *item) bool {
	if it.timer != nil && !w.timerDue(it) {
		return false
	}
	if a := it.agent; a != nil {
		switch {
		case a.dead && it.timer == nil:
			return false
		case a.paused:
			a.held = append(a.held, it)
			return false
		}
	}
	if p := it.server; p != nil {
		if p.gone {
			return false
		}
		if h := w.host(p.event.Node); h.halted {
			h.parked = append(h.parked, it)
			return false
		}
	}
	if it.timer != nil && !it.timer.take() {
		return false
	}
	if it.agent == nil || !it.agent.dead {
		w.record(it)
	}
	it.run()
	w.settle()
	return true
}

// record makes an item part of the trace.
func (w *World) record(it *item) {
	w.events++
	w.trace = w.trace.num(uint64(w.now())).num(uint64(it.id)) //nolint:gosec // not negative
	if w.cfg.Transcript != nil && it.label != nil {
		if text := it.label(); text != "" {
			w.printf("%s", text)
		}
	}
}

// settle waits until every goroutine waits for the world, takes in what they
// have brought, and looks which conditions hold now.
func (w *World) settle() {
	synctest.Wait()
	w.intake()
	w.deliverChanges()
	w.wakeAwaits()
	for _, f := range w.background {
		f()
	}
}
