package hatest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
)

// Plan is everything that is decided about a run before it begins. Its text is
// what a failure is saved as: it does not change when the code that draws plans
// from seeds does.
//
// The text has a line for each setting, and then a line for each Incident.
// Empty lines and lines that begin with # are ignored.
type Plan struct {
	Seed     uint64 // of everything that is not in the plan: latencies, jitter
	Nodes    int
	Clients  int           // besides one that is pinned to each node
	Every    time.Duration // between two inserts of a client, on average
	Length   time.Duration // of the time with faults; then everything is healed
	SlowDown float64       // of servers and disks
	Retry    time.Duration // wal_retrieve_retry_interval of the servers
	Timing   ha.Timing
	Network  Network
	Rates    []float64 // of each node's clock; missing ones are exact
	Core     []string  // the nodes that are healed in the end; empty: all
	Leaves   string    // the node that is lost once all is well; empty: none
	Mode     quorum.Mode
	Guard    bool // a guard holds each server's deadline

	Incidents []Incident
	Expect    []Expectation // beyond what must always hold
}

// Incident is something that is done to the cluster: at a time, or when an
// agent passes a crash point for the nth time since then.
type Incident struct {
	At    time.Duration
	Point string // "before election/vote", "does yield/signal"; empty: at the time At
	Host  string // whose agent passes Point; "any"
	Nth   int

	Verb string
	Args []string
	For  time.Duration // zero: for good, or at once
}

// verbs are what can be done, and how many arguments it takes, of which the
// first is a host unless it stands in hostless.
var verbs = map[string]int{
	"crash": 1, "kill-agent": 1, "stop-agent": 2, "kill-server": 1, "pause-agent": 1, "hang-agent": 1, "pause-host": 1, "suspend": 1,
	"isolate": 1, "cut": 2, "part": 2, "dcs-cut": 1, "dcs-down": 0, "dcs-stall": 0, "expire": 1,
	"wall": 2, "rate": 2, "freeze": 2, "cancel": 1, "lose-disk": 1,
	"pause-replay": 1, "kill-backend": 1, "pause-guard": 1, "kill-guard": 1, "peers-cut": 1, "fail": 2, "hang": 2,
	// Operators.
	"switchover": 1, "cancel-switchover": 0, "garbage": 1, "storm": 0,
	"maintenance-on": 0, "maintenance-off": 0, "manual-stop": 1, "delete-lock": 1,
}

// hostless verbs have a first argument that need not be a host: "best" is whom
// the primary chooses, the others are kinds of rubbish, and names of locks.
var hostless = map[string]bool{"switchover": true, "garbage": true, "delete-lock": true}

// String is the line of the plan.
func (i Incident) String() string {
	var b strings.Builder
	switch {
	case i.Point == "":
		fmt.Fprintf(&b, "at %s", i.At)
	case i.At > 0:
		fmt.Fprintf(&b, "from %s on %q %s %d", i.At, i.Point, i.Host, i.Nth)
	default:
		fmt.Fprintf(&b, "on %q %s %d", i.Point, i.Host, i.Nth)
	}
	b.WriteString(" " + i.Verb)
	for _, a := range i.Args {
		b.WriteString(" " + a)
	}
	if i.For > 0 {
		fmt.Fprintf(&b, " for %s", i.For)
	}
	return b.String()
}

// String is the text that ParsePlan reads.
func (p Plan) String() string {
	var b strings.Builder
	t, n := p.Timing, p.Network
	fmt.Fprintf(&b, "seed %d\nnodes %d\nclients %d every=%s\nlength %s\n", p.Seed, p.Nodes, p.Clients, p.Every, p.Length)
	fmt.Fprintf(&b, "servers slowdown=%g retry=%s\n", p.SlowDown, p.Retry)
	fmt.Fprintf(&b, "timing ttl=%s renew=%s margin=%s observe=%s request=%s removal=%s election=%s\n",
		t.TTL, t.RenewEvery, t.Margin, t.Observe, t.Request, t.RemovalDelay, t.ElectionTimeout)
	fmt.Fprintf(&b, "network min=%s max=%s tail=%s loss=%g stale=%g", n.LatencyMin, n.LatencyMax, n.Tail, n.Loss, n.Stale)
	if n.Peers > 0 {
		fmt.Fprintf(&b, " peers=%s", n.Peers)
	}
	b.WriteString("\n")
	if len(p.Rates) > 0 {
		b.WriteString("rates")
		for _, r := range p.Rates {
			fmt.Fprintf(&b, " %g", r)
		}
		b.WriteString("\n")
	}
	if len(p.Core) > 0 {
		fmt.Fprintf(&b, "core %s\n", strings.Join(p.Core, " "))
	}
	if p.Leaves != "" {
		fmt.Fprintf(&b, "leaves %s\n", p.Leaves)
	}
	if p.Mode != "" {
		fmt.Fprintf(&b, "mode %s\n", p.Mode)
	}
	if p.Guard {
		b.WriteString("guard\n")
	}
	b.WriteString("\n")
	for _, i := range p.Incidents {
		b.WriteString(i.String() + "\n")
	}
	for _, e := range p.Expect {
		b.WriteString(e.String() + "\n")
	}
	return b.String()
}

// ParsePlan reads the text of a plan.
func ParsePlan(text string) (Plan, error) {
	var p Plan
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := p.parse(line); err != nil {
			return Plan{}, fmt.Errorf("plan line %d %q: %w", number+1, line, err)
		}
	}
	if p.Nodes < 1 || p.Length <= 0 || p.Every <= 0 || p.SlowDown <= 0 || p.Retry <= 0 {
		return Plan{}, errors.New("plan: nodes, length, clients and servers are required, and positive")
	}
	if err := p.Timing.Validate(); err != nil {
		return Plan{}, fmt.Errorf("plan: timing: %w", err)
	}
	return p, nil
}

func (p *Plan) parse(line string) error {
	words := strings.Fields(line)
	r := &reader{words: words[1:]}
	switch words[0] {
	case "seed":
		p.Seed = r.uint()
	case "nodes":
		p.Nodes = int(r.uint()) //nolint:gosec // checked by its use
	case "clients":
		p.Clients = int(r.uint()) //nolint:gosec // checked by its use
		r.pairs(map[string]any{"every": &p.Every})
	case "length":
		p.Length = r.duration()
	case "servers":
		r.pairs(map[string]any{"slowdown": &p.SlowDown, "retry": &p.Retry})
	case "timing":
		t := &p.Timing
		*t = t.Defaults()
		r.pairs(map[string]any{
			"ttl": &t.TTL, "renew": &t.RenewEvery, "margin": &t.Margin, "observe": &t.Observe,
			"request": &t.Request, "removal": &t.RemovalDelay, "election": &t.ElectionTimeout,
		})
	case "network":
		n := &p.Network
		r.pairs(map[string]any{"min": &n.LatencyMin, "max": &n.LatencyMax, "tail": &n.Tail, "loss": &n.Loss, "stale": &n.Stale, "peers": &n.Peers})
	case "rates":
		for len(r.words) > 0 {
			p.Rates = append(p.Rates, r.float(r.word()))
		}
	case "core":
		p.Core, r.words = r.words, nil
	case "leaves":
		p.Leaves = r.word()
	case "mode":
		p.Mode = quorum.Mode(r.word())
	case "guard":
		p.Guard = true
	case "at", "on", "from":
		i, err := parseIncident(line)
		p.Incidents = append(p.Incidents, i)
		return err
	case "expect":
		e, err := parseExpectation(r.words)
		p.Expect = append(p.Expect, e)
		return err
	default:
		return fmt.Errorf("unknown word %q", words[0])
	}
	return r.end()
}

func parseIncident(line string) (Incident, error) {
	var i Incident
	trigger, rest, _ := strings.Cut(line, " ")
	if trigger == "from" {
		var when string
		var err error
		when, rest, _ = strings.Cut(rest, " on ")
		if i.At, err = time.ParseDuration(when); err != nil {
			return i, fmt.Errorf("want a time and \"on\": %w", err)
		}
		trigger = "on"
	}
	if trigger == "on" {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return i, fmt.Errorf("want a crash point in quotes: %w", err)
		}
		i.Point, _ = strconv.Unquote(quoted)
		rest = rest[len(quoted):]
	}
	r := &reader{words: strings.Fields(rest)}
	if trigger == "on" {
		i.Host, i.Nth = r.word(), int(r.uint()) //nolint:gosec // a count
	} else {
		i.At = r.duration()
	}
	i.Verb = r.word()
	n, known := verbs[i.Verb]
	if r.err == nil && !known {
		return i, fmt.Errorf("unknown incident %q", i.Verb)
	}
	for range n {
		i.Args = append(i.Args, r.word())
	}
	if len(r.words) > 0 {
		if word := r.word(); word != "for" {
			return i, fmt.Errorf("want \"for\" and a duration, not %q", word)
		}
		i.For = r.duration()
	}
	if _, known := rubbish[strings.Join(i.Args, " ")]; r.err == nil && i.Verb == "garbage" && !known {
		return i, fmt.Errorf("unknown kind of rubbish %q", i.Args)
	}
	if r.err == nil && i.Verb == "delete-lock" && deletedLocks[i.Args[0]] == nil {
		return i, fmt.Errorf("unknown lock %q", i.Args[0])
	}
	return i, r.end()
}

// reader takes the words of a line one by one and remembers the first error.
type reader struct {
	words []string
	err   error
}

func (r *reader) fail(err error) {
	if r.err == nil && err != nil {
		r.err = err
	}
}

func (r *reader) word() string {
	if len(r.words) == 0 {
		r.fail(errors.New("the line ends too early"))
		return ""
	}
	word := r.words[0]
	r.words = r.words[1:]
	return word
}

func (r *reader) uint() uint64 {
	n, err := strconv.ParseUint(r.word(), 10, 64)
	r.fail(err)
	return n
}

func (r *reader) float(word string) float64 {
	f, err := strconv.ParseFloat(word, 64)
	r.fail(err)
	return f
}

func (r *reader) duration() time.Duration {
	d, err := time.ParseDuration(r.word())
	r.fail(err)
	return d
}

// pairs reads the rest of the line as key=value.
func (r *reader) pairs(targets map[string]any) {
	for len(r.words) > 0 {
		key, value, _ := strings.Cut(r.word(), "=")
		switch target := targets[key].(type) {
		case *time.Duration:
			d, err := time.ParseDuration(value)
			r.fail(err)
			*target = d
		case *float64:
			*target = r.float(value)
		default:
			r.fail(fmt.Errorf("unknown setting %q", key))
		}
	}
}

func (r *reader) end() error {
	if r.err == nil && len(r.words) > 0 {
		return fmt.Errorf("%q is too much", strings.Join(r.words, " "))
	}
	return r.err
}

// without is the plan without some of its incidents.
func (p Plan) without(from, to int) Plan {
	p.Incidents = slices.Delete(slices.Clone(p.Incidents), from, to)
	return p
}

// nodeNames are a, b, c, ...
func (p Plan) nodeNames() []string {
	names := make([]string, p.Nodes)
	for i := range names {
		names[i] = string(rune('a' + i))
	}
	return names
}
