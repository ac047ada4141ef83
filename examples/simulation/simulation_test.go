package simulation_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pghad/pghad/examples/simulation"
	"github.com/pghad/pghad/ha/hatest"
)

var (
	unguarded = flag.Bool("unguarded", false, "plant the bug: numbers are written without the fencing token")
	seed      = flag.Uint64("seed", 0, "run this seed only, and show all that happens")
)

// seeds is how many schedules are tried.
const seeds = 60

// TestTickets fails if any schedule hands out a number twice.
func TestTickets(t *testing.T) {
	first, last := uint64(1), uint64(seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		twice, transcript := simulate(t, s, *unguarded)
		if *seed != 0 {
			t.Log(transcript)
		}
		if twice != "" {
			t.Fatalf("seed %d: %s; see all of it with -args -seed %d", s, twice, s)
		}
	}
}

// TestPlantedBugIsFound is the proof that the simulation can see.
func TestPlantedBugIsFound(t *testing.T) {
	for s := uint64(1); s <= seeds; s++ {
		if twice, _ := simulate(t, s, true); twice != "" {
			t.Logf("found by seed %d: %s", s, twice)
			return
		}
	}
	t.Fatal("the planted bug was not found")
}

// simulate runs three agents over a bad network for one seed. It returns what
// went wrong, "" if nothing did, and what happened.
func simulate(t *testing.T, seed uint64, bug bool) (twice, transcript string) {
	t.Helper()
	var (
		mu   sync.Mutex
		by   = map[int]string{} // number to who handed it out
		text strings.Builder
	)
	cfg := hatest.Config{
		Seed: seed, Hosts: []string{"a", "b", "c"}, Transcript: &text,
		Network: hatest.Network{LatencyMin: time.Millisecond, LatencyMax: 200 * time.Millisecond, Tail: 4 * time.Second, Loss: 0.05},
		Agent: func(ctx context.Context, env hatest.Env) error {
			agent := simulation.Agent{
				Name: env.Name, Store: env.Store, Clock: env.Clock, Wall: env.Wall, Unguarded: bug,
				Ticket: func(number int) {
					mu.Lock()
					defer mu.Unlock()
					if other, ok := by[number]; ok && twice == "" {
						twice = fmt.Sprintf("number %d was handed out by %s and by %s", number, other, env.Name)
					}
					by[number] = env.Name
				},
			}
			return agent.Run(ctx)
		},
	}
	hatest.Run(t, cfg, func(w *hatest.World) {
		trouble := rand.New(rand.NewPCG(seed, 1))
		done := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return twice != ""
		}
		w.Start()
		for range 10 {
			w.RunUntil(time.Duration(trouble.Int64N(int64(10*time.Second)))+1, done)
			host := w.Hosts()[trouble.IntN(3)]
			w.Cut(host, "dcs") // what it says is lost; what it hears still comes
			w.RunUntil(time.Duration(trouble.Int64N(int64(20*time.Second)))+1, done)
			w.Heal(host, "dcs")
		}
	})
	if len(by) == 0 && twice == "" {
		twice = "nobody handed out a number"
	}
	return twice, text.String()
}
