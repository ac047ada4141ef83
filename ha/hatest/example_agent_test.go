package hatest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/hatest"
)

// plant is the bug of the example: the agent relies on holding the lock, and
// does not prove it to the store.
var plant = flag.Bool("plant", false, "TestOwnAgent: plant a bug, which the simulation then finds")

// counter is an agent as a user might write it: whoever holds the lock counts.
// The record of the count has one writer at a time, says the lock; that it is
// still this one, says the guard of the lease.
func counter(guarded bool, counted func(int)) hatest.Agent {
	return func(ctx context.Context, env hatest.Env) error {
		locker, err := ha.NewLocker(ha.LockerConfig{Store: env.Store, Clock: env.Clock, Wall: env.Wall, Logger: env.Logger})
		if err != nil {
			return fmt.Errorf("counter on %s: %w", env.Name, err)
		}
		for ctx.Err() == nil {
			_ = locker.Hold(ctx, "/counter/lock", []byte(env.Name), func(ctx context.Context, lease *ha.Lease) error {
				for ctx.Err() == nil {
					n, err := count(ctx, env.Store, lease, guarded)
					if err != nil {
						return err // lost, or unknown: begin anew
					}
					counted(n)
					env.Clock.Sleep(50 * time.Millisecond)
				}
				return nil
			})
		}
		return locker.Close(context.WithoutCancel(ctx))
	}
}

// count reads the record and writes the next number.
func count(ctx context.Context, store dcs.Store, lease *ha.Lease, guarded bool) (int, error) {
	n := 0
	kv, err := store.Get(ctx, "/counter/value")
	if err == nil {
		n, err = strconv.Atoi(string(kv.Value))
	}
	if err != nil && !errors.Is(err, dcs.ErrNotFound) {
		return 0, fmt.Errorf("counter: %w", err)
	}
	txn := dcs.Txn{Then: []dcs.Op{{Key: "/counter/value", Value: []byte(strconv.Itoa(n + 1))}}}
	if guarded {
		txn.If = []dcs.Guard{lease.Guard()}
	}
	if _, err := store.Commit(ctx, txn); err != nil {
		return 0, fmt.Errorf("counter: %w", err)
	}
	return n + 1, nil
}

// runCounters simulates three counters, of which now and then one stands still
// for longer than its lease, and returns a number that was counted twice.
func runCounters(t *testing.T, seed uint64, guarded bool) (twice int) {
	t.Helper()
	seen := map[int]bool{}
	cfg := hatest.Config{Seed: seed, Hosts: []string{"a", "b", "c"}, Agent: counter(guarded, func(n int) {
		if seen[n] {
			twice = n
		}
		seen[n] = true
	})}
	hatest.Run(t, cfg, func(w *hatest.World) {
		found := func() bool { return twice > 0 }
		w.Start()
		for round := range 12 {
			host := w.Hosts()[round%3]
			w.RunUntil(7*time.Second, found)
			w.PauseAgent(host)
			w.RunUntil(15*time.Second, found)
			w.ResumeAgent(host)
		}
	})
	return twice
}

// TestOwnAgent shows how an agent of one's own is simulated:
//
//	go test ./ha/hatest -run TestOwnAgent -args -plant
func TestOwnAgent(t *testing.T) {
	for seed := range uint64(5) {
		require.Zero(t, runCounters(t, seed, !*plant), "seed %d: a number was counted twice: a former holder has overwritten its successor", seed)
	}
}

// TestOwnAgentWithTheBug shows that the simulation finds it.
func TestOwnAgentWithTheBug(t *testing.T) {
	for seed := range uint64(200) {
		if twice := runCounters(t, seed, false); twice > 0 {
			t.Logf("seed %d: %d was counted twice", seed, twice)
			return
		}
	}
	t.Fatal("not found in 200 seeds")
}
