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
	promotionSignal                            // standby.signal is removed
	promotionHistory                           // the history file is written
	promotionRecord                            // the end-of-recovery record is written
	promotionWritable                          // sessions may commit; the checkpoint comes later
)

// signalPromotion is what pg_promote does.
func (u *startup) signalPromotion(p *process) {
	u.promote = true
	if !p.s.c.without(RulePromotionEndsPause) {
		u.paused = false
	}
}

// A promotion removes standby.signal before it writes the history file (seen on
// 15.18): cut off between the two, the server would start as a primary of its old
// timeline, and leave the number to others.
func (u *startup) promotionEvents(a *agenda, p *process) {
	if p.s.c.without(RulePromotionInSteps) {
		a.may(true, processStartup, "writable", func() {
			for p.phase == phasePromoting {
				u.promotionStep(p)
			}
		})
		return
	}
	name := map[promotionStep]string{
		promotionChoose: "choose timeline", promotionSignal: "remove standby.signal", promotionHistory: "write history",
		promotionRecord: "end of recovery", promotionWritable: "writable",
	}[u.step]
	a.may(true, processStartup, name, func() { u.promotionStep(p) })
}

// promotionStep takes the next step.
func (u *startup) promotionStep(p *process) {
	d := &p.s.disk
	switch u.step {
	case promotionChoose:
		// Nothing can be read behind the end: half a record is dropped.
		d.wal.cut(p.replayed)
		u.number = u.along.Timeline + 1
		if !p.s.c.without(RuleNumberAboveHistories) {
			u.number = d.newest(u.along.Timeline) + 1
		}
		u.step = promotionSignal
	case promotionSignal:
		d.signal = false
		u.step = promotionHistory
	case promotionHistory:
		parent := u.along.History
		d.histories[u.number] = append(slices.Clip(parent),
			pg.Switch{Timeline: u.along.Timeline, At: p.replayed, Reason: "no recovery target specified"})
		u.step = promotionRecord
	case promotionRecord:
		p.timeline = u.number
		p.insert(KindEndOfRecovery, nil)
		if p.flush(); p.ended() {
			return
		}
		d.control.State = stateProduction
		d.control.Minimum, d.control.MinimumTimeline = d.wal.end(), u.number
		u.step = promotionWritable
	case promotionWritable:
		p.becomePrimary()
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
