package ha_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/hatest"
)

var (
	lockSeeds = flag.Int("lock-seeds", 24, "TestLockerRandom: how many seeds are tried")
	lockSeed  = flag.Uint64("lock-seed", 0, "TestLockerRandom: try this seed only, and show all that happens")
	lockKeep  = flag.String("lock-keep", "", "TestLockerRandom: with -lock-seed, the numbers of the incidents that are kept, as in 2,5; empty: all")
)

// TestLockerRandom lets three nodes compete for a lock while everything that can
// go wrong does, as a seed says: clocks as wrong as the configuration permits, the
// store's included; partitions of one way or both; requests and replies that are
// slow, lost, or carried out when nobody waits for them any more; processes that
// stand still for longer than the TTL, that are killed, and that take up their
// holding again; steps of the time of day; keys deleted by hand. What the nodes
// did is looked at by true time, after each thing that happens.
//
// A failure says how to see it again, and which of the incidents it takes.
func TestLockerRandom(t *testing.T) {
	t.Parallel()
	if *lockSeed != 0 {
		p := newLockPlan(*lockSeed)
		p.keep(t, *lockKeep)
		var transcript strings.Builder
		broken := p.run(t, &transcript)
		t.Logf("%s\n%s", p, transcript.String())
		require.Empty(t, broken)
		return
	}
	var terms, adopted int
	for seed := range uint64(*lockSeeds) {
		p := newLockPlan(seed + 1)
		if broken := p.run(t, nil); broken != "" {
			p = p.shrunk(t, broken)
			t.Fatalf("seed %d: %s\nSee it with -args -lock-seed %d -lock-keep %s\n%s", p.seed, p.run(t, nil), p.seed, p.numbers(), p)
		}
		terms += p.terms
		adopted += p.adopted
	}
	t.Logf("%d terms, %d of them adopted", terms, adopted)
	require.Greater(t, terms, 5**lockSeeds, "the nodes hardly ever got the lock")
	if *lockSeeds >= 200 { // a few seeds may happen to have none
		require.Positive(t, adopted)
	}
}

// The timing of the nodes, whose work takes the whole margin to stop.
var lockRandomTiming = ha.LockerConfig{
	TTL: 10 * time.Second, RenewEvery: 3 * time.Second, Margin: time.Second, Request: 3 * time.Second,
}

// lockIncident is something that goes wrong for a time.
type lockIncident struct {
	number  int
	at, end time.Duration
	verb    string
	host    string
	step    time.Duration // of the time of day
}

func (i lockIncident) String() string {
	text := fmt.Sprintf("%3d. %8.3fs to %8.3fs: %s", i.number, i.at.Seconds(), i.end.Seconds(), i.verb)
	if i.host != "" {
		text += " " + i.host
	}
	if i.step != 0 {
		text += fmt.Sprintf(" by %s", i.step)
	}
	return text
}

// lockPlan is all that is decided before a run begins, and what came of it.
type lockPlan struct {
	seed      uint64
	slow      time.Duration      // the longest that one leg usually takes
	drift     float64            // by which clocks may be wrong
	rates     map[string]float64 // of the clocks
	incidents []lockIncident

	terms, adopted int
}

const lockRandomLength = 150 * time.Second

var lockHosts = []string{"a", "b", "c"}

func newLockPlan(seed uint64) *lockPlan {
	p := &lockPlan{seed: seed, rates: map[string]float64{}}
	draw := rand.New(rand.NewPCG(seed, 1))
	p.slow = []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 1500 * time.Millisecond}[draw.IntN(3)]
	p.drift = []float64{0.001, 0.1}[draw.IntN(2)]
	worst := draw.IntN(2) == 0
	for _, host := range append(slices.Clone(lockHosts), "dcs") {
		wrong := float64(draw.IntN(5)-2) / 2
		switch {
		case worst && host == "dcs":
			wrong = 1
		case worst:
			wrong = -1
		}
		p.rates[host] = 1 + wrong*p.drift
	}
	verbs := []string{"cut", "cut", "cut-replies", "cut-replies", "cut-requests", "cut-all", "pause", "pause", "kill", "step", "delete"}
	for at := time.Duration(0); ; {
		at += time.Duration(draw.Int64N(int64(12 * time.Second)))
		if at >= lockRandomLength {
			return p
		}
		i := lockIncident{
			number: len(p.incidents) + 1,
			at:     at, end: at + time.Second + time.Duration(draw.Int64N(int64(20*time.Second))),
			verb: verbs[draw.IntN(len(verbs))], host: lockHosts[draw.IntN(len(lockHosts))],
		}
		switch i.verb {
		case "step":
			i.step = time.Duration(draw.Int64N(int64(time.Minute))) - 30*time.Second
		case "delete", "cut-all":
			i.host = ""
		}
		p.incidents = append(p.incidents, i)
	}
}

// keep drops all incidents but those with the numbers given.
func (p *lockPlan) keep(t *testing.T, numbers string) {
	t.Helper()
	if numbers == "" {
		return
	}
	kept := map[int]bool{}
	for text := range strings.SplitSeq(numbers, ",") {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "-lock-keep")
		kept[n] = true
	}
	p.incidents = slices.DeleteFunc(p.incidents, func(i lockIncident) bool { return !kept[i.number] })
}

// numbers is the plan as -lock-keep takes it.
func (p *lockPlan) numbers() string {
	numbers := []string{"0"} // none of them
	for _, i := range p.incidents {
		numbers = append(numbers, strconv.Itoa(i.number))
	}
	return strings.Join(numbers, ",")
}

func (p *lockPlan) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "a leg usually takes up to %s; clocks may be wrong by %g, their rates are %v", p.slow, p.drift, p.rates)
	for _, i := range p.incidents {
		text.WriteString("\n" + i.String())
	}
	return text.String()
}

// shrunk drops incidents for as long as the same rule is broken without them.
func (p *lockPlan) shrunk(t *testing.T, broken string) *lockPlan {
	t.Helper()
	rule := func(text string) string {
		name, _, _ := strings.Cut(text, ":")
		return name
	}
	for again := true; again; {
		again = false
		for n := range p.incidents {
			less := *p
			less.incidents = slices.Delete(slices.Clone(p.incidents), n, n+1)
			if rule(less.run(t, nil)) == rule(broken) {
				p, again = &less, true
				break
			}
		}
	}
	return p
}

// run runs the plan and says which rule was broken first, if one was.
func (p *lockPlan) run(t *testing.T, transcript *strings.Builder) string {
	t.Helper()
	timing := lockRandomTiming
	timing.MaxDrift = p.drift
	o := &lockOracle{workers: map[string]*lockTerm{}, deleted: map[dcs.Revision]time.Duration{}, last: map[string]dcs.Revision{}}
	cfg := hatest.Config{
		Seed: p.seed, Hosts: lockHosts,
		Network: hatest.Network{LatencyMin: time.Millisecond, LatencyMax: p.slow, Tail: 4 * time.Second, Loss: 0.05, Stale: 0.1},
		Agent: func(ctx context.Context, env hatest.Env) error {
			return (&lockAgent{env: env, timing: timing, oracle: o}).run(ctx)
		},
	}
	if transcript != nil {
		cfg.Transcript = transcript
	}
	hatest.Run(t, cfg, func(w *hatest.World) {
		o.world = w
		for host, rate := range p.rates {
			w.SetRate(host, rate)
		}
		w.Start()
		if !p.drive(w, o) {
			n := len(o.terms)
			if !w.RunUntil(2*time.Minute, func() bool { return o.look() || len(o.terms) > n || len(o.workers) > 0 }) {
				o.breaksf("nobody gets the lock: for %s, and nothing is wrong any more", 2*time.Minute)
			}
		}
	})
	p.terms, p.adopted = len(o.terms), o.adopted
	return o.broken
}

// drive lets the incidents happen, and reports whether a rule was broken.
func (p *lockPlan) drive(w *hatest.World, o *lockOracle) bool {
	type event struct {
		at time.Duration
		do func()
	}
	var events []event
	for _, i := range p.incidents {
		begin, end := o.incident(i)
		events = append(events, event{i.at, begin}, event{i.end, end})
	}
	slices.SortStableFunc(events, func(a, b event) int { return int(a.at - b.at) })
	for _, e := range events {
		if w.RunUntil(e.at-w.Now(), o.look) {
			return true
		}
		e.do()
	}
	return o.look()
}

// lockTerm is one period of work under the lock, in true time.
type lockTerm struct {
	host    string
	token   dcs.Revision
	begin   time.Duration
	tainted bool // its process stood still meanwhile: only what it asks Check for counts
}

// lockOracle sees everything by true time. The mutex is for the agents'
// goroutines; the driver looks while they wait.
type lockOracle struct {
	world *hatest.World

	mu      sync.Mutex
	broken  string
	terms   []*lockTerm
	workers map[string]*lockTerm // by host
	adopted int
	acted   dcs.Revision            // greatest token under which somebody has acted
	last    map[string]dcs.Revision // what each host's disk says
	deleted map[dcs.Revision]time.Duration
	record  dcs.Revision // token in the record
}

func (o *lockOracle) breaksf(format string, args ...any) {
	if o.broken == "" {
		o.broken = fmt.Sprintf(format, args...) + fmt.Sprintf(" (at %s)", o.world.Now())
	}
}

// incident says what begins and ends an incident.
func (o *lockOracle) incident(i lockIncident) (begin, end func()) {
	w := o.world
	cut := func(links ...[2]string) (begin, end func()) {
		return func() {
				for _, l := range links {
					w.Cut(l[0], l[1])
				}
			}, func() {
				for _, l := range links {
					w.Heal(l[0], l[1])
				}
			}
	}
	nothing := func() {}
	switch i.verb {
	case "cut":
		return cut([2]string{i.host, "dcs"}, [2]string{"dcs", i.host})
	case "cut-requests":
		return cut([2]string{i.host, "dcs"})
	case "cut-replies":
		return cut([2]string{"dcs", i.host})
	case "cut-all":
		var links [][2]string
		for _, host := range lockHosts {
			links = append(links, [2]string{host, "dcs"}, [2]string{"dcs", host})
		}
		return cut(links...)
	case "pause":
		return func() { o.stands(i.host, false); w.PauseAgent(i.host) }, func() { w.ResumeAgent(i.host) }
	case "kill":
		return func() { o.stands(i.host, true); w.KillAgent(i.host) }, func() { w.Start(i.host) }
	case "step":
		return func() { w.StepWall(i.host, i.step) }, nothing
	default:
		return o.deleteByHand, nothing
	}
}

// stands notes that the process of a host does nothing from now on.
func (o *lockOracle) stands(host string, dead bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if term := o.workers[host]; term != nil {
		term.tainted = true
	}
	if dead {
		delete(o.workers, host)
	}
}

// deleteByHand deletes the lock's key, as an operator does.
func (o *lockOracle) deleteByHand() {
	kv, err := o.world.Store().Get(background, lockKey)
	if err != nil {
		return
	}
	_, err = o.world.Store().Commit(background, dcs.Txn{Then: []dcs.Op{{Key: lockKey, Delete: true}}})
	if err == nil {
		o.deleted[kv.Created] = o.world.Now()
	}
}

// begin notes that a host works under a lease from now on.
func (o *lockOracle) begin(host string, lease *ha.Lease) *lockTerm {
	o.mu.Lock()
	defer o.mu.Unlock()
	term := &lockTerm{host: host, token: lease.Token(), begin: o.world.Now()}
	if n := len(o.terms); n > 0 {
		before := o.terms[n-1]
		if term.token < before.token || term.token == before.token && term.host != before.host {
			o.breaksf("token: %s has got token %d after %s had %d", host, term.token, before.host, before.token)
		}
	}
	o.terms = append(o.terms, term)
	o.workers[host] = term
	o.last[host] = term.token
	return term
}

func (o *lockOracle) ended(term *lockTerm) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.workers[term.host] == term {
		delete(o.workers, term.host)
	}
}

// acts notes that a host has just asked Check, which said that its lease is in
// force.
func (o *lockOracle) acts(term *lockTerm) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if term.token < o.acted {
		o.breaksf("two leases in force: %s acts with token %d, and another has acted with %d", term.host, term.token, o.acted)
	}
	o.acted = max(o.acted, term.token)
}

// look reports whether a rule is broken.
func (o *lockOracle) look() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	var working []string
	for _, host := range lockHosts {
		term := o.workers[host]
		if term == nil || term.tainted {
			continue
		}
		working = append(working, fmt.Sprintf("%s (token %d)", host, term.token))
		if at, deleted := o.deleted[term.token]; deleted && o.world.Now() > at+2*lockRandomTiming.TTL {
			o.breaksf("deleted lock kept: %s goes on with token %d, whose key was deleted at %s", host, term.token, at)
		}
	}
	if len(working) > 1 {
		o.breaksf("two at work: %s", strings.Join(working, ", "))
	}
	kv, err := o.world.Store().Get(background, recordKey)
	if err != nil {
		return o.broken != ""
	}
	n, err := strconv.ParseUint(string(kv.Value), 10, 64)
	if token := dcs.Revision(n); err != nil || token < o.record {
		o.breaksf("late write: the record of token %d was overwritten with %q", o.record, kv.Value)
	} else {
		o.record = token
	}
	return o.broken != ""
}

// lockAgent is the program of a node: it works under the lock as often as it can.
type lockAgent struct {
	env    hatest.Env
	timing ha.LockerConfig
	oracle *lockOracle
	locker *ha.Locker
}

func (a *lockAgent) run(ctx context.Context) error {
	cfg := a.timing
	cfg.Store, cfg.Clock, cfg.Wall, cfg.Logger = a.env.Store, a.env.Clock, a.env.Wall, a.env.Logger
	l, err := ha.NewLocker(cfg)
	if err != nil {
		return err //nolint:wrapcheck // says what it is about
	}
	a.locker = l
	defer func() { _ = l.Close(context.WithoutCancel(ctx)) }() // at the end the world is gone
	a.adopt(ctx)
	for ctx.Err() == nil {
		_ = l.Hold(ctx, lockKey, []byte(a.env.Name), a.work)
	}
	return nil
}

// adopt takes up the holding of a former life, of which nothing runs any more.
func (a *lockAgent) adopt(ctx context.Context) {
	a.oracle.mu.Lock()
	token := a.oracle.last[a.env.Name]
	a.oracle.mu.Unlock()
	for token != 0 && ctx.Err() == nil {
		lease, err := a.locker.Adopt(ctx, lockKey, token, []byte(a.env.Name), dcs.Txn{})
		if errors.Is(err, dcs.ErrAmbiguous) && !errors.Is(err, ha.ErrFenced) {
			continue
		}
		if err != nil {
			return // another life begins like the first
		}
		a.oracle.mu.Lock()
		a.oracle.adopted++
		a.oracle.mu.Unlock()
		_ = a.work(lease.Context(), lease)
		_ = lease.Release(context.WithoutCancel(ctx))
		return
	}
}

// work acts again and again while the lease is in force, and writes a record
// under its guard. When its context has ended it takes the margin to stop. Now
// and then it has had enough before.
func (a *lockAgent) work(ctx context.Context, lease *ha.Lease) error {
	term := a.oracle.begin(a.env.Name, lease)
	defer a.oracle.ended(term)
	enough := 20 + int(lease.Token()%7)*20
	for n := 0; ctx.Err() == nil && n < enough; n++ {
		if lease.Check() == nil {
			a.oracle.acts(term)
		}
		if n%5 == 0 {
			a.write(ctx, lease)
		}
		a.wait(ctx, 200*time.Millisecond)
	}
	if ctx.Err() != nil {
		a.wait(context.WithoutCancel(ctx), lockRandomTiming.Margin-time.Microsecond)
	}
	return nil
}

// write sends a write and does not wait for long: it may land at any time.
func (a *lockAgent) write(ctx context.Context, lease *ha.Lease) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer a.env.Clock.AfterFunc(time.Second, cancel).Stop()
	_, _ = a.env.Store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{lease.Guard()},
		Then: []dcs.Op{{Key: recordKey, Value: strconv.AppendUint(nil, uint64(lease.Token()), 10)}},
	})
}

func (a *lockAgent) wait(ctx context.Context, d time.Duration) {
	timer := a.env.Clock.Timer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
