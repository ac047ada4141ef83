package pgtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/pghad/pghad/pg"
)

// fenceLook is what a new session sees of a fence.
type fenceLook struct {
	process            *process
	deaf, asleep       bool
	sleeps             uint64
	received, replayed pg.LSN
}

// lookFence needs the cluster's lock. The zero look is "no answer".
func (s *server) lookFence() fenceLook {
	p := s.proc
	if p == nil || !p.admits() || p.startup == nil {
		return fenceLook{}
	}
	read := p.postmaster.read
	l := fenceLook{process: p, deaf: read.Upstream.IsZero() && read.Revision == s.disk.wanted.Revision, sleeps: p.startup.sleeps, replayed: p.replayed}
	if p.received.valid {
		l.received = p.received.lsn
	}
	l.asleep = l.deaf && p.receiver == nil && p.startup.state == startupSleeping && !p.startup.paused
	return l
}

// fenced decides by a look and the first one that saw the startup process
// asleep. With more received than replayed it takes a second sleep: the first
// may have begun before what the receiver has left was read.
func (l fenceLook) fenced(first fenceLook) bool {
	if !l.asleep {
		return false
	}
	return l.replayed >= l.received ||
		first.asleep && first.process == l.process && first.replayed == l.replayed && l.sleeps > first.sleeps
}

// awaitFence looks for the proof of a fence again and again, and wakes a startup
// process that has to be seen in a second sleep.
func (k *Controller) awaitFence(ctx context.Context, what string) (fenceLook, error) {
	var first fenceLook
	for {
		var last fenceLook
		err := k.await(ctx, what, func() bool {
			last = k.s.lookFence()
			again := last.asleep && (!first.asleep || first.process != last.process || first.replayed != last.replayed)
			return !k.s.running() || k.s.proc.phase >= phasePromoting || last.fenced(first) || again
		})
		switch {
		case err != nil:
			return last, err
		case last.fenced(first):
			return last, nil
		case last.process == nil:
			return last, fmt.Errorf("it has exited or runs as a primary: %w", pg.ErrNotFenced)
		}
		first = last
		err = k.effect(ctx, "fence/wake", func() error {
			if k.s.running() && k.s.proc.startup != nil {
				k.s.proc.startup.reload = true
			}
			return nil
		})
		if err != nil {
			return last, err
		}
	}
}

// Fence implements ha.Fencer.
func (k *Controller) Fence(ctx context.Context) error {
	ctx, done, err := k.begin(ctx, "fence")
	if err != nil {
		return err
	}
	defer done()
	if err := k.fence(ctx); err != nil {
		return fmt.Errorf("fence %s: %w", k.s.Name, err)
	}
	return nil
}

func (k *Controller) fence(ctx context.Context) error {
	if !k.running() || look(k.c, k.s.disk.hasPlaceholders) {
		if err := k.startStandby(ctx, pg.Upstream{}); err != nil {
			return err
		}
	} else if err := k.deafen(ctx); err != nil {
		return err
	}
	// A real controller gives each of these ways some time. A pause of replay is
	// ended at once.
	for _, harder := range []func(context.Context) error{k.endReceiver, k.restartFenced} {
		_, err := k.awaitFence(ctx, "the fence")
		if !errors.Is(err, ErrImpatient) {
			return err
		}
		if err := harder(ctx); err != nil {
			return err
		}
	}
	_, err := k.awaitFence(ctx, "the fence after a restart")
	return err
}

// deafen clears the upstream of a running standby, and ends a pause of replay.
func (k *Controller) deafen(ctx context.Context) error {
	if look(k.c, func() bool { return k.s.running() && k.s.proc.phase >= phasePromoting }) {
		return errors.New("it runs as a primary: stop it first")
	}
	err := k.effect(ctx, "fence/settings", func() error {
		d := &k.s.disk
		if !d.wanted.Upstream.IsZero() || d.files.Revision != d.wanted.Revision {
			d.wanted.Upstream = pg.Upstream{}
			d.wanted.Revision++
			d.files = d.wanted
		}
		return nil
	})
	if err != nil {
		return err
	}
	return k.effect(ctx, "fence/reload", func() error {
		if k.s.running() {
			k.s.proc.postmaster.reload = true
		}
		return nil
	})
}

// endReceiver resumes replay and ends the receiver by its process id.
func (k *Controller) endReceiver(ctx context.Context) error {
	return k.effect(ctx, "fence/end-receiver", func() error {
		p := k.s.proc
		if p == nil {
			return pg.ErrNotRunning
		}
		if p.startup != nil {
			p.startup.paused = false
		}
		if p.receiver != nil {
			p.receiver.terminated = true
		}
		return nil
	})
}

// restartFenced starts the server without an upstream: the last way.
func (k *Controller) restartFenced(ctx context.Context) error {
	err := k.stop(ctx, pg.StopFast)
	if errors.Is(err, ErrImpatient) {
		err = k.stop(ctx, pg.StopImmediate)
	}
	if err != nil {
		return err
	}
	return k.startStandby(ctx, pg.Upstream{})
}

// Position implements ha.Fencer.
func (k *Controller) Position(ctx context.Context) (pg.Position, error) {
	ctx, done, err := k.begin(ctx, "position")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	position, err := k.position(ctx)
	if err != nil {
		return pg.Position{}, fmt.Errorf("position of %s: %w", k.s.Name, err)
	}
	return position, nil
}

func (k *Controller) position(ctx context.Context) (pg.Position, error) {
	err := k.session(ctx, "look/position", func(p *process) error {
		if l := k.s.lookFence(); !l.deaf || p.receiver != nil || p.startup.paused {
			return pg.ErrNotFenced
		}
		return nil
	})
	if errors.Is(err, pg.ErrNotRunning) {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrNotFenced, err)
	}
	if err != nil {
		return pg.Position{}, err
	}
	l, err := k.awaitFence(ctx, "the proof of the fence")
	if err != nil {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrNotFenced, err)
	}
	return look(k.c, func() pg.Position {
		end := max(l.received, l.replayed)
		return pg.Position{Timeline: k.s.disk.wal.timelineAt(end), LSN: end}
	}), nil
}
