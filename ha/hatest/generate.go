package hatest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
)

// NewPlan draws a plan from a seed. The draws of the topology, of the workload,
// of the faults, of outages of the store, of what operators do, of the mode and the
// guards, of agents that are told to end, and of those that hang, do not shift one
// another.
func NewPlan(seed uint64) Plan {
	p := Plan{Seed: seed}
	drawTopology(&p, newRand(seed, streamTopology))
	drawWorkload(&p, newRand(seed, streamWorkload))
	drawIncidents(&p, newRand(seed, streamFaults))
	drawOutages(&p, newRand(seed, streamOutages))
	drawPlanned(&p, newRand(seed, streamPlanned))
	drawGuard(&p, newRand(seed, streamGuard))
	drawExits(&p, newRand(seed, streamExits))
	drawHangs(&p, newRand(seed, streamHangs))
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

// switchoverPoints are those of a switchover, on both sides of it.
var switchoverPoints = []string{
	"switchover/accept", "switchover/stopping", "switchover/yield", "switchover/pledge", "switchover/commit", "switchover/finish",
	"election/take-over", "server/promote",
}

var points = []string{
	"election/open", "election/pledge", "election/fence", "election/vote", "election/name", "election/take-over",
	"server/promote", "server/open-gate", "server/start-standby", "server/stop", "office/switch", "office/publish", "office/release",
	"follow/pledge", "follow/point", "follow/fence", "rejoin/begin", "rejoin/rewind", "rejoin/clone", "server/start-primary",
	"office/rewrite-quorum", "office/pledge", "office/return", "office/take-up", "office/vacate", "bootstrap/init", "bootstrap/records",
	"switchover/accept", "switchover/fail", "switchover/stopping", "switchover/yield", "switchover/pledge", "switchover/commit",
	"switchover/pledge-own", "switchover/roll-back", "switchover/finish", "maintenance/confirm",
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
	{"delete-lock", func(_ *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "delete-lock", Args: []string{pick(r, "leadership", "leadership", "manager", "switchover")}}
	}},
	{"clock", func(p *Plan, r *rand.Rand) Incident {
		if r.IntN(2) == 0 {
			step := time.Duration(r.IntN(40)-20) * p.Timing.TTL / 5
			return Incident{Verb: "wall", Args: []string{target(p, r), step.String()}}
		}
		return Incident{Verb: "rate", Args: []string{target(p, r), fmt.Sprint(pick(r, 0.8, 0.95, 1.05, 1.25))}, For: span(p, r)}
	}},
	{"peers-cut", func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "peers-cut", Args: []string{target(p, r)}, For: span(p, r)}
	}},
	{"fail", func(p *Plan, r *rand.Rand) Incident {
		return Incident{
			Verb: "fail", For: span(p, r),
			Args: []string{target(p, r), pick(r, "promote/", "start/launch", "yield/", "checkpoint", "sync/settings", "standby/settings", "rewind/")},
		}
	}},
	{"hang", func(p *Plan, r *rand.Rand) Incident {
		return Incident{
			Verb: "hang", For: span(p, r),
			Args: []string{target(p, r), pick(r, "stop/", "promote/", "start/", "fence/", "yield/", "checkpoint", "look/status", "self-check")},
		}
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

// outages are ways to lose the store for longer than a lease lasts. The times
// are counted from when it begins.
var outages = []func(p *Plan, r *rand.Rand) []Incident{
	func(p *Plan, r *rand.Rand) []Incident { // for all
		return []Incident{{Verb: "dcs-down", For: long(p, r)}}
	},
	func(p *Plan, r *rand.Rand) []Incident { // and nodes cannot ask one another
		return []Incident{
			{Verb: "dcs-down", For: long(p, r)},
			{At: within(p, r), Verb: "peers-cut", Args: []string{target(p, r)}, For: long(p, r)},
		}
	},
	func(p *Plan, r *rand.Rand) []Incident { // for the leader: the requests, or the replies only
		links := pick(r, []string{"leader", storeHost}, []string{storeHost, "leader"})
		return []Incident{{Verb: "cut", Args: links, For: long(p, r)}}
	},
	func(p *Plan, r *rand.Rand) []Incident { // for the leader and some of the others
		return []Incident{
			{Verb: "dcs-cut", Args: []string{"leader"}, For: long(p, r)},
			{At: within(p, r), Verb: "dcs-cut", Args: []string{"replica1"}, For: long(p, r)},
		}
	},
	func(p *Plan, r *rand.Rand) []Incident { // for all the others
		var all []Incident
		for n := range p.Nodes - 1 {
			all = append(all, Incident{At: within(p, r), Verb: "dcs-cut", Args: []string{"replica" + strconv.Itoa(1+n)}, For: long(p, r)})
		}
		return all
	},
	func(p *Plan, r *rand.Rand) []Incident { // which does not refuse, but hang
		return []Incident{{Verb: "dcs-stall", For: long(p, r)}}
	},
	func(p *Plan, r *rand.Rand) []Incident { // and an agent is restarted meanwhile
		return []Incident{
			{Verb: "dcs-down", For: long(p, r)},
			{At: within(p, r), Verb: "kill-agent", Args: []string{target(p, r)}, For: brief(r)},
		}
	},
	func(p *Plan, r *rand.Rand) []Incident { // and a node is lost meanwhile
		verb := pick(r, "crash", "pause-host", "isolate", "kill-server")
		return []Incident{
			{Verb: "dcs-down", For: long(p, r)}, {At: within(p, r), Verb: verb, Args: []string{target(p, r)}, For: span(p, r)},
		}
	},
	func(p *Plan, r *rand.Rand) []Incident { // for the leader, and one who has promised is restarted when the others could elect
		return []Incident{
			{Verb: "dcs-cut", Args: []string{"leader"}, For: 3 * p.Timing.TTL},
			{At: p.Timing.TTL + within(p, r), Verb: "kill-agent", Args: []string{"replica1"}, For: brief(r)},
		}
	},
	func(p *Plan, r *rand.Rand) []Incident { // for the leader, which loses sight of one after another
		ttl := p.Timing.TTL
		return []Incident{
			{Verb: "dcs-cut", Args: []string{"leader"}, For: 6 * ttl},
			{At: within(p, r), Verb: "part", Args: []string{"leader", "replica1"}, For: 2*ttl + within(p, r)},
			{At: 2*ttl + within(p, r), Verb: "part", Args: []string{"leader", "replica2"}, For: 3 * ttl},
		}
	},
}

// within is a time within a lease.
func within(p *Plan, r *rand.Rand) time.Duration {
	return time.Duration(r.Int64N(int64(p.Timing.TTL)))
}

// drawOutages lets every third plan lose the store, a few times.
func drawOutages(p *Plan, r *rand.Rand) {
	if r.IntN(3) > 0 {
		return
	}
	for at := warmUp + time.Duration(r.Int64N(int64(20*time.Second))); at < p.Length; {
		for _, i := range outages[r.IntN(len(outages))](p, r) {
			i.At = (at + i.At).Round(time.Millisecond)
			p.Incidents = append(p.Incidents, i)
		}
		at += 2*long(p, r) + time.Duration(r.ExpFloat64()*float64(20*time.Second))
	}
}

// planned are what operators do. Somewhat later something may come in between.
var planned = []func(p *Plan, r *rand.Rand) []Incident{
	func(p *Plan, r *rand.Rand) []Incident {
		return []Incident{switchTo(p, r)}
	},
	func(p *Plan, r *rand.Rand) []Incident {
		return []Incident{switchTo(p, r), families[r.IntN(len(families))].draw(p, r)}
	},
	func(p *Plan, r *rand.Rand) []Incident { // something happens in the middle of it
		return []Incident{switchTo(p, r), {
			Point: pick(r, "before ", "after ") + pick(r, switchoverPoints...), Host: "any", Nth: 1, For: pick(r, brief(r), span(p, r)),
			Verb: pick(r, "kill-agent", "kill-agent", "crash", "pause-agent", "dcs-cut", "isolate"), Args: []string{"self"},
		}}
	},
	func(p *Plan, r *rand.Rand) []Incident { // to the other side, while the server stops
		return []Incident{switchTo(p, r), {
			Point: pick(r, "before switchover/yield", "does yield/signal", "does yield/signal"), Host: "any", Nth: 1, For: pick(r, brief(r), span(p, r)),
			Verb: pick(r, "crash", "kill-server", "kill-agent", "isolate"), Args: []string{"target"},
		}}
	},
	func(p *Plan, r *rand.Rand) []Incident { // the commit point is not answered, or not heard
		return []Incident{switchTo(p, r), {
			Point: "before switchover/commit", Host: "any", Nth: 1, For: span(p, r),
			Verb: "cut", Args: pick(r, []string{"self", storeHost}, []string{storeHost, "self"}),
		}}
	},
	func(p *Plan, r *rand.Rand) []Incident {
		return []Incident{{Verb: "storm", For: span(p, r)}}
	},
	func(p *Plan, r *rand.Rand) []Incident {
		return []Incident{{Verb: "maintenance-on", For: long(p, r)}}
	},
	func(p *Plan, r *rand.Rand) []Incident { // for which there is a reason
		return []Incident{
			{Verb: "maintenance-on", For: 2 * long(p, r)},
			{Verb: "manual-stop", Args: []string{target(p, r)}, For: span(p, r)},
			ousters[r.IntN(len(ousters))].draw(p, r),
		}
	},
}

func switchTo(p *Plan, r *rand.Rand) Incident {
	to := "best"
	if r.IntN(2) == 0 {
		to = "replica" + strconv.Itoa(1+r.IntN(p.Nodes-1))
	}
	return Incident{Verb: "switchover", Args: []string{to}}
}

// drawPlanned lets operators loose on every second plan.
func drawPlanned(p *Plan, r *rand.Rand) {
	if r.IntN(2) > 0 {
		return
	}
	for at := warmUp + time.Duration(r.Int64N(int64(15*time.Second))); at < p.Length; {
		do := planned[r.IntN(5)] // most often a switchover, with or without trouble
		if r.IntN(2) == 0 {
			do = planned[r.IntN(len(planned))]
		}
		for _, i := range do(p, r) {
			if i.Point == "" {
				i.At = at.Round(time.Millisecond)
			}
			p.Incidents = append(p.Incidents, i)
			at += time.Duration(r.Int64N(int64(5 * time.Second)))
		}
		at += 10*time.Second + time.Duration(r.ExpFloat64()*float64(15*time.Second))
	}
}

// guardTrouble is what can befall a guard. An agent that cannot tell it a deadline
// is trouble of that kind, too.
var guardTrouble = []func(p *Plan, r *rand.Rand) Incident{
	func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "pause-guard", Args: []string{target(p, r)}, For: span(p, r)}
	},
	func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: "kill-guard", Args: []string{target(p, r)}}
	},
	func(p *Plan, r *rand.Rand) Incident {
		return Incident{Verb: pick(r, "fail", "hang"), Args: []string{target(p, r), pick(r, "guard/", "guard/deadline")}, For: span(p, r)}
	},
}

// drawGuard gives two of three plans guards, which nothing befalls in most of them,
// and some of those the mode in which nothing but guards and leases keeps two
// servers from taking writes at one time.
func drawGuard(p *Plan, r *rand.Rand) {
	if r.IntN(3) == 0 {
		return
	}
	p.Guard = true
	if r.IntN(4) == 0 {
		p.Mode = quorum.ModeAsync
	}
	if r.IntN(3) > 0 {
		return
	}
	for at := warmUp; at < p.Length; at += time.Duration(r.ExpFloat64() * float64(30*time.Second)) {
		i := guardTrouble[r.IntN(len(guardTrouble))](p, r)
		i.At = at.Round(time.Millisecond)
		p.Incidents = append(p.Incidents, i)
	}
}

// drawExits lets agents be told to end in every fourth plan, as at an upgrade.
func drawExits(p *Plan, r *rand.Rand) {
	if r.IntN(4) > 0 {
		return
	}
	for at := warmUp + time.Duration(r.Int64N(int64(20*time.Second))); at < p.Length; at += time.Duration(r.ExpFloat64() * float64(40*time.Second)) {
		p.Incidents = append(p.Incidents, Incident{
			At: at.Round(time.Millisecond), Verb: "stop-agent", For: pick(r, brief(r), span(p, r)),
			Args: []string{target(p, r), string(pick(r, ha.ExitHandOver, ha.ExitStop, ha.ExitKeep))},
		})
	}
}

// drawHangs lets an agent hang in every eighth plan, in most of them for longer than
// its locks may outlast that.
func drawHangs(p *Plan, r *rand.Rand) {
	if r.IntN(8) > 0 {
		return
	}
	p.Incidents = append(p.Incidents, Incident{
		At: (warmUp + time.Duration(r.Int64N(int64(30*time.Second)))).Round(time.Millisecond), Verb: "hang-agent",
		Args: []string{target(p, r)}, For: pick(r, span(p, r), long(p, r), 4*p.Timing.TTL+2*p.Timing.ElectionTimeout),
	})
}
