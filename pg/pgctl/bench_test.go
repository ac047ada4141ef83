package pgctl_test

import (
	"testing"

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
			seen := n.status().Generation
			b.StartTimer()
			n.kill9()
			_, err := n.WaitChange(n.ctx(), seen)
			require.NoError(b, err)
		}
	})
	b.Run("status", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			n.status()
		}
	})
	b.Run("set-sync", func(b *testing.B) {
		n := newPrimary(b, "a")
		for b.Loop() {
			require.NoError(b, n.SetSync(n.ctx(), pg.SyncSetting{}))
		}
	})
	b.Run("standby", benchmarkStandby)
}

func benchmarkStandby(b *testing.B) {
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
