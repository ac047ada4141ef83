package pgtest

import (
	"slices"

	"github.com/pghad/pghad/pg"
)

// promotionStep is how far a promotion has come. A crash is possible between
// any two.
type promotionStep int

const (
	promotionChoose   promotionStep = iota + 1 // the number: one above the highest known
	promotionHistory                           // the history file is written
	promotionSignal                            // standby.signal is removed
	promotionRecord                            // the end-of-recovery record is written
	promotionWritable                          // sessions may commit; the checkpoint comes later
)

func (u *startup) promotionEvents(a *agenda, p *process) {
	d := &p.s.disk
	switch u.step {
	case promotionChoose:
		a.may(true, processStartup, "choose timeline", func() {
			// Nothing can be read behind the end: half a record is dropped.
			d.wal.cut(p.replayed)
			u.number = d.newest(u.along.Timeline) + 1
			u.step = promotionHistory
		})
	case promotionHistory:
		a.may(true, processStartup, "write history", func() {
			parent := u.along.History
			d.histories[u.number] = append(slices.Clip(parent),
				pg.Switch{Timeline: u.along.Timeline, At: p.replayed, Reason: "no recovery target specified"})
			u.step = promotionSignal
		})
	case promotionSignal:
		a.may(true, processStartup, "remove standby.signal", func() {
			d.signal = false
			u.step = promotionRecord
		})
	case promotionRecord:
		a.may(true, processStartup, "end of recovery", func() {
			p.timeline = u.number
			p.insert(KindEndOfRecovery, nil)
			p.flush()
			d.control.State = stateProduction
			d.control.Minimum, d.control.MinimumTimeline = d.wal.end(), u.number
			u.step = promotionWritable
		})
	case promotionWritable:
		a.may(true, processStartup, "writable", func() { p.becomePrimary() })
	}
}

// becomePrimary opens the server to writes. Its control file names the old
// timeline until the checkpoint that is only asked for here has ended (C10).
func (p *process) becomePrimary() {
	p.phase, p.startup = phasePrimary, nil
	p.checkpointer.requested++
	if p.s.c.without(RuleLateCheckpoint) {
		p.checkpoint(KindCheckpoint)
	}
}
