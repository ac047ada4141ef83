package pgtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	Run(t, Model(0))
}

// What the recipes say must be seen, whatever the order of what happens.
func TestConformanceInAnyOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
			t.Parallel()
			Run(t, Model(seed+1))
		})
	}
}

// A random script is the same for the same seed, can be played in any order of what
// happens, and the search finds that order again.
func TestRandomScripts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		r, err := drawScript(seed + 1)
		require.NoError(t, err)
		again, err := drawScript(seed + 1)
		require.NoError(t, err)
		require.Equal(t, r, again)
	}
	Run(t, Model(7), Scripts(1, 40))
}

// recordedTraces are what real servers have done.
func recordedTraces(t *testing.T) []*trace {
	t.Helper()
	recipes, err := loadRecipes()
	require.NoError(t, err)
	var traces []*trace
	for _, r := range recipes {
		if r.model {
			continue
		}
		text, err := conformance.ReadFile(conformanceDir + "/" + r.name + ".trace")
		require.NoError(t, err, "record it: go test ./pg/pgctl -run TestConformance -args -record ../pgtest/%s", conformanceDir)
		recorded, err := parseTrace(r, string(text))
		require.NoError(t, err)
		traces = append(traces, recorded)
	}
	return traces
}

// The model may do everything that real servers have done.
func TestModelAllowsWhatServersDid(t *testing.T) {
	t.Parallel()
	for _, recorded := range recordedTraces(t) {
		t.Run(recorded.recipe.name, func(t *testing.T) {
			t.Parallel()
			verdict := explain(recorded, nil, searchBudget)
			require.True(t, verdict.allowed, verdict.String())
		})
	}
}

// pinBudget is how many schedules a model without a rule gets to show a trace.
const pinBudget = 150

// Each recipe pins the rules that it names: without one of them the model can no
// longer do what servers did. Each rule is pinned.
func TestRecipesPinTheirRules(t *testing.T) {
	t.Parallel()
	traces := recordedTraces(t)
	recipes, err := loadRecipes()
	require.NoError(t, err)
	pinned := map[Rule]bool{}
	for _, r := range recipes {
		require.NotEmpty(t, r.rules, "recipe %s names no rule", r.name)
		for _, rule := range r.rules {
			pinned[rule] = true
		}
		if r.model { // the model with all its rules stands for the server
			m, err := newModelServers(r.names, nil)
			require.NoError(t, err)
			p := &player{recipe: r, servers: m}
			require.NoError(t, p.run(t.Context(), nil))
			m.close()
			traces = append(traces, p.trace())
		}
	}
	for _, rule := range rulesOf(t) {
		require.True(t, pinned[rule], "no recipe pins rule %s", rule)
	}
	for _, recorded := range traces {
		for _, rule := range recorded.recipe.rules {
			t.Run(recorded.recipe.name+"/without "+strings.ReplaceAll(string(rule), "/", "-"), func(t *testing.T) {
				t.Parallel()
				verdict := explain(recorded, []Rule{rule}, pinBudget)
				require.False(t, verdict.allowed, "the trace does not need the rule")
				t.Log(verdict)
			})
		}
	}
}

// rulesOf reads the names of all rules from their file.
func rulesOf(t *testing.T) []Rule {
	t.Helper()
	text, err := os.ReadFile("rule.go")
	require.NoError(t, err)
	var rules []Rule
	for line := range strings.Lines(string(text)) {
		if _, after, ok := strings.Cut(line, " Rule = \""); ok {
			name, _, _ := strings.Cut(after, "\"")
			rules = append(rules, Rule(name))
		}
	}
	require.NotEmpty(t, rules)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(rules))), len(rules), "two rules have one name")
	return rules
}

// A recipe that names no such rule, server, action or question is no recipe.
func TestParseRecipe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "names no servers",
		"servers n1\ndance n1":                 "no action",
		"servers n1\nsee mood of n1 = good":    "no question",
		"servers n1\nsee role of n1":           "say what must be seen",
		"servers n1\nnote role of n1 = master": "say what must be seen",
	} {
		_, err := parseRecipe("test", text)
		require.ErrorContains(t, err, want, text)
	}
	r, err := parseRecipe("test", "# Two\n# lines.\nrule P1 X2\nservers n1 n2\n\nbegin stop n1 fast\nend -> any\nsee role of n1 = primary | standby\n")
	require.NoError(t, err)
	require.Equal(t, "Two lines.", r.title)
	require.Equal(t, []Rule{"P1", "X2"}, r.rules)
	require.Equal(t, []string{"n1", "n2"}, r.names)
	require.Len(t, r.steps, 3)
	require.Equal(t, stepBegin, r.steps[0].kind)
	require.Empty(t, r.steps[1].want)
	require.True(t, accepts(r.steps[2].want, "standby"))
	require.False(t, accepts(r.steps[2].want, "unknown"))
	back, err := parseTrace(r, (&trace{recipe: r, seen: []string{"ok", "ok", "standby"}}).String())
	require.NoError(t, err)
	require.Equal(t, []string{"ok", "ok", "standby"}, back.seen)
	_, err = parseTrace(r, "begin stop n1 fast -> ok\n")
	require.ErrorContains(t, err, "ends before")
	_, err = parseTrace(r, "begin stop n2 fast -> ok\n")
	require.ErrorContains(t, err, "record it anew")
}
