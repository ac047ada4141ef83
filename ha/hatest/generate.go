package hatest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/pghad/pghad/ha"
)

// NewPlan draws a plan from a seed. The draws of the topology, of the workload
// and of the faults do not shift one another.
func NewPlan(seed uint64) Plan {
	p := Plan{Seed: seed}
	drawTopology(&p, newRand(seed, streamTopology))
	drawWorkload(&p, newRand(seed, streamWorkload))
	drawIncidents(&p, newRand(seed, streamFaults))
	return p
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func drawTopology(p *Plan, r *rand.Rand) {
	p.Nodes = pick(r, 3, 3, 4)
	p.SlowDown = pick(r, 1.0, 1, 1, 3, 10)
	p.Retry = pick(r, 200*time.Millisecond, time.Second, 5*time.Second)
	p.Timing = ha.Timing{}.Defaults()
	switch r.IntN(4) {
	case 0: // short, at the edge of what is allowed
		p.Timing = ha.Timing{
			TTL: 4 * time.Second, RenewEvery: time.Second, Margin: 800 * time.Millisecond, Observe: 500 * time.Millisecond,
			Request: 700 * time.Millisecond, RemovalDelay: 2 * time.Second, ElectionTimeout: 4 * time.Second,
		}.Defaults()
	case 1: // long
		p.Timing.TTL, p.Timing.RenewEvery = 15*time.Second, 4*time.Second
	}
	p.Network = Network{LatencyMin: 200 * time.Microsecond, LatencyMax: 2 * time.Millisecond, Tail: 100 * time.Millisecond}
	if r.IntN(3) == 0 {
		p.Network.LatencyMax, p.Network.Tail = 20*time.Millisecond, 3*time.Second
	}
	p.Network.Loss = pick(r, 0, 0, 0.005, 0.03)
	p.Network.Stale = pick(r, 0, 0.1, 0.5)
	for range p.Nodes {
		p.Rates = append(p.Rates, 1+float64(r.IntN(1001)-500)/1e5) // up to half a percent
	}
}

func drawWorkload(p *Plan, r *rand.Rand) {
	p.Clients = 2 + r.IntN(3)
	p.Every = pick(r, 200*time.Millisecond, 400*time.Millisecond, 800*time.Millisecond)
	p.Length = time.Duration(40+r.IntN(80)) * time.Second
}

// family draws one incident of a kind.
type family struct {
	name string
	draw func(p *Plan, r *rand.Rand) Incident
}

// span is a length of time that has something to do with the leases.
func span(p *Plan, r *rand.Rand) time.Duration {
	f := pick(r, 0.2, 0.5, 0.9, 1.2, 1.5, 2, 4)
	return time.Duration(f * float64(p.Timing.TTL)).Round(time.Millisecond)
}

func brief(r *rand.Rand) time.Duration {
	return time.Duration(100+r.IntN(3000)) * time.Millisecond
}

func target(p *Plan, r *rand.Rand) string {
	if r.IntN(10) < 6 {
		return "leader"
	}
	return "replica" + strconv.Itoa(1+r.IntN(p.Nodes-1))
}

// CrashPoints are the effects of ha.Node: each can be struck before and after.
func CrashPoints() []string { return slices.Clone(points) }

var points = []string{
	"election/open", "election/pledge", "election/fence", "election/vote", "election/name", "election/take-over",
	"server/promote", "server/open-gate", "server/start-standby", "server/stop", "office/switch", "office/publish", "office/release",
	"follow/pledge", "follow/point", "follow/fence", "rejoin/begin", "rejoin/rewind", "rejoin/clone", "server/start-primary",
	"office/rewrite-quorum", "bootstrap/init", "bootstrap/records",
	"quorum/write record", "quorum/write setting", "quorum/read barrier", "quorum/checkpoint",
}

var families = []family{
	{"crash", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "crash", Args: []string{target(p, r)}, For: span(p, r)}
	}},
	{"kill-agent", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "kill-agent", Args: []string{target(p, r)}, For: pick(r, brief(r), span(p, r))}
	}},
	{"kill-server", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: pick(r, "kill-server", "kill-backend"), Args: []string{target(p, r)}}
	}},
	{"crash-point", func(_ *Plan, r *rand.Rand) Incident {
		when := pick(r, "before ", "after ")
		return Incident{
			Point: when + points[r.IntN(len(points))], Host: "any", Nth: 1 + r.IntN(4),
			Verb: "kill-agent", Args: []string{"self"}, For: brief(r),
		}
	}},
	{"pause-agent", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "pause-agent", Args: []string{target(p, r)}, For: span(p, r)}
	}},
	{"pause-point", func(p *Plan, r *rand.Rand) Incident {
		when := pick(r, "before ", "after ")
		return Incident{
			Point: when + points[r.IntN(len(points))], Host: "any", Nth: 1 + r.IntN(4),
			Verb: pick(r, "pause-agent", "pause-host"), Args: []string{"self"}, For: span(p, r),
		}
	}},
	{"pause-host", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: pick(r, "pause-host", "pause-host", "suspend"), Args: []string{target(p, r)}, For: span(p, r)}
	}},
	{"freeze", func(p *Plan, r *rand.Rand) Incident {
		return Incident{
			Verb: "freeze", For: span(p, r),
			Args: []string{target(p, r), pick(r, "postmaster", "startup", "receiver", "checkpointer")},
		}
	}},
	{"isolate", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "isolate", Args: []string{target(p, r)}, For: span(p, r)}
	}},
	{"part", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: pick(r, "cut", "part"), Args: []string{"leader", "replica" + strconv.Itoa(1+r.IntN(p.Nodes-1))}, For: span(p, r)}
	}},
	{"dcs-cut", func(p *Plan, r *rand.Rand) Incident {
		i := Incident{Verb: "dcs-cut", Args: []string{target(p, r)}, For: span(p, r)}
		if r.IntN(3) == 0 {
			i.Verb, i.Args = "cut", append(i.Args, storeHost)
		}
		return i
	}},
	{"dcs", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: pick(r, "dcs-down", "dcs-stall"), For: pick(r, brief(r), span(p, r))}
	}},
	{"expire", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "expire", Args: []string{target(p, r)}}
	}},
	{"clock", func(p *Plan, r *rand.Rand) Incident {
		if r.IntN(2) == 0 {
			step := time.Duration(r.IntN(40)-20) * p.Timing.TTL / 5
			return Incident{Verb: "wall", Args: []string{target(p, r), step.String()}}
		}
		return Incident{Verb: "rate", Args: []string{target(p, r), fmt.Sprint(pick(r, 0.8, 0.95, 1.05, 1.25))}, For: span(p, r)}
	}},
	{"pause-replay", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "pause-replay", Args: []string{"replica" + strconv.Itoa(1+r.IntN(p.Nodes-1))}, For: span(p, r)}
	}},
	{"lose-disk", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "lose-disk", Args: []string{target(p, r)}, For: span(p, r)}
	}},
	{"cancel", func(_ *Plan, _ *rand.Rand) Incident {
		return Incident{Verb: "cancel", Args: []string{"leader"}}
	}},
}

// ousters are the kinds of trouble after which somebody else has to lead.
var ousters = []family{
	{"crash", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "crash", Args: []string{"leader"}, For: long(p, r)}
	}},
	{"isolate", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "isolate", Args: []string{"leader"}, For: long(p, r)}
	}},
	{"dcs-cut", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "dcs-cut", Args: []string{"leader"}, For: long(p, r)}
	}},
	{"pause", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: pick(r, "pause-agent", "pause-host", "suspend"), Args: []string{"leader"}, For: long(p, r)}
	}},
	{"kill-agent", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "kill-agent", Args: []string{"leader"}, For: long(p, r)}
	}},
	{"expire", func(_ *Plan, _ *rand.Rand) Incident {
		return Incident{Verb: "expire", Args: []string{"leader"}}
	}},
}

// long is longer than a lease.
func long(p *Plan, r *rand.Rand) time.Duration {
	f := pick(r, 1.3, 1.6, 2, 3)
	return time.Duration(f * float64(p.Timing.TTL)).Round(time.Millisecond)
}

// warmUp is the time in which the cluster comes into being.
const warmUp = 12 * time.Second

// drawIncidents lets a few kinds of trouble loose, not all of them: what happens
// often in one run does not happen in another.
func drawIncidents(p *Plan, r *rand.Rand) {
	if r.IntN(12) == 0 {
		return // the control group
	}
	on := []family{families[r.IntN(len(families))]}
	ouster := ousters[r.IntN(len(ousters))]
	for _, f := range families {
		if r.IntN(3) == 0 {
			on = append(on, f)
		}
	}
	pause := pick(r, 500*time.Millisecond, 4*time.Second, 12*time.Second)
	for at := warmUp; at < p.Length; {
		f := on[r.IntN(len(on))]
		if r.IntN(5) < 2 {
			f = ouster
		}
		i := f.draw(p, r)
		if i.Point == "" {
			i.At = at.Round(time.Millisecond)
		}
		p.Incidents = append(p.Incidents, i)
		at += pause + time.Duration(r.ExpFloat64()*float64(8*time.Second))
	}
	names := p.nodeNames()
	out := r.IntN(len(names))
	switch r.IntN(10) {
	case 0, 1: // one of the nodes does not survive the trouble
		p.Core = slices.Delete(names, out, out+1)
	case 2, 3, 4: // one is lost when all is well again
		p.Leaves = names[out]
	}
}
