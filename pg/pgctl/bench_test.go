package pgctl_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

// BenchmarkOperations prints what the main operations cost on a small server:
// go test -bench Operations -benchtime 10x ./pg/pgctl.
func BenchmarkOperations(b *testing.B) {
	b.Run("start", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			b.StopTimer()
			require.NoError(b, n.Stop(n.ctx(), pg.StopFast))
			b.StartTimer()
			require.NoError(b, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
		}
	})
	b.Run("stop-fast", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			b.StopTimer()
			if n.status().Process == pg.ProcessStopped {
				require.NoError(b, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
			}
			b.StartTimer()
			require.NoError(b, n.Stop(n.ctx(), pg.StopFast))
		}
	})
	b.Run("stop-immediate", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			b.StopTimer()
			if n.status().Process == pg.ProcessStopped {
				require.NoError(b, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
			}
			b.StartTimer()
			require.NoError(b, n.Stop(n.ctx(), pg.StopImmediate))
		}
	})
	b.Run("kill9-to-restarted", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			seen := n.status().Generation
			n.kill9()
			_, err := n.WaitChange(n.ctx(), seen)
			require.NoError(b, err)
			require.NoError(b, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
		}
	})
	b.Run("kill9-to-noticed", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			b.StopTimer()
			if n.status().Process != pg.ProcessRunning {
				require.NoError(b, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
			}
			seen := n.status()
			b.StartTimer()
			require.NoError(b, syscall.Kill(seen.Postgres, syscall.SIGKILL))
			_, err := n.WaitChange(n.ctx(), seen.Generation)
			require.NoError(b, err)
		}
	})
	b.Run("exit-known", benchmarkExitKnown)
	b.Run("status", func(b *testing.B) {
		n := newPrimary(b, "a", quick)
		require.NoError(b, n.Close())
		n.open()
		w := n.tap()
		n.status()
		_, before, _ := w.counts()
		for b.Loop() {
			n.status()
		}
		_, after, _ := w.counts()
		b.ReportMetric(float64(after-before)/float64(b.N), "round-trips/op")
	})
	b.Run("set-sync", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			require.NoError(b, n.SetSync(n.ctx(), pg.SyncSetting{}))
		}
	})
	b.Run("standby", benchmarkStandby)
}

// benchmarkExitKnown is the time from the signal that kills the postmaster to the end
// of WaitChange, which is more than the time since its exit: "median-ms" is to be
// below 20.
func benchmarkExitKnown(b *testing.B) {
	n := newPrimary(b, "a", quick)
	var took []time.Duration
	for b.Loop() {
		if n.status().Process != pg.ProcessRunning {
			require.NoError(b, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
		}
		seen := n.status()
		killed := time.Now()
		require.NoError(b, syscall.Kill(seen.Postgres, syscall.SIGKILL))
		_, err := n.WaitChange(n.ctx(), seen.Generation)
		took = append(took, time.Since(killed))
		require.NoError(b, err)
	}
	b.ReportMetric(median(took), "median-ms")
}

// benchmarkPromoteReturns is the time from the first answer by which the server is a
// primary to the end of Promote: "median-ms" is to be at most 150.
func benchmarkPromoteReturns(b *testing.B) {
	n := newPrimary(b, "a", quick)
	next := pg.Timeline(1)
	var took []time.Duration
	for b.Loop() {
		require.NoError(b, n.Stop(n.ctx(), pg.StopFast))
		require.NoError(b, n.Fence(n.ctx()))
		next++
		observer, err := n.connect("postgres")
		require.NoError(b, err)
		_, err = observer.Exec(n.ctx(), "SET application_name = 'pghad'").ReadAll() // it is not ended as a client
		require.NoError(b, err)
		primary := make(chan time.Time, 1)
		go func() {
			defer close(primary)
			for {
				results, err := observer.Exec(n.ctx(), "SELECT pg_is_in_recovery()").ReadAll()
				if err != nil {
					return
				}
				if string(results[0].Rows[0][0]) == "f" {
					primary <- time.Now()
					return
				}
			}
		}()
		_, err = n.Promote(n.ctx(), warrant{}, next)
		returned := time.Now()
		require.NoError(b, err)
		at, ok := <-primary
		require.True(b, ok)
		took = append(took, returned.Sub(at))
		require.NoError(b, observer.Close(n.ctx()))
	}
	b.ReportMetric(median(took), "median-ms")
}

// median in milliseconds.
func median(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)/2]) / float64(time.Millisecond)
}

func benchmarkStandby(b *testing.B) {
	b.Run("promote-returns", benchmarkPromoteReturns)
	b.Run("fence", func(b *testing.B) {
		primary := newPrimary(b, "a")
		standby := newStandby(b, "b", primary)
		for b.Loop() {
			b.StopTimer()
			require.NoError(b, standby.Follow(standby.ctx(), primary.up("b")))
			primary.sql("INSERT INTO t VALUES (1)")
			standby.awaitStreaming(primary)
			b.StartTimer()
			require.NoError(b, standby.Fence(standby.ctx()))
		}
	})
	b.Run("promote", func(b *testing.B) {
		n := newPrimary(b, "a")
		next := pg.Timeline(1)
		for b.Loop() {
			b.StopTimer()
			require.NoError(b, n.Stop(n.ctx(), pg.StopFast))
			require.NoError(b, n.StartStandby(n.ctx(), pg.Upstream{}))
			require.NoError(b, n.Fence(n.ctx()))
			next++
			b.StartTimer()
			_, err := n.Promote(n.ctx(), warrant{}, next)
			require.NoError(b, err)
		}
	})
}
