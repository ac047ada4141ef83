package pgtest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pghad/pghad/pg"
)

// Init implements ha.Starter.
func (k *Controller) Init(ctx context.Context) error {
	ctx, done, err := k.begin(ctx, "make a new data directory")
	if err != nil {
		return err
	}
	defer done()
	err = k.effect(ctx, "init/begin", func() error {
		d := &k.s.disk
		switch {
		case k.s.proc != nil:
			return errors.New("a server runs on it")
		case d.present && d.unfinished != "init":
			return errors.New("it is not empty: move its content away if nobody needs it")
		}
		d.present, d.unfinished = true, "init"
		return nil
	})
	if err == nil {
		err = k.effect(ctx, "init/end", func() error { k.s.initdb(); return nil })
	}
	if err != nil {
		return fmt.Errorf("make a new data directory on %s: %w", k.s.Name, err)
	}
	return nil
}

// initdb fills the data directory of a new system.
func (s *server) initdb() {
	wanted := s.disk.wanted
	s.disk = disk{
		present: true, systemID: s.c.newSystem(), histories: map[pg.Timeline]pg.History{}, slots: map[string]*slot{},
		wanted: wanted, files: wanted,
	}
	w := &s.disk.wal
	r := s.c.newRecord(nil, 1, KindShutdown, nil)
	w.records, w.durable, w.from = []*Record{r}, r.End, firstLSN
	s.disk.control = control{State: stateShutDown, Checkpoint: r.Start, Timeline: 1}
}

// StartStandby implements ha.Starter.
func (k *Controller) StartStandby(ctx context.Context, up pg.Upstream) error {
	ctx, done, err := k.begin(ctx, "start as a standby")
	if err != nil {
		return err
	}
	defer done()
	if err := k.startStandby(ctx, up); err != nil {
		return fmt.Errorf("start %s as a standby of %s: %w", k.s.Name, up.Address(), err)
	}
	return nil
}

// startStandby needs the turn. A server that runs is pointed at up, or restarted
// if it has run with placeholder history files (X13).
func (k *Controller) startStandby(ctx context.Context, up pg.Upstream) error {
	edit := func(s *settings) { s.Upstream, s.GateOpen = up, true }
	if !k.running() {
		return k.start(ctx, edit, nil)
	}
	if err := k.awaitReady(ctx, nil); err != nil {
		return err
	}
	if look(k.c, func() bool { return k.s.running() && k.s.proc.phase >= phasePromoting }) {
		return errors.New("it runs as a primary: stop it first")
	}
	restart := look(k.c, k.s.disk.hasPlaceholders)
	if !restart {
		return k.configure(ctx, "standby/settings", edit)
	}
	if err := k.stop(ctx, pg.StopFast); err != nil {
		return err
	}
	return k.start(ctx, edit, nil)
}

// StartPrimary implements ha.Starter.
func (k *Controller) StartPrimary(ctx context.Context, warrant pg.Warrant, setting pg.SyncSetting) error {
	ctx, done, err := k.begin(ctx, "start as a primary")
	if err != nil {
		return err
	}
	defer done()
	switch {
	case warrant == nil:
		err = pg.ErrNoWarrant
	case k.running():
		err = errors.New("it is running already: stop it first, or promote it")
	default:
		err = k.start(ctx, func(s *settings) { s.Upstream, s.GateOpen, s.Sync = pg.Upstream{}, false, setting }, warrant)
	}
	if err != nil {
		return fmt.Errorf("start %s as a primary: %w", k.s.Name, err)
	}
	return nil
}

// start starts the server on complete data, as a primary if there is a warrant,
// and returns when it admits the controller.
func (k *Controller) start(ctx context.Context, edit func(*settings), warrant pg.Warrant) error {
	if err := k.drain(ctx); err != nil {
		return err
	}
	err := k.effect(ctx, "start/prepare", func() error {
		d := &k.s.disk
		d.cloning = false
		if err := d.complete(); err != nil {
			return err
		}
		d.removePlaceholders()
		d.signal = warrant == nil
		edit(&d.wanted)
		d.wanted.Revision++
		d.files = d.wanted
		return nil
	})
	if err != nil {
		return err
	}
	err = k.effect(ctx, "start/launch", func() error {
		if k.s.proc != nil {
			return errors.New("a server runs already")
		}
		if err := check(warrant); err != nil {
			return err
		}
		refusal := k.s.refuses()
		k.s.launch()
		if refusal != nil {
			return fmt.Errorf("it has exited: %w", refusal)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return k.awaitReady(ctx, warrant)
}

// drain waits until the processes of a postmaster that has ended are gone, and
// kills what does not go.
func (k *Controller) drain(ctx context.Context) error {
	gone := func() bool { return k.s.proc == nil || k.s.proc.postmaster.alive }
	err := k.await(ctx, "the end of the old processes", gone)
	if errors.Is(err, ErrImpatient) {
		return k.effect(ctx, "start/kill", func() error {
			if !gone() {
				k.s.proc.end(pg.ProcessCrashed)
			}
			return nil
		})
	}
	return err
}

func check(warrant pg.Warrant) error {
	if warrant == nil {
		return nil
	}
	if err := warrant.Check(); err != nil {
		if errors.Is(err, pg.ErrNoWarrant) {
			return err
		}
		return fmt.Errorf("%w: %w", pg.ErrNoWarrant, err)
	}
	return nil
}

// awaitReady waits until the server admits the controller. A primary whose
// warrant ends meanwhile is stopped at once.
func (k *Controller) awaitReady(ctx context.Context, warrant pg.Warrant) error {
	err := k.await(ctx, "the end of recovery", func() bool {
		return !k.s.running() || k.s.proc.admits() || check(warrant) != nil
	})
	if err != nil {
		return err
	}
	if err := check(warrant); err != nil {
		return errors.Join(err, k.stop(context.WithoutCancel(ctx), pg.StopImmediate))
	}
	if !k.running() {
		return errors.New("it has exited")
	}
	look(k.c, func() bool { k.kept = k.s.proc; return true })
	return nil
}

// Stop implements ha.Starter. It ends the operation that runs.
func (k *Controller) Stop(ctx context.Context, mode pg.StopMode) error {
	if mode != pg.StopFast && mode != pg.StopImmediate {
		return fmt.Errorf("stop %s: mode %q: want %s or %s", k.s.Name, mode, pg.StopFast, pg.StopImmediate)
	}
	k.mu.Lock()
	k.stops++
	cancel := k.cancel
	k.mu.Unlock()
	if cancel != nil {
		cancel(errStopRequested)
	}
	defer func() {
		k.mu.Lock()
		k.stops--
		k.mu.Unlock()
	}()
	if err := k.stopAwaiting(ctx, mode, awaitStopped); err != nil {
		return fmt.Errorf("stop %s: %w", k.s.Name, err)
	}
	return nil
}

// awaitStopped is what a Stop waits for as long as its caller does.
const awaitStopped = "the end of the server that is stopped"

// stop needs the turn, or to have ended the operation that has it.
func (k *Controller) stop(ctx context.Context, mode pg.StopMode) error {
	return k.stopAwaiting(ctx, mode, "the end of the server")
}

func (k *Controller) stopAwaiting(ctx context.Context, mode pg.StopMode, what string) error {
	gone := func() bool { return k.s.proc == nil }
	if look(k.c, gone) {
		return nil
	}
	err := k.effect(ctx, "stop/signal-"+string(mode), func() error {
		if p := k.s.proc; p != nil && p.postmaster.stopping != pg.StopImmediate {
			p.postmaster.stopping = mode
		}
		return nil
	})
	if err != nil {
		return err
	}
	if mode == pg.StopFast {
		if err := k.await(ctx, what, gone); err != nil {
			return fmt.Errorf("it is still stopping: %w", err)
		}
		return nil
	}
	// What a frozen process does not do on SIGQUIT, SIGKILL does.
	err = k.await(ctx, what, func() bool { return gone() || k.s.proc.stuck() })
	if err == nil && look(k.c, gone) {
		return nil
	}
	return k.effect(context.WithoutCancel(ctx), "stop/kill", func() error {
		if k.s.proc != nil {
			k.s.proc.end(pg.ProcessStopped)
		}
		return nil
	})
}

// stuck reports whether a process that has to end is frozen.
func (p *process) stuck() bool {
	if p.postmaster.alive {
		return p.postmaster.frozen
	}
	return p.deafToTerm() || p.checkpointer.frozen || slices.ContainsFunc(p.senders, func(w *sender) bool { return w.frozen })
}
