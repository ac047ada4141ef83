package ha_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
)

// rpcCounter stands between clients and an etcd and counts what they send. A
// message to the server is a round trip: each is answered.
type rpcCounter struct {
	conn     *grpc.ClientConn
	endpoint string

	mu    sync.Mutex
	calls map[string]int // by method
	bytes map[string]int
}

// startRPCCounter starts a counter before an etcd.
func startRPCCounter(tb testing.TB, server *testbed.EtcdServer) *rpcCounter {
	tb.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(server.Endpoints()[0], "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	require.NoError(tb, err)
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	c := &rpcCounter{conn: conn, endpoint: "http://" + listener.Addr().String(), calls: map[string]int{}, bytes: map[string]int{}}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(c.pass))
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	tb.Cleanup(func() {
		s.Stop()
		assert.NoError(tb, <-served)
		assert.NoError(tb, conn.Close())
	})
	return c
}

// reset forgets what was counted.
func (c *rpcCounter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.calls)
	clear(c.bytes)
}

// counted are the calls so far, by method, and how many there were.
func (c *rpcCounter) counted() (calls map[string]int, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.calls {
		total += n
	}
	return maps.Clone(c.calls), total
}

func (c *rpcCounter) size(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes[method]
}

func (c *rpcCounter) count(method string, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[method]++
	c.bytes[method] += size
}

// pass passes one call on, whatever it is.
func (c *rpcCounter) pass(_ any, from grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(from)
	ctx, cancel := context.WithCancel(from.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	to, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full)
	if err != nil {
		return err //nolint:wrapcheck // passed on as it is
	}
	method := full[strings.LastIndexByte(full, '/')+1:]
	go func() {
		for {
			var message []byte
			if err := from.RecvMsg(&message); err != nil {
				if errors.Is(err, io.EOF) {
					_ = to.CloseSend()
				}
				return // when the client has gone, the context ends
			}
			c.count(method, len(message))
			if to.SendMsg(&message) != nil {
				return // RecvMsg says why
			}
		}
	}()
	for {
		var message []byte
		if err := to.RecvMsg(&message); err != nil {
			from.SetTrailer(to.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err //nolint:wrapcheck // passed on as it is
		}
		if err := from.SendMsg(&message); err != nil {
			return err //nolint:wrapcheck // passed on as it is
		}
	}
}

// rawCodec leaves messages as they are.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("marshal %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*message)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("unmarshal %T", v)
	}
	*message = data.Materialize()
	return nil
}

// etcdLocker makes a Locker whose session nobody renews in a test's time.
func etcdLocker(tb testing.TB, endpoint string, cfg ha.LockerConfig) (*ha.Locker, dcs.Store) {
	tb.Helper()
	store, err := openEtcd(tb.Context(), endpoint)
	require.NoError(tb, err)
	cfg.Store = store
	l, err := ha.NewLocker(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), casePatience)
		defer cancel()
		assert.NoError(tb, l.Close(ctx))
		assert.NoError(tb, store.Close())
	})
	return l, store
}

// etcdClient is the client that package concurrency uses.
func etcdClient(tb testing.TB, endpoint string) *clientv3.Client {
	tb.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, c.Close()) })
	return c
}

// concurrencyTTL is that of the sessions of package concurrency, in seconds.
const concurrencyTTL = 10

// lockWithConcurrency is the whole life of a lock by the means of etcd's client.
func lockWithConcurrency(ctx context.Context, c *clientv3.Client, key string) error {
	session, err := concurrency.NewSession(c, concurrency.WithTTL(concurrencyTTL))
	if err != nil {
		return fmt.Errorf("new session: %w", err)
	}
	m := concurrency.NewMutex(session, key)
	if err := m.Lock(ctx); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := m.Unlock(ctx); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	if err := session.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// lockWithLocker is the whole life of a lock: what is not released, Close
// releases with the session.
func lockWithLocker(ctx context.Context, store dcs.Store, key string, release bool) error {
	l, err := ha.NewLocker(ha.LockerConfig{Store: store})
	if err != nil {
		return err //nolint:wrapcheck // says what it is about
	}
	lease, err := l.TryAcquire(ctx, key, nil)
	if err == nil && release {
		err = lease.Release(ctx)
	}
	return errors.Join(err, l.Close(ctx))
}

// TestLockerRoundTrips counts what the whole life of a lock costs, beside what it
// costs with etcd's own package. That one also sends a renewal at once, which its
// caller does not wait for: it is not counted.
func TestLockerRoundTrips(t *testing.T) {
	t.Parallel()
	counter := startRPCCounter(t, testbed.StartEtcd(t))
	ctx := t.Context()
	store, err := openEtcd(ctx, counter.endpoint)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	client := etcdClient(t, counter.endpoint)
	_, err = store.List(ctx, "/locks/") // both are connected
	require.NoError(t, err)
	_, err = client.Get(ctx, "/locks/")
	require.NoError(t, err)

	count := func(lock func() error) (map[string]int, int) {
		counter.reset()
		require.NoError(t, lock())
		calls, total := counter.counted()
		return calls, total - calls["LeaseKeepAlive"]
	}
	calls, theirs := count(func() error { return lockWithConcurrency(ctx, client, "/locks/theirs") })
	t.Logf("clientv3/concurrency, NewSession Lock Unlock Close: %d %v", theirs, calls)
	calls, ours := count(func() error { return lockWithLocker(ctx, store, "/locks/ours", false) })
	t.Logf("ha.Locker, TryAcquire Close:                        %d %v", ours, calls)
	require.Equal(t, map[string]int{"LeaseGrant": 1, "Txn": 1, "LeaseRevoke": 1}, calls)
	require.Less(t, ours, theirs)
	calls, released := count(func() error { return lockWithLocker(ctx, store, "/locks/ours", true) })
	t.Logf("ha.Locker, TryAcquire Release Close:                %d %v", released, calls)
	require.LessOrEqual(t, released, theirs)

	l, _ := etcdLocker(t, counter.endpoint, lazy)
	calls, ours = count(func() error {
		lease, err := l.TryAcquire(ctx, "/locks/ours", nil)
		if err != nil {
			return err //nolint:wrapcheck // says what it is about
		}
		return lease.Release(ctx)
	})
	t.Logf("ha.Locker, from no session to released:             %d %v", ours, calls)
	require.Equal(t, 3, ours)
	require.Less(t, ours, theirs)
}

// TestLockerHandOverRoundTrips counts what it takes until a waiter holds a lock
// that was let go.
func TestLockerHandOverRoundTrips(t *testing.T) {
	t.Parallel()
	counter := startRPCCounter(t, testbed.StartEtcd(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	from, _ := etcdLocker(t, counter.endpoint, lazy)
	to, _ := etcdLocker(t, counter.endpoint, lazy)
	_, err := to.Session(ctx)
	require.NoError(t, err)
	lease, err := from.Acquire(ctx, lockKey, nil)
	require.NoError(t, err)
	got := make(chan error, 1)
	go func() {
		_, err := to.Acquire(ctx, lockKey, nil)
		got <- err
	}()
	require.Eventually(t, func() bool {
		calls, _ := counter.counted()
		return calls["Watch"] > 0
	}, time.Minute, time.Millisecond, "the waiter waits")
	counter.reset()
	require.NoError(t, lease.Release(ctx))
	require.NoError(t, <-got)
	calls, total := counter.counted()
	t.Logf("hand-over: %d %v", total, calls)
	require.LessOrEqual(t, total, 3)
}

// crowd fills a store with the sessions and keys of others.
func crowd(tb testing.TB, endpoint string, sessions, keys int) {
	tb.Helper()
	c := etcdClient(tb, endpoint)
	const atOnce = 50
	var wg sync.WaitGroup
	for worker := range atOnce {
		wg.Go(func() {
			for n := worker; n < sessions; n += atOnce {
				lease, err := c.Grant(tb.Context(), 3600)
				if !assert.NoError(tb, err) {
					return
				}
				var puts []clientv3.Op
				for k := n; k < keys; k += sessions {
					puts = append(puts, clientv3.OpPut(fmt.Sprintf("/crowd/%d/%d", n, k), "somebody", clientv3.WithLease(lease.ID)))
				}
				if _, err := c.Txn(tb.Context()).Then(puts...).Commit(); !assert.NoError(tb, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
}

// TestLockerIdleRoundTrips counts what a holder costs that does nothing: with one
// lock and with many, alone and in a store that is full of others.
func TestLockerIdleRoundTrips(t *testing.T) {
	t.Parallel()
	counter := startRPCCounter(t, testbed.StartEtcd(t))
	idle := func(locks int) (proof int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), casePatience)
		defer cancel()
		cfg := patient
		cfg.RenewEvery, cfg.Request = time.Second, time.Second // enough for a loaded machine
		l, _ := etcdLocker(t, counter.endpoint, cfg)
		b := &lockBench{t: t, ctx: ctx}
		var lease *ha.Lease
		for i := range locks {
			var err error
			lease, err = l.Acquire(ctx, fmt.Sprintf("%s-%d/%d", lockKey, locks, i), nil)
			require.NoError(t, err)
		}
		b.renewed(lease, 1)
		counter.reset()
		b.renewed(lease, 3)
		calls, total := counter.counted()
		size := counter.size("Txn") / calls["Txn"]
		require.NoError(t, l.Close(ctx))
		t.Logf("%d locks: %v, %d bytes for each proof", locks, calls, size)
		require.Equal(t, total, calls["LeaseKeepAlive"]+calls["Txn"])
		require.LessOrEqual(t, calls["Txn"], calls["LeaseKeepAlive"])
		require.GreaterOrEqual(t, calls["LeaseKeepAlive"], 3)
		return size
	}
	alone := idle(1)
	idle(100)
	crowd(t, counter.endpoint, 1000, 10_000)
	crowded := idle(1)
	require.Less(t, crowded, alone+16, "revisions are longer")
}
