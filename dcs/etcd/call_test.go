package etcd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
)

// fakeServer speaks etcd's protocol, answers every call alike and counts them.
type fakeServer struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedWatchServer
	calls  atomic.Int64
	answer func(ctx context.Context) error
	// header says under whose leader each answer is given; nil: under nobody's.
	header func() *pb.ResponseHeader
	// follow answers the n-th watch, whose request has been received.
	follow func(n int64, stream pb.Watch_WatchServer) error
	// watched counts the watches, connected the connections.
	watched, connected atomic.Int64
}

func (f *fakeServer) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, begins := event.(*stats.ConnBegin); begins {
		f.connected.Add(1)
	}
}

func (f *fakeServer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (f *fakeServer) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (f *fakeServer) HandleRPC(context.Context, stats.RPCStats)                       {}

func (f *fakeServer) head() *pb.ResponseHeader {
	if f.header == nil {
		return &pb.ResponseHeader{}
	}
	return f.header()
}

func (f *fakeServer) count(ctx context.Context) error {
	f.calls.Add(1)
	return f.answer(ctx)
}

func (f *fakeServer) Range(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: f.head()}, f.count(ctx)
}

func (f *fakeServer) Txn(ctx context.Context, _ *pb.TxnRequest) (*pb.TxnResponse, error) {
	return &pb.TxnResponse{Header: f.head(), Succeeded: true}, f.count(ctx)
}

func (f *fakeServer) LeaseGrant(ctx context.Context, _ *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	return &pb.LeaseGrantResponse{ID: 7, TTL: 10}, f.count(ctx)
}

func (f *fakeServer) LeaseRevoke(ctx context.Context, _ *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	return &pb.LeaseRevokeResponse{}, f.count(ctx)
}

func (f *fakeServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := f.count(stream.Context()); err != nil {
		return err
	}
	return stream.Send(&pb.LeaseKeepAliveResponse{Header: f.head(), ID: 7, TTL: 10})
}

func (f *fakeServer) Watch(stream pb.Watch_WatchServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return f.follow(f.watched.Add(1), stream)
}

// startFake serves f on a loopback port. The server is returned so that a test
// can end it early.
func startFake(t *testing.T, f *fakeServer) (*grpc.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return serveFake(t, f, l), l.Addr().String()
}

// serveFake serves f on connections that may be waiting already.
func serveFake(t *testing.T, f *fakeServer, l net.Listener) *grpc.Server {
	t.Helper()
	server := grpc.NewServer(grpc.StatsHandler(f))
	pb.RegisterKVServer(server, f)
	pb.RegisterLeaseServer(server, f)
	pb.RegisterWatchServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return server
}

func open(t *testing.T, cfg etcd.Config) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// answers is every answer that a server can give, with what it proves about a
// write.
func answers() []answer {
	return []answer{
		// The server's own words that prove that nothing was done.
		{rpctypes.ErrGRPCLeaseNotFound, dcs.ErrSessionLost},
		{rpctypes.ErrGRPCEmptyKey, dcs.ErrInvalid},
		{rpctypes.ErrGRPCTooManyOps, dcs.ErrInvalid},
		{rpctypes.ErrGRPCDuplicateKey, dcs.ErrInvalid},
		{rpctypes.ErrGRPCValueProvided, dcs.ErrInvalid},
		{rpctypes.ErrGRPCLeaseProvided, dcs.ErrInvalid},
		{rpctypes.ErrGRPCInvalidSortOption, dcs.ErrInvalid},
		{rpctypes.ErrGRPCInvalidClientAPIVersion, dcs.ErrInvalid},
		{rpctypes.ErrGRPCRequestTooLarge, dcs.ErrInvalid},
		{rpctypes.ErrGRPCLeaseTTLTooLarge, dcs.ErrInvalid},
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (3 vs. 2)"), dcs.ErrInvalid},
		{rpctypes.ErrGRPCNoLeader, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCNotCapable, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCNotSupportedForLearner, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCRequestTooManyRequests, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCAuthFailed, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCAuthOldRevision, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCInvalidAuthToken, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCPermissionDenied, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCUserEmpty, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCUserNotFound, dcs.ErrUnavailable},
		{rpctypes.ErrGRPCAuthNotEnabled, dcs.ErrUnavailable},
		{status.Error(codes.Unknown, "raft proposal dropped"), dcs.ErrUnavailable},
		// Said after the write may have been proposed, or by anything between.
		{rpctypes.ErrGRPCNoSpace, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCStopped, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCLeaderChanged, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCNotLeader, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCTimeout, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCTimeoutDueToConnectionLost, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCTimeoutWaitAppliedIndex, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCUnhealthy, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCCorrupt, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCLeaseExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCCompacted, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCFutureRev, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCCanceled, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCDeadlineExceeded, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCKeyNotFound, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCWatchCanceled, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCMemberExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCPeerURLExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCMemberNotEnoughStarted, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCMemberBadURLs, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCMemberNotFound, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCMemberNotLearner, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCLearnerNotReady, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCTooManyLearners, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCClusterIDMismatch, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCRootUserNotExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCRootRoleNotExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCUserAlreadyExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCRoleAlreadyExist, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCRoleNotFound, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCRoleEmpty, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCPermissionNotGiven, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCRoleNotGranted, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCPermissionNotGranted, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCInvalidAuthMgmt, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCBadLeaderTransferee, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCWrongDowngradeVersionFormat, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCInvalidDowngradeTargetVersion, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCClusterVersionUnavailable, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCDowngradeInProcess, dcs.ErrAmbiguous},
		{rpctypes.ErrGRPCNoInflightDowngrade, dcs.ErrAmbiguous},
		// Said by gRPC itself, by proxies, or by nobody yet.
		{status.Error(codes.Unavailable, "transport is closing"), dcs.ErrAmbiguous},
		{status.Error(codes.Canceled, "canceled"), dcs.ErrAmbiguous},
		{status.Error(codes.DeadlineExceeded, "too late"), dcs.ErrAmbiguous},
		{status.Error(codes.Unknown, "anything else"), dcs.ErrAmbiguous},
		{status.Error(codes.Internal, "stream terminated"), dcs.ErrAmbiguous},
		{status.Error(codes.ResourceExhausted, "slow down"), dcs.ErrAmbiguous},
		{status.Error(codes.Unimplemented, "unknown method"), dcs.ErrAmbiguous},
		{status.Error(codes.PermissionDenied, "says a proxy"), dcs.ErrAmbiguous},
		{status.Error(codes.Unauthenticated, "says a proxy"), dcs.ErrAmbiguous},
		{status.Error(codes.InvalidArgument, "says a later version"), dcs.ErrAmbiguous},
		{status.Error(codes.DataLoss, "lost"), dcs.ErrAmbiguous},
		{status.Error(codes.Aborted, "aborted"), dcs.ErrAmbiguous},
	}
}

type answer struct {
	answer error
	write  error
}

// TestVerdicts lets a server give each answer, and looks at what a write and a
// read make of it.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, tc := range answers() {
		t.Run(rpctypes.ErrorDesc(tc.answer), func(t *testing.T) {
			t.Parallel()
			f := &fakeServer{answer: func(context.Context) error { return tc.answer }}
			_, endpoint := startFake(t, f)
			s := open(t, etcd.Config{Endpoints: []string{endpoint}})

			_, err := dcs.Put(t.Context(), s, "/k", nil)
			requireOnly(t, err, tc.write)
			require.EqualValues(t, 1, f.calls.Load(), "a write is sent once")
			require.Equal(t, !errors.Is(tc.write, dcs.ErrAmbiguous), dcs.SurelyNotDone(err))

			read := dcs.ErrUnavailable
			if errors.Is(tc.write, dcs.ErrInvalid) {
				read = dcs.ErrInvalid
			}
			_, err = s.Get(t.Context(), "/k")
			requireOnly(t, err, read)
			require.EqualValues(t, 2, f.calls.Load(), "a read is sent once")
		})
	}
}

// TestEveryAnswerOfEtcdIsRuled looks up, in the client's source, what servers can
// say: a new answer of a later version has to be thought about.
func TestEveryAnswerOfEtcdIsRuled(t *testing.T) {
	t.Parallel()
	const path = "go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", path).Output()
	require.NoError(t, err)
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "error.go"))
	require.NoError(t, err)
	tested := map[string]bool{}
	for _, a := range answers() {
		tested[rpctypes.ErrorDesc(a.answer)] = true
	}
	found := regexp.MustCompile(`(ErrGRPC\w+)\s*=\s*status\.Error\(codes\.\w+, "([^"]+)"\)`).FindAllStringSubmatch(string(source), -1)
	require.Greater(t, len(found), 50)
	for _, f := range found {
		require.True(t, etcd.Ruled(f[2]), "%s is not in the table of verdicts", f[1])
		require.True(t, tested[f[2]], "the verdict on %s is not tested", f[1])
	}
}

// TestAdvice: what a person can mend is said.
func TestAdvice(t *testing.T) {
	t.Parallel()
	for answer, says := range map[error]string{
		rpctypes.ErrGRPCNoSpace:          "compact and defragment",
		rpctypes.ErrGRPCPermissionDenied: "grant a role",
		rpctypes.ErrGRPCAuthFailed:       "check the user name",
		rpctypes.ErrGRPCUserEmpty:        "configure a user name",
		rpctypes.ErrGRPCRequestTooLarge:  "sent were 3 bytes of keys and values in 1 operations and 0 conditions, and this client takes 1572864 bytes and 128 of each for possible",
		rpctypes.ErrGRPCTooManyOps:       "in 1 operations",
	} {
		f := &fakeServer{answer: func(context.Context) error { return answer }}
		_, endpoint := startFake(t, f)
		_, err := dcs.Put(t.Context(), open(t, etcd.Config{Endpoints: []string{endpoint}}), "/k", []byte("v"))
		require.ErrorContains(t, err, says)
	}
}

// requireOnly requires that err wraps this error of package dcs and no other.
func requireOnly(t *testing.T, err, want error) {
	t.Helper()
	for _, sentinel := range []error{
		dcs.ErrNotFound, dcs.ErrConflict, dcs.ErrSessionLost, dcs.ErrUnavailable, dcs.ErrAmbiguous, dcs.ErrInvalid, dcs.ErrClosed,
	} {
		if errors.Is(want, sentinel) {
			require.ErrorIs(t, err, sentinel)
		} else {
			require.NotErrorIs(t, err, sentinel)
		}
	}
}

// TestEveryCallIsSentOnce is about the answer that etcd's client would repeat.
func TestEveryCallIsSentOnce(t *testing.T) {
	t.Parallel()
	var answer atomic.Value
	f := &fakeServer{answer: func(context.Context) error {
		err, _ := answer.Load().(error)
		return err
	}}
	_, endpoint := startFake(t, f)
	s := open(t, etcd.Config{Endpoints: []string{endpoint}})
	session, err := s.NewSession(t.Context(), time.Second)
	require.NoError(t, err)
	require.Equal(t, dcs.SessionID("7"), session.ID())
	require.Equal(t, 10*time.Second, session.TTL())
	require.NoError(t, session.Renew(t.Context()))

	answer.Store(status.Error(codes.Unavailable, "connection reset"))
	for name, call := range map[string]func() error{
		"NewSession": func() error {
			_, err := s.NewSession(t.Context(), time.Second)
			return err
		},
		"Renew": func() error { return session.Renew(t.Context()) },
		"Close": func() error { return session.Close(t.Context()) },
	} {
		before := f.calls.Load()
		requireOnly(t, call(), dcs.ErrAmbiguous)
		require.EqualValues(t, 1, f.calls.Load()-before, name)
	}
	answer.Store(rpctypes.ErrGRPCLeaseNotFound)
	requireOnly(t, session.Renew(t.Context()), dcs.ErrSessionLost)
	require.NoError(t, session.Close(t.Context()))
}

// TestRenewalUnderADeposedLeader: what renews, and what is read afterwards, are
// answered under the same leader, or the renewal was not worth anything.
func TestRenewalUnderADeposedLeader(t *testing.T) {
	t.Parallel()
	guards := []dcs.Guard{dcs.At("/k", 1)}
	for name, tc := range map[string]struct {
		guards []dcs.Guard
		terms  []uint64 // of one answer after the other
		denied bool     // the user may read nothing
		want   error
	}{
		"alone, the same":              {nil, []uint64{3, 3}, false, nil},
		"alone, another":               {nil, []uint64{3, 4}, false, dcs.ErrUnavailable},
		"with guards, the same":        {guards, []uint64{3, 3}, false, nil},
		"with guards, another":         {guards, []uint64{3, 4}, false, dcs.ErrUnavailable},
		"nothing readable, the same":   {nil, []uint64{3, 3, 3}, true, nil},
		"nothing readable, another":    {nil, []uint64{3, 3, 4}, true, dcs.ErrUnavailable},
		"guards that are not readable": {guards, []uint64{3, 3}, true, dcs.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const read = 3 // after the session was opened, and renewed
			var answers atomic.Int64
			f := &fakeServer{header: func() *pb.ResponseHeader {
				return &pb.ResponseHeader{RaftTerm: tc.terms[answers.Add(1)-1]}
			}}
			f.answer = func(context.Context) error {
				if tc.denied && f.calls.Load() == read {
					return rpctypes.ErrGRPCPermissionDenied
				}
				return nil
			}
			_, endpoint := startFake(t, f)
			session, err := open(t, etcd.Config{Endpoints: []string{endpoint}}).NewSession(t.Context(), time.Second)
			require.NoError(t, err)
			prover, proves := session.(dcs.Prover)
			require.True(t, proves)
			err = prover.RenewIf(t.Context(), tc.guards)
			require.EqualValues(t, len(tc.terms), answers.Load())
			if tc.want == nil {
				require.NoError(t, err)
				return
			}
			requireOnly(t, err, tc.want)
			if !tc.denied || tc.guards == nil {
				require.ErrorContains(t, err, "the leader of etcd has changed meanwhile (term 3, now 4)")
			}
		})
	}
}

// TestOutcomeOfAnInterruptedCall interrupts calls that the server has received.
func TestOutcomeOfAnInterruptedCall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		interrupt func(cancel context.CancelFunc, server *grpc.Server, s *etcd.Store)
		write     error
		read      error
	}{
		{
			"context ends",
			func(cancel context.CancelFunc, _ *grpc.Server, _ *etcd.Store) { cancel() },
			dcs.ErrAmbiguous, context.Canceled,
		},
		{
			"connection breaks",
			func(_ context.CancelFunc, server *grpc.Server, _ *etcd.Store) { go server.Stop() },
			dcs.ErrAmbiguous, dcs.ErrUnavailable,
		},
		{
			"store is closed",
			func(_ context.CancelFunc, _ *grpc.Server, s *etcd.Store) { _ = s.Close() },
			dcs.ErrAmbiguous, dcs.ErrClosed,
		},
	} {
		for _, write := range []bool{true, false} {
			name := tc.name + " during a read"
			if write {
				name = tc.name + " during a write"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				received := make(chan struct{})
				f := &fakeServer{answer: func(ctx context.Context) error {
					close(received)
					<-ctx.Done()
					return ctx.Err()
				}}
				server, endpoint := startFake(t, f)
				s := open(t, etcd.Config{Endpoints: []string{endpoint}})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan error, 1)
				go func() {
					if write {
						_, err := dcs.Put(ctx, s, "/k", nil)
						result <- err
						return
					}
					_, err := s.Get(ctx, "/k")
					result <- err
				}()
				<-received
				tc.interrupt(cancel, server, s)
				err := <-result
				switch {
				case write:
					requireOnly(t, err, tc.write)
				case errors.Is(tc.read, context.Canceled):
					requireOnly(t, err, nil)
					require.ErrorIs(t, err, context.Canceled)
				default:
					requireOnly(t, err, tc.read)
				}
			})
		}
	}
}

// TestUnreachableServerIsToldByTheContext calls servers that never take a
// request: what was not handed to a connection is surely not done.
func TestUnreachableServerIsToldByTheContext(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says a word
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, refusing.Close())

	for name, address := range map[string]string{"silent": silent.Addr().String(), "refusing": refusing.Addr().String()} {
		for _, user := range []string{"", "root"} {
			t.Run(name+" "+user, func(t *testing.T) {
				t.Parallel()
				s := open(t, etcd.Config{Endpoints: []string{address}, Username: user, Password: user})
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				_, err := dcs.Put(ctx, s, "/k", nil)
				requireOnly(t, err, dcs.ErrUnavailable)
				require.ErrorIs(t, err, context.DeadlineExceeded)

				ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				_, err = s.Get(ctx, "/k")
				requireOnly(t, err, nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
	}
}

// TestCloseEndsAWaitForAConnection closes a store whose call waits in vain.
func TestCloseEndsAWaitForAConnection(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	s := open(t, etcd.Config{Endpoints: []string{silent.Addr().String()}})
	result := make(chan error, 1)
	go func() {
		_, err := dcs.Put(t.Context(), s, "/k", nil)
		result <- err
	}()
	conn, err := silent.Accept() // the call is under way
	require.NoError(t, err)
	require.NoError(t, s.Close())
	requireOnly(t, <-result, dcs.ErrClosed)
	require.NoError(t, conn.Close())
}

func TestOpenRefusesAWrongConfig(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cfg  etcd.Config
		says string
	}{
		{etcd.Config{}, "at least one endpoint"},
		{etcd.Config{Endpoints: []string{""}}, "is empty"},
		{etcd.Config{Endpoints: []string{"a:1"}, DialTimeout: -1}, "negative"},
		{etcd.Config{Endpoints: []string{"a:1"}, MaxTxnOps: -1}, "negative"},
		{etcd.Config{Endpoints: []string{"a:1"}, Username: "u"}, "both or not at all"},
		{etcd.Config{Endpoints: []string{"https://a:1", "http://b:1"}}, "differ in security"},
		{etcd.Config{Endpoints: []string{"http://a:1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}, "write https"},
	} {
		_, err := etcd.Open(t.Context(), tc.cfg)
		require.ErrorIs(t, err, dcs.ErrInvalid)
		require.ErrorContains(t, err, tc.says)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{"a:1"}})
	require.ErrorIs(t, err, context.Canceled)
}
