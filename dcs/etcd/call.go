package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/stats"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// call says what is being done, for the wording of its error.
type call struct {
	name, object string
	read         bool
	// limits says how much is sent and how much is possible; it is asked when a
	// server has found it too much.
	limits func() string
}

// do makes one call. It returns when the call has an outcome, when ctx ends, or
// when the store is closed. A login that the server does not accept any more is
// renewed and the call sent again, once: a refused login is the proof that the
// call was not carried out.
func (s *Store) do(ctx context.Context, c call, rpc func(context.Context) error) error {
	if err := c.beforeSending(ctx, s.ctx); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(s.route.with(ctx))
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	sent, again, err := s.attempt(inner, rpc)
	if again {
		sent, _, err = s.attempt(inner, rpc)
	}
	if err == nil {
		return nil
	}
	return c.explain(ctx, s.ctx, sent, err)
}

// attempt sends the call once. It reports whether the request was handed to a
// connection, and whether another attempt with a new login is in order.
func (s *Store) attempt(ctx context.Context, rpc func(context.Context) error) (sent, again bool, err error) {
	token, err := s.login.get(ctx)
	if err != nil {
		return false, false, err
	}
	mark := new(sentMark)
	ctx = context.WithValue(ctx, sentKey{}, mark)
	err = rpc(clientv3.WithRequireLeader(token.attach(ctx)))
	return mark.Load(), s.login.refused(token, err), err
}

// beforeSending is the error of a call that need not be begun.
func (c call) beforeSending(ctx, store context.Context) error {
	switch {
	case store.Err() != nil:
		return fmt.Errorf("%s %s: %w", c.name, c.object, dcs.ErrClosed)
	case c.read:
		return outcome.Read(ctx, c.name, c.object)
	default:
		return outcome.NotSent(ctx, c.name, c.object)
	}
}

// explain turns what gRPC or etcd said into an error of package dcs.
func (c call) explain(ctx, store context.Context, sent bool, err error) error {
	meaning := judge(err, sent)
	proof, detail := meaning.proof, rpctypes.ErrorDesc(err)
	if meaning.advice != "" {
		detail += "; " + meaning.advice
	}
	if c.limits != nil && errors.Is(proof, dcs.ErrInvalid) {
		detail += "; " + c.limits()
	}
	if c.read && !errors.Is(proof, dcs.ErrInvalid) {
		proof = dcs.ErrUnavailable
	}
	interrupted := errors.Is(proof, dcs.ErrAmbiguous) || errors.Is(proof, dcs.ErrUnavailable)
	cause := outcome.Cause(ctx)
	switch {
	case interrupted && store.Err() != nil && (c.read || !sent):
		proof = dcs.ErrClosed
	case interrupted && cause != nil && c.read:
		return fmt.Errorf("%s %s: %w (%s)", c.name, c.object, cause, detail)
	case interrupted && cause != nil:
		return fmt.Errorf("%s %s: %w: %w (%s)", c.name, c.object, proof, cause, detail)
	}
	return fmt.Errorf("%s %s: %w: %s", c.name, c.object, proof, detail)
}

// sentMark is set once the message of a call has been handed to a connection,
// from where it may reach a server whatever happens afterwards.
type sentMark struct{ atomic.Bool }

type sentKey struct{}

// sentObserver sets the marks. gRPC reports an outgoing payload exactly when
// the transport has taken it, before the call can return.
type sentObserver struct{}

var _ stats.Handler = sentObserver{}

func (sentObserver) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, out := event.(*stats.OutPayload); !out {
		return
	}
	if mark, ok := ctx.Value(sentKey{}).(*sentMark); ok {
		mark.Store(true)
	}
}

func (sentObserver) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentObserver) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentObserver) HandleConn(context.Context, stats.ConnStats)                       {}
