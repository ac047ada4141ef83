package hatest

import (
	"context"
	"slices"
	"strings"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// keptTo looks who has said that it keeps to the maintenance.
func (o *oracle) keptTo(changed []string) {
	s := o.sim
	if s.records.Maintenance.Mode.Value != record.MaintenanceOn {
		return
	}
	for _, h := range s.world.machines() {
		key := s.keys.Member(h.name)
		if o.quiet[h.name] || !slices.Contains(changed, key) {
			continue
		}
		kv, err := s.world.store.Get(context.Background(), key)
		if err != nil {
			continue
		}
		if said, err := record.Decode[record.Member](key, kv.Value); err == nil && said.Maintenance {
			o.quiet[h.name] = true
		}
	}
}

// isQuiet reports whether maintenance is on, and every node keeps to it.
func (o *oracle) isQuiet() bool {
	return o.sim.records.Maintenance.Mode.Value == record.MaintenanceOn && len(o.quiet) == len(o.sim.world.machines())
}

// inMaintenance is told of changes of roles.
func (o *oracle) inMaintenance(host, what string) {
	if o.isQuiet() {
		o.sim.violatef(ruleQuiet, "%s %s", host, what)
	}
}

// acted is told of what is done to servers: in maintenance no agent starts or
// stops one, except that a primary of an earlier term is stopped.
func (o *oracle) acted(a *agent, h *host, effect string) {
	starts := strings.HasPrefix(effect, "start/launch") || strings.HasPrefix(effect, "promote/signal")
	stops := strings.HasPrefix(effect, "stop/signal") || strings.HasPrefix(effect, "stop/kill") || strings.HasPrefix(effect, "yield/signal")
	if !starts && !stops || a.host.name == operatorHost {
		return
	}
	s := o.sim
	server := s.servers.cluster.Server(h.name)
	deposed := s.records.Quorum.Value.Primary != s.member(h.name) && (server.Writable || server.Process == pg.ProcessStopping)
	if stops && deposed {
		return
	}
	o.inMaintenance(h.name, "does "+effect)
}
