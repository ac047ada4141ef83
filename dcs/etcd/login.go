package etcd

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
)

// login keeps the token by which the server knows the user. etcd's client
// would log in while it is made, and thereby block until a server answers.
type login struct {
	username, password string
	auth               pb.AuthClient

	mu    sync.Mutex
	done  bool   // logged in, or told that nobody needs to
	token string // empty where authentication is not enabled
}

var _ credentials.PerRPCCredentials = (*login)(nil)

// GetRequestMetadata adds the token to a request.
func (l *login) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == "" {
		return nil, nil //nolint:nilnil // No metadata is what gRPC takes for an anonymous request.
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: l.token}, nil
}

// RequireTransportSecurity says no, as etcd's own client does: whether to
// secure the connection is the user's decision.
func (l *login) RequireTransportSecurity() bool { return false }

// ensure logs in if that has not been done. Several callers may do so at once;
// each gets a token that is valid.
func (l *login) ensure(ctx context.Context) error {
	if l.username == "" || l.isDone() {
		return nil
	}
	response, err := l.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: l.username, Password: l.password})
	switch {
	case err == nil:
		l.set(true, response.Token)
		return nil
	case rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthNotEnabled):
		l.set(true, "")
		return nil
	default:
		return err //nolint:wrapcheck // The caller explains it together with its own call.
	}
}

// refused reports whether err says that the login is not accepted any more, and
// then forgets it.
func (l *login) refused(err error) bool {
	if err == nil || l.username == "" || !l.isDone() {
		return false
	}
	switch rpctypes.ErrorDesc(err) {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty):
		l.set(false, "")
		return true
	}
	return false
}

func (l *login) isDone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *login) set(done bool, token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done, l.token = done, token
}
