package pgtest

import (
	"fmt"
	"slices"
	"strings"
)

// recipe is a script of the conformance suite, as its file says it.
type recipe struct {
	name  string
	title string   // its first comment
	rules []Rule   // that it pins
	names []string // of the servers; the first one is the primary
	model bool     // no real server can be made to do it
	steps []step
}

// step is one line of a recipe.
type step struct {
	line int
	text string // as it stands in traces: words with one space between them
	kind stepKind
	verb *verb     // of an action
	ask  *question // of a look
	args []string
	want string // what must be seen; one of several between " | "; empty: anything
}

type stepKind int

const (
	stepAct   stepKind = iota
	stepBegin          // an action that the script does not wait for
	stepSee            // it becomes so
	stepKeep           // and stays so
	stepNote           // whatever it is
)

// outcomeMark stands between an action and its outcome.
const outcomeMark = "->"

// anything is the outcome that a recipe leaves open.
const anything = "any"

func parseRecipe(name, text string) (*recipe, error) {
	r := &recipe{name: name}
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
			continue
		case words[0] == "#":
			if len(r.steps) == 0 && r.names == nil {
				r.title = strings.TrimSpace(r.title + " " + strings.Join(words[1:], " "))
			}
			continue
		}
		if err := r.parseLine(i+1, words); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if len(r.names) == 0 {
		return nil, fmt.Errorf("it names no servers")
	}
	return r, nil
}

func (r *recipe) parseLine(line int, words []string) error {
	switch words[0] {
	case "rule":
		for _, w := range words[1:] {
			r.rules = append(r.rules, Rule(w))
		}
		return nil
	case "servers":
		r.names = words[1:]
		return nil
	case "model":
		r.model = true
		return nil
	}
	s, err := parseStep(words)
	if err != nil {
		return err
	}
	s.line = line
	r.steps = append(r.steps, s)
	return nil
}

func parseStep(words []string) (step, error) {
	kinds := map[string]stepKind{"see": stepSee, "keep": stepKeep, "note": stepNote}
	if kind, ok := kinds[words[0]]; ok {
		return parseLook(kind, words[1:])
	}
	s := step{kind: stepAct, want: outcomeOK}
	if i := slices.Index(words, outcomeMark); i >= 0 {
		s.want = strings.Join(words[i+1:], " ")
		if s.want == anything {
			s.want = ""
		}
		words = words[:i]
	}
	s.text = strings.Join(words, " ")
	if words[0] == "begin" {
		s.kind = stepBegin
		words = words[1:]
	}
	for i := range verbs {
		if args, ok := matches(verbs[i].form, words); ok {
			s.verb, s.args = &verbs[i], args
			return s, nil
		}
	}
	return s, fmt.Errorf("%q is no action; actions are: %s", strings.Join(words, " "), forms(verbs))
}

func parseLook(kind stepKind, words []string) (step, error) {
	s := step{kind: kind}
	if i := slices.Index(words, "="); i >= 0 {
		s.want = strings.Join(words[i+1:], " ")
		words = words[:i]
	}
	if (s.want == "") != (kind == stepNote) {
		return s, fmt.Errorf("see and keep say what must be seen, note does not")
	}
	s.text = strings.Join(words, " ")
	for i := range questions {
		if args, ok := matches(questions[i].form, words); ok {
			s.ask, s.args = &questions[i], args
			return s, nil
		}
	}
	return s, fmt.Errorf("%q is no question; questions are: %s", s.text, forms(questions))
}

// matches fits words into a form, whose words in capitals stand for any word, and
// the last of them, if it ends in "...", for all that are left.
func matches(form string, words []string) (args []string, ok bool) {
	parts := strings.Fields(form)
	for i, part := range parts {
		if i >= len(words) {
			return nil, false
		}
		if strings.HasSuffix(part, "...") {
			return append(args, strings.Join(words[i:], " ")), true
		}
		switch {
		case part == strings.ToUpper(part) && strings.ToLower(part) != part:
			args = append(args, words[i])
		case part != words[i]:
			return nil, false
		}
	}
	return args, len(parts) == len(words)
}

// hasForm is what forms prints.
type hasForm interface{ words() string }

func forms[T hasForm](all []T) string {
	list := make([]string, len(all))
	for i, f := range all {
		list[i] = f.words()
	}
	return strings.Join(list, "; ")
}

// accepts reports whether an answer is what a step wants.
func accepts(want, seen string) bool {
	return want == "" || slices.Contains(strings.Split(want, " | "), seen)
}
