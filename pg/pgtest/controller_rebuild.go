package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pghad/pghad/pg"
)

// Rewind implements ha.Rebuilder.
func (k *Controller) Rewind(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	ctx, done, err := k.begin(ctx, "rewind")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	floor, err := k.rewind(ctx, source)
	if err != nil {
		return pg.Position{}, fmt.Errorf("rewind %s to %s: %w", k.s.Name, source.Address(), err)
	}
	return floor, nil
}

func (k *Controller) rewind(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	if err := k.drain(ctx); err != nil {
		return pg.Position{}, err
	}
	d := &k.s.disk
	if !look(k.c, func() bool { return d.unfinished == "rewind" && d.copied && d.rewindFrom == source.Address() }) {
		if err := k.copyByRewind(ctx, source); err != nil {
			return pg.Position{}, err
		}
	}
	floor, err := k.floor(ctx, source)
	if err != nil {
		return pg.Position{}, err
	}
	return floor, k.effect(ctx, "rewind/end", func() error {
		d.unfinished, d.copied, d.rewindFrom = "", false, ""
		return nil
	})
}

// copyByRewind is pg_rewind itself: a plan that changes nothing, the sentinel,
// and the copy in two parts, after which the data is good again.
func (k *Controller) copyByRewind(ctx context.Context, source pg.Upstream) error {
	common, nothing, err := k.awaitPlan(ctx, source)
	if err != nil {
		return err
	}
	d := &k.s.disk
	err = k.effect(ctx, "rewind/begin", func() error {
		if !k.c.without(RuleHalfARewind) {
			d.unfinished, d.rewindFrom = "rewind", source.Address()
		}
		return nil
	})
	if err != nil {
		return err
	}
	var from *process
	err = k.remote(ctx, "rewind/copy", source, func(p *process) error {
		from = p
		if !nothing && k.s.room() > 0 {
			return errors.New("no WAL file can be made")
		}
		if !nothing {
			k.s.takeCopy(p, common)
			d.control.State = stateRecovery
		}
		return nil
	})
	if err == nil {
		err = k.remote(ctx, "rewind/finish", source, func(p *process) error {
			if p != from {
				return errors.New("the source was restarted meanwhile")
			}
			if !nothing {
				d.control.Minimum, d.control.MinimumTimeline = p.available(), p.current()
			}
			d.files, d.signal, d.copied = d.wanted, true, true
			d.removePlaceholders()
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", pg.ErrIncompleteCopy, err)
	}
	return nil
}

// awaitPlan plans a rewind when the source has finished a checkpoint on its
// timeline, for which it waits.
func (k *Controller) awaitPlan(ctx context.Context, source pg.Upstream) (common pg.LSN, nothing bool, err error) {
	for {
		var late *process
		err := k.remote(ctx, "rewind/plan", source, func(p *process) (err error) {
			if k.late(p) && k.mayRewind(p) == nil {
				late = p
				return nil
			}
			common, nothing, err = k.planRewind(p)
			return err
		})
		if err != nil || late == nil {
			return common, nothing, err
		}
		err = k.await(ctx, "the first checkpoint of the source on its timeline", func() bool { return late.ended() || !k.late(late) })
		if err != nil {
			return 0, false, err
		}
	}
}

// late reports whether a server's control file is behind its promotion.
func (k *Controller) late(p *process) bool {
	return p.phase == phasePrimary && p.s.disk.control.Timeline != p.timeline && !k.c.without(RuleLateCheckpoint)
}

// planRewind finds the last checkpoint before the fork. It believes control
// files and timeline numbers, as pg_rewind does: of twins it says that nothing
// has to be done (X7).
func (k *Controller) planRewind(p *process) (common pg.LSN, nothing bool, err error) {
	if err := k.mayRewind(p); err != nil {
		return 0, false, err
	}
	own, other := &k.s.disk, &p.s.disk
	mine := max(own.control.Timeline, own.control.MinimumTimeline)
	if mine == other.control.Timeline {
		if last := own.wal.last(); k.c.without(RuleTwinsLookEqual) && !other.wal.contains(last) {
			return 0, false, fmt.Errorf("%w: the servers are twins", pg.ErrRewindImpossible)
		}
		return 0, true, nil
	}
	fork, err := forkOf(own.lineageOf(mine), other.lineageOf(other.control.Timeline))
	if err != nil {
		return 0, false, err
	}
	if fork >= own.wal.end() {
		return 0, true, nil
	}
	for i := own.wal.after(fork) - 1; i >= 0; i-- {
		r := own.wal.records[i]
		if r.Start < own.wal.from {
			break
		}
		if r.Kind == KindCheckpoint || r.Kind == KindShutdown {
			return r.Start, false, nil
		}
	}
	return 0, false, fmt.Errorf("%w: the WAL back to the last common checkpoint before %s has been removed", pg.ErrRewindImpossible, fork)
}

// mayRewind is what has to be so on both sides.
func (k *Controller) mayRewind(p *process) error {
	own := &k.s.disk
	switch {
	case k.s.proc != nil:
		return errors.New("the server runs: stop it first")
	case own.complete() != nil:
		return own.complete()
	case !own.clean() && !k.c.without(RuleRewindWantsClean):
		return fmt.Errorf("the data was not shut down cleanly (%s): start it as a standby and stop it fast first", own.control.State)
	case own.systemID != p.s.disk.systemID:
		return fmt.Errorf("%w: the systems differ", pg.ErrRewindImpossible)
	}
	return nil
}

// forkOf is where two lineages part, by their history files.
func forkOf(a, b lineage) (pg.LSN, error) {
	ends := func(l lineage) pg.History {
		return append(slices.Clip(l.History), pg.Switch{Timeline: l.Timeline, At: ^pg.LSN(0)})
	}
	var fork pg.LSN
	found := false
	ours, theirs := ends(a), ends(b)
	for i := range min(len(ours), len(theirs)) {
		if ours[i].Timeline != theirs[i].Timeline {
			break
		}
		fork, found = min(ours[i].At, theirs[i].At), true
		if ours[i].At != theirs[i].At {
			break
		}
	}
	if !found {
		return 0, fmt.Errorf("%w: the histories have no common ancestor", pg.ErrRewindImpossible)
	}
	return fork, nil
}

// takeCopy makes the data the source's, to be replayed from a checkpoint on.
func (s *server) takeCopy(p *process, from pg.LSN) {
	d, other := &s.disk, &p.s.disk
	d.wal = other.wal.clone()
	d.wal.cut(boundary(&d.wal, p.available()))
	d.wal.durable, d.wal.from = d.wal.end(), max(other.wal.from, min(from, d.wal.end()))
	d.systemID = other.systemID
	d.histories = maps.Clone(other.histories)
	d.slots = map[string]*slot{}
	if s.c.without(RuleSlotsStayBehind) {
		d.slots = other.clone().slots
	}
	d.files = other.files
	d.signal = false
	d.control = control{State: stateProduction, Checkpoint: from, Timeline: other.control.Timeline}
	if i := d.wal.after(from); i < len(d.wal.records) {
		d.control.Timeline = d.wal.records[i].Timeline
	}
}

// boundary is the end of the last complete record at or before lsn.
func boundary(w *wal, lsn pg.LSN) pg.LSN {
	if r := w.before(lsn); r != nil {
		return r.End
	}
	return firstLSN
}

// floor is the source's position after the copy.
func (k *Controller) floor(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	var floor pg.Position
	err := k.remote(ctx, "look/floor", source, func(p *process) error {
		floor = pg.Position{Timeline: p.current(), LSN: p.available()}
		return nil
	})
	return floor, err
}

// backup is the server that a base backup was begun on, and as what.
type backup struct {
	process *process
	phase   phase
}

// end is the end of the connection; the zero backup was not begun.
func (b backup) end() {
	if b.process != nil {
		b.process.backups--
	}
}

// beginBackup waits for the checkpoint that a base backup begins with. One that
// nothing holds up takes no time.
func (k *Controller) beginBackup(ctx context.Context, source pg.Upstream) (from backup, start pg.LSN, err error) {
	var request uint64
	err = k.remote(ctx, "clone/start", source, func(p *process) error {
		from = backup{p, p.phase}
		p.backups++
		switch {
		case p.checkpointer.frozen:
			p.checkpointer.requested++
			request = p.checkpointer.requested
		case p.phase == phasePrimary:
			p.checkpoint(KindCheckpoint)
		}
		return nil
	})
	if err == nil && request > 0 {
		p := from.process
		err = k.await(ctx, "the checkpoint of the source", func() bool { return !p.postmaster.alive || p.checkpointer.done >= request })
	}
	if err == nil {
		start = look(k.c, func() pg.LSN { return from.process.s.disk.control.Checkpoint })
	}
	return from, start, err
}

// Clone implements ha.Rebuilder.
func (k *Controller) Clone(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	ctx, done, err := k.begin(ctx, "clone")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	floor, err := k.clone(ctx, source)
	if err != nil {
		return pg.Position{}, fmt.Errorf("clone %s from %s: %w", k.s.Name, source.Address(), err)
	}
	return floor, nil
}

// clone is a base backup beside the data directory, with the WAL that was
// written meanwhile, and the swap.
func (k *Controller) clone(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	if err := k.drain(ctx); err != nil {
		return pg.Position{}, err
	}
	d := &k.s.disk
	err := k.effect(ctx, "clone/begin", func() error {
		if k.s.proc != nil {
			return errors.New("the server runs: stop it first")
		}
		d.cloning = true
		if k.c.without(RuleCopyBeside) {
			d.unfinished = "clone"
		}
		return nil
	})
	if err != nil {
		return pg.Position{}, err
	}
	from, start, err := k.beginBackup(ctx, source)
	defer look(k.c, func() bool { from.end(); return true })
	if err != nil {
		return pg.Position{}, err
	}
	beside := &server{Node: k.s.Node, c: k.c}
	err = k.remote(ctx, "clone/copy", source, func(p *process) error {
		if (p != from.process || p.phase != from.phase) && !k.c.without(RuleCopyNeedsItsSource) {
			return errors.New("the source was restarted or promoted during the backup")
		}
		beside.takeCopy(p, start)
		end := beside.disk.wal.end()
		beside.disk.control.Minimum, beside.disk.control.MinimumTimeline = end, beside.disk.wal.timelineAt(end)
		return nil
	})
	if err != nil {
		return pg.Position{}, err
	}
	floor, err := k.floor(ctx, source)
	if err != nil {
		return pg.Position{}, err
	}
	return floor, k.effect(ctx, "clone/swap", func() error {
		if k.s.proc != nil {
			return errors.New("the server runs: stop it first")
		}
		wanted := d.wanted
		wanted.Upstream, wanted.GateOpen = pg.Upstream{}, false
		wanted.Revision++
		beside.disk.room = d.room
		*d = beside.disk
		d.present, d.signal, d.wanted, d.files = true, true, wanted, wanted
		d.removePlaceholders()
		return nil
	})
}
