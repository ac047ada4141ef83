package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// session is a lease of etcd.
type session struct {
	store *Store
	id    int64
	ttl   time.Duration
}

var (
	_ dcs.Session = (*session)(nil)
	_ dcs.Prover  = (*session)(nil)
)

// maxTTL is the longest that etcd grants.
const maxTTL = 9_000_000_000 * time.Second

// NewSession implements dcs.Store. etcd counts in whole seconds and has a
// smallest TTL of one and a half election timeouts, two seconds by default: the
// session reports what was granted, which is at least what was asked.
func (s *Store) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("session with a ttl of %s, which must be positive: %w", ttl, dcs.ErrInvalid)
	}
	if ttl > maxTTL {
		return nil, fmt.Errorf("session with a ttl of %s, at most %s are possible: %w", ttl, maxTTL, dcs.ErrInvalid)
	}
	seconds := int64(ttl / time.Second)
	if ttl%time.Second > 0 {
		seconds++
	}
	var response *pb.LeaseGrantResponse
	err := s.do(ctx, call{name: "new session of", object: ttl.String()}, func(ctx context.Context) (err error) {
		response, err = s.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &session{store: s, id: response.ID, ttl: time.Duration(response.TTL) * time.Second}, nil
}

func (s *session) ID() dcs.SessionID  { return sessionID(s.id) }
func (s *session) TTL() time.Duration { return s.ttl }

// Renew implements dcs.Session.
func (s *session) Renew(ctx context.Context) error { return s.RenewIf(ctx, nil) }

// RenewIf implements dcs.Prover. A renewal alone proves nothing in etcd before
// 3.4.31 and 3.5.13: a leader that stood still answers it when it wakes, before it
// hears that the others have had another leader since, who ends the session when
// it likes. So a linearizable read comes after it, that of the guards. If the
// members have agreed on nothing under a later leader by then, the one that
// renewed was the leader.
func (s *session) RenewIf(ctx context.Context, guards []dcs.Guard) error {
	c := call{name: "renewal of session", object: string(s.ID())}
	request, err := s.store.proofOf(guards)
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.name, c.object, err)
	}
	renewed, err := s.keepAlive(ctx, c)
	if err != nil {
		return err
	}
	if renewed.TTL <= 0 {
		return fmt.Errorf("%s %s: %w", c.name, c.object, dcs.ErrSessionLost)
	}
	seen, err := s.prove(ctx, c, request)
	if err != nil {
		return err
	}
	before, after := renewed.GetHeader().GetRaftTerm(), seen.term
	switch {
	case before != after:
		return fmt.Errorf("%s %s: the leader of etcd has changed meanwhile (term %d, now %d), renew it again: %w", c.name, c.object, before, after, dcs.ErrUnavailable)
	case !seen.holds:
		return fmt.Errorf("%s %s: %w", c.name, c.object, dcs.ErrConflict)
	}
	return nil
}

// proof is what a linearizable read has shown.
type proof struct {
	term  uint64 // under whose leader the last thing was agreed on that the read sees
	holds bool   // all guards do
}

// proofOf is the transaction that looks at guards; nil if there are none.
func (s *Store) proofOf(guards []dcs.Guard) (*pb.TxnRequest, error) {
	if len(guards) == 0 {
		return nil, nil //nolint:nilnil // as is said above
	}
	txn := dcs.Txn{If: guards}
	if err := txn.Validate(); err != nil {
		return nil, err
	}
	request, err := toEtcd(txn)
	if err != nil {
		return nil, err
	}
	return request, s.checkLimits(outcome.Keys(txn), txn, request)
}

// prove makes the read. Without guards it does not matter what is read.
func (s *session) prove(ctx context.Context, c call, request *pb.TxnRequest) (p proof, err error) {
	if request == nil {
		return s.readAnything(ctx, c)
	}
	err = s.store.do(ctx, c, func(ctx context.Context) error {
		response, err := s.store.kv.Txn(ctx, request)
		p = proof{term: response.GetHeader().GetRaftTerm(), holds: response.GetSucceeded()}
		return err //nolint:wrapcheck // Explained by the caller, as all errors of a call.
	})
	return p, err
}

// readAnything is for a user who may not read the root, too: such a read is
// refused after it was found to be linearizable, without a word of the term,
// which another renewal tells.
func (s *session) readAnything(ctx context.Context, c call) (proof, error) {
	var term uint64
	denied := false
	err := s.store.do(ctx, c, func(ctx context.Context) error {
		response, err := s.store.kv.Range(ctx, &pb.RangeRequest{Key: []byte("/"), KeysOnly: true})
		term = response.GetHeader().GetRaftTerm()
		if denied = rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied); denied {
			return nil
		}
		return err //nolint:wrapcheck // Explained by the caller, as all errors of a call.
	})
	if err != nil || !denied {
		return proof{term: term, holds: true}, err
	}
	again, err := s.keepAlive(ctx, c)
	return proof{term: again.GetHeader().GetRaftTerm(), holds: true}, err
}

// keepAlive sends one renewal.
func (s *session) keepAlive(ctx context.Context, c call) (response *pb.LeaseKeepAliveResponse, err error) {
	err = s.store.do(ctx, c, func(ctx context.Context) error {
		response, err = s.keepAliveOnce(ctx)
		return err
	})
	return response, err
}

// keepAliveOnce sends one renewal on a stream of its own, and returns the one
// answer: it says for how many seconds the lease lives from now on, none if it is
// not known.
func (s *session) keepAliveOnce(ctx context.Context) (*pb.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := s.store.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // Explained by the caller, as all errors of a call.
	}
	// A send that ends in EOF has failed for a reason that Recv tells.
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: s.id}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err //nolint:wrapcheck // As above.
	}
	return stream.Recv() //nolint:wrapcheck // As above.
}

// Close implements dcs.Session.
func (s *session) Close(ctx context.Context) error {
	err := s.store.do(ctx, call{name: "close of session", object: string(s.ID())}, func(ctx context.Context) error {
		_, err := s.store.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: s.id})
		return err //nolint:wrapcheck // Explained by the caller, as all errors of a call.
	})
	if errors.Is(err, dcs.ErrSessionLost) {
		return nil
	}
	return err
}

// sessionID is the lease's number in hexadecimal, as etcdctl prints it.
func sessionID(lease int64) dcs.SessionID {
	if lease == 0 {
		return ""
	}
	return dcs.SessionID(strconv.FormatInt(lease, 16))
}

// leaseID is the inverse of sessionID. Zero would mean no lease at all and is
// refused, as is everything else that etcd cannot have granted.
func leaseID(id dcs.SessionID) (int64, error) {
	if id == "" {
		return 0, nil
	}
	lease, err := strconv.ParseInt(string(id), 16, 64)
	if err != nil || lease <= 0 {
		return 0, fmt.Errorf("%q is not the id of a session of etcd: %w", id, dcs.ErrInvalid)
	}
	return lease, nil
}
