package hatest_test

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/internal/mutant"
)

var (
	mutantSeeds     = flag.Int("mutant-seeds", 500, "TestMutants: within so many seeds each defect must be found")
	mutantElsewhere = flag.Bool("mutants-elsewhere", false, "TestMutants: the tests outside this package must not find the defects")
	hunt            = flag.String("hunt", "", "TestHunt: the name of a mutant; run seeds until a rule is broken that it is expected to break")
)

// elsewhere are the packages whose tests must not find a mutant.
var elsewhere = []string{"./dcs/...", "./ha", "./ha/election", "./ha/quorum", "./ha/record", "./ha/rejoin", "./ha/role", "./ha/switchover", "./ha/api", "./pg", "./pg/pgtest", "./internal/integration", "./examples/..."}

// simulated are tests outside this package that use it to find defects, and
// tests that plant defects themselves.
const simulated = "^(TestLockerRandom|TestLockerMutants)$"

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
			overlay, err := m.Overlay(t.TempDir(), moduleRoot)
			require.NoError(t, err)
			if *mutantElsewhere {
				m.passesElsewhere(t, overlay)
			}
			m.isFound(t, overlay)
		})
	}
}

// planted is a defect in the code under test.
type planted struct {
	*mutant.Mutant
	world  string   // in which it shows, see worlds
	expect []string // the rules by which it may be found
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
	"async": func(t *testing.T, seed uint64) *hatest.Violation {
		t.Helper()
		p := hatest.NewPlan(seed)
		p.Mode, p.Guard = quorum.ModeAsync, true
		return hatest.Simulate(t, p, nil).Violation
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
func (m *planted) isFound(t *testing.T, overlay string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), m.Name+".test")
	m.run(t, exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", binary, "."))
	out := m.run(t, exec.CommandContext(t.Context(), binary,
		"-test.run", "^TestHunt$", "-test.timeout", "0", "-hunt", m.Name, "-mutant-seeds", fmt.Sprint(*mutantSeeds)))
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
func (m *planted) passesElsewhere(t *testing.T, overlay string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-overlay", overlay, "-skip", simulated}, elsewhere...)...)
	cmd.Dir = moduleRoot
	m.run(t, cmd)
}

// run runs a command and returns its output.
func (m *planted) run(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s\n%s", m.Name, cmd, out)
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

// readMutant reads a patch, whose header says in which world the defect shows,
// and what rules may find it.
func readMutant(t *testing.T, path string) *planted {
	t.Helper()
	m, err := mutant.Read(path)
	require.NoError(t, err)
	p := &planted{Mutant: m, world: "cluster", expect: m.Header["Expect"]}
	if world := m.Header["World"]; len(world) > 0 {
		p.world = world[0]
	}
	require.NotEmpty(t, p.expect, "%s does not say which rule it breaks", path)
	require.Contains(t, worlds, p.world, "%s", path)
	return p
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
