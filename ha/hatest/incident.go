package hatest

import (
	"container/heap"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// strike begins an incident, and schedules its end.
func (s *simulation) strike(i Incident) {
	w := s.world
	if s.healed {
		return
	}
	resolved := i
	resolved.Args = make([]string, len(i.Args))
	for n, arg := range i.Args {
		resolved.Args[n] = s.resolve(arg)
	}
	undo := s.begin(resolved)
	w.settle()
	if undo == nil {
		return
	}
	undo = s.trouble(i, s.disturb(resolved, undo))
	s.strikes++
	w.printf("--- %s", i)
	s.open[s.strikes] = undo
	n := s.strikes
	if i.For > 0 {
		id := newDigest().str("undo").num(n)
		w.after(i.For, id, func() string { return "--- end of " + i.String() }, func() { s.undo(n) })
	}
}

// trouble remembers whether there is any, and when it last began or ended.
func (s *simulation) trouble(i Incident, undo func()) func() {
	if i.atDesk() && i.Verb != "manual-stop" {
		return undo
	}
	o := &s.oracle
	o.troubles, o.lastTrouble, o.clean = o.troubles+1, s.world.now(), ""
	return func() {
		o.troubles, o.lastTrouble, o.clean = o.troubles-1, s.world.now(), ""
		undo()
	}
}

// disturb remembers for how long a host cannot be expected to act in time.
func (s *simulation) disturb(i Incident, undo func()) func() {
	switch i.Verb {
	case "isolate", "cut", "part", "dcs-cut", "dcs-down", "dcs-stall", "cancel", "kill-server", "kill-backend", "peers-cut":
		return undo // it has to cope with them
	case "fail":
		if !strings.HasPrefix(i.Args[1], "stop") {
			return undo
		}
	}
	h := s.hostOf(i)
	if h == nil {
		return undo
	}
	h.troubles++
	if i.Verb == "rate" {
		h.rates++
	}
	calmDown := func() {
		h.troubles--
		h.calm = s.world.now() + 2*s.plan.Timing.TTL
		if i.Verb == "rate" {
			h.rates--
			h.steady = h.calm
		}
	}
	if i.Verb == "expire" {
		h.robbed = s.world.now() + 2*s.plan.Timing.TTL
	}
	if i.Verb == "expire" || i.Verb == "wall" { // these happen at once
		calmDown()
		return undo
	}
	return func() {
		undo()
		calmDown()
	}
}

// undo takes an incident back, once.
func (s *simulation) undo(n uint64) {
	if undo := s.open[n]; undo != nil {
		delete(s.open, n)
		undo()
		s.servers.touch()
	}
}

// heal takes everything back that is still going on.
func (s *simulation) heal() {
	s.healed = true
	for n := uint64(1); n <= s.strikes; n++ {
		s.undo(n)
	}
	s.world.settle()
}

// hostOf is the host that an incident is about, nil if there is none.
func (s *simulation) hostOf(i Incident) *host {
	if verbs[i.Verb] == 0 || hostless[i.Verb] {
		return nil
	}
	return s.world.host(i.Args[0])
}

// begin does it. It returns how to take it back, or nil if it could not be done.
func (s *simulation) begin(i Incident) (undo func()) {
	h := s.hostOf(i)
	if h == nil && verbs[i.Verb] > 0 && !hostless[i.Verb] {
		return nil
	}
	s.servers.touch()
	switch i.Verb {
	case "crash":
		return s.crash(h)
	case "kill-agent":
		if !h.alive() {
			return nil
		}
		h.agent.kill()
		return h.start
	case "stop-agent":
		return s.stopAgent(h, ha.Exit(i.Args[1]))
	case "kill-server":
		if s.servers.cluster.KillPostmaster(h.name) != nil {
			return nil
		}
		return func() {}
	case "kill-backend":
		if s.servers.cluster.KillBackend(h.name) != nil {
			return nil
		}
		return func() {}
	case "pause-replay":
		if s.servers.cluster.PauseReplay(h.name) != nil {
			return nil
		}
		return func() { _ = s.servers.cluster.ResumeReplay(h.name) }
	case "freeze":
		process := i.Args[1]
		if s.servers.cluster.Freeze(h.name, process) != nil {
			return nil
		}
		return func() { _ = s.servers.cluster.Thaw(h.name, process) }
	case "pause-agent":
		return s.pauseAgent(h)
	case "hang-agent":
		return s.hangAgent(h)
	case "pause-guard":
		if h.guard == nil {
			return nil
		}
		return h.guard.pause()
	case "kill-guard":
		if h.guard == nil {
			return nil
		}
		h.guard.die()
		return func() {}
	case "pause-host":
		return s.pauseHost(h, false)
	case "suspend":
		return s.pauseHost(h, true)
	case "isolate":
		return s.isolate(h)
	case "cut":
		return s.cut(h.name, i.Args[1], false)
	case "part":
		return s.cut(h.name, i.Args[1], true)
	case "dcs-cut":
		return s.cut(h.name, storeHost, true)
	default:
		return s.beginOther(i, h)
	}
}

func (s *simulation) beginOther(i Incident, h *host) (undo func()) {
	w := s.world
	switch i.Verb {
	case "dcs-down":
		return s.storeDown()
	case "dcs-stall":
		w.storeStalledUntil = max(w.storeStalledUntil, w.now()+i.For)
		return func() {}
	case "expire":
		return s.expire(h)
	case "wall":
		by, err := time.ParseDuration(i.Args[1])
		if err != nil {
			return nil
		}
		h.changeTime(func(t *hostTime) { t.wall += by })
		return func() {}
	case "rate":
		rate, err := strconv.ParseFloat(i.Args[1], 64)
		if err != nil || rate < 0.1 || rate > 10 {
			return nil
		}
		before := h.time.rate
		h.changeTime(func(t *hostTime) { t.rate = rate })
		return func() { h.changeTime(func(t *hostTime) { t.rate = before }) }
	case "lose-disk":
		return s.loseDisk(h)
	case "cancel":
		s.cancelOn(h.name)
		return func() {}
	case "peers-cut":
		w.CutPeers(h.name)
		return func() { w.HealPeers(h.name) }
	case "hang":
		until := w.now() + i.For
		if i.For == 0 {
			until = s.plan.Length
		}
		h.hanging = append(h.hanging, hang{effect: i.Args[1], until: until})
		return func() {}
	case "fail":
		h.failing = append(h.failing, i.Args[1])
		return func() {
			n := slices.Index(h.failing, i.Args[1])
			h.failing = slices.Delete(h.failing, n, n+1)
		}
	}
	return s.beginAtDesk(i, h)
}

// hang is that effects on a server which begin so do not end before a time.
type hang struct {
	effect string
	until  time.Duration
}

// hangs is how long an effect on the host's server takes at least.
func (h *host) hangs(effect string) time.Duration {
	var longest time.Duration
	for _, hang := range h.hanging {
		if strings.HasPrefix(effect, hang.effect) {
			longest = max(longest, hang.until-h.world.now())
		}
	}
	return longest
}

// failure is what comes of an effect on the host's server: it fails if it begins
// with what an incident "fail" names.
func (h *host) failure(effect string) error {
	for _, prefix := range h.failing {
		if strings.HasPrefix(effect, prefix) {
			return fmt.Errorf("%s on %s: it does not work today", effect, h.name)
		}
	}
	return nil
}

// resolve finds out whom a word of a plan means now: "leader" is the holder of
// the leader lock, or the last one; "replica1" the first of the others; "target"
// the one to whom the last switchover goes.
func (s *simulation) resolve(word string) string {
	switch word {
	case "leader":
		return s.leader()
	case "target":
		return s.records.Switchover.Value.Target.Node
	}
	number, isReplica := "", false
	if len(word) > len("replica") && word[:len("replica")] == "replica" {
		number, isReplica = word[len("replica"):], true
	}
	if !isReplica {
		return word
	}
	n, _ := strconv.Atoi(number)
	for _, h := range s.world.machines() {
		if h.name == s.leader() {
			continue
		}
		if n--; n == 0 {
			return h.name
		}
	}
	return ""
}

func (s *simulation) leader() string {
	if s.records.Leader.Held() {
		return s.records.Leader.Holder
	}
	if name := s.records.Quorum.Value.Primary.Node; name != "" {
		return name
	}
	return "a"
}

// crash is the end of the machine: what was not flushed is lost.
func (s *simulation) crash(h *host) func() {
	if h.down {
		return nil
	}
	if h.agent != nil {
		h.agent.kill()
	}
	h.down, h.halted, h.awaited = true, false, false
	if h.guard != nil {
		h.guard.forget()
	}
	s.world.requeue(h.parked)
	h.parked = nil
	if h.time.suspended {
		h.changeTime(func(t *hostTime) { t.suspended = false })
	}
	_ = s.servers.cluster.CrashNode(h.name) // it exists
	return func() {
		h.down = false
		h.start()
	}
}

// loseDisk is the end of the machine with everything that it had. The promise
// holds for as many destroyed lives at a time as commits wait for: more are not
// destroyed.
func (s *simulation) loseDisk(h *host) func() {
	recorded, lost := s.records.Quorum.Value, 0
	for _, m := range recorded.D() {
		if s.destroyed[m] {
			lost++
		}
	}
	if h.down || lost >= recorded.K {
		return nil
	}
	undo := s.crash(h)
	s.destroyed[h.disk.Member(h.name)] = true
	h.disk = ha.LocalState{}
	_ = s.servers.cluster.LoseDisk(h.name) // it exists
	return undo
}

func (s *simulation) pauseAgent(h *host) func() {
	if !h.alive() || h.agent.paused {
		return nil
	}
	a := h.agent
	a.pause()
	return a.resume
}

// hangAgent has the agent's next look at its server never return, like a call of the
// operating system about a dead disk. Everything else of its program goes on.
func (s *simulation) hangAgent(h *host) func() {
	if !h.alive() || h.agent.hangs {
		return nil
	}
	a := h.agent
	a.hangs = true
	return func() {
		a.hangs = false
		hung := a.hung
		a.hung = nil
		for _, t := range hung {
			t.end(nil)
		}
	}
}

// stopAgent lets an agent end. The next one is started when it has.
func (s *simulation) stopAgent(h *host, exit ha.Exit) func() {
	if !h.alive() || h.agent.paused {
		return nil
	}
	a := h.agent
	a.stop(exit)
	var next func()
	next = func() {
		switch {
		case h.agent != a || h.down:
		case a.ended || a.dead:
			h.start()
		default:
			s.world.after(time.Second, newDigest().str("next agent").str(a.name), nil, next)
		}
	}
	return next
}

// pauseHost stops all processes of a machine; a machine that is suspended also
// does not count the time.
func (s *simulation) pauseHost(h *host, suspend bool) func() {
	if h.halted || h.down {
		return nil
	}
	h.halted = true
	resume := s.pauseAgent(h)
	if suspend {
		h.changeTime(func(t *hostTime) { t.suspended = true })
	}
	return func() {
		h.halted, h.thawed = false, s.world.now()
		if suspend {
			h.changeTime(func(t *hostTime) { t.suspended = false })
		}
		s.world.requeue(h.parked)
		h.parked = nil
		if h.guard != nil {
			h.guard.resume()
		}
		if resume != nil {
			resume()
		}
		if h.awaited {
			h.awaited = false
			h.start()
		}
	}
}

// changeTime changes how the host's clocks run, from now on.
func (h *host) changeTime(change func(*hostTime)) {
	w := h.world
	w.mu.Lock()
	h.time.rebase(w.now())
	change(&h.time)
	w.mu.Unlock()
	for _, it := range w.queue {
		if !h.time.suspended && it.timer != nil && it.timer.host == h {
			it.due = max(h.time.when(it.timer.deadline), w.now())
		}
	}
	heap.Init(&w.queue)
	if !h.time.suspended {
		w.requeue(h.frozen)
		h.frozen = nil
	}
	if h.guard != nil {
		h.guard.look()
	}
}

// requeue makes items due now that have waited for a machine.
func (w *World) requeue(items []*item) {
	for _, it := range items {
		it.due = max(it.due, w.now())
		w.schedule(it)
	}
}

// cut cuts the link between two machines, one way or both.
func (s *simulation) cut(from, to string, both bool) func() {
	w := s.world
	if from == to || w.host(to) == nil {
		return nil
	}
	w.Cut(from, to)
	if both {
		w.Cut(to, from)
	}
	return func() {
		w.Heal(from, to)
		if both {
			w.Heal(to, from)
		}
	}
}

// isolate cuts a machine off from everybody, clients included.
func (s *simulation) isolate(h *host) func() {
	var undo []func()
	for _, other := range s.world.hosts {
		if other != h {
			undo = append(undo, s.cut(h.name, other.name, true))
		}
	}
	w := s.world
	for _, c := range s.clients {
		w.Cut(c.name, h.name)
		w.Cut(h.name, c.name)
	}
	return func() {
		for _, f := range undo {
			f()
		}
		for _, c := range s.clients {
			w.Heal(c.name, h.name)
			w.Heal(h.name, c.name)
		}
	}
}

// storeDown is the loss of the store's majority: nobody is answered, and no
// session expires meanwhile.
func (s *simulation) storeDown() func() {
	w := s.world
	h := w.host(storeHost)
	w.storeDown++
	h.changeTime(func(t *hostTime) { t.suspended = true })
	return func() {
		if w.storeDown--; w.storeDown == 0 {
			h.changeTime(func(t *hostTime) { t.suspended = false })
		}
	}
}

// expire ends the sessions of a host early.
func (s *simulation) expire(h *host) func() {
	done := false
	for _, id := range h.sessions {
		done = s.world.dcs.Expire(id) || done
	}
	h.sessions = []dcs.SessionID{}
	if !done {
		return nil
	}
	return func() {}
}

// hook strikes what waits for a crash point.
func (s *simulation) hook(a *agent, point string) {
	for k := range s.waiting {
		i := &s.waiting[k]
		if i.Verb == "" || i.Point != point || (i.Host != "any" && i.Host != a.host.name) || s.world.now() < i.At {
			continue
		}
		if i.Nth--; i.Nth > 0 {
			continue
		}
		strike := *i
		strike.Host, i.Verb = a.host.name, ""
		strike.Point = point
		for j, arg := range strike.Args {
			if arg == "self" {
				strike.Args = append([]string(nil), strike.Args...)
				strike.Args[j] = a.host.name
			}
		}
		if strike.Verb == "kill-agent" && strike.Args[0] == a.host.name {
			a.kill() // exactly here
			s.restart(a.host, strike)
			continue
		}
		s.world.arrive(&arrival{
			identity: identity{host: a.host.name, life: a.life, kind: "incident", key: strike.Verb},
			enter: func(id digest) {
				s.world.after(0, id, func() string { return fmt.Sprintf("--- %s", strike) }, func() { s.strike(strike) })
			},
		})
	}
}

// restart schedules the next life of an agent that was killed at a crash point.
func (s *simulation) restart(h *host, i Incident) {
	w := s.world
	w.arrive(&arrival{
		identity: identity{host: h.name, kind: "incident", key: "restart"},
		enter: func(id digest) {
			w.printf("--- %s (here)", i)
			s.strikes++
			n := s.strikes
			s.open[n] = s.trouble(i, h.start)
			if i.For > 0 {
				w.after(i.For, id, func() string { return "--- end of " + i.String() }, func() { s.undo(n) })
			}
		},
	})
}
