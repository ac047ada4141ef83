package pgtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pghad/pghad/pg"
)

// errStopRequested is why an operation ends when Stop is called meanwhile.
var errStopRequested = errors.New("the server is being stopped")

// Controller controls one server of the model, for one life of an agent. It has
// the methods of ha.PostgresController, and keeps to its comments.
//
// Its work is a sequence of named effects, before each of which it asks its
// Runner. Those that only look begin with "look/".
type Controller struct {
	c   *Cluster
	s   *server
	run Runner

	mu     sync.Mutex // never held over anything that waits
	busy   bool       // an operation that changes the server runs
	cancel context.CancelCauseFunc
	stops  int // Stop calls under way

	// Guarded by the cluster's lock:
	kept      *process // the process that the kept session is connected to
	confirmed uint64   // the revision of the settings that was last seen in force
}

// Controller makes the controller of a node for one agent. What an agent that
// has died was about to do does not happen; what the server was told goes on.
func (c *Cluster) Controller(node string, run Runner) (*Controller, error) {
	s := c.server(node)
	if s == nil {
		return nil, fmt.Errorf("controller: there is no node %q", node)
	}
	return &Controller{c: c, s: s, run: run}, nil
}

const awaitTurn = "turn"

// begin waits for the controller's turn. Who comes while a Stop is under way waits
// for its end; a Stop that comes later ends the wait. The returned context ends with
// ctx and when Stop is called; done must be called.
func (k *Controller) begin(ctx context.Context, what string) (_ context.Context, done func(), err error) {
	for {
		k.mu.Lock()
		stopping := k.stops > 0
		if !stopping && !k.busy {
			ctx, cancel := context.WithCancelCause(ctx)
			k.busy, k.cancel = true, cancel
			k.mu.Unlock()
			return ctx, k.finish, nil
		}
		k.mu.Unlock()
		over := func() bool { return !k.stopping() }
		if !stopping {
			over = k.free
		}
		if err := k.run.Await(ctx, awaitTurn, over); err != nil {
			return nil, nil, fmt.Errorf("%s: wait for the operation before it: %w", what, err)
		}
		if !stopping && k.stopping() {
			return nil, nil, fmt.Errorf("%s: %w", what, errStopRequested)
		}
	}
}

func (k *Controller) stopping() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stops > 0
}

func (k *Controller) free() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.busy || k.stops > 0
}

func (k *Controller) finish() {
	k.mu.Lock()
	cancel := k.cancel
	k.busy, k.cancel = false, nil
	k.mu.Unlock()
	if cancel != nil {
		cancel(nil)
	}
}

// effect asks the Runner, and changes the world unless the operation was ended
// meanwhile.
func (k *Controller) effect(ctx context.Context, name string, change func() error) error {
	if err := k.run.Effect(ctx, name); err != nil {
		return err
	}
	return k.c.do(k.s.Name+"/agent/"+name, func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return change()
	})
}

// await waits until done, which is evaluated under the cluster's lock.
func (k *Controller) await(ctx context.Context, what string, done func() bool) error {
	err := k.run.Await(ctx, what, func() bool { return look(k.c, done) })
	if err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	return nil
}

// session waits until a new session is let in or refused, and then looks, under
// the cluster's lock.
func (k *Controller) session(ctx context.Context, name string, use func(*process) error) error {
	if err := k.run.Effect(ctx, name); err != nil {
		return err
	}
	err := k.await(ctx, "an answer of the postmaster", func() bool {
		p := k.s.proc
		return p == nil || !p.postmaster.frozen
	})
	if err != nil {
		return err
	}
	return k.c.do(k.s.Name+"/agent/"+name, func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		p := k.s.proc
		switch {
		case p == nil || !p.postmaster.alive:
			return pg.ErrNotRunning
		case !p.admits():
			return errors.New("the server is starting up or shutting down")
		}
		return use(p)
	})
}

func (k *Controller) now() time.Time {
	if c, ok := k.run.(Clock); ok {
		return c.Now()
	}
	if k.c.cfg.Now != nil {
		return k.c.cfg.Now()
	}
	return time.Time{}
}

// running reports whether a postmaster runs.
func (k *Controller) running() bool { return look(k.c, k.s.running) }

func (s *server) running() bool { return s.proc != nil && s.proc.postmaster.alive }

// configure remembers an edit of the settings, and has a running server read
// it. It returns when a new session shows it.
func (k *Controller) configure(ctx context.Context, name string, edit func(*settings)) error {
	var revision uint64
	err := k.effect(ctx, name, func() error {
		d := &k.s.disk
		edit(&d.wanted)
		d.wanted.Revision++
		revision = d.wanted.Revision
		if k.s.running() {
			d.files = d.wanted
		}
		return nil
	})
	if err != nil || !k.running() {
		return err
	}
	err = k.effect(ctx, "reload", func() error {
		if k.s.running() {
			k.s.proc.postmaster.reload = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = k.await(ctx, "the new configuration", func() bool {
		return !k.s.running() || !k.s.proc.postmaster.frozen && k.s.proc.postmaster.read.Revision >= revision
	})
	if err == nil && !k.running() {
		return pg.ErrNotRunning
	}
	if err == nil {
		look(k.c, func() bool { k.confirmed = revision; return true })
	}
	return err
}

// settle ends a change of the settings that was cut off: until then the next
// reload would bring it into force.
func (k *Controller) settle(ctx context.Context) error {
	ctx, done, err := k.begin(ctx, "settle the settings")
	if err != nil {
		return err
	}
	defer done()
	if look(k.c, k.settled) {
		return nil
	}
	return k.configure(ctx, "settle/settings", func(*settings) {})
}

// settled reports whether the settings that were written last are in force.
func (k *Controller) settled() bool {
	return !k.s.running() || k.s.proc.postmaster.read.Revision == k.s.disk.wanted.Revision
}

// gateOpen is what this controller knows of the gate: nothing, while a running
// server shows settings that neither it has seen in force nor its note has.
func (k *Controller) gateOpen(p *process) bool {
	read := p.postmaster.read
	if read.Revision != k.s.disk.wanted.Revision && read.Revision != k.confirmed {
		return false
	}
	k.confirmed = read.Revision
	return read.GateOpen
}

// Status implements ha.Observer.
func (k *Controller) Status(ctx context.Context) (pg.Status, error) {
	sampled := k.now()
	err := k.run.Effect(ctx, "look/status")
	if err == nil {
		err = k.run.Await(ctx, "status", func() bool { return look(k.c, k.answers) })
	}
	return look(k.c, func() pg.Status {
		status := k.s.status(err)
		status.SampledAt = sampled
		if k.s.running() {
			status.GateOpen = k.gateOpen(k.s.proc)
		}
		return status
	}), nil
}

// answers reports whether a question is answered, by the kept session or by a
// new one, or refused at once.
func (k *Controller) answers() bool {
	p := k.s.proc
	if p == nil || !p.postmaster.alive || p.postmaster.stopping != "" {
		return true
	}
	if p == k.kept && !p.starting() && !k.c.without(RuleFrozenPostmaster) {
		return true // C18: a frozen postmaster does not disturb open sessions
	}
	if p.postmaster.frozen {
		return false
	}
	if !p.starting() {
		k.kept = p
	}
	return true
}

// status is one look. Why there is no answer is given, if there is none.
func (s *server) status(unanswered error) pg.Status {
	status := pg.Status{Generation: s.generation, Process: s.ended, Health: pg.HealthDead}
	p := s.proc
	if p == nil {
		return status
	}
	if !p.postmaster.alive {
		status.Process, status.Health = pg.ProcessCrashed, pg.HealthUnknown
		status.Err = "the postmaster has ended, its processes have not"
		return status
	}
	status.Postgres, status.Process, status.Health = p.pid, pg.ProcessRunning, pg.HealthUnknown
	switch {
	case p.postmaster.stopping != "":
		status.Process, status.Err = pg.ProcessStopping, "the server is shutting down"
	case p.starting():
		status.Process, status.Err = pg.ProcessStarting, "the server is starting up"
	case unanswered != nil:
		status.Err = unanswered.Error()
	default:
		status.Health = pg.HealthAlive
		p.fill(&status)
	}
	return status
}

func (p *process) fill(status *pg.Status) {
	s := p.s
	status.Version, status.SystemID = s.c.cfg.Version, s.disk.systemID
	status.Upstream = conninfo(p.postmaster.read.Upstream)
	status.Sync = p.postmaster.read.Sync
	status.Senders = p.sync.show(p, status.Sync)
	status.Slots = s.disk.slotNames()
	status.StartedAt = p.started
	if p.phase == phasePrimary {
		status.Role, status.Flushed = pg.RolePrimary, p.flushed()
		status.Timeline = s.disk.wal.timelineAt(status.Flushed)
		return
	}
	status.Role = pg.RoleStandby
	status.Received, status.ReceivedValid = p.received.lsn, p.received.valid
	status.Replayed = p.replayed
	if u := p.startup; u != nil {
		status.ReplayPaused, status.Startup = u.paused, u.wait(p)
	}
	if r := p.receiver; r != nil && (r.state != receiverConnecting || s.c.without(RuleConnectingIsHidden)) {
		state := "streaming"
		switch r.state {
		case receiverWaiting:
			state = "waiting"
		case receiverRestarting:
			state = "restarting"
		case receiverConnecting, receiverStreaming:
		}
		status.Receiver = &pg.Receiver{State: state, Host: r.up.Host, Port: r.up.Port, Slot: r.up.Slot, Timeline: r.timeline}
	}
	status.Timeline = s.disk.wal.timelineAt(status.Held().LSN)
}

// conninfo is an upstream as primary_conninfo shows it.
func conninfo(up pg.Upstream) string {
	if up.IsZero() {
		return ""
	}
	return fmt.Sprintf("host=%s port=%d application_name=%s", up.Host, up.Port, up.Name)
}

// WaitChange implements ha.Observer.
func (k *Controller) WaitChange(ctx context.Context, seen uint64) (uint64, error) {
	err := k.await(ctx, "a start or an end of the server", func() bool { return k.s.generation != seen })
	return look(k.c, func() uint64 { return k.s.generation }), err
}

// OnDisk implements ha.Observer.
func (k *Controller) OnDisk(ctx context.Context) (pg.OnDisk, error) {
	var found pg.OnDisk
	err := k.effect(ctx, "look/disk", func() error {
		d := &k.s.disk
		if !k.s.running() {
			d.cloning = false // an interrupted clone is undone
		}
		if err := d.complete(); err != nil {
			return fmt.Errorf("look at the data directory of %s: %w", k.s.Name, err)
		}
		found = pg.OnDisk{
			SystemID: d.systemID, Version: fmt.Sprint(k.c.cfg.Version / 10000),
			Clean: d.clean(), State: d.control.State, Standby: d.signal, Timeline: d.control.Timeline,
		}
		return nil
	})
	return found, err
}

// complete refuses data that must not be started.
func (d *disk) complete() error {
	switch {
	case d.unfinished != "":
		return fmt.Errorf("%s was interrupted: %w", d.unfinished, pg.ErrIncompleteCopy)
	case !d.present:
		return pg.ErrNoData
	}
	return nil
}

// SelfCheck implements ha.Observer.
func (k *Controller) SelfCheck(ctx context.Context) error {
	var mark *Record
	var by *process
	err := k.session(ctx, "self-check", func(p *process) error {
		if !p.writable() {
			return errors.New("the server is not a primary")
		}
		mark, by = p.insert(KindFiller, nil), p
		return nil
	})
	if err == nil {
		err = k.await(ctx, "the flush", func() bool {
			waits := by.sync.defined && mark.End > by.sync.flush && k.c.without(RuleLocalReturns)
			return k.s.proc != by || mark.End <= by.flushed() && !waits
		})
	}
	if err == nil && look(k.c, func() bool { return k.s.proc != by }) {
		err = pg.ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("self-check of %s: %w", k.s.Name, err)
	}
	return nil
}
