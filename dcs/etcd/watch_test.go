package etcd_test

import (
	"context"
	"testing"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
)

// TestWatchComesBack ends the first stream in every way that a server can, and
// looks at what the reader is told.
func TestWatchComesBack(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		end  func(stream pb.Watch_WatchServer) error
		lost string // what the reader hears of it; empty means nothing
	}{
		{
			"compacted",
			func(stream pb.Watch_WatchServer) error {
				return stream.Send(&pb.WatchResponse{Canceled: true, CompactRevision: 5})
			},
			"",
		},
		{
			"canceled",
			func(stream pb.Watch_WatchServer) error {
				return stream.Send(&pb.WatchResponse{Canceled: true, CancelReason: "not for you"})
			},
			"not for you",
		},
		{
			"no leader",
			func(pb.Watch_WatchServer) error { return rpctypes.ErrGRPCNoLeader },
			"no leader",
		},
		{
			"end of stream",
			func(pb.Watch_WatchServer) error { return nil },
			"EOF",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			heard := make(chan struct{})
			f := &fakeServer{answer: func(context.Context) error { return nil }}
			f.follow = func(n int64, stream pb.Watch_WatchServer) error {
				if err := stream.Send(&pb.WatchResponse{Created: true}); err != nil {
					return err
				}
				if n == 1 {
					return tc.end(stream)
				}
				<-heard // so that the news of a loss is not overtaken
				kv := &mvccpb.KeyValue{Key: []byte("/k"), ModRevision: 9, CreateRevision: 9}
				err := stream.Send(&pb.WatchResponse{Events: []*mvccpb.Event{{Type: mvccpb.Event_PUT, Kv: kv}}})
				<-stream.Context().Done()
				return err
			}
			_, endpoint := startFake(t, f)
			updates := open(t, etcd.Config{Endpoints: []string{endpoint}}).Watch(t.Context(), "/")
			if tc.lost != "" {
				u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil })
				requireOnly(t, u.Err, dcs.ErrUnavailable)
				require.ErrorContains(t, u.Err, tc.lost)
			}
			close(heard)
			await(t, updates, func(u dcs.Update) bool {
				require.NoError(t, u.Err)
				return len(u.KVs) == 1
			})
			require.EqualValues(t, 2, f.calls.Load(), "the state was listed again")
		})
	}
}

// TestWatchThatIsNotOpenedIsToldOf steps the time until the watch gives up a
// server that takes the request and never answers.
func TestWatchThatIsNotOpenedIsToldOf(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	f := &fakeServer{answer: func(context.Context) error { return nil }}
	f.follow = func(_ int64, stream pb.Watch_WatchServer) error {
		asked <- struct{}{}
		<-stream.Context().Done()
		return nil
	}
	_, endpoint := startFake(t, f)
	mock := clock.NewMock()
	ctx, cancel := context.WithCancel(t.Context())
	updates := open(t, etcd.Config{Endpoints: []string{endpoint}, Clock: mock}).Watch(ctx, "/")
	<-asked
	mock.Add(etcd.OpenPatience)
	u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil })
	requireOnly(t, u.Err, dcs.ErrUnavailable)
	require.ErrorContains(t, u.Err, "was not opened")
	cancel()
	_, isOpen := <-updates
	require.False(t, isOpen)
}
