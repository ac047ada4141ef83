package pgtest

import (
	"fmt"
	"slices"
	"sort"

	"github.com/pghad/pghad/pg"
)

type receiverState int

const (
	receiverConnecting receiverState = iota
	receiverStreaming
	receiverWaiting    // at the end of a timeline, for the startup process
	receiverRestarting // it is to go on, on its old connection
)

// receiver is a walreceiver.
type receiver struct {
	p          *process
	label      string
	state      receiverState
	frozen     bool
	terminated bool
	up         pg.Upstream
	start      pg.LSN
	timeline   pg.Timeline
	conn       *conn

	written pg.LSN // not in shared memory, not durable yet
	flushed pg.LSN
	alien   bool // it brought bytes that do not continue this server's WAL
	heard   bool // something has arrived since streaming began
	said    report
	refusal string // why the last attempt to connect failed
}

// report is a standby's reply: positions by which commits are released.
type report struct {
	valid                 bool
	write, flush, replied pg.LSN
}

// chunk is WAL on the wire.
type chunk struct {
	records []*Record
	upto    pg.LSN
}

// conn is a replication connection. What is on the wire arrives also after its
// sender has ended.
type conn struct {
	from, to string // nodes: of the receiver, of the sender
	receiver *receiver
	sender   *sender
	data     []chunk
	reports  []report
	ended    bool // the sender has said that the timeline ends here
	answered bool // and the receiver that it has understood
}

func newReceiver(p *process, up pg.Upstream, start pg.LSN, t pg.Timeline) *receiver {
	// As in PostgreSQL, what has been replayed counts as flushed from the first
	// reply on, wherever it came from (X7).
	return &receiver{p: p, label: p.s.name(processReceiver), up: up, start: start, timeline: t, written: p.replayed, flushed: p.replayed}
}

func (r *receiver) events(a *agenda) {
	p := r.p
	if r.frozen {
		return
	}
	ends := r.terminated || !p.postmaster.alive ||
		p.postmaster.read.Upstream != r.up && p.s.c.without(RuleReceiverOutlivesReload)
	a.may(ends, r.label, "exit", func() { r.exit() })
	switch r.state {
	case receiverConnecting:
		upstream := p.s.c.at(r.up)
		answers := upstream != nil && p.s.c.reachable(p.s.Name, upstream.Name) &&
			(upstream.proc == nil || !upstream.proc.postmaster.frozen)
		a.may(answers, r.label, "connect", func() { r.connect(upstream) })
		a.may(!answers, r.label, actionTimeout, r.exit)
	case receiverStreaming:
		r.streamingEvents(a)
	case receiverWaiting:
		r.lossEvents(a)
	case receiverRestarting:
		c, world := r.conn, r.p.s.c
		ready := c.sender != nil && c.sender.state == senderEnded && world.reachable(c.from, c.to)
		a.may(ready, r.label, "restart", r.restart)
		r.lossEvents(a)
	}
}

func (r *receiver) streamingEvents(a *agenda) {
	c, world := r.conn, r.p.s.c
	a.may(len(c.data) > 0 && world.passes(c.to, c.from), r.label, "receive", r.receive)
	a.may(r.written > r.flushed, r.label, actionFlush, r.flush)
	now := report{valid: true, write: r.written, flush: r.flushed, replied: r.p.replayed}
	if world.without(RuleReplayedCountsAsFlushed) && c.sender != nil {
		shared := r.p.s.disk.wal.shared(&c.sender.p.s.disk.wal)
		now = report{valid: true, write: min(now.write, shared), flush: min(now.flush, shared), replied: min(now.replied, shared)}
	}
	say := func() {
		r.said = now
		c.reports = append(c.reports, now)
	}
	news := now != r.said && r.heard
	a.may(news && c.sender != nil, r.label, "reply", say)
	a.may(!news && c.sender != nil && len(c.reports) == 0, r.label, actionStatus, say)
	a.may(c.ended && len(c.data) == 0 && world.passes(c.to, c.from), r.label, "end of timeline", func() {
		r.flush()
		r.state, c.answered = receiverWaiting, true
		if c.sender != nil {
			// Without them the startup process would not know where to go on.
			if err := r.fetchHistories(c.sender.p.s); err != nil {
				r.p.s.refusal = err.Error()
				r.terminated = true
			}
		}
	})
	r.lossEvents(a)
}

// lossEvents are how a receiver learns that its sender is gone.
func (r *receiver) lossEvents(a *agenda) {
	c, world := r.conn, r.p.s.c
	closed := c.sender == nil && len(c.data) == 0
	a.may(closed && world.passes(c.to, c.from), r.label, "closed", r.exit)
	silent := !world.passes(c.to, c.from) || !closed && c.sender != nil && c.sender.frozen
	a.may(silent, r.label, actionTimeout, r.exit)
}

// receive writes what has arrived.
func (r *receiver) receive() {
	r.heard = true
	next := r.conn.data[0]
	r.conn.data = r.conn.data[1:]
	if room := r.p.s.room(); room > 0 && next.upto > room {
		r.terminated = true // it can make no file for more
		next.upto = room
		fit := sort.Search(len(next.records), func(i int) bool { return next.records[i].End > room })
		next.records = next.records[:fit]
	}
	w := &r.p.s.disk.wal
	if !w.extend(next.records, next.upto, r.p.replayed) {
		r.alien = true
	}
	if r.p.s.c.without(RulePartialIsReceived) {
		w.partial = 0
		next.upto = min(next.upto, w.end())
	}
	r.written = max(r.written, next.upto)
}

// flush makes it durable, and known to the startup process.
func (r *receiver) flush() {
	w := &r.p.s.disk.wal
	w.durable = max(w.durable, min(w.tail(), r.written))
	r.flushed = r.written
	r.p.received.lsn = max(r.p.received.lsn, r.flushed)
}

// exit ends the receiver. It flushes what it has written, and tells nobody.
func (r *receiver) exit() {
	if r.written > r.flushed {
		r.flush()
	}
	r.leave()
	r.p.receiver = nil
}

// leave closes the connection. What is on the wire to the sender arrives.
func (r *receiver) leave() {
	if r.conn != nil {
		r.conn.receiver = nil
	}
}

// connect is the handshake. A refusal ends the receiver.
func (r *receiver) connect(upstream *server) {
	if err := r.handshake(upstream); err != nil {
		r.refusal = err.Error()
		r.p.s.refusal = r.refusal
		r.exit()
		return
	}
	up := upstream.proc
	c := &conn{from: r.p.s.Name, to: upstream.Name, receiver: r}
	c.sender = newSender(up, c, r.up)
	r.conn = c
	up.senders = append(up.senders, c.sender)
	slices.SortStableFunc(up.senders, func(a, b *sender) int { return a.pid - b.pid })
	r.begin()
}

// begin starts streaming on the connection that there is. The first WAL that
// arrives is answered, also where it brings nothing new.
func (r *receiver) begin() {
	r.state, r.heard, r.said = receiverStreaming, false, report{}
	r.conn.ended, r.conn.answered = false, false
	r.conn.sender.start(r.start, r.timeline)
	r.conn.sender.needed = r.p.replayed // of the segment that holds it nothing is missing
}

// resume goes on after the end of a timeline.
func (r *receiver) resume(start pg.LSN, t pg.Timeline, replayed pg.LSN) {
	r.start, r.timeline = start, t
	r.written, r.flushed = replayed, replayed
	r.state = receiverRestarting
}

// restart asks for the next timeline when the sender has left the last one.
func (r *receiver) restart() {
	if err := r.handshake(r.conn.sender.p.s); err != nil {
		r.p.s.refusal = err.Error()
		r.exit()
		return
	}
	r.begin()
}

// handshake is IDENTIFY_SYSTEM, the history files that are missing, and
// START_REPLICATION, as far as they can refuse.
func (r *receiver) handshake(upstream *server) error {
	up := upstream.proc
	again := r.conn != nil
	switch {
	case up == nil || !up.postmaster.alive:
		return fmt.Errorf("connection to %s refused", upstream.Name)
	case !again && !up.admits():
		return fmt.Errorf("%s is starting up or shutting down", upstream.Name)
	case upstream.disk.systemID != r.p.s.disk.systemID:
		return fmt.Errorf("the system identifiers of %s and %s differ", upstream.Name, r.p.s.Name)
	case up.current() < r.timeline:
		return fmt.Errorf("timeline %d of %s is behind recovery timeline %d", up.current(), upstream.Name, r.timeline)
	}
	if err := r.fetchHistories(upstream); err != nil {
		return err
	}
	if !again && r.up.Slot != "" {
		slot := upstream.disk.slots[r.up.Slot]
		if slot == nil {
			return fmt.Errorf("slot %s does not exist on %s", r.up.Slot, upstream.Name)
		}
		if slot.lost {
			return fmt.Errorf("slot %s on %s has lost its WAL", r.up.Slot, upstream.Name)
		}
		if slot.used != nil {
			return fmt.Errorf("slot %s on %s is in use", r.up.Slot, upstream.Name)
		}
	}
	return r.startable(upstream)
}

// fetchHistories copies the history files of all timelines from the receiver's
// to the upstream's. One that is missing there is an error (X5).
func (r *receiver) fetchHistories(upstream *server) error {
	own, newest := &r.p.s.disk, upstream.proc.current()
	for t := max(2, r.timeline); t <= newest; t++ {
		if own.hasHistory(t) {
			continue
		}
		if !upstream.disk.hasHistory(t) {
			return fmt.Errorf("%s has no history file of timeline %d", upstream.Name, t)
		}
		own.histories[t] = upstream.disk.histories[t]
	}
	return nil
}

// startable is what START_REPLICATION checks: only the start of a segment is
// compared, so that a server past the fork may pass (C13).
func (r *receiver) startable(upstream *server) error {
	up := upstream.proc
	if r.timeline != up.current() {
		fork, found := switchOf(upstream.disk.lineageOf(up.current()), r.timeline)
		past := r.p.replayed > fork && r.p.s.c.without(RuleForkIsNotChecked)
		if !found || r.start > fork || past {
			return fmt.Errorf("starting point %s on timeline %d is not in the history of %s", r.start, r.timeline, upstream.Name)
		}
	} else if r.start > up.available() {
		return fmt.Errorf("starting point %s is ahead of the flush position %s of %s", r.start, up.available(), upstream.Name)
	}
	return nil
}

// switchOf is where l left a timeline.
func switchOf(l lineage, t pg.Timeline) (pg.LSN, bool) {
	for _, s := range l.History {
		if s.Timeline == t {
			return s.At, true
		}
	}
	return 0, false
}
