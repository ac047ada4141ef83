package pgtest

import (
	"context"
	"fmt"
	"slices"

	"github.com/pghad/pghad/pg"
)

// Follow implements ha.Follower.
func (k *Controller) Follow(ctx context.Context, up pg.Upstream) error {
	ctx, done, err := k.begin(ctx, "follow")
	if err != nil {
		return err
	}
	defer done()
	if !k.running() {
		err = pg.ErrNotRunning
	} else {
		err = k.startStandby(ctx, up)
	}
	if err != nil {
		return fmt.Errorf("point %s at %s: %w", k.s.Name, up.Address(), err)
	}
	return nil
}

// Identify implements ha.Follower.
func (k *Controller) Identify(ctx context.Context, up pg.Upstream) (pg.Remote, error) {
	var remote pg.Remote
	err := k.remote(ctx, "look/identify", up, func(p *process) error {
		d := &p.s.disk
		remote = pg.Remote{
			SystemID: d.systemID, Lineage: d.lineageOf(p.current()), Flushed: p.available(),
			Standby: p.phase != phasePrimary, CheckpointTimeline: d.control.Timeline,
		}
		remote.Lineage.History = slices.Clone(remote.Lineage.History)
		return nil
	})
	if err != nil {
		return pg.Remote{}, fmt.Errorf("identify the server at %s: %w", up.Address(), err)
	}
	return remote, nil
}

// remote opens a connection to another server and uses it.
func (k *Controller) remote(ctx context.Context, name string, up pg.Upstream, use func(*process) error) error {
	if err := k.run.Effect(ctx, name); err != nil {
		return err
	}
	err := k.await(ctx, "an answer of "+up.Address(), func() bool {
		s := k.c.at(up)
		if s != nil && k.c.without(RuleCopyNeedsItsSource) && (s.proc == nil || !s.proc.admits()) {
			return false
		}
		return s != nil && k.c.reachable(k.s.Name, s.Name) && (s.proc == nil || !s.proc.postmaster.frozen)
	})
	if err != nil {
		return err
	}
	return k.c.do(k.s.Name+"/agent/"+name, func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		s := k.c.at(up)
		if s.proc == nil || !s.proc.admits() {
			return fmt.Errorf("%s: %w: it does not admit sessions", s.Name, ErrRefused)
		}
		return use(s.proc)
	})
}

// SetSync implements ha.SyncSetter.
func (k *Controller) SetSync(ctx context.Context, setting pg.SyncSetting) error {
	ctx, done, err := k.begin(ctx, "set synchronous_standby_names")
	if err != nil {
		return err
	}
	defer done()
	setting.Names = slices.Clone(setting.Names)
	if err := k.configure(ctx, "sync/settings", func(s *settings) { s.Sync = setting }); err != nil {
		return fmt.Errorf("set synchronous_standby_names of %s to %q: %w", k.s.Name, setting, err)
	}
	return nil
}

// SyncView implements ha.SyncSetter.
func (k *Controller) SyncView(ctx context.Context) (pg.SyncView, error) {
	view, settled, err := k.syncView(ctx)
	if err == nil && !settled {
		if err = k.settle(ctx); err == nil {
			view, _, err = k.syncView(ctx)
		}
	}
	if err != nil {
		return pg.SyncView{}, fmt.Errorf("view of synchronous replication of %s: %w", k.s.Name, err)
	}
	return view, nil
}

func (k *Controller) syncView(ctx context.Context) (view pg.SyncView, settled bool, err error) {
	err = k.session(ctx, "look/sync", func(p *process) error {
		view.Setting = p.postmaster.read.Sync
		view.Senders = p.sync.show(p, view.Setting)
		if p.phase == phasePrimary {
			view.Flush = p.flushed()
		}
		settled = k.settled()
		return nil
	})
	return view, settled, err
}

// DropSenders implements ha.SyncSetter.
func (k *Controller) DropSenders(ctx context.Context) error {
	var ended []*sender
	var by *process
	err := k.session(ctx, "sync/drop-senders", func(p *process) error {
		ended, by = p.senders, p
		for _, w := range ended {
			w.terminated = true
		}
		return nil
	})
	if err == nil {
		err = k.await(ctx, "the end of the walsenders", func() bool {
			return k.s.proc != by || !slices.ContainsFunc(by.senders, func(w *sender) bool { return slices.Contains(ended, w) })
		})
	}
	if err != nil {
		return fmt.Errorf("end the walsenders of %s: %w", k.s.Name, err)
	}
	return nil
}

// Checkpoint implements ha.SyncSetter.
func (k *Controller) Checkpoint(ctx context.Context) error {
	var request uint64
	var by *process
	err := k.session(ctx, "checkpoint", func(p *process) error {
		p.checkpointer.requested++
		request, by = p.checkpointer.requested, p
		return nil
	})
	if err == nil {
		err = k.await(ctx, "the checkpoint", func() bool { return k.s.proc != by || by.checkpointer.done >= request })
	}
	if err == nil && look(k.c, func() bool { return k.s.proc != by }) {
		err = pg.ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("checkpoint on %s: %w", k.s.Name, err)
	}
	return nil
}

// EnsureSlots implements ha.SlotKeeper.
func (k *Controller) EnsureSlots(ctx context.Context, slots []pg.Slot) error {
	if len(slots) == 0 {
		return nil
	}
	ctx, done, err := k.begin(ctx, "keep replication slots")
	if err != nil {
		return err
	}
	defer done()
	err = k.session(ctx, "slots", func(p *process) error {
		for _, wanted := range slots {
			p.ensureSlot(wanted)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep replication slots of %s: %w", k.s.Name, err)
	}
	return nil
}

func (p *process) ensureSlot(wanted pg.Slot) {
	d := &p.s.disk
	held := d.slots[wanted.Name]
	if held == nil {
		d.slots[wanted.Name] = &slot{restart: max(d.wal.from, d.control.Checkpoint)}
		return
	}
	if held.used == nil && held.restart >= d.wal.from {
		limit := p.replayed
		if p.phase == phasePrimary {
			limit = p.flushed()
		}
		held.restart = max(held.restart, min(wanted.Advance, limit))
	}
}

// OpenGate implements ha.Gatekeeper.
func (k *Controller) OpenGate(ctx context.Context) error {
	ctx, done, err := k.begin(ctx, "open the gate")
	if err != nil {
		return err
	}
	defer done()
	if !k.running() {
		err = pg.ErrNotRunning
	} else {
		err = k.configure(ctx, "gate/open", func(s *settings) { s.GateOpen = true })
	}
	if err != nil {
		return fmt.Errorf("open the gate of %s: %w", k.s.Name, err)
	}
	return nil
}
