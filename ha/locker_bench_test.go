package ha_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/testbed"
)

// BenchmarkLocker measures locks beside those of etcd's own package, on one etcd.
// The round trips of one operation are counted on the way through a proxy, and
// the time is taken without it. Those of a hand-over include the other's beginning
// to wait, its time does not.
//
//	go test ./ha -run '^$' -bench Locker
func BenchmarkLocker(b *testing.B) {
	server := testbed.StartEtcd(b)
	counter := startRPCCounter(b, server)
	for _, bench := range []struct {
		name string
		make func(b *testing.B, endpoint string) func(key string) error
	}{
		{"life/concurrency", theirLife},
		{"life/pghad", func(b *testing.B, endpoint string) func(string) error { return ourLife(b, endpoint, false) }},
		{"life/pghad-and-release", func(b *testing.B, endpoint string) func(string) error { return ourLife(b, endpoint, true) }},
		{"lock-and-unlock/concurrency", theirLock},
		{"lock-and-unlock/pghad", ourLock},
		{"hand-over/concurrency", theirHandOver},
		{"hand-over/pghad", ourHandOver},
	} {
		b.Run(bench.name, func(b *testing.B) {
			counted := bench.make(b, counter.endpoint)
			key := "/bench/counted/" + bench.name
			require.NoError(b, counted(key))
			counter.reset()
			require.NoError(b, counted(key))
			calls, total := counter.counted()

			timed := bench.make(b, server.Endpoints()[0])
			key = "/bench/timed/" + bench.name
			require.NoError(b, timed(key))
			for b.Loop() {
				require.NoError(b, timed(key))
			}
			b.ReportMetric(float64(total-calls["LeaseKeepAlive"]), "roundtrips/op")
		})
	}
}

func theirLife(b *testing.B, endpoint string) func(string) error {
	b.Helper()
	c := etcdClient(b, endpoint)
	return func(key string) error { return lockWithConcurrency(b.Context(), c, key) }
}

func ourLife(b *testing.B, endpoint string, release bool) func(string) error {
	b.Helper()
	_, store := etcdLocker(b, endpoint, lazy)
	return func(key string) error { return lockWithLocker(b.Context(), store, key, release) }
}

func theirLock(b *testing.B, endpoint string) func(string) error {
	b.Helper()
	session := theirSession(b, etcdClient(b, endpoint))
	return func(key string) error {
		m := concurrency.NewMutex(session, key)
		if err := m.Lock(b.Context()); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		return m.Unlock(b.Context())
	}
}

func theirSession(b *testing.B, c *clientv3.Client) *concurrency.Session {
	b.Helper()
	session, err := concurrency.NewSession(c, concurrency.WithTTL(concurrencyTTL))
	require.NoError(b, err)
	b.Cleanup(func() { _ = session.Close() }) // the client may be closed before
	return session
}

func ourLock(b *testing.B, endpoint string) func(string) error {
	b.Helper()
	l, _ := etcdLocker(b, endpoint, lazy)
	return func(key string) error {
		lease, err := l.TryAcquire(b.Context(), key, nil)
		if err != nil {
			return err //nolint:wrapcheck // says what it is about
		}
		return lease.Release(b.Context())
	}
}

// handOver lets two holders hand a lock to each other. It measures from one's
// release until the other, who has waited, has the lock.
func handOver(b *testing.B, lock [2]func(ctx context.Context, key string) (unlock func() error, err error)) func(string) error {
	b.Helper()
	type held struct {
		unlock func() error
		err    error
	}
	var present func() error
	turn := 0
	return func(key string) error {
		if present == nil {
			unlock, err := lock[turn](b.Context(), key)
			if err != nil {
				return err
			}
			present = unlock
		}
		turn = 1 - turn
		next := make(chan held, 1)
		go func(turn int) {
			unlock, err := lock[turn](b.Context(), key)
			next <- held{unlock, err}
		}(turn)
		b.StopTimer()
		time.Sleep(20 * time.Millisecond) // so that it waits
		b.StartTimer()
		if err := present(); err != nil {
			return err
		}
		got := <-next
		present = got.unlock
		return got.err
	}
}

func theirHandOver(b *testing.B, endpoint string) func(string) error {
	b.Helper()
	var lock [2]func(context.Context, string) (func() error, error)
	for i := range lock {
		session := theirSession(b, etcdClient(b, endpoint))
		lock[i] = func(ctx context.Context, key string) (func() error, error) {
			m := concurrency.NewMutex(session, key)
			err := m.Lock(ctx)
			return func() error { return m.Unlock(ctx) }, err
		}
	}
	return handOver(b, lock)
}

func ourHandOver(b *testing.B, endpoint string) func(string) error {
	b.Helper()
	var lock [2]func(context.Context, string) (func() error, error)
	for i := range lock {
		l, _ := etcdLocker(b, endpoint, lazy)
		lock[i] = func(ctx context.Context, key string) (func() error, error) {
			lease, err := l.Acquire(ctx, key, nil)
			if err != nil {
				return nil, err //nolint:wrapcheck // says what it is about
			}
			return func() error { return lease.Release(ctx) }, nil
		}
	}
	return handOver(b, lock)
}

// BenchmarkLockerRenewal is what one renewal takes: alone, and in a store that is
// full of others.
func BenchmarkLockerRenewal(b *testing.B) {
	server := testbed.StartEtcd(b)
	endpoint := server.Endpoints()[0]
	store, err := openEtcd(b.Context(), endpoint)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	session, err := store.NewSession(b.Context(), lazy.TTL)
	require.NoError(b, err)
	rev, err := dcs.Create(b.Context(), store, lockKey, nil, session.ID())
	require.NoError(b, err)
	prover, ok := session.(dcs.Prover)
	require.True(b, ok)
	guards := []dcs.Guard{{Key: lockKey, Revision: rev}}
	renew := func(b *testing.B) {
		b.Helper()
		for b.Loop() {
			require.NoError(b, prover.RenewIf(b.Context(), guards))
		}
	}
	b.Run("alone", renew)
	crowd(b, endpoint, 1000, 10_000)
	b.Run("1000 sessions and 10000 keys", renew)
}
