package pgtest_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// walk fires events at random, with commits, cuts, pauses and restarts of
// standbys between them, and returns a hash of everything that happened.
func walk(t *testing.T, seed uint64, steps int, check func(*world)) uint64 {
	t.Helper()
	w := replicated(t, pgtest.Config{Batch: 2}, "a", "b", "c")
	w.setSync("a", "ANY 1 (b, c)")
	w.Settle(nil)
	w.ok(w.ctl["a"].Checkpoint(t.Context()))
	w.ok(w.ctl["a"].Checkpoint(t.Context()))
	hash := fnv.New64a()
	w.onStep = func(what string) { _, _ = hash.Write([]byte(what)) }
	r := rand.New(rand.NewPCG(seed, 1))
	for n := range steps {
		standby := []string{"b", "c"}[r.IntN(2)]
		switch r.IntN(40) {
		case 0, 1, 2:
			w.begin("a", fmt.Sprint("row ", n))
		case 3:
			w.cut[standby+">a"] = !w.cut[standby+">a"]
		case 4:
			w.cut["a>"+standby] = !w.cut["a>"+standby]
		case 5:
			w.ok(w.CrashNode(standby))
			w.run[standby].Accept = func(e pgtest.Event) bool { return e.Node == standby && pgtest.Quiet(e) }
			w.startStandby(standby, "a")
		case 6:
			_ = w.PauseReplay(standby)
		case 7:
			_ = w.ResumeReplay(standby)
		default:
			if enabled := w.Enabled(); len(enabled) > 0 {
				require.True(t, w.Fire(enabled[r.IntN(len(enabled))]))
			}
		}
		check(w)
	}
	_, _ = fmt.Fprintf(hash, "%+v %+v", w.Ledger(), w.Server("b"))
	return hash.Sum64()
}

// Whatever the order of events: what is acknowledged is on two servers, which
// no standby's crash undoes.
func TestWalks(t *testing.T) {
	t.Parallel()
	acked := 0
	for seed := range uint64(30) {
		steps := 0
		walk(t, seed, 600, func(w *world) {
			if steps++; steps%10 != 0 {
				return
			}
			for _, row := range w.Ledger() {
				if row.Outcome != pgtest.Acked {
					continue
				}
				acked++
				require.True(t, w.Contains("a", row))
				require.True(t, w.Contains("b", row) || w.Contains("c", row), "seed %d: %+v", seed, row)
			}
			for _, n := range w.Nodes() {
				s := w.Server(n)
				require.True(t, s.Role != pg.RoleStandby || s.Replayed <= s.Held.LSN, "%+v", s)
			}
		})
	}
	require.NotZero(t, acked)
}

// The same choices give the same world.
func TestWalksAreReproducible(t *testing.T) {
	t.Parallel()
	nothing := func(*world) {}
	for seed := range uint64(10) {
		first := walk(t, seed, 300, nothing)
		require.Equal(t, first, walk(t, seed, 300, nothing), "seed %d", seed)
	}
}

// An event is enabled once, and not after it has been fired by another name.
func TestEventsAreDistinct(t *testing.T) {
	t.Parallel()
	w := replicated(t, pgtest.Config{}, "a", "b", "c")
	w.begin("a", "one")
	seen := map[pgtest.Event]bool{}
	for _, e := range w.Enabled() {
		require.False(t, seen[e], "%v", e)
		seen[e] = true
	}
	require.False(t, w.Fire(pgtest.Event{Node: "a", Process: "wal", Action: "no such thing"}))
	require.False(t, w.Fire(pgtest.Event{Node: "nobody"}))
	walk(t, 7, 500, func(w *world) {
		seen := map[pgtest.Event]bool{}
		for _, e := range w.Enabled() {
			require.False(t, seen[e], "%v", e)
			seen[e] = true
		}
	})
}

func BenchmarkFire(b *testing.B) {
	w := benchmarkWorld(b)
	s, err := w.Connect("client", "a")
	require.NoError(b, err)
	b.ResetTimer()
	for n := 0; n < b.N; {
		if !s.Busy() {
			require.NoError(b, s.Insert("row"))
			_, err := s.Commit()
			require.NoError(b, err)
		}
		n += w.Settle(nil)
	}
}

func benchmarkWorld(b *testing.B) *pgtest.Cluster {
	b.Helper()
	w, err := pgtest.New(pgtest.Config{Nodes: []pgtest.Node{{Name: "a"}, {Name: "b"}, {Name: "c"}}})
	require.NoError(b, err)
	for _, n := range w.Nodes() {
		ctl, err := w.Controller(n, &pgtest.Driver{Cluster: w})
		require.NoError(b, err)
		if n == "a" {
			require.NoError(b, ctl.Init(b.Context()))
			setting := pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"b", "c"}}
			require.NoError(b, ctl.StartPrimary(b.Context(), forever{}, setting))
			require.NoError(b, ctl.OpenGate(b.Context()))
			continue
		}
		_, err = ctl.Clone(b.Context(), upstream("a", ""))
		require.NoError(b, err)
		require.NoError(b, ctl.StartStandby(b.Context(), upstream("a", n)))
	}
	return w
}
