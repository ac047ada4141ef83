package pgtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// senderState is pg_stat_replication.state, and the pause between timelines.
type senderState int

const (
	senderStartup senderState = iota
	senderCatchup
	senderStreaming
	senderEnded // both sides have left the timeline; the receiver may ask for the next
)

func (s senderState) String() string {
	return [...]string{"startup", "catchup", "streaming", "startup"}[s]
}

// sender is a walsender.
type sender struct {
	p      *process
	conn   *conn
	label  string
	pid    int
	name   string // application_name
	slot   string
	frozen bool
	tool   bool // no standby is at the other end: whatever is sent is acknowledged

	reload     bool
	terminated bool
	sync       pg.SyncSetting // its own copy of the setting (P8)
	priority   int            // shared with the other walsenders
	cascading  bool           // no synchronous standby of a standby

	state    senderState
	timeline pg.Timeline
	historic bool   // the timeline has ended, at until
	until    pg.LSN // valid if historic
	sent     pg.LSN
	needed   pg.LSN // WAL that the receiver cannot do without begins here

	flushKnown          bool
	write, flush, apply pg.LSN
}

// newSender is a child of the postmaster, and begins with what that has read.
func newSender(p *process, c *conn, up pg.Upstream) *sender {
	w := &sender{p: p, conn: c, pid: p.s.nextPID(), name: up.Name, slot: up.Slot, sync: p.postmaster.read.Sync}
	w.label = p.s.name("sender " + up.Name)
	if w.slot != "" {
		p.s.disk.slots[w.slot].used = w
	}
	return w
}

// start is START_REPLICATION.
func (w *sender) start(at pg.LSN, t pg.Timeline) {
	w.state, w.timeline, w.sent = senderCatchup, t, at
	w.cascading = w.p.phase != phasePrimary
	w.historic = t != w.p.current()
	if w.historic {
		w.until, _ = switchOf(w.p.s.disk.lineageOf(w.p.current()), t)
	}
	w.rate()
}

// rate is SyncRepInitConfig: the priority by its own copy of the setting.
func (w *sender) rate() { w.priority = w.priorityIn(w.sync) }

// rated is the priority that others see.
func (w *sender) rated() int {
	if w.p.s.c.without(RuleOwnCopy) {
		return w.priorityIn(w.p.postmaster.read.Sync)
	}
	return w.priority
}

func (w *sender) priorityIn(setting pg.SyncSetting) int {
	world := w.p.s.c
	if w.cascading && !world.without(RuleCascadedNeverCounts) {
		return 0
	}
	if setting.Empty() {
		return 0
	}
	for i, name := range setting.Names {
		if name != "*" && name != w.name && (!strings.EqualFold(name, w.name) || world.without(RuleNamesHaveNoCase)) {
			continue
		}
		if setting.Method == pg.SyncFirst {
			return i + 1
		}
		return 1
	}
	return 0
}

// counts reports whether the standby has caught up.
func (w *sender) counts() bool {
	return w.state == senderStreaming || w.state == senderCatchup && w.p.s.c.without(RuleCatchupDoesNotCount)
}

func (w *sender) events(a *agenda) {
	p, world := w.p, w.p.s.c
	if w.frozen {
		return
	}
	deaf := world.without(RuleTermEndsSenders) && w.conn.receiver != nil && w.conn.receiver.frozen
	a.may(w.terminated && !deaf || !p.postmaster.alive, w.label, "exit", w.exit)
	a.may(w.reload, w.label, "reload", func() {
		w.reload, w.sync = false, p.s.disk.files.Sync
		w.rate()
	})
	w.promotionEvents(a)
	a.may(len(w.conn.reports) > 0 && world.passes(w.conn.from, w.conn.to), w.label, "reply", w.reply)
	w.shipEvents(a)
	a.may(w.finished(), w.label, "finish", w.exit)
	closed := w.conn.receiver == nil && len(w.conn.reports) == 0 && !w.tool
	a.may(closed && world.passes(w.conn.from, w.conn.to), w.label, "closed", w.exit)
	silent := !world.passes(w.conn.from, w.conn.to) || w.conn.receiver != nil && w.conn.receiver.frozen
	a.may(silent && !closed || closed && !world.passes(w.conn.from, w.conn.to), w.label, actionTimeout, w.exit)
}

// finished reports whether a fast stop has nothing more to ship here: the last
// record is written, sent, and flushed by the standby (P20).
func (w *sender) finished() bool {
	p := w.p
	switch {
	case !p.postmaster.shutting:
		return false
	case w.state == senderEnded:
		return true
	}
	return (p.phase != phasePrimary || p.shutDown()) && w.sent >= w.limit() && w.flushKnown && w.flush >= w.sent
}

// senderDeaf reports whether a walsender keeps the checkpointer from writing the
// shutdown checkpoint: each has to say first that it will write no WAL any more,
// which one that is frozen does not, nor one whose connection is full.
func (p *process) senderDeaf() bool {
	return slices.ContainsFunc(p.senders, func(w *sender) bool { return w.frozen || len(w.conn.data) >= fullConnection })
}

// fullConnection is how many chunks fill a connection, which then takes no more.
const fullConnection = 8

// limit is up to where this walsender may send.
func (w *sender) limit() pg.LSN {
	switch {
	case w.historic:
		return w.until
	case w.p.phase != phasePrimary && w.timeline != w.p.current():
		return w.sent // it is about to notice that its timeline has ended
	}
	return w.p.available()
}

func (w *sender) shipEvents(a *agenda) {
	if w.state != senderCatchup && w.state != senderStreaming {
		return
	}
	limit := w.limit()
	if world := &w.p.s.disk.wal; w.needed < world.from && w.sent < world.from {
		a.may(w.sent < limit, w.label, "WAL is removed", w.refuse)
		return
	}
	room := w.sent < limit && len(w.conn.data) < fullConnection
	a.may(room, w.label, "ship", func() { w.ship(limit, false) })
	partial := room && w.p.s.disk.wal.after(w.sent) < len(w.p.s.disk.wal.records)
	a.may(partial, w.label, actionShipPart, func() { w.ship(limit, true) })
	a.may(w.sent >= limit && w.state == senderCatchup, w.label, "caught up", func() { w.state = senderStreaming })
	// Until the receiver has understood, its replies count: also those of one that
	// is past the fork (C13).
	a.may(w.sent >= limit && w.historic && w.state == senderStreaming && !w.conn.ended, w.label, "end of timeline",
		func() { w.conn.ended = true })
	a.may(w.conn.answered && len(w.conn.reports) == 0, w.label, "timeline left", func() { w.state = senderEnded })
}

// promotionEvents: a walsender of a standby that was promoted, or has replayed the
// promotion of its upstream, notices that its timeline has ended (X9).
func (w *sender) promotionEvents(a *agenda) {
	streams := w.state == senderCatchup || w.state == senderStreaming
	followed := streams && !w.historic && w.p.phase != phasePrimary && w.timeline != w.p.current()
	a.may(followed, w.label, "timeline has ended", func() {
		w.historic = true
		w.until, _ = switchOf(w.p.s.disk.lineageOf(w.p.current()), w.timeline)
	})
	left := !w.historic && w.p.phase == phasePrimary && w.timeline != w.p.timeline
	a.may(left && w.state != senderEnded, w.label, "promoted", func() {
		if w.p.s.c.without(RuleCascadeGoesOn) {
			w.exit()
			return
		}
		w.cascading, w.historic = false, true
		w.until, _ = switchOf(w.p.s.disk.lineageOf(w.p.timeline), w.timeline)
	})
}

// ship puts WAL on the wire, one batch of records at most, without the last
// bytes if part is set.
func (w *sender) ship(limit pg.LSN, part bool) {
	held := &w.p.s.disk.wal
	i := held.after(w.sent)
	// Everything that was replayed by the receiver already is one batch: it is
	// sent again from the start of the segment, and read by nobody.
	j := i
	for n := 0; j < len(held.records) && held.records[j].End <= limit; j++ {
		if r := w.conn.receiver; r == nil || held.records[j].End > r.p.replayed {
			n++
		}
		if n > w.p.s.c.cfg.Batch {
			break
		}
	}
	if w.tool {
		w.sent = limit
		w.conn.reports = append(w.conn.reports, report{valid: true, write: limit, flush: limit})
		return
	}
	c := chunk{records: held.records[i:j:j]}
	switch {
	case j > i && !part:
		c.upto = held.records[j-1].End
	case j > i:
		last := held.records[j-1]
		c.records = held.records[i : j-1 : j-1]
		c.upto = max(w.sent+1, last.Start+(last.End-last.Start)/2)
	default:
		c.upto = limit // half a record, or nothing that is a record
	}
	w.sent = c.upto
	w.conn.data = append(w.conn.data, c)
}

// reply takes a standby's report, and releases the commits that it completes.
func (w *sender) reply() {
	next := w.conn.reports[0]
	w.conn.reports = w.conn.reports[1:]
	w.flushKnown = true
	w.write, w.flush, w.apply = next.write, next.flush, next.replied
	if s := w.p.s.disk.slots[w.slot]; w.slot != "" && s != nil {
		s.restart = max(s.restart, w.flush)
	}
	if !w.cascading {
		w.p.sync.release(w)
	}
}

// refuse ends a walsender whose next WAL has been removed: streaming has begun, and
// ends at once.
func (w *sender) refuse() {
	if r := w.conn.receiver; r != nil {
		r.p.s.refusal = fmt.Sprintf("WAL from %s on has been removed on %s", w.sent, w.p.s.Name)
	}
	w.exit()
}

// exit ends the walsender.
func (w *sender) exit() {
	w.leave()
	w.p.removeSender(w)
}

// leave closes the connection. What is on the wire to the receiver arrives.
func (w *sender) leave() {
	w.conn.sender = nil
	if s := w.p.s.disk.slots[w.slot]; s != nil && s.used == w {
		s.used = nil
	}
}
