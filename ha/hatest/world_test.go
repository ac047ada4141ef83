package hatest_test

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/hatest"
)

// holder is a small agent: it holds a lock and works while it has it.
func holder(ctx context.Context, env hatest.Env) error {
	locker, err := ha.NewLocker(ha.LockerConfig{Store: env.Store, Clock: env.Clock, Wall: env.Wall, Logger: env.Logger})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		_ = locker.Hold(ctx, "/lock", []byte(env.Name), func(ctx context.Context, _ *ha.Lease) error {
			env.Logger.Info("works")
			<-ctx.Done()
			return nil
		})
	}
	return locker.Close(context.WithoutCancel(ctx))
}

func runHolders(t *testing.T, seed uint64) (trace uint64, transcript string) {
	t.Helper()
	var text strings.Builder
	cfg := hatest.Config{
		Seed: seed, Hosts: []string{"a", "b", "c"}, Agent: holder, Transcript: &text,
		Network: hatest.Network{Loss: 0.05, Stale: 0.2},
	}
	hatest.Run(t, cfg, func(w *hatest.World) {
		w.Start()
		w.RunFor(time.Minute)
		for _, name := range w.Hosts() {
			w.KillAgent(name)
			w.RunFor(20 * time.Second)
			w.Start(name)
			w.RunFor(20 * time.Second)
		}
		w.Cut("a", "dcs")
		w.RunFor(time.Minute)
		w.Heal("a", "dcs")
		w.RunFor(time.Minute)
		trace = w.Trace()
	})
	return trace, text.String()
}

func TestTheSameSeedIsTheSameRun(t *testing.T) {
	for seed := range uint64(3) {
		trace, transcript := runHolders(t, seed)
		for range 3 {
			again, text := runHolders(t, seed)
			require.Equal(t, digestOf(transcript), digestOf(text), "transcripts differ")
			require.Equal(t, trace, again)
		}
	}
}

// twins asks the same of the store from two places at once, time and again.
func twins(ctx context.Context, env hatest.Env) error {
	for ctx.Err() == nil {
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = env.Store.Get(ctx, "/key")
			env.Logger.Info("left has heard")
		})
		both.Go(func() {
			_, _ = env.Store.Get(ctx, "/key")
			env.Logger.Info("right has heard")
		})
		both.Wait()
	}
	return ctx.Err()
}

func TestEqualCallsOfOneInstantAreToldApart(t *testing.T) {
	run := func() string {
		var text strings.Builder
		cfg := hatest.Config{Seed: 1, Hosts: []string{"a"}, Agent: twins, Transcript: &text}
		hatest.Run(t, cfg, func(w *hatest.World) {
			w.Start()
			w.RunFor(5 * time.Second)
			w.KillAgent("a")
		})
		return text.String()
	}
	first := run()
	require.Contains(t, first, "left has heard")
	for range 5 {
		require.Equal(t, digestOf(first), digestOf(run()), "transcripts differ")
	}
}

// digestOf keeps long texts out of messages.
func digestOf(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
