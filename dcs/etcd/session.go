package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/pghad/pghad/dcs"
)

// session is a lease of etcd.
type session struct {
	store *Store
	id    int64
	ttl   time.Duration
}

var _ dcs.Session = (*session)(nil)

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

// Renew implements dcs.Session. The server answers a renewal on a stream; one
// request is sent on a stream of its own and one answer awaited.
func (s *session) Renew(ctx context.Context) error {
	var left int64
	err := s.store.do(ctx, call{name: "renewal of session", object: string(s.ID())}, func(ctx context.Context) (err error) {
		left, err = s.keepAliveOnce(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if left <= 0 {
		return fmt.Errorf("renewal of session %s: %w", s.ID(), dcs.ErrSessionLost)
	}
	return nil
}

// keepAliveOnce returns the seconds that the lease lives from now on; an
// unknown lease has none.
func (s *session) keepAliveOnce(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := s.store.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return 0, err //nolint:wrapcheck // Explained by the caller, as all errors of a call.
	}
	// A send that ends in EOF has failed for a reason that Recv tells.
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: s.id}); err != nil && !errors.Is(err, io.EOF) {
		return 0, err //nolint:wrapcheck // As above.
	}
	response, err := stream.Recv()
	if err != nil {
		return 0, err //nolint:wrapcheck // As above.
	}
	return response.TTL, nil
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
