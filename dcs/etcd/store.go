package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

const (
	// DefaultDialTimeout is how long one attempt to connect may take.
	DefaultDialTimeout = 2 * time.Second

	// After a server's restart the next attempt to connect comes quickly.
	minReconnectWait = 50 * time.Millisecond
	maxReconnectWait = time.Second

	// A connection whose peer has vanished is noticed when sent data is not
	// acknowledged for pingTimeout, or else by a ping. etcd refuses clients
	// that ping more often than every five seconds.
	pingInterval = 10 * time.Second
	pingTimeout  = 3 * time.Second

	// DefaultMaxRequestBytes and DefaultMaxTxnOps are those of an etcd that is not
	// configured otherwise.
	DefaultMaxRequestBytes = 3 << 19
	DefaultMaxTxnOps       = 128

	// maxOverhead is by how much etcd lets the message of a request be larger
	// than the request.
	maxOverhead = 512 << 10
)

// Config configures a Store.
type Config struct {
	// Endpoints are the client URLs of the cluster's members, or host:port.
	Endpoints []string
	// TLS secures the connections; nil means plain ones, except to https
	// endpoints, which then are verified against the system's authorities.
	TLS *tls.Config
	// CurrentRoots, if not nil, is asked for the authorities of servers before each
	// connection, in place of TLS.RootCAs. It must be safe for use by several goroutines
	// at once. Connections that are open stay. It needs TLS.
	CurrentRoots func() (*x509.CertPool, error)
	// Username and Password log in where etcd's authentication is enabled.
	Username, Password string
	// CurrentPassword, if not nil, is asked before each login, in place of Password. It
	// must be safe for use by several goroutines at once. While the server refuses what
	// it says, and after an error, the last password is tried that the server has taken:
	// a password may be changed here before it is changed there. Sessions and watches
	// outlast that.
	CurrentPassword func() (string, error)
	// DialTimeout bounds one attempt to connect, not a call; zero means
	// DefaultDialTimeout.
	DialTimeout time.Duration
	// MaxRequestBytes and MaxTxnOps are what the servers are configured to take,
	// by their options of the same names; zero means the defaults. What is more
	// is refused here, with dcs.ErrInvalid.
	MaxRequestBytes, MaxTxnOps int
	// Clock times the attempts of a watch to come back; nil means the real one.
	Clock clock.Clock
	// Logger is told when a watch loses and regains contact; nil is silence.
	Logger *slog.Logger
}

// Store is a connection to an etcd cluster.
type Store struct {
	clock  clock.Clock
	logger *slog.Logger
	client *clientv3.Client
	login  *login
	route  *route

	maxBytes, maxOps int

	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient

	ctx    context.Context // ends when the store is closed; its lifetime is the store's
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows, and orders watches.Add before watches.Wait
	closed  bool
	streams map[*watch]context.CancelCauseFunc // end the streams that watches follow
	watches sync.WaitGroup
}

var _ dcs.Store = (*Store)(nil)

// Open makes a store. It connects to nothing: whether the cluster can be
// reached and the password is right, the first call tells. The store outlives
// ctx. An error wraps dcs.ErrInvalid and says what is wrong with cfg.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := outcome.NotSent(ctx, "open", "etcd"); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		clock:    cfg.Clock,
		logger:   cfg.Logger,
		login:    &login{username: cfg.Username, password: cfg.CurrentPassword},
		maxBytes: cmp.Or(cfg.MaxRequestBytes, DefaultMaxRequestBytes),
		maxOps:   cmp.Or(cfg.MaxTxnOps, DefaultMaxTxnOps),
		streams:  map[*watch]context.CancelCauseFunc{},
	}
	if s.login.password == nil {
		s.login.password = func() (string, error) { return cfg.Password, nil }
	}
	if s.clock == nil {
		s.clock = clock.New()
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            slices.Clone(cfg.Endpoints),
		TLS:                  cfg.TLS,
		MaxUnaryRetries:      1, // one attempt; zero would mean a hundred
		DialKeepAliveTime:    pingInterval,
		DialKeepAliveTimeout: pingTimeout,
		Logger:               zap.NewNop(),
		DialOptions:          cfg.dialOptions(s.maxBytes),
	})
	if err != nil {
		return nil, fmt.Errorf("set up the client of etcd at %s: %w: %w", strings.Join(cfg.Endpoints, ", "), dcs.ErrInvalid, err)
	}
	s.client = client
	s.route = &route{left: s.followAnew}
	conn := client.ActiveConnection()
	s.kv, s.lease, s.watch = pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewWatchClient(conn)
	s.login.auth = pb.NewAuthClient(conn)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func (c Config) validate() error {
	if len(c.Endpoints) == 0 {
		return fmt.Errorf("etcd needs at least one endpoint: %w", dcs.ErrInvalid)
	}
	if c.DialTimeout < 0 {
		return fmt.Errorf("dial timeout of %s is negative: %w", c.DialTimeout, dcs.ErrInvalid)
	}
	if c.MaxRequestBytes < 0 || c.MaxTxnOps < 0 {
		return fmt.Errorf("limits of %d bytes and %d operations cannot be negative: %w", c.MaxRequestBytes, c.MaxTxnOps, dcs.ErrInvalid)
	}
	if c.CurrentRoots != nil && c.TLS == nil {
		return fmt.Errorf("authorities of servers are for TLS, which is not configured: %w", dcs.ErrInvalid)
	}
	if (c.Username == "") != (c.Password == "" && c.CurrentPassword == nil) {
		return fmt.Errorf("user name and password of etcd are given both or not at all: %w", dcs.ErrInvalid)
	}
	secure := strings.HasPrefix(c.Endpoints[0], "https://")
	for _, endpoint := range c.Endpoints {
		if endpoint == "" {
			return fmt.Errorf("an endpoint of etcd is empty: %w", dcs.ErrInvalid)
		}
		// The client takes the first endpoint's security for all of them, and
		// leaves TLS out silently for http.
		if strings.HasPrefix(endpoint, "https://") != secure {
			return fmt.Errorf("endpoints %s and %s differ in security; give all of them as https, or none: %w", c.Endpoints[0], endpoint, dcs.ErrInvalid)
		}
		if c.TLS != nil && strings.HasPrefix(endpoint, "http://") {
			return fmt.Errorf("endpoint %s would be used without the TLS that is configured; write https: %w", endpoint, dcs.ErrInvalid)
		}
	}
	return nil
}

func (c Config) dialOptions(maxBytes int) []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithDisableRetry(),
		// Else the balancer of etcd's client would be used.
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithStatsHandler(sentObserver{}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  minReconnectWait,
				Multiplier: 1.6,
				Jitter:     0.2,
				MaxDelay:   maxReconnectWait,
			},
			MinConnectTimeout: cmp.Or(c.DialTimeout, DefaultDialTimeout),
		}),
		grpc.WithDefaultCallOptions(
			grpc.WaitForReady(true),
			grpc.MaxCallSendMsgSize(maxBytes+maxOverhead),
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
		),
	}
	if c.CurrentRoots != nil {
		options = append(options, grpc.WithTransportCredentials(newFreshRoots(c.TLS, c.CurrentRoots)))
	}
	return options
}

// Get implements dcs.Store.
func (s *Store) Get(ctx context.Context, key string) (dcs.KV, error) {
	if err := dcs.ValidateKey(key); err != nil {
		return dcs.KV{}, err
	}
	var response *pb.RangeResponse
	err := s.do(ctx, call{name: "get", object: key, read: true}, func(ctx context.Context) (err error) {
		response, err = s.kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		return err
	})
	if err != nil {
		return dcs.KV{}, err
	}
	if len(response.Kvs) == 0 {
		return dcs.KV{}, fmt.Errorf("get %s: %w", key, dcs.ErrNotFound)
	}
	return fromEtcd(response.Kvs[0]), nil
}

// List implements dcs.Store. On etcd the list is a snapshot, of which callers
// must make no use.
func (s *Store) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	kvs, _, err := s.list(ctx, prefix)
	return kvs, err
}

// list also returns the revision of the store that the list shows.
func (s *Store) list(ctx context.Context, prefix string) ([]dcs.KV, int64, error) {
	if err := dcs.ValidatePrefix(prefix); err != nil {
		return nil, 0, err
	}
	var response *pb.RangeResponse
	err := s.do(ctx, call{name: "list", object: prefix, read: true}, func(ctx context.Context) (err error) {
		response, err = s.kv.Range(ctx, &pb.RangeRequest{
			Key:        []byte(prefix),
			RangeEnd:   []byte(clientv3.GetPrefixRangeEnd(prefix)),
			SortTarget: pb.RangeRequest_KEY,
			SortOrder:  pb.RangeRequest_ASCEND,
		})
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	var kvs []dcs.KV
	for _, kv := range response.Kvs {
		kvs = append(kvs, fromEtcd(kv))
	}
	return kvs, response.Header.Revision, nil
}

func fromEtcd(kv *mvccpb.KeyValue) dcs.KV {
	return dcs.KV{
		Key:      string(kv.Key),
		Value:    kv.Value,
		Revision: dcs.Revision(kv.ModRevision),    //nolint:gosec // Revisions of etcd are positive.
		Created:  dcs.Revision(kv.CreateRevision), //nolint:gosec // Revisions of etcd are positive.
		Session:  sessionID(kv.Lease),
	}
}

// Commit implements dcs.Store.
func (s *Store) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	request, err := toEtcd(txn)
	if err != nil {
		return 0, err
	}
	var response *pb.TxnResponse
	keys := outcome.Keys(txn)
	if err := s.checkLimits(keys, txn, request); err != nil {
		return 0, err
	}
	limits := func() string {
		return fmt.Sprintf("sent were %d bytes of keys and values in %d operations and %d conditions, and this client takes %d bytes and %d of each for possible: "+
			"configure it as the servers are", size(txn), len(request.Success), len(request.Compare), s.maxBytes, s.maxOps)
	}
	err = s.do(ctx, call{name: "commit of", object: keys, limits: limits}, func(ctx context.Context) (err error) {
		response, err = s.kv.Txn(ctx, request)
		return err
	})
	if err != nil {
		return 0, err
	}
	if !response.Succeeded {
		return 0, fmt.Errorf("commit of %s: %w", keys, dcs.ErrConflict)
	}
	if !slices.ContainsFunc(txn.Then, func(op dcs.Op) bool { return !op.Delete }) {
		return 0, nil
	}
	return dcs.Revision(response.Header.Revision), nil //nolint:gosec // Revisions of etcd are positive.
}

// checkLimits refuses what the servers would refuse for its size.
func (s *Store) checkLimits(keys string, txn dcs.Txn, request *pb.TxnRequest) error {
	if n := max(len(request.Compare), len(request.Success)); n > s.maxOps {
		return fmt.Errorf("commit of %s has %d operations or conditions, at most %d of each are possible (etcd's max-txn-ops): %w", keys, n, s.maxOps, dcs.ErrInvalid)
	}
	if n := size(txn); n > s.maxBytes {
		return fmt.Errorf("commit of %s has %d bytes of keys and values, at most %d are possible (etcd's max-request-bytes): %w", keys, n, s.maxBytes, dcs.ErrInvalid)
	}
	return nil
}

// size is how long the keys and values of a transaction are together.
func size(txn dcs.Txn) int {
	bytes := 0
	for _, g := range txn.If {
		bytes += len(g.Key)
	}
	for _, op := range txn.Then {
		bytes += len(op.Key) + len(op.Value)
	}
	return bytes
}

// toEtcd translates a transaction that has been validated.
func toEtcd(txn dcs.Txn) (*pb.TxnRequest, error) {
	request := &pb.TxnRequest{}
	for _, g := range txn.If {
		compares, err := compare(g)
		if err != nil {
			return nil, err
		}
		request.Compare = append(request.Compare, compares...)
	}
	for _, op := range txn.Then {
		if op.Delete {
			request.Success = append(request.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(op.Key)},
			}})
			continue
		}
		lease, err := leaseID(op.Session)
		if err != nil {
			return nil, fmt.Errorf("commit of %s: %w", op.Key, err)
		}
		request.Success = append(request.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte(op.Key), Value: op.Value, Lease: lease},
		}})
	}
	if len(txn.Then) == 0 {
		// A transaction that neither reads nor writes counts as serializable for
		// etcd (IsTxnSerializable of its server): a member that lags could compare
		// stale data. A read that is linearizable makes the comparison so too.
		request.Success = []*pb.RequestOp{linearizableRead(txn.If[0].Key)}
		request.Failure = request.Success
	}
	return request, nil
}

func linearizableRead(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
		RequestRange: &pb.RangeRequest{Key: []byte(key), CountOnly: true},
	}}
}

func compare(g dcs.Guard) ([]*pb.Compare, error) {
	if g.Revision > math.MaxInt64 || g.Created > math.MaxInt64 {
		return nil, fmt.Errorf("guard on %s names a revision beyond etcd's largest: %w", g.Key, dcs.ErrInvalid)
	}
	created := func(revision dcs.Revision) *pb.Compare {
		return &pb.Compare{
			Key: []byte(g.Key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_CreateRevision{CreateRevision: int64(revision)}, //nolint:gosec // Checked above.
		}
	}
	if g.Absent {
		return []*pb.Compare{created(0)}, nil
	}
	var compares []*pb.Compare
	if g.Created != 0 {
		compares = append(compares, created(g.Created))
	}
	if g.Revision != 0 {
		compares = append(compares, &pb.Compare{
			Key: []byte(g.Key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: int64(g.Revision)},
		})
	}
	return compares, nil
}

// Close implements dcs.Store. It ends the calls that are under way and returns
// when the watches have ended.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.watches.Wait()
	if !first {
		return nil
	}
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to etcd: %w", err)
	}
	return nil
}
