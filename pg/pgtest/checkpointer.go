package pgtest

import "github.com/pghad/pghad/pg"

// checkpointer writes checkpoints, and it alone tells the sessions whether
// commits wait for standbys at all (X4, X8).
type checkpointer struct {
	alive     bool
	frozen    bool
	reload    bool
	requested uint64 // CHECKPOINTs asked for
	began     uint64 // the requests that the running or last one answers
	done      uint64 // the requests that have been answered
	running   bool
}

func (p *process) checkpointerEvents(a *agenda) {
	k := &p.checkpointer
	if !k.alive || k.frozen {
		return
	}
	m := &p.postmaster
	a.may(!m.alive, processCheckpointer, "exit", func() { k.alive = false })
	a.may(k.reload && !k.running, processCheckpointer, "reload", p.adoptSync)
	asked := k.requested > k.began && p.phase != phaseStarting && m.stopping == ""
	a.may(asked && !k.running, processCheckpointer, "begin", p.beginCheckpoint)
	a.may(k.running, processCheckpointer, "end", p.endCheckpoint)
	a.may(!asked && !k.running && m.stopping == "" && p.checkpointDue(), processCheckpointer, actionCheckpoint, func() { k.requested++ })
	shut := m.stopping == pg.StopFast && m.shutting && p.phase == phasePrimary && !p.shutDown()
	a.may(shut && !k.running && !p.senderDeaf(), processCheckpointer, "shutdown checkpoint", func() {
		p.checkpoint(KindShutdown)
		p.s.disk.control.State = stateShutDown
	})
}

// checkpointDue reports whether a checkpoint would be begun by size or time.
func (p *process) checkpointDue() bool {
	since := p.s.disk.control.Checkpoint
	switch p.phase {
	case phasePrimary:
		return p.s.disk.wal.end() > since+p.s.c.cfg.CheckpointEvery
	case phaseStandby:
		return p.checkpointSeen > since
	case phaseStarting, phasePromoting:
	}
	return false
}

// adoptSync reads the configuration and publishes whether commits wait.
func (p *process) adoptSync() {
	p.checkpointer.reload = false
	p.sync.define(p, !p.s.disk.files.Sync.Empty())
}

// beginCheckpoint answers everything asked for until now. A checkpointer reads
// its configuration before it begins.
func (p *process) beginCheckpoint() {
	k := &p.checkpointer
	if k.reload {
		p.adoptSync()
	}
	k.running, k.began = true, k.requested
}

func (p *process) endCheckpoint() {
	k := &p.checkpointer
	k.running, k.done = false, k.began
	if p.phase == phasePrimary {
		p.checkpoint(KindCheckpoint)
		return
	}
	p.restartpoint()
}

// checkpoint writes the record, brings the control file up to date and removes
// WAL that nobody needs.
func (p *process) checkpoint(kind Kind) {
	r := p.insert(kind, nil)
	p.flush()
	if p.ended() {
		return
	}
	d := &p.s.disk
	d.control.Checkpoint, d.control.Timeline = r.Start, r.Timeline
	d.control.Minimum, d.control.MinimumTimeline = 0, 0
	p.removeWAL()
}

// restartpoint is a standby's checkpoint: recovery will begin at the last
// checkpoint that it has replayed.
func (p *process) restartpoint() {
	d := &p.s.disk
	for i := d.wal.after(p.replayed) - 1; i >= 0; i-- {
		r := d.wal.records[i]
		if r.Kind != KindCheckpoint && r.Kind != KindShutdown {
			continue
		}
		if r.Start > d.control.Checkpoint {
			d.control.Checkpoint, d.control.Timeline = r.Start, r.Timeline
			d.control.Minimum = max(d.control.Minimum, p.replayed)
			d.control.MinimumTimeline = max(d.control.MinimumTimeline, d.wal.timelineAt(p.replayed))
		}
		break
	}
	p.removeWAL()
}

// removeWAL removes the segments that neither recovery, nor a slot, nor
// wal_keep_size needs.
func (p *process) removeWAL() {
	d := &p.s.disk
	if p.s.c.without(RuleRetention) {
		return
	}
	keep := d.control.Checkpoint
	if end := d.wal.end(); end > p.s.c.cfg.WALKeep {
		keep = min(keep, end-p.s.c.cfg.WALKeep)
	} else {
		keep = 0
	}
	for _, name := range d.slotNames() {
		slot := d.slots[name]
		if slot.lost = slot.lost || p.exceeds(slot); slot.lost {
			if slot.used != nil {
				slot.used.terminated = true
			}
			continue
		}
		keep = min(keep, slot.restart)
	}
	d.wal.from = max(d.wal.from, keep-keep%p.s.c.cfg.SegmentSize)
}

// exceeds reports whether a slot holds more WAL than max_slot_wal_keep_size.
func (p *process) exceeds(s *slot) bool {
	limit := p.s.c.cfg.SlotWALKeep
	return limit > 0 && p.s.disk.wal.end() > s.restart+limit && !p.s.c.without(RuleSlotLimit)
}
