package etcd

import (
	"context"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// login keeps the token by which the server knows the user. etcd's client
// would log in while it is made, and thereby block until a server answers.
type login struct {
	username string
	password func() (string, error) // the present one
	auth     pb.AuthClient

	mu     sync.Mutex // guards what follows
	known  bool       // token is what the server gave, or said that nobody needs
	token  token
	worked string // the last password that the server has taken
}

// token is what a server gives to a user; empty where authentication is not
// enabled or no user is configured.
type token string

// attach adds the token to a request. A request keeps the token it began with,
// whatever other requests make of theirs.
func (t token) attach(ctx context.Context) context.Context {
	if t == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, string(t))
}

// get returns the token, and logs in if there is none. Several callers may do
// so at once; each gets a token that is valid.
func (l *login) get(ctx context.Context) (token, error) {
	if l.username == "" {
		return "", nil
	}
	if t, known := l.current(); known {
		return t, nil
	}
	password, err := l.password()
	before := l.before()
	switch {
	case err != nil && before == "":
		return "", fmt.Errorf("password of the user %s: %w", l.username, err)
	case err != nil:
		password = before
	}
	response, err := l.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: l.username, Password: password})
	if rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthFailed) && before != "" && before != password {
		// It has been changed here, and not at the server yet.
		password = before
		response, err = l.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: l.username, Password: password})
	}
	switch {
	case err == nil:
		l.set(token(response.Token), password)
		return token(response.Token), nil
	case rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthNotEnabled):
		l.set("", "")
		return "", nil
	default:
		return "", err //nolint:wrapcheck // The caller explains it together with its own call.
	}
}

// before is the last password that the server has taken, "" if it has taken none.
func (l *login) before() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worked
}

// refused reports whether err says that the server does not accept t any more,
// and then forgets t.
func (l *login) refused(t token, err error) bool {
	if err == nil || l.username == "" {
		return false
	}
	switch rpctypes.ErrorDesc(err) {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty):
	default:
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == t {
		l.known = false
	}
	return true
}

func (l *login) current() (t token, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token, l.known
}

func (l *login) set(t token, worked string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known, l.token, l.worked = true, t, worked
}
