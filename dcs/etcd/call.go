package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// call says what is being done, for the wording of its error.
type call struct {
	name, object string
	read         bool
}

// do makes one call. It returns when the call has an outcome, when ctx ends, or
// when the store is closed. A login that the server does not accept any more is
// renewed and the call sent again, once: a refused login is the proof that the
// call was not carried out.
func (s *Store) do(ctx context.Context, c call, rpc func(context.Context) error) error {
	if err := c.beforeSending(ctx, s.ctx); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
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
	proof := verdict(err, sent)
	detail := rpctypes.ErrorDesc(err)
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

// verdicts is what each answer of an etcd server proves about a write. An
// answer that is not listed proves nothing. Noteworthy absences:
//
//   - "database space exceeded" is said both by a server that refuses writes
//     and by one that has just carried out the write that filled the database.
//   - "server stopped", "leader changed" and all "request timed out" are said
//     after the write was proposed, and it may still be accepted.
var verdicts = answers(map[error][]error{
	dcs.ErrSessionLost: {rpctypes.ErrGRPCLeaseNotFound},
	dcs.ErrInvalid: {
		rpctypes.ErrGRPCEmptyKey,
		rpctypes.ErrGRPCTooManyOps,
		rpctypes.ErrGRPCDuplicateKey,
		rpctypes.ErrGRPCRequestTooLarge,
		rpctypes.ErrGRPCLeaseTTLTooLarge,
	},
	dcs.ErrUnavailable: {
		// Checked before the request is proposed.
		rpctypes.ErrGRPCNoLeader,
		rpctypes.ErrGRPCNotCapable,
		rpctypes.ErrGRPCNotSupportedForLearner,
		rpctypes.ErrGRPCRequestTooManyRequests,
		// Checked before the request is proposed, or before it is applied.
		rpctypes.ErrGRPCAuthFailed,
		rpctypes.ErrGRPCAuthOldRevision,
		rpctypes.ErrGRPCInvalidAuthToken,
		rpctypes.ErrGRPCPermissionDenied,
		rpctypes.ErrGRPCUserEmpty,
		rpctypes.ErrGRPCUserNotFound,
	},
})

// answers turns the table around: from the server's words to the proof.
func answers(table map[error][]error) map[string]error {
	proofs := map[string]error{}
	for proof, said := range table {
		for _, err := range said {
			proofs[rpctypes.ErrorDesc(err)] = proof
		}
	}
	return proofs
}

// verdict says what err proves about a write.
func verdict(err error, sent bool) error {
	if proof, ok := verdicts[rpctypes.ErrorDesc(err)]; ok {
		return proof
	}
	// gRPC on either side refuses a message for its size before it is handled.
	if s, ok := status.FromError(err); ok && s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max") {
		return dcs.ErrInvalid
	}
	if !sent {
		return dcs.ErrUnavailable
	}
	return dcs.ErrAmbiguous
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
