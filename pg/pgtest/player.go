package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pghad/pghad/pg"
)

// keepFor is how long keep watches.
const keepFor = 400 * time.Millisecond

// player plays a recipe on servers.
type player struct {
	recipe  *recipe
	servers Servers
	full    bool

	seen    []string // the outcome of each step that was taken
	marks   map[string]pg.LSN
	pids    map[string][]int // of walsenders, in the order in which they were seen
	pending Operation        // that was begun and has not been waited for
	ctx     context.Context
}

// stepper is what servers implement that choose, for each step, the order in
// which things happen.
type stepper interface{ beginStep(n int, kind stepKind) }

// run plays all steps. What must be seen is what the recipe says, or, where there
// is one, what a trace says. It ends at the first step that shows something else.
func (p *player) run(ctx context.Context, trace []string) error {
	p.ctx, p.marks, p.pids = ctx, map[string]pg.LSN{}, map[string][]int{}
	if err := p.servers.Prepare(ctx); err != nil {
		return fmt.Errorf("recipe %s: prepare the servers: %w", p.recipe.name, err)
	}
	for i, s := range p.recipe.steps {
		want := s.want
		if trace != nil {
			want = trace[i]
		}
		if choose, ok := p.servers.(stepper); ok {
			choose.beginStep(i, s.kind)
		}
		seen := p.take(s, want)
		p.seen = append(p.seen, seen)
		if !accepts(want, seen) {
			return fmt.Errorf("recipe %s, line %d: %s: seen %q, want %q", p.recipe.name, s.line, s.text, seen, want)
		}
	}
	if p.pending != nil {
		return fmt.Errorf("recipe %s: an operation was begun and not ended", p.recipe.name)
	}
	return nil
}

// take takes one step and says what was seen.
func (p *player) take(s step, want string) string {
	if s.ask == nil {
		return p.act(s)
	}
	ask := func() string { return s.ask.answer(p, s.args) }
	if s.kind == stepNote && want == "" {
		return ask()
	}
	var seen string
	asWanted := func() bool {
		seen = ask()
		return accepts(want, seen)
	}
	if p.servers.Await(asWanted) && s.kind == stepKeep {
		first := seen
		p.servers.Pass(keepFor, asWanted)
		if seen != first {
			return first + ", then " + seen
		}
	}
	return seen
}

// act carries out an action.
func (p *player) act(s step) string {
	do := func(ctx context.Context) error { return s.verb.do(ctx, p, s.args) }
	if s.kind == stepBegin {
		p.pending = p.servers.Begin(do)
		return outcomeOK
	}
	if s.verb.now {
		return outcomeOf(do(p.ctx))
	}
	return p.await(p.servers.Begin(do))
}

// await waits for the end of an operation, and ends it if it has none.
func (p *player) await(op Operation) string {
	if !p.servers.Await(op.Done) {
		op.Abort()
		p.servers.Await(op.Done)
		return outcomeNoAnswer
	}
	return outcomeOf(op.Err())
}

// Outcomes of actions.
const (
	outcomeOK       = "ok"
	outcomeNoAnswer = "no answer"
	outcomeRefused  = "refused"
)

// outcomeOf is an error as recipes name it: by what a caller can branch on.
func outcomeOf(err error) string {
	if err == nil {
		return outcomeOK
	}
	for _, known := range []struct {
		err  error
		name string
	}{
		{pg.ErrIncompleteCopy, "incomplete copy"},
		{pg.ErrRewindImpossible, "rewind impossible"},
		{pg.ErrWrongTimeline, "wrong timeline"},
		{pg.ErrNotStopped, "not stopped"},
		{pg.ErrNotFenced, "not fenced"},
		{pg.ErrNoData, "no data"},
		{pg.ErrNoWarrant, "no warrant"},
		{context.Canceled, outcomeNoAnswer},
		{context.DeadlineExceeded, outcomeNoAnswer},
		{ErrImpatient, outcomeNoAnswer},
		{ErrNoAnswer, outcomeNoAnswer},
		{pg.ErrNotRunning, "not running"},
	} {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	return outcomeRefused
}

// trace is what was seen so far.
func (p *player) trace() *trace { return &trace{recipe: p.recipe, seen: p.seen} }

func (p *player) transcript() string { return p.trace().String() }

// trace is a recipe with what was seen at each of its steps.
type trace struct {
	recipe *recipe
	seen   []string
}

// String prints one line for each step.
func (t *trace) String() string {
	var b strings.Builder
	for i, seen := range t.seen {
		b.WriteString(t.recipe.steps[i].prefix() + seen + "\n")
	}
	return b.String()
}

// prefix is a line of a trace but for what was seen.
func (s step) prefix() string {
	switch s.kind {
	case stepSee:
		return "see " + s.text + " = "
	case stepKeep:
		return "keep " + s.text + " = "
	case stepNote:
		return "note " + s.text + " = "
	case stepAct, stepBegin:
	}
	return s.text + " " + outcomeMark + " "
}

// parseTrace reads what String has printed of a recipe.
func parseTrace(r *recipe, text string) (*trace, error) {
	t := &trace{recipe: r}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		n := len(t.seen)
		if n == len(r.steps) || !strings.HasPrefix(line, r.steps[n].prefix()) {
			return nil, fmt.Errorf("trace of %s: %q is not what the recipe does in step %d: record it anew", r.name, line, n+1)
		}
		t.seen = append(t.seen, strings.TrimPrefix(line, r.steps[n].prefix()))
	}
	if len(t.seen) != len(r.steps) {
		return nil, fmt.Errorf("trace of %s: it ends before the recipe does: record it anew", r.name)
	}
	return t, nil
}
