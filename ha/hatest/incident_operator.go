package hatest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// atDesk are the incidents that are an operator's doing.
func (i Incident) atDesk() bool {
	switch i.Verb {
	case "switchover", "cancel-switchover", "garbage", "storm", "maintenance-on", "maintenance-off", "manual-stop", "delete-lock":
		return true
	default:
		return false
	}
}

// beginAtDesk lets an operator do something, which takes its time.
func (s *simulation) beginAtDesk(i Incident, h *host) (undo func()) {
	nothing := func() {}
	switch i.Verb {
	case "switchover":
		to := i.Args[0]
		if to == "best" {
			to = ""
		}
		s.operate(func(ctx context.Context, d *desk) error { return d.switchover(ctx, to) })
	case "cancel-switchover":
		s.operate(func(ctx context.Context, d *desk) error { return d.cancel(ctx) })
	case "garbage":
		s.operate(func(ctx context.Context, d *desk) error { return d.garbage(ctx, i.Args[0]) })
	case "storm":
		s.storm(i)
	case "maintenance-on":
		s.operate(func(ctx context.Context, d *desk) error { return d.maintenance(ctx, true) })
		return s.endMaintenance
	case "maintenance-off":
		s.endMaintenance()
	case "manual-stop":
		return s.manualStop(h)
	case "delete-lock":
		s.world.reach("an operator deletes the key of a lock")
		s.operate(func(ctx context.Context, d *desk) error { return d.deleteLock(ctx, i.Args[0]) })
	default:
		return nil
	}
	return nothing
}

// operate lets an operator do something at the desk.
func (s *simulation) operate(do func(context.Context, *desk) error) {
	s.world.operateAs(func(ctx context.Context, a *agent, env Env) error {
		d, err := newDesk(a, env, s.keys, s.plan.Timing)
		if err == nil {
			err = do(ctx, d)
		}
		if err != nil {
			env.Logger.Info("command has failed", "error", err)
		}
		return err
	})
}

func (s *simulation) endMaintenance() {
	s.maintained = s.world.now()
	s.operate(func(ctx context.Context, d *desk) error { return d.maintenance(ctx, false) })
}

// tidy ends a maintenance that nobody wants any more: somebody has asked for it,
// and given up, before the store did it; or the node that is to confirm its end
// was lost.
func (s *simulation) tidy() {
	m := s.records.Maintenance
	if !s.healed || !m.On() || s.world.now()-s.maintained < 2*patienceAtDesk {
		return
	}
	if m.Mode.Value == record.MaintenanceOn {
		s.endMaintenance()
	} else if !slices.Contains(s.core(), m.Master.Value) {
		s.maintained = s.world.now()
		s.operate(func(ctx context.Context, d *desk) error { return d.insist(ctx, d.cmd.ForceMaintenanceOff) })
	}
}

// storm is several operators who do not talk to one another, for a while.
func (s *simulation) storm(i Incident) {
	w := s.world
	kinds := slices.Sorted(maps.Keys(rubbish))
	id := newDigest().str("storm").num(uint64(w.now())) //nolint:gosec // not negative
	for at := time.Duration(0); at < i.For; {
		id = id.num(uint64(at))
		roll := func(what string, n int) int { return int(s.workload.of(what, id).unit() * float64(n)) }
		do := Incident{Verb: "switchover", Args: []string{"best"}}
		switch roll("what", 6) {
		case 0:
			do = Incident{Verb: "garbage", Args: []string{kinds[roll("kind", len(kinds))]}}
		case 1, 2:
			do = Incident{Verb: "cancel-switchover"}
		case 3, 4:
			do.Args[0] = "replica" + strconv.Itoa(1+roll("to", s.plan.Nodes-1))
		}
		w.after(at, id, nil, func() { s.strike(do) })
		at += s.workload.of("gap", id).spread(50*time.Millisecond, 4*time.Second)
	}
}

// manualStop is an operator who stops a server by hand in maintenance, and starts
// it in the end as what it was.
func (s *simulation) manualStop(h *host) (undo func()) {
	if s.records.Maintenance.Mode.Value != record.MaintenanceOn || h.down {
		return nil
	}
	server, begun := s.servers.cluster.Server(h.name), s.records.Maintenance.Since.Revision
	if server.Process != pg.ProcessRunning {
		return nil
	}
	upstream := pg.Upstream{}
	if server.Receiver != "" {
		upstream = pg.Upstream{
			Host: server.Receiver, Port: 5432, Name: h.disk.Member(h.name).String(), Slot: record.SlotName(h.name),
		}
	}
	s.operate(func(ctx context.Context, d *desk) error {
		return d.onServer(ctx, s.servers, h.name, func(ctx context.Context, k *controller) error {
			return k.Stop(ctx, pg.StopFast)
		})
	})
	return func() {
		if m := s.records.Maintenance; !m.On() || m.Since.Revision != begun {
			return // servers are the agents' business again, and may be other than they were
		}
		s.operate(func(ctx context.Context, d *desk) error {
			return d.onServer(ctx, s.servers, h.name, func(ctx context.Context, k *controller) error {
				if s.servers.cluster.Server(h.name).Process == pg.ProcessRunning {
					return nil // somebody else has started it since
				}
				if server.Role != pg.RolePrimary {
					return k.StartStandby(ctx, upstream)
				}
				if err := k.StartPrimary(ctx, byHand{}, server.Setting); err != nil {
					return err //nolint:wrapcheck // says what it was
				}
				return k.OpenGate(ctx)
			})
		})
	}
}

// onServer does something with a server by hand, for which there is a minute.
func (d *desk) onServer(ctx context.Context, all *servers, name string, do func(context.Context, *controller) error) error {
	ctx, cancel := timectx.With(ctx, d.env.Clock, time.Minute, "work by hand")
	defer cancel()
	if err := do(ctx, all.controller(d.agent, name)); err != nil {
		return fmt.Errorf("by hand on %s: %w", name, err)
	}
	return nil
}

// byHand is the warrant of whoever starts a server without asking anybody.
type byHand struct{}

var _ pg.Warrant = byHand{}

func (byHand) Check() error     { return nil }
func (byHand) Until() time.Time { return epoch.Add(never) }
