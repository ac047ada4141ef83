package etcd_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds waits for events that do come.
const patience = 60 * time.Second

func await(t *testing.T, updates <-chan dcs.Update, want func(dcs.Update) bool) dcs.Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case u, open := <-updates:
			require.True(t, open)
			if want(u) {
				return u
			}
		case <-ctx.Done():
			require.NoError(t, ctx.Err(), "waiting for a watch")
		}
	}
}

// within makes a context for one request.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// admin is etcd's own client, for what an operator does.
func admin(t *testing.T, server *testbed.EtcdServer, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Endpoints, cfg.Logger = server.Endpoints(), zap.NewNop()
	client, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

func TestServerRestartsUnderAStore(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := open(t, etcd.Config{Endpoints: server.Endpoints()})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	rev, err := dcs.Create(t.Context(), s, "/k", []byte("1"), session.ID())
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/")
	require.Len(t, (<-updates).KVs, 1)

	require.NoError(t, server.Kill())
	u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil })
	requireOnly(t, u.Err, dcs.ErrUnavailable)
	_, err = dcs.Put(within(t, 100*time.Millisecond), s, "/k", []byte("2"))
	require.Error(t, err)
	require.Error(t, session.Renew(within(t, 100*time.Millisecond)))

	require.NoError(t, server.Start(t.Context()))
	u = await(t, updates, func(u dcs.Update) bool { return u.Err == nil })
	require.Len(t, u.KVs, 1)
	require.NoError(t, session.Renew(within(t, patience)), "the session has survived")
	kv, err := s.Get(within(t, patience), "/k")
	require.NoError(t, err)
	require.Equal(t, rev, kv.Created)

	last, err := dcs.Put(t.Context(), s, "/k", []byte("3"))
	require.NoError(t, err)
	await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == 1 && u.KVs[0].Revision == last })
}

// TestMovedKeyKeepsItsLease: revoking a lease deletes the keys that are attached
// to it. A key that was written under another lease since is not, also for a
// server that has read its keys back from disk.
func TestMovedKeyKeepsItsLease(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("server restarted %t", restart), func(t *testing.T) {
			t.Parallel()
			server := testbed.StartEtcd(t)
			s := open(t, etcd.Config{Endpoints: server.Endpoints()})
			first, err := s.NewSession(t.Context(), time.Minute)
			require.NoError(t, err)
			second, err := s.NewSession(t.Context(), time.Minute)
			require.NoError(t, err)
			token, err := dcs.Create(t.Context(), s, "/k", []byte("1"), first.ID())
			require.NoError(t, err)
			_, err = s.Commit(t.Context(), dcs.Txn{
				If:   []dcs.Guard{dcs.Held("/k", token)},
				Then: []dcs.Op{{Key: "/k", Value: []byte("2"), Session: second.ID()}},
			})
			require.NoError(t, err)
			if restart {
				require.NoError(t, server.Kill())
				require.NoError(t, server.Start(t.Context()))
			}
			require.NoError(t, first.Close(within(t, patience)))
			kv, err := s.Get(within(t, patience), "/k")
			require.NoError(t, err)
			require.Equal(t, token, kv.Created)
			require.Equal(t, second.ID(), kv.Session)
			require.NoError(t, second.Close(within(t, patience)))
			_, err = s.Get(within(t, patience), "/k")
			require.ErrorIs(t, err, dcs.ErrNotFound)
		})
	}
}

func TestFrozenServerHangsNobody(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := open(t, etcd.Config{Endpoints: server.Endpoints()})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	rev, err := dcs.Put(t.Context(), s, "/k", []byte("1"))
	require.NoError(t, err)

	require.NoError(t, server.Pause())
	_, err = dcs.CompareAndSwap(within(t, 100*time.Millisecond), s, "/k", rev, []byte("2"), "")
	requireOnly(t, err, dcs.ErrAmbiguous)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireOnly(t, session.Renew(within(t, 100*time.Millisecond)), dcs.ErrAmbiguous)
	_, err = s.Get(within(t, 100*time.Millisecond), "/k")
	requireOnly(t, err, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	require.NoError(t, server.Resume())
	require.NoError(t, session.Renew(within(t, patience)))
	kv, err := s.Get(within(t, patience), "/k")
	require.NoError(t, err)
	t.Logf("the write of unknown outcome has landed: %t", kv.Revision != rev)
}

func TestWatchSurvivesCompaction(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := open(t, etcd.Config{Endpoints: server.Endpoints()})
	client := admin(t, server, clientv3.Config{})
	updates := s.Watch(t.Context(), "/")
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil })

	// While the server is away nobody follows; what was missed is compacted
	// away before the watch is back, or shortly after. Either way it goes on.
	require.NoError(t, server.Restart(t.Context()))
	var last dcs.Revision
	for i := range 20 {
		var err error
		last, err = dcs.Put(within(t, patience), s, fmt.Sprintf("/k%d", i%3), nil)
		require.NoError(t, err)
	}
	_, err := client.Compact(within(t, patience), int64(last))
	require.NoError(t, err)
	await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == 3 })
}

func TestLimitsOfAServer(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	s := open(t, etcd.Config{Endpoints: server.Endpoints()})
	_, err := s.Commit(t.Context(), writes(200))
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "has 200 operations or conditions, at most 128")
	for _, size := range []int{1700 << 10, 3 << 20} {
		_, err = dcs.Put(t.Context(), s, "/k", make([]byte, size))
		requireOnly(t, err, dcs.ErrInvalid)
		require.ErrorContains(t, err, fmt.Sprintf("has %d bytes of keys and values, at most 1572864", size+2))
	}
	// What goes with the value makes it too large for the server.
	_, err = dcs.Put(t.Context(), s, "/k", make([]byte, etcd.DefaultMaxRequestBytes-2))
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "sent were 1572864 bytes of keys and values in 1 operations")
	_, err = s.NewSession(t.Context(), 1<<63-1)
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "at most 2500000h0m0s")
	for _, id := range []dcs.SessionID{"0", "-1", "node#1", "ffffffffffffffff"} {
		_, err = dcs.Create(t.Context(), s, "/k", nil, id)
		requireOnly(t, err, dcs.ErrInvalid)
	}
	_, err = dcs.Create(t.Context(), s, "/k", nil, "7fffffffffffffff")
	requireOnly(t, err, dcs.ErrSessionLost)
	_, err = dcs.CompareAndSwap(t.Context(), s, "/k", 1<<63, nil, "")
	requireOnly(t, err, dcs.ErrInvalid)
}

// TestLimitsThatAreConfigured: a server can take more than usual, or less.
func TestLimitsThatAreConfigured(t *testing.T) {
	t.Parallel()
	large := testbed.StartEtcd(t, "--max-txn-ops=300", "--max-request-bytes=4194304")
	s := open(t, etcd.Config{Endpoints: large.Endpoints(), MaxTxnOps: 300, MaxRequestBytes: 4 << 20})
	_, err := s.Commit(t.Context(), writes(300))
	require.NoError(t, err)
	_, err = dcs.Put(t.Context(), s, "/k", make([]byte, 3<<20))
	require.NoError(t, err)
	kv, err := s.Get(t.Context(), "/k")
	require.NoError(t, err)
	require.Len(t, kv.Value, 3<<20)

	small := testbed.StartEtcd(t, "--max-txn-ops=10", "--max-request-bytes=10000")
	s = open(t, etcd.Config{Endpoints: small.Endpoints()})
	_, err = s.Commit(t.Context(), writes(20))
	requireOnly(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "in 20 operations")
	require.ErrorContains(t, err, "configure it as the servers are")
	for _, size := range []int{20_000, 1 << 20} {
		_, err = dcs.Put(t.Context(), s, "/k", make([]byte, size))
		requireOnly(t, err, dcs.ErrInvalid)
		require.ErrorContains(t, err, fmt.Sprintf("sent were %d bytes", size+2))
	}
}

// writes is a transaction that writes n keys.
func writes(n int) dcs.Txn {
	var txn dcs.Txn
	for i := range n {
		txn.Then = append(txn.Then, dcs.Op{Key: fmt.Sprintf("/k%d", i)})
	}
	return txn
}

// TestCloseLeavesNoGoroutine is not parallel: it looks at all goroutines.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	server := testbed.StartEtcd(t)
	for range 3 {
		s, err := etcd.Open(t.Context(), etcd.Config{Endpoints: server.Endpoints()})
		require.NoError(t, err)
		session, err := s.NewSession(t.Context(), time.Minute)
		require.NoError(t, err)
		require.NoError(t, session.Renew(t.Context()))
		<-s.Watch(t.Context(), "/")
		require.NoError(t, s.Close())
	}
	// The last goroutines of a connection end when the kernel has closed it.
	require.Eventually(t, func() bool { return len(leftovers()) == 0 }, patience, 10*time.Millisecond,
		"left behind:\n%s", strings.Join(leftovers(), "\n\n"))
}

// leftovers are the stacks of goroutines that belong to a store.
func leftovers() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var left []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		for _, owner := range []string{"google.golang.org/grpc", "go.etcd.io/etcd/client", "pghad/dcs/etcd."} {
			if strings.Contains(stack, owner) && !strings.Contains(stack, "leftovers") {
				left = append(left, stack)
				break
			}
		}
	}
	return left
}
