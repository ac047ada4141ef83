package zk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

// session is a session of ZooKeeper, with a connection of its own.
type session struct {
	store *Store
	link  *link
	id    int64
	ttl   time.Duration
	node  string // ephemeral: while it exists the session does
	gate  gate   // of the link

	mu       sync.Mutex
	deadline time.Time // when what was bought last is used up
	lost     string    // why it is over, or ""
	gone     bool      // its keys are, as has been proven
}

var _ dcs.Session = (*session)(nil)

// NewSession implements dcs.Store. An ensemble grants what its members are
// configured to, by default from two to twenty of their ticks of two seconds:
// less is made more, and more is refused here.
func (s *Store) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	c := call{name: "new session of", object: ttl.String(), bound: true}
	const most = math.MaxInt32 * time.Millisecond // in ZooKeeper's protocol
	switch {
	case ttl <= 0:
		return nil, fmt.Errorf("session with a ttl of %s, which must be positive: %w", ttl, dcs.ErrInvalid)
	case ttl > most:
		return nil, fmt.Errorf("session with a ttl of %s, where ZooKeeper counts to %s: %w", ttl, most, dcs.ErrInvalid)
	}
	if err := c.beforeSending(ctx, s.ctx); err != nil {
		return nil, err
	}
	sent := s.cfg.Clock.Now()
	l, err := s.newLink((ttl + time.Millisecond - 1).Truncate(time.Millisecond), true)
	if err != nil {
		return nil, c.explain(ctx, s.ctx, false, err)
	}
	if err := l.await(ctx, 0); err != nil {
		err = c.explain(ctx, s.ctx, false, err)
		l.end(errLinkEnded, false)
		return nil, err
	}
	session := &session{
		store: s, link: l, id: l.session, ttl: l.timeout, node: s.tree.session(l.session),
		deadline: sent.Add(l.timeout),
	}
	if session.ttl < ttl {
		l.end(errLinkEnded, true)
		return nil, fmt.Errorf("session with a ttl of %s, of which the ensemble grants at most %s (its maxSessionTimeout): %w",
			ttl, session.ttl, dcs.ErrInvalid)
	}
	if err := session.begin(ctx); err != nil {
		err = c.explain(ctx, s.ctx, true, err)
		l.end(errLinkEnded, true)
		return nil, err
	}
	if !s.adopt(session) {
		return nil, fmt.Errorf("%s %s: %w", c.name, c.object, dcs.ErrClosed)
	}
	return session, nil
}

// begin creates the session's node. A session that only the member knew of, where
// the ensemble is configured so, thereby becomes one that the leader counts.
func (s *session) begin(ctx context.Context) error {
	if err := s.store.makeFolder(ctx, s.link, s.store.tree.path(sessionsFolder)); err != nil {
		return err
	}
	_, err := do(ctx, s.link, func(conn *zk.Conn) (string, error) {
		return conn.Create(s.node, []byte{}, zk.FlagEphemeral, s.store.cfg.ACL)
	})
	return err
}

func (s *session) ID() dcs.SessionID  { return sessionID(s.id) }
func (s *session) TTL() time.Duration { return s.ttl }

// Renew implements dcs.Session. It waits a little for calls under the session
// that are on their way, and then interrupts them.
func (s *session) Renew(ctx context.Context) error {
	c := call{name: "renewal of session", object: string(s.ID()), bound: true}
	if err := s.ready(ctx, c); err != nil {
		return err
	}
	if err := s.gate.enterAlone(ctx, s.store.cfg.Clock, s.grace()); err != nil {
		return c.explain(ctx, s.store.ctx, false, err)
	}
	defer s.gate.leaveAlone()
	sent := s.store.cfg.Clock.Now()
	if err := s.link.reopen(ctx); err != nil {
		return s.heed(c.explain(ctx, s.store.ctx, false, err))
	}
	_, err := do(ctx, s.link, func(conn *zk.Conn) ([]zk.MultiResponse, error) {
		return conn.Multi(&zk.CheckVersionRequest{Path: s.node, Version: -1})
	})
	if errors.Is(err, zk.ErrNoNode) {
		err = errNodeDeleted
	}
	if err != nil {
		return s.heed(c.explain(ctx, s.store.ctx, true, err))
	}
	return s.extend(c, sent)
}

// heed makes a loss final that the ensemble has told of.
func (s *session) heed(err error) error {
	if errors.Is(err, dcs.ErrSessionLost) && s.lose("it has been lost") {
		s.store.cfg.Logger.Warn("session is lost", "session", s.ID(), "error", err)
		s.link.end(errLinkEnded, true)
	}
	return err
}

// commit carries out a transaction through the session's connection.
func (s *session) commit(ctx context.Context, c call, txn dcs.Txn) (dcs.Revision, error) {
	c.bound = true
	if err := s.ready(ctx, c); err != nil {
		return 0, err
	}
	if err := s.gate.enter(ctx); err != nil {
		return 0, c.explain(ctx, s.store.ctx, false, err)
	}
	defer s.gate.leave()
	// It may have been given up meanwhile.
	if err := s.ready(ctx, c); err != nil {
		return 0, err
	}
	if err := s.link.await(ctx, 0); err != nil {
		return 0, s.heed(c.explain(ctx, s.store.ctx, false, err))
	}
	revision, err := s.store.commit(ctx, s.link, c, txn)
	if errors.Is(err, dcs.ErrUnavailable) {
		// That the session is gone may be why: servers close the connections of
		// sessions that have ended, and say so when they are reopened.
		if fate := s.link.await(ctx, 0); errors.Is(verdict(fate), dcs.ErrSessionLost) {
			err = c.explain(ctx, s.store.ctx, false, fate)
		} else if why := s.lostBecause(); why != "" {
			err = fmt.Errorf("%s %s: %s: %w", c.name, c.object, why, dcs.ErrSessionLost)
		}
	}
	return revision, s.heed(err)
}

// ready is the error of a call under the session that need not be begun.
func (s *session) ready(ctx context.Context, c call) error {
	if err := c.beforeSending(ctx, s.store.ctx); err != nil {
		return err
	}
	if why := s.lostBecause(); why != "" {
		return fmt.Errorf("%s %s: %s: %w", c.name, c.object, why, dcs.ErrSessionLost)
	}
	return nil
}

// lostBecause says why the session is over for its users; empty while it is not.
func (s *session) lostBecause() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// grace is how long a change of the connection waits for calls.
func (s *session) grace() time.Duration { return max(s.ttl/10, time.Millisecond) }

// extend moves the deadline. A session that was given up meanwhile stays so.
func (s *session) extend(c call, sent time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != "" {
		return fmt.Errorf("%s %s: %s: %w", c.name, c.object, s.lost, dcs.ErrSessionLost)
	}
	if until := sent.Add(s.ttl); until.After(s.deadline) {
		s.deadline = until
	}
	return nil
}

// lose makes the session lost for its users, unless it was before.
func (s *session) lose(why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != "" {
		return false
	}
	s.lost = why
	return true
}

// watchTime ends the session when it is not renewed in time, which the client
// would not. It leaves a tenth more than was bought, so that a clock here that
// is too fast takes nothing away. It returns when the session is over, however
// that came.
func (s *session) watchTime() {
	clk := s.store.cfg.Clock
	for {
		s.mu.Lock()
		left := clk.Until(s.deadline.Add(s.ttl / 10))
		s.mu.Unlock()
		if left <= 0 {
			break
		}
		timer := clk.Timer(left)
		select {
		case <-timer.C:
		case <-s.link.ctx.Done():
			timer.Stop()
			s.noteEnd()
			return
		}
	}
	why := "not renewed for " + s.ttl.String()
	if s.lose(why) {
		s.store.cfg.Logger.Warn("session is given up", "session", s.ID(), "reason", why)
	}
	// Who hangs in a renewal does not keep the session alive either.
	ctx, cancel := timectx.With(s.link.ctx, clk, s.grace(), "waiting for a renewal")
	defer cancel()
	if s.gate.enterAlone(ctx, clk, s.grace()) == nil {
		defer s.gate.leaveAlone()
	}
	s.link.end(errLinkEnded, true)
	s.noteEnd()
}

// noteEnd notes why the link has ended if it did so by itself.
func (s *session) noteEnd() {
	why := s.link.why()
	if !errors.Is(verdict(why), dcs.ErrSessionLost) {
		return
	}
	if s.lose(why.Error()) {
		s.store.cfg.Logger.Warn("session is lost", "session", s.ID(), "reason", why)
	}
}

// Close implements dcs.Session. That the session's keys are gone is proven by
// the absence of its node.
func (s *session) Close(ctx context.Context) error {
	c := call{name: "close of session", object: string(s.ID()), bound: true}
	if err := c.beforeSending(ctx, s.store.ctx); err != nil {
		return err
	}
	if s.isGone() {
		return nil
	}
	if err := s.gate.enterAlone(ctx, s.store.cfg.Clock, s.grace()); err != nil {
		return c.explain(ctx, s.store.ctx, false, err)
	}
	defer s.gate.leaveAlone()
	// Without a connection the server could not be told, and the client has only
	// one try.
	if err := s.link.await(ctx, 0); err != nil && s.link.why() == nil {
		return c.explain(ctx, s.store.ctx, false, err)
	}
	s.lose("it has been closed")
	s.link.end(errLinkEnded, true)
	err := wait(ctx, s.link.done)
	if err == nil {
		err = s.prove(ctx)
	}
	if err != nil {
		return c.explain(ctx, s.store.ctx, true, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	return nil
}

func (s *session) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// errStillThere says that a session that was ended has not ended yet.
var errStillThere = errors.New("the session still exists, and expires")

// prove returns nil if the session's node does not exist any more.
func (s *session) prove(ctx context.Context) error {
	l, err := s.store.upToDate(ctx)
	if err != nil {
		return err
	}
	found, err := do(ctx, l, func(conn *zk.Conn) (bool, error) {
		found, _, err := conn.Exists(s.node)
		return found, err
	})
	if err == nil && found {
		err = errStillThere
	}
	return err
}

// sessionID is the session's number as ZooKeeper writes it.
func sessionID(id int64) dcs.SessionID {
	if id == 0 {
		return ""
	}
	return dcs.SessionID("0x" + strconv.FormatUint(uint64(id), 16)) //nolint:gosec // the bits of the id
}

// sessionNumber is the inverse of sessionID.
func sessionNumber(id dcs.SessionID) (int64, error) {
	digits, ok := strings.CutPrefix(string(id), "0x")
	n, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil || sessionID(int64(n)) != id { //nolint:gosec // the bits of the id
		return 0, fmt.Errorf("%q is not the id of a session of ZooKeeper: %w", id, dcs.ErrInvalid)
	}
	return int64(n), nil //nolint:gosec // the bits of the id
}
