package hatest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/hatest"
)

var (
	mutantSeeds     = flag.Int("mutant-seeds", 500, "TestMutants: within so many seeds each defect must be found")
	mutantElsewhere = flag.Bool("mutants-elsewhere", false, "TestMutants: the tests outside this package must not find the defects")
	hunt            = flag.String("hunt", "", "TestHunt: the name of a mutant; run seeds until a rule is broken that it is expected to break")
)

// elsewhere are the packages whose tests must not find a mutant.
var elsewhere = []string{"./dcs/...", "./ha", "./ha/election", "./ha/quorum", "./ha/record", "./ha/rejoin", "./ha/role", "./pg", "./pg/pgtest", "./internal/integration", "./examples/..."}

// mutantSlots bounds how many mutants are built and run at once.
var mutantSlots = make(chan struct{}, 2)

// TestMutants shows that the simulation finds defects. Each patch in
// testdata/mutants plants one; a binary of this package's tests is built with
// it, which must find it within -mutant-seeds seeds, by an oracle that the patch
// names. The same seed without the defect is clean.
//
// With -mutants-elsewhere the tests of the packages outside must pass with the
// defect in: only the simulation finds it.
func TestMutants(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs a test binary for each mutant")
	}
	patches, err := filepath.Glob("testdata/mutants/*.patch")
	require.NoError(t, err)
	require.NotEmpty(t, patches)
	for _, patch := range patches {
		t.Run(strings.TrimSuffix(filepath.Base(patch), ".patch"), func(t *testing.T) {
			t.Parallel()
			mutantSlots <- struct{}{}
			defer func() { <-mutantSlots }()
			m := readMutant(t, patch)
			overlay := m.overlay(t)
			if *mutantElsewhere {
				m.passesElsewhere(t, overlay)
			}
			m.isFound(t, overlay)
		})
	}
}

// mutant is a defect that is planted into the code under test.
type mutant struct {
	name   string
	world  string   // in which it shows, see worlds
	expect []string // the rules by which it may be found
	files  []filePatch
}

// quarry is what a hunt has found.
type quarry struct {
	Seed   uint64         `json:"seed"`
	Rule   string         `json:"rule"` // empty: nothing
	Text   string         `json:"text"`
	Others map[string]int `json:"others"` // rules that were broken on the way, and are not expected
}

// worlds are the simulations in which a mutant can be hunted.
var worlds = map[string]func(t *testing.T, seed uint64) *hatest.Violation{
	"cluster": func(t *testing.T, seed uint64) *hatest.Violation {
		t.Helper()
		return hatest.Simulate(t, hatest.NewPlan(seed), nil).Violation
	},
	"locks": simulateLocks,
	"promises": func(t *testing.T, seed uint64) *hatest.Violation {
		t.Helper()
		return hatest.Simulate(t, promisesPlan(seed), nil).Violation
	},
}

// promisesPlan lets primaries live on promises, which travel slowly, until nobody
// can be asked any more.
func promisesPlan(seed uint64) hatest.Plan {
	const long = 40 * time.Second
	p := hatest.Plan{
		Seed: seed, Nodes: 3, Clients: 1, Every: time.Second, Length: 3 * time.Minute, SlowDown: 1, Retry: time.Second,
		Timing: ha.Timing{
			Margin: 500 * time.Millisecond, Request: 3 * time.Second, RemovalDelay: time.Minute, Observe: 500 * time.Millisecond,
		}.Defaults(),
		Network: hatest.Network{LatencyMin: time.Millisecond, LatencyMax: 2 * time.Millisecond, Tail: 20 * time.Millisecond, Peers: 3 * time.Second},
	}
	draw := rand.New(rand.NewPCG(seed, 2))
	for at := 15 * time.Second; at < p.Length; at += long + 15*time.Second {
		p.Incidents = append(p.Incidents,
			hatest.Incident{At: at, Verb: "dcs-cut", Args: []string{"leader"}, For: long},
			hatest.Incident{
				At: at + time.Duration(draw.Int64N(int64(20*time.Second))), Verb: "peers-cut", Args: []string{"leader"}, For: long,
			})
	}
	return p
}

// isFound builds the tests with the defect and lets them hunt it.
func (m *mutant) isFound(t *testing.T, overlay string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), m.name+".test")
	m.run(t, exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", binary, "."))
	out := m.run(t, exec.CommandContext(t.Context(), binary,
		"-test.run", "^TestHunt$", "-test.timeout", "0", "-hunt", m.name, "-mutant-seeds", fmt.Sprint(*mutantSeeds)))
	var found quarry
	_, said, ok := bytes.Cut(out, []byte(quarryMark))
	require.True(t, ok, "%s", out)
	require.NoError(t, json.NewDecoder(bytes.NewReader(said)).Decode(&found), "%s", out)
	require.NotEmpty(t, found.Rule, "not found in %d seeds by any of %q; other rules that were broken: %v", *mutantSeeds, m.expect, found.Others)
	t.Logf("found by seed %d: %s (other rules broken before: %v)", found.Seed, found.Text, found.Others)

	if clean := worlds[m.world](t, found.Seed); clean != nil {
		require.NotContains(t, m.expect, clean.Rule, "seed %d breaks the rule without the defect, too: %s", found.Seed, clean)
	}
}

// passesElsewhere runs the tests of the other packages with the defect.
func (m *mutant) passesElsewhere(t *testing.T, overlay string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-overlay", overlay}, elsewhere...)...)
	cmd.Dir = moduleRoot
	m.run(t, cmd)
}

// run runs a command and returns its output.
func (m *mutant) run(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s\n%s", m.name, cmd, out)
	return out
}

// quarryMark begins the line in which TestHunt says what it has found.
const quarryMark = "\nquarry: "

// TestHunt is TestMutants in the binary with the defect.
func TestHunt(t *testing.T) {
	if *hunt == "" {
		t.Skip("no -hunt")
	}
	m := readMutant(t, filepath.Join("testdata", "mutants", *hunt+".patch"))
	found := quarry{Others: map[string]int{}}
	for n := range *mutantSeeds {
		seed := uint64(n) + 1
		violation := worlds[m.world](t, seed)
		if violation == nil {
			continue
		}
		if slices.Contains(m.expect, violation.Rule) {
			found.Seed, found.Rule, found.Text = seed, violation.Rule, violation.String()
			break
		}
		found.Others[violation.Rule]++
	}
	line, err := json.Marshal(found)
	require.NoError(t, err)
	_, err = fmt.Fprintf(os.Stdout, "%s%s\n", quarryMark, line)
	require.NoError(t, err)
}

// moduleRoot is where the paths of a patch begin.
var moduleRoot = filepath.Join("..", "..")

// readMutant reads a patch: a header of # lines, and a unified diff.
func readMutant(t *testing.T, path string) *mutant {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	m := &mutant{name: strings.TrimSuffix(filepath.Base(path), ".patch"), world: "cluster"}
	body := string(text)
	for strings.HasPrefix(body, "#") {
		var line string
		line, body, _ = strings.Cut(body, "\n")
		if world, ok := strings.CutPrefix(line, "# World: "); ok {
			m.world = world
		}
		if rule, ok := strings.CutPrefix(line, "# Expect: "); ok {
			m.expect = append(m.expect, rule)
		}
	}
	require.NotEmpty(t, m.expect, "%s does not say which rule it breaks", path)
	require.Contains(t, worlds, m.world, "%s", path)
	m.files, err = parsePatch(body)
	require.NoError(t, err, "%s", path)
	return m
}

// overlay writes the patched files, and what go's -overlay wants to read.
func (m *mutant) overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for n, f := range m.files {
		path, err := filepath.Abs(filepath.Join(moduleRoot, f.path))
		require.NoError(t, err)
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		patched, err := f.apply(string(source))
		require.NoError(t, err, "the patch of mutant %s does not apply any more: plant the same defect in the code as it is now", m.name)
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d-%s", n, filepath.Base(path)))
		require.NoError(t, os.WriteFile(replace[path], []byte(patched), 0o600))
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	overlay := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlay, text, 0o600))
	return overlay
}

// filePatch is what a patch does to one file.
type filePatch struct {
	path  string
	hunks []change
}

// change replaces whole lines.
type change struct{ before, after string }

// parsePatch reads a unified diff with paths that begin with a/ and b/.
func parsePatch(text string) ([]filePatch, error) {
	var files []filePatch
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "--- a/"):
			files = append(files, filePatch{path: strings.TrimSpace(strings.TrimPrefix(line, "--- a/"))})
			continue
		case strings.HasPrefix(line, "+++ b/"):
			continue
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("patch: %q before the first file", line)
		}
		f := &files[len(files)-1]
		if strings.HasPrefix(line, "@@ ") {
			f.hunks = append(f.hunks, change{})
			continue
		}
		if len(f.hunks) == 0 {
			return nil, fmt.Errorf("patch of %s: %q before the first hunk", f.path, line)
		}
		hunk := &f.hunks[len(f.hunks)-1]
		switch line[0] {
		case ' ':
			hunk.before, hunk.after = hunk.before+line[1:], hunk.after+line[1:]
		case '-':
			hunk.before += line[1:]
		case '+':
			hunk.after += line[1:]
		default:
			return nil, fmt.Errorf("patch of %s: %q is no line of a unified diff", f.path, line)
		}
	}
	if len(files) == 0 {
		return nil, errors.New("patch: no file")
	}
	return files, nil
}

// apply carries the hunks out. Where a hunk belongs is told by the lines that it
// shows, not by their numbers: they must be in the file, and only once.
func (f filePatch) apply(source string) (string, error) {
	for n, hunk := range f.hunks {
		if hunk.before == "" || hunk.before == hunk.after {
			return "", fmt.Errorf("%s: hunk %d changes nothing, or does not say where", f.path, n+1)
		}
		switch found := strings.Count("\n"+source, "\n"+hunk.before); found {
		case 1:
			at := strings.Index("\n"+source, "\n"+hunk.before)
			source = source[:at] + hunk.after + source[at+len(hunk.before):]
		case 0:
			return "", fmt.Errorf("%s: the lines of hunk %d are not there:\n%s", f.path, n+1, hunk.before)
		default:
			return "", fmt.Errorf("%s: the lines of hunk %d are there %d times:\n%s", f.path, n+1, found, hunk.before)
		}
	}
	return source, nil
}

func TestPatches(t *testing.T) {
	t.Parallel()
	const source = "one\ntwo\nthree\nfour\nthree\n"
	for _, tc := range []struct{ name, patch, want, err string }{
		{"replaces", "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n", "one\n2\nthree\nfour\nthree\n", ""},
		{"wherever it is now", "--- a/x\n+++ b/x\n@@ -9,2 +9,3 @@\n four\n+four and a half\n three\n", "one\ntwo\nthree\nfour\nfour and a half\nthree\n", ""},
		{"gone", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-five\n+5\n", "", "are not there"},
		{"not whole lines", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-ree\n+3\n", "", "are not there"},
		{"ambiguous", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-three\n+3\n", "", "2 times"},
		{"nothing", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n one\n", "", "changes nothing"},
		{"no diff", "one\n", "", "before the first file"},
		{"no hunk", "--- a/x\n+++ b/x\n-one\n", "", "before the first hunk"},
		{"no line of a diff", "--- a/x\n+++ b/x\n@@ -1 +1 @@\none\n", "", "no line of a unified diff"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files, err := parsePatch(tc.patch)
			got := ""
			if err == nil {
				require.Len(t, files, 1)
				got, err = files[0].apply(source)
			}
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

// TestLocks lets a few seeds of the locks alone go by: without a defect no two
// leases are in force at once.
func TestLocks(t *testing.T) {
	for seed := range uint64(10) {
		require.Nil(t, simulateLocks(t, seed+1), "seed %d", seed+1)
	}
}

const (
	ruleTwoLeases = "two leases in force"
	ruleNoLease   = "nobody gets the lock"
)

// simulateLocks is a world of nothing but Lockers that compete for one lock,
// over a bad network that is cut again and again. Its oracle looks at every
// instant of true time, by each holder's own clock.
func simulateLocks(t *testing.T, seed uint64) (violation *hatest.Violation) {
	t.Helper()
	holders := map[string]func() bool{} // by host; whether its lease is in force
	var mu sync.Mutex
	terms := 0
	cfg := hatest.Config{
		Seed: seed, Hosts: []string{"a", "b", "c"},
		Network: hatest.Network{LatencyMin: time.Millisecond, LatencyMax: 2 * time.Second, Tail: 3 * time.Second, Loss: 0.1},
		Agent: func(ctx context.Context, env hatest.Env) error {
			return compete(ctx, env, func(lease *ha.Lease) {
				mu.Lock()
				defer mu.Unlock()
				terms++
				holders[env.Name] = func() bool { return lease.Context().Err() == nil && env.Clock.Now().Before(lease.Until()) }
			})
		},
	}
	hatest.Run(t, cfg, func(w *hatest.World) {
		overlap := func() bool {
			var both []string
			for _, name := range w.Hosts() {
				if inForce := holders[name]; inForce != nil && inForce() {
					both = append(both, name)
				}
			}
			if len(both) > 1 {
				violation = &hatest.Violation{Rule: ruleTwoLeases, Text: fmt.Sprint(both), At: w.Now()}
			}
			return violation != nil
		}
		trouble := rand.New(rand.NewPCG(seed, 1))
		spell := func(most time.Duration) bool {
			return w.RunUntil(time.Duration(1+trouble.Int64N(int64(most))), overlap)
		}
		w.Start()
		for range 12 {
			if spell(15 * time.Second) {
				return
			}
			host := w.Hosts()[trouble.IntN(3)]
			links := [][2]string{{host, "dcs"}, {"dcs", host}}[trouble.IntN(2):]
			for _, l := range links {
				w.Cut(l[0], l[1])
			}
			found := spell(20 * time.Second)
			for _, l := range links {
				w.Heal(l[0], l[1])
			}
			if found {
				return
			}
		}
		if terms < 3 {
			violation = &hatest.Violation{Rule: ruleNoLease, Text: fmt.Sprintf("only %d terms", terms), At: w.Now()}
		}
	})
	return violation
}

// compete is an agent that takes the lock as often as it can. Its margin is
// shorter than a request may take.
func compete(ctx context.Context, env hatest.Env, won func(*ha.Lease)) error {
	locker, err := ha.NewLocker(ha.LockerConfig{
		Store: env.Store, TTL: 10 * time.Second, RenewEvery: 3 * time.Second, Margin: 500 * time.Millisecond, Request: 3 * time.Second,
		Clock: env.Clock, Wall: env.Wall, Logger: env.Logger,
	})
	if err != nil {
		return fmt.Errorf("agent of %s: %w", env.Name, err)
	}
	defer func() { _ = locker.Close(context.WithoutCancel(ctx)) }() // at the end the world is gone
	for {
		lease, err := locker.Acquire(ctx, "/locks/one", []byte(env.Name))
		if err != nil {
			return fmt.Errorf("agent of %s: %w", env.Name, err)
		}
		won(lease)
		<-lease.Context().Done()
		_ = lease.Release(context.WithoutCancel(ctx)) // it expires
		if ctx.Err() != nil {
			return nil
		}
	}
}
