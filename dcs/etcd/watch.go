package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

const (
	// openPatience is how long a list, or the opening of a stream, may take
	// before contact counts as lost.
	openPatience = 5 * time.Second
	// Waits between attempts to regain contact, doubled each time.
	minWatchWait = 50 * time.Millisecond
	maxWatchWait = time.Second
)

// errMemberLeft ends the stream of a watch whose member may have fallen silent.
var errMemberLeft = errors.New("the store asks another member now")

// followAnew makes all watches ask the member that the store asks now. A stream
// of one that is silent would be found out by pings, much later.
func (s *Store) followAnew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, end := range s.streams {
		end(errMemberLeft)
	}
}

// follows remembers how to end the stream of a watch, until forget is called.
func (s *Store) follows(w *watch, end context.CancelCauseFunc) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[w] = end
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, w)
	}
}

// watch is one open watch: a goroutine that lists, follows the changes after
// the list, and begins anew when it cannot.
type watch struct {
	store  *Store
	prefix string
	// out holds one update. The goroutine alone sends and takes an unread
	// older one out first, so that it never blocks and the latest wins.
	out  chan dcs.Update
	lost bool // the reader has been told that contact is lost
}

// Watch implements dcs.Store.
func (s *Store) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	w := &watch{store: s, prefix: prefix, out: make(chan dcs.Update, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(w.out)
		return w.out
	}
	s.watches.Go(func() {
		defer close(w.out)
		defer w.drain()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		w.run(ctx)
	})
	return w.out
}

func (w *watch) run(ctx context.Context) {
	if err := dcs.ValidatePrefix(w.prefix); err != nil {
		w.deliver(dcs.Update{Err: err})
		<-ctx.Done()
		return
	}
	wait := minWatchWait
	for {
		opened, err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.reportLoss(err)
		}
		if opened {
			wait = minWatchWait
		}
		if timectx.Sleep(ctx, w.store.clock, wait) != nil {
			return
		}
		wait = min(2*wait, maxWatchWait)
	}
}

// follow delivers the state and then every change of it, until something comes
// in between. It reports whether it got as far as following. A nil error says
// that contact was not lost: the changes after the list are no longer kept, and
// another list is due.
func (w *watch) follow(ctx context.Context) (opened bool, err error) {
	listCtx, cancel := timectx.With(ctx, w.store.clock, openPatience, "list of a watched prefix")
	kvs, revision, err := w.store.list(listCtx, w.prefix)
	cancel()
	if err != nil {
		return false, fmt.Errorf("watch of %s: %w: %s", w.prefix, dcs.ErrUnavailable, err.Error())
	}
	state := make(map[string]dcs.KV, len(kvs))
	for _, kv := range kvs {
		state[kv.Key] = kv
	}
	w.deliverState(state)

	ctx, end := context.WithCancelCause(w.store.route.with(ctx))
	defer end(nil) // ends the stream
	defer w.store.follows(w, end)()
	slow := fmt.Errorf("watch of %s was not opened within %s: %w: %w", w.prefix, openPatience, dcs.ErrUnavailable, context.DeadlineExceeded)
	overdue := w.store.clock.AfterFunc(openPatience, func() { end(slow) })
	defer overdue.Stop()
	stream, err := w.open(ctx, revision+1)
	for err == nil {
		var response *pb.WatchResponse
		response, err = stream.Recv()
		switch {
		case err != nil:
		case response.Canceled:
			return opened, w.canceled(response)
		default:
			opened = true
			overdue.Stop()
			if apply(state, response.Events) {
				w.deliverState(state)
			}
		}
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errMemberLeft):
		return opened, nil
	case cause != nil:
		return opened, cause
	}
	return opened, fmt.Errorf("watch of %s: %w: %s", w.prefix, dcs.ErrUnavailable, rpctypes.ErrorDesc(err))
}

// open asks for the changes from revision on. The member must have a leader,
// also later: one that is cut off would stay silent for ever.
func (w *watch) open(ctx context.Context, revision int64) (pb.Watch_WatchClient, error) {
	token, err := w.store.login.get(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := w.store.watch.Watch(clientv3.WithRequireLeader(token.attach(ctx)))
	if err != nil {
		return nil, err //nolint:wrapcheck // Explained by the caller.
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{
			Key:           []byte(w.prefix),
			RangeEnd:      []byte(clientv3.GetPrefixRangeEnd(w.prefix)),
			StartRevision: revision,
		},
	}})
	if err == io.EOF { //nolint:errorlint // gRPC returns it bare; Recv tells the reason.
		err = nil
	}
	return stream, err //nolint:wrapcheck // Explained by the caller.
}

// canceled says what it means that the server has ended the watch.
func (w *watch) canceled(response *pb.WatchResponse) error {
	if response.CompactRevision != 0 {
		return nil
	}
	return fmt.Errorf("watch of %s was ended by the server: %w: %s", w.prefix, dcs.ErrUnavailable, response.CancelReason)
}

// apply brings state up to date and reports whether there was anything to do.
func apply(state map[string]dcs.KV, events []*mvccpb.Event) bool {
	for _, event := range events {
		if event.Type == mvccpb.Event_DELETE {
			delete(state, string(event.Kv.Key))
		} else {
			state[string(event.Kv.Key)] = fromEtcd(event.Kv)
		}
	}
	return len(events) > 0
}

func (w *watch) deliverState(state map[string]dcs.KV) {
	var kvs []dcs.KV
	for _, kv := range state {
		kv.Value = slices.Clone(kv.Value)
		kvs = append(kvs, kv)
	}
	slices.SortFunc(kvs, func(a, b dcs.KV) int { return strings.Compare(a.Key, b.Key) })
	if w.lost {
		w.lost = false
		w.store.logger.Info("watch has regained contact", "prefix", w.prefix)
	}
	w.deliver(dcs.Update{KVs: kvs})
}

// reportLoss tells the reader once for each loss of contact.
func (w *watch) reportLoss(err error) {
	if w.lost {
		return
	}
	w.lost = true
	w.store.logger.Warn("watch has lost contact", "prefix", w.prefix, "error", err)
	w.deliver(dcs.Update{Err: err})
}

func (w *watch) deliver(u dcs.Update) {
	w.drain()
	w.out <- u
}

func (w *watch) drain() {
	select {
	case <-w.out:
	default:
	}
}
