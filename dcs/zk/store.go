package zk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
	"github.com/pghad/pghad/internal/timectx"
)

// storeTimeout is the session timeout of the connection for everything that is
// not bound to a session. Nothing depends on that session; a member that does
// not answer is noticed after two thirds of it.
const storeTimeout = 4 * time.Second

// Store is a connection to a ZooKeeper ensemble.
type Store struct {
	cfg  Config
	tree tree

	ctx    context.Context // ends when the store is closed; its lifetime is the store's
	cancel context.CancelFunc
	work   sync.WaitGroup // watches, and what takes links down

	mu       sync.Mutex
	closed   bool
	current  *link // nil before the first call
	since    time.Time
	links    map[*link]bool // that are not over
	sessions map[int64]*session
	ended    map[int64]bool // ids of sessions that were ours: what little there is to remember of each
}

var _ dcs.Store = (*Store)(nil)

// Open makes a store. It connects to nothing: whether the ensemble can be
// reached, the first call tells. The store outlives ctx. An error wraps
// dcs.ErrInvalid and says what is wrong with cfg.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := outcome.NotSent(ctx, "open", "ZooKeeper"); err != nil {
		return nil, err
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg:      cfg,
		tree:     tree{root: cfg.Chroot},
		links:    map[*link]bool{},
		sessions: map[int64]*session{},
		ended:    map[int64]bool{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// newLink starts a link, which the store's end ends.
func (s *Store) newLink(timeout time.Duration, keep bool) (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addLink(timeout, keep)
}

// addLink is newLink for who holds mu.
func (s *Store) addLink(timeout time.Duration, keep bool) (*link, error) {
	if s.closed {
		return nil, errLinkEnded
	}
	l, err := newLink(&s.cfg, timeout, keep)
	if err != nil {
		return nil, err
	}
	l.renamed = s.presentAnew
	s.links[l] = true
	s.work.Go(func() {
		<-l.done
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.links, l)
	})
	return l, nil
}

// presentAnew has all links look whether the credentials are others by now.
func (s *Store) presentAnew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for l := range s.links { // in no order: each for itself
		s.work.Go(l.presentAnew)
	}
}

// connected waits for a connection that calls can be sent through.
func (s *Store) connected(ctx context.Context) (*link, error) {
	for {
		l, err := s.link(ctx)
		if err != nil {
			return nil, err
		}
		err = l.await(ctx, 0)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil || s.ctx.Err() != nil {
			return nil, err
		}
	}
}

// link is the present link, or another if that is over. One that lived for a
// moment only is replaced after a moment only.
func (s *Store) link(ctx context.Context) (*link, error) {
	for {
		l, pause, err := s.present()
		if pause <= 0 {
			return l, err
		}
		if timectx.Sleep(ctx, s.cfg.Clock, pause) != nil {
			return nil, errNoConnection
		}
	}
}

// present is the present link, or says for how long there must not be one.
func (s *Store) present() (*link, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		if s.current.why() == nil {
			return s.current, 0, nil
		}
		if pause := minDialWait - s.cfg.Clock.Since(s.since); pause > 0 {
			return nil, pause, nil
		}
	}
	l, err := s.addLink(storeTimeout, false)
	if err == nil {
		s.current, s.since = l, s.cfg.Clock.Now()
	}
	return l, 0, err
}

// adopt takes a new session into the store's care, or ends it when the store
// has been closed.
func (s *Store) adopt(session *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		session.link.end(errLinkEnded, true)
		return false
	}
	s.sessions[session.id] = session
	s.work.Go(func() {
		session.watchTime()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, session.id)
		s.ended[session.id] = true
	})
	return true
}

// session finds a session of this store. The id "" is no session.
func (s *Store) session(id dcs.SessionID) (*session, error) {
	n, err := sessionNumber(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch found := s.sessions[n]; {
	case found != nil:
		return found, nil
	case s.ended[n]:
		return nil, fmt.Errorf("session %s: %w", id, dcs.ErrSessionLost)
	default:
		return nil, fmt.Errorf("session %s does not come from this store, whose keys only it can write: %w", id, dcs.ErrInvalid)
	}
}

// barrier returns when the member that is asked has all that the ensemble had
// agreed on before barrier was called. That the root does not exist is an
// answer too.
func (s *Store) barrier(ctx context.Context, l *link) error {
	_, err := do(ctx, l, func(conn *zk.Conn) ([]zk.MultiResponse, error) {
		return conn.Multi(&zk.CheckVersionRequest{Path: s.tree.path(""), Version: -1})
	})
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	return err
}

// upToDate returns a link through which the present state can be read.
func (s *Store) upToDate(ctx context.Context) (*link, error) {
	l, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	return l, s.barrier(ctx, l)
}

// Get implements dcs.Store.
func (s *Store) Get(ctx context.Context, key string) (dcs.KV, error) {
	if err := dcs.ValidateKey(key); err != nil {
		return dcs.KV{}, err
	}
	c := call{name: "get", object: key, read: true}
	if err := c.beforeSending(ctx, s.ctx); err != nil {
		return dcs.KV{}, err
	}
	l, err := s.upToDate(ctx)
	if err != nil {
		return dcs.KV{}, c.explain(ctx, s.ctx, true, err)
	}
	found, err := plain{l}.node(ctx, s.tree.place(key).node)
	if err != nil {
		return dcs.KV{}, c.explain(ctx, s.ctx, true, err)
	}
	if found == nil {
		return dcs.KV{}, fmt.Errorf("get %s: %w", key, dcs.ErrNotFound)
	}
	return found.kv(key), nil
}

// List implements dcs.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	if err := dcs.ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	c := call{name: "list", object: prefix, read: true}
	if err := c.beforeSending(ctx, s.ctx); err != nil {
		return nil, err
	}
	l, err := s.upToDate(ctx)
	if err != nil {
		return nil, c.explain(ctx, s.ctx, true, err)
	}
	kvs, err := list(ctx, plain{l}, s.tree, prefix)
	if err != nil {
		return nil, c.explain(ctx, s.ctx, true, err)
	}
	return kvs, nil
}

// Commit implements dcs.Store.
func (s *Store) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	c := call{name: "commit of", object: outcome.Keys(txn)}
	if err := c.beforeSending(ctx, s.ctx); err != nil {
		return 0, err
	}
	id, err := boundTo(txn)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", c.name, c.object, err)
	}
	if id == "" {
		l, err := s.connected(ctx)
		if err != nil {
			return 0, c.explain(ctx, s.ctx, false, err)
		}
		return s.commit(ctx, l, c, txn)
	}
	session, err := s.session(id)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", c.name, c.object, err)
	}
	return session.commit(ctx, c, txn)
}

// boundTo is the session that the transaction writes keys under.
func boundTo(txn dcs.Txn) (dcs.SessionID, error) {
	var bound dcs.SessionID
	for _, op := range txn.Then {
		switch {
		case op.Session == "" || op.Session == bound:
		case bound == "":
			bound = op.Session
		default:
			return "", fmt.Errorf("ZooKeeper cannot write keys under two sessions, %s and %s, in one transaction: %w", bound, op.Session, dcs.ErrInvalid)
		}
	}
	return bound, nil
}

// Close implements dcs.Store. It ends the calls that are under way and returns
// when nothing of the store is left, which takes a second or two when there is
// no connection.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for l := range s.links {
		l.end(errLinkEnded, l == s.current)
	}
	s.mu.Unlock()
	s.work.Wait()
	return nil
}
