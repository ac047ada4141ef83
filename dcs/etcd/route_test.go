package etcd_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
)

// silence is the answer of a member that does not answer.
func silence(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func saying(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// TestCallsStayWithAMemberUntilItDisappoints lets the first of two members give
// an answer, and looks whether the next call goes to it again.
func TestCallsStayWithAMemberUntilItDisappoints(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer func(context.Context) error
		stays  bool
	}{
		"good":            {saying(nil), true},
		"lease not found": {saying(rpctypes.ErrGRPCLeaseNotFound), true},
		"too large":       {saying(rpctypes.ErrGRPCRequestTooLarge), true},
		"not permitted":   {saying(rpctypes.ErrGRPCPermissionDenied), true},
		"no leader":       {saying(rpctypes.ErrGRPCNoLeader), false},
		"leader changed":  {saying(rpctypes.ErrGRPCLeaderChanged), false},
		"timed out":       {saying(rpctypes.ErrGRPCTimeout), false},
		"stopped":         {saying(rpctypes.ErrGRPCStopped), false},
		"corrupt":         {saying(rpctypes.ErrGRPCCorrupt), false},
		"dropped":         {saying(status.Error(codes.Unknown, "raft proposal dropped")), false},
		"silence":         {silence, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var answer atomic.Value
			answer.Store(saying(nil))
			first := &fakeServer{answer: func(ctx context.Context) error {
				now, _ := answer.Load().(func(context.Context) error)
				return now(ctx)
			}}
			second := &fakeServer{answer: saying(nil)}
			s := openAtFirst(t, first, second)

			answer.Store(tc.answer)
			if tc.stays {
				for range 5 {
					_, _ = dcs.Put(within(t, patience), s, "/k", nil)
				}
				require.EqualValues(t, 6, first.calls.Load())
				require.Zero(t, second.calls.Load())
				return
			}
			for deadline := time.Now().Add(patience); second.calls.Load() == 0; {
				require.True(t, time.Now().Before(deadline), "the second member is never asked")
				_, _ = dcs.Put(within(t, 200*time.Millisecond), s, "/k", nil)
			}
			before := first.calls.Load()
			for range 5 {
				_, err := dcs.Put(within(t, patience), s, "/k", nil)
				require.NoError(t, err)
			}
			require.Equal(t, before, first.calls.Load())
		})
	}
}

// openAtFirst opens a store on two members that has made one call, to the first.
// The second has a connection, too.
func openAtFirst(t *testing.T, first, second *fakeServer) *etcd.Store {
	t.Helper()
	_, one := startFake(t, first)
	two, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := open(t, etcd.Config{Endpoints: []string{one, two.Addr().String()}})
	_, err = dcs.Put(within(t, patience), s, "/k", nil)
	require.NoError(t, err)
	serveFake(t, second, two)
	require.Eventually(t, func() bool { return second.connected.Load() > 0 }, patience, time.Millisecond)
	return s
}

// TestAWithdrawnCallSaysNothingAboutItsMember: who stops waiting has not waited
// in vain.
func TestAWithdrawnCallSaysNothingAboutItsMember(t *testing.T) {
	t.Parallel()
	var quiet atomic.Bool
	arrived := make(chan struct{}, 1)
	first := &fakeServer{answer: func(ctx context.Context) error {
		if !quiet.Load() {
			return nil
		}
		arrived <- struct{}{}
		return silence(ctx)
	}}
	second := &fakeServer{answer: saying(nil)}
	s := openAtFirst(t, first, second)
	quiet.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := dcs.Put(ctx, s, "/k", nil)
	require.ErrorIs(t, err, context.Canceled)
	quiet.Store(false)
	_, err = dcs.Put(within(t, patience), s, "/k", nil)
	require.NoError(t, err)
	require.Zero(t, second.calls.Load())
}

// TestWatchesMoveAlong: when a call finds a member silent, watches that follow it
// begin anew at another one, and their readers are not alarmed.
func TestWatchesMoveAlong(t *testing.T) {
	t.Parallel()
	var quiet atomic.Bool
	first := &fakeServer{
		answer: func(ctx context.Context) error {
			if quiet.Load() {
				return silence(ctx)
			}
			return nil
		},
		follow: func(_ int64, stream pb.Watch_WatchServer) error {
			if err := stream.Send(&pb.WatchResponse{Created: true}); err != nil {
				return err
			}
			return silence(stream.Context())
		},
	}
	second := &fakeServer{
		answer: saying(nil),
		follow: func(_ int64, stream pb.Watch_WatchServer) error {
			kv := &mvccpb.KeyValue{Key: []byte("/k"), ModRevision: 9, CreateRevision: 9}
			if err := stream.Send(&pb.WatchResponse{Created: true, Events: []*mvccpb.Event{{Type: mvccpb.Event_PUT, Kv: kv}}}); err != nil {
				return err
			}
			return silence(stream.Context())
		},
	}
	s := openAtFirst(t, first, second)
	updates := s.Watch(t.Context(), "/")
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil })
	require.Eventually(t, func() bool { return first.watched.Load() > 0 }, patience, time.Millisecond)
	quiet.Store(true)
	for second.calls.Load() == 0 {
		_, _ = s.Get(within(t, 200*time.Millisecond), "/k")
	}
	await(t, updates, func(u dcs.Update) bool {
		require.NoError(t, u.Err)
		return len(u.KVs) == 1
	})
}
