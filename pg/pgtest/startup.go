package pgtest

import (
	"github.com/pghad/pghad/pg"
)

// startupState is what the startup process does, in the order in which it looks
// for WAL.
type startupState int

const (
	// startupReading: it replays what lies in pg_wal.
	startupReading startupState = iota
	// startupStreaming: it waits for what a receiver brings (RecoveryWalStream).
	startupStreaming
	// startupStopping: it waits for the end of a receiver that it has stopped.
	startupStopping
	// startupSleeping: nobody has more WAL (RecoveryRetrieveRetryInterval).
	startupSleeping
)

// startup is the startup process: it replays WAL, and alone decides whether
// there is a receiver, and from whom (X1).
type startup struct {
	state    startupState
	frozen   bool
	paused   bool   // pg_wal_replay_pause
	conflict pg.LSN // a query keeps the record that begins here from being replayed; zero: none
	reload   bool   // SIGHUP is pending
	conninfo pg.Upstream
	changed  bool // conninfo was changed: the receiver is to be restarted
	along    lineage
	promote  bool
	sleeps   uint64
	next     startupState // after startupStopping
	step     promotionStep
	number   pg.Timeline // chosen by the promotion
}

// wait is what pg_stat_activity says.
func (u *startup) wait(p *process) string {
	switch {
	case u.paused:
		return "RecoveryPause"
	case u.held(p):
		return "relation"
	case u.state == startupSleeping:
		return "RecoveryRetrieveRetryInterval"
	case u.state == startupStreaming:
		return "RecoveryWalStream"
	}
	return ""
}

func (u *startup) events(a *agenda, p *process) {
	m := &p.postmaster
	if u.frozen {
		return
	}
	if !m.alive {
		a.may(true, processStartup, "exit", func() { p.startup = nil })
		return
	}
	if p.phase == phasePromoting {
		u.promotionEvents(a, p)
		return
	}
	a.may(u.reload, processStartup, "reload", func() { u.signalled(p) })
	if p.phase == phaseStarting && u.consistent(p) {
		a.may(true, processStartup, "consistent", func() { p.phase = phaseStandby })
	}
	if u.paused && (!u.promote || p.s.c.without(RulePromotionEndsPause)) {
		return // X1: it does not look for WAL, nor at its receiver
	}
	if u.held(p) {
		return // C23: nor here
	}
	switch u.state {
	case startupReading:
		more := u.readable(p, p.s.disk.wal.end()) > p.replayed && !u.hasty(p)
		a.may(more, processStartup, "replay", func() { u.replay(p, p.s.disk.wal.end()) })
		a.may(!more, processStartup, "end of local WAL", func() { u.exhausted(p) })
	case startupStreaming:
		u.streamingEvents(a, p)
	case startupStopping:
		a.may(p.receiver == nil, processStartup, "receiver stopped", func() { u.stopped(p) })
	case startupSleeping:
		a.may(u.promote, processStartup, "promote", func() { u.state = startupReading })
		a.may(true, processStartup, actionWake, func() { u.signalled(p) })
	}
}

// consistent reports whether hot standby may begin.
func (u *startup) consistent(p *process) bool {
	d := &p.s.disk
	return d.signal && p.replayed >= d.control.Minimum
}

// signalled handles a pending SIGHUP. It ends a sleep, and on waking up the
// configuration is read before anything else is done.
func (u *startup) signalled(p *process) {
	u.adopt(p)
	if u.state == startupSleeping {
		u.state = startupReading
	}
}

// adopt reads the configuration. A receiver is restarted only when the startup
// process next asks for WAL.
func (u *startup) adopt(p *process) {
	if !u.reload {
		return
	}
	u.reload = false
	if up := p.s.disk.files.Upstream; up != u.conninfo {
		u.conninfo = up
		u.changed = p.receiver != nil
		if up.IsZero() {
			u.conflict = 0 // the settings of a fence have no patience with queries
		}
	}
}

// held reports whether the next record is there and a query keeps it from being
// replayed (C23).
func (u *startup) held(p *process) bool {
	if !u.conflicts(p, p.replayed) {
		return false
	}
	w := &p.s.disk.wal
	present := w.end()
	if u.state == startupStreaming {
		present = min(present, p.received.lsn)
	}
	i := w.after(p.replayed)
	return i < len(w.records) && w.records[i].End <= present && readable(u.along, w.records[i])
}

// conflicts reports whether a query keeps what begins at lsn from being replayed.
func (u *startup) conflicts(p *process, lsn pg.LSN) bool {
	return u.conflict != 0 && lsn >= u.conflict && !p.s.c.without(RuleConflictHoldsReplay)
}

// hasty reports whether a promotion does not wait for replay, as none does (P13).
func (u *startup) hasty(p *process) bool {
	return u.promote && p.s.c.without(RuleReplayBeforePromotion)
}

// readable is up to where recovery could read from the replayed position, at
// most to upto, in one batch.
func (u *startup) readable(p *process, upto pg.LSN) pg.LSN {
	w := &p.s.disk.wal
	end := p.replayed
	for i, n := w.after(p.replayed), 0; i < len(w.records) && n < p.s.c.cfg.Batch; i, n = i+1, n+1 {
		r := w.records[i]
		if r.End > upto || !readable(u.along, r) || u.conflicts(p, end) {
			break
		}
		end = r.End
	}
	return end
}

func (u *startup) replay(p *process, upto pg.LSN) {
	w := &p.s.disk.wal
	end := u.readable(p, upto)
	for i := w.after(p.replayed); i < len(w.records) && w.records[i].End <= end; i++ {
		if r := w.records[i]; r.Kind == KindCheckpoint || r.Kind == KindShutdown {
			p.checkpointSeen = r.Start
		}
	}
	p.replayed = end
}

// exhausted is the end of what lies in pg_wal: promotion, a receiver, or sleep.
func (u *startup) exhausted(p *process) {
	switch {
	case !p.s.disk.signal:
		p.finishCrashRecovery(u)
	case u.promote && p.receiver != nil:
		u.stopReceiver(p, startupReading)
	case u.promote:
		p.phase, u.step = phasePromoting, promotionChoose
	case u.conninfo.IsZero():
		u.sleep(p)
	default:
		u.changed = false
		u.requestReceiver(p)
		u.state = startupStreaming
	}
}

// sleep looks for new timelines once more, and then waits. It goes to read at
// once where a new timeline was found.
func (u *startup) sleep(p *process) {
	if u.rescan(p) {
		u.state = startupReading
		return
	}
	u.state = startupSleeping
	u.sleeps++
}

// rescan moves to a newer timeline if there is a history file of one that
// contains all that was replayed (C13).
func (u *startup) rescan(p *process) bool {
	d := &p.s.disk
	if p.s.c.without(RuleHistoryIsRemembered) {
		u.along = p.s.recoveryLineage()
	}
	newest := d.newest(u.along.Timeline)
	if newest == u.along.Timeline {
		return false
	}
	along := d.lineageOf(newest)
	if !along.Contains(pg.Position{Timeline: u.along.Timeline, LSN: p.replayed}) {
		return false // not a child, or forked off before the current recovery point
	}
	u.along = along
	return true
}

func (u *startup) streamingEvents(a *agenda, p *process) {
	streams := p.receiver != nil && p.receiver.state != receiverWaiting
	upto := min(p.received.lsn, p.s.disk.wal.end())
	more := p.received.valid && u.readable(p, upto) > p.replayed && !u.hasty(p)
	a.may(streams && more, processStartup, "replay", func() { u.replay(p, upto) })
	// A lost receiver is noticed before what it has left is read (fence: two sleeps).
	a.may(!streams, processStartup, "receiver gone", func() { u.sleep(p) })
	idle := streams && !more
	a.may(idle && u.changed, processStartup, "restart receiver", func() { u.restartReceiver(p) })
	a.may(idle && !u.changed && u.promote, processStartup, "promote", func() { u.stopReceiver(p, startupReading) })
	garbage := idle && p.receiver.alien && p.received.lsn > p.s.disk.wal.tail()
	a.may(garbage, processStartup, "invalid record", func() { u.stopReceiver(p, startupSleeping) })
}

func (u *startup) restartReceiver(p *process) {
	u.changed = false
	u.stopReceiver(p, startupStreaming)
}

// stopReceiver sends SIGTERM and waits for the end of the receiver.
func (u *startup) stopReceiver(p *process, next startupState) {
	if p.receiver != nil {
		p.receiver.terminated = true
	}
	u.state, u.next = startupStopping, next
}

// stopped goes on after the receiver's end.
func (u *startup) stopped(p *process) {
	switch u.next {
	case startupSleeping:
		u.sleep(p)
	case startupStreaming:
		u.rescan(p)
		if u.conninfo.IsZero() {
			u.sleep(p)
			return
		}
		u.requestReceiver(p)
		u.state = startupStreaming
	case startupReading, startupStopping:
		u.state = startupReading
	}
}

// requestReceiver asks the postmaster for a receiver from the start of the
// segment that recovery stands in. One that waits at the end of a timeline goes
// on, on its old connection, whatever the configuration says by now.
func (u *startup) requestReceiver(p *process) {
	t := timelineOfPoint(u.along, p.replayed)
	start := p.replayed - p.replayed%p.s.c.cfg.SegmentSize
	if p.s.c.without(RuleReceiveFromSegment) {
		start = p.replayed
	}
	if !p.received.valid || p.received.timeline != t {
		p.received.lsn = start
	}
	p.received.timeline, p.received.valid = t, true
	if p.receiver != nil {
		p.receiver.resume(start, t, p.replayed)
		return
	}
	p.receiver = newReceiver(p, u.conninfo, start, t)
}

// finishCrashRecovery is the end of recovery without standby.signal: the server
// goes on as a primary on the timeline that it has. Whatever was flushed is
// committed now, and visible (P3).
func (p *process) finishCrashRecovery(u *startup) {
	d := &p.s.disk
	d.wal.cut(p.replayed)
	p.timeline = u.along.Timeline
	p.phase, p.startup = phasePrimary, nil
	p.checkpoint(KindCheckpoint)
}
