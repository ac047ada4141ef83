package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// session is what the authority knows of a session that is alive.
type session struct {
	id       dcs.SessionID
	ttl      time.Duration
	deadline time.Time
	timer    *clock.Timer
}

// grant opens a session. The caller holds mu.
func (c *Cluster) grant(client string, ttl time.Duration) *session {
	c.granted++
	s := &session{id: dcs.SessionID(fmt.Sprintf("%s#%d", client, c.granted)), ttl: ttl}
	c.sessions = append(c.sessions, s)
	c.prolong(s)
	return s
}

// prolong gives the session its full time from now on. The caller holds mu.
func (c *Cluster) prolong(s *session) {
	if s.timer != nil {
		s.timer.Stop()
	}
	left := s.ttl + max(0, c.cfg.Linger(s.id))
	s.deadline = c.cfg.Clock.Now().Add(left)
	s.timer = c.cfg.Clock.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.expireDue()
	})
}

// expireDue ends every session whose time is up. It runs before each call as
// well as by timer, so that what a call sees at the instant of an expiry does
// not depend on which of the two comes first. The caller holds mu.
func (c *Cluster) expireDue() {
	now := c.cfg.Clock.Now()
	due := slices.DeleteFunc(slices.Clone(c.sessions), func(s *session) bool { return now.Before(s.deadline) })
	slices.SortStableFunc(due, func(a, b *session) int {
		return cmp.Compare(a.deadline.UnixNano(), b.deadline.UnixNano())
	})
	for _, s := range due {
		c.end(s)
	}
}

// end forgets the session and deletes its keys. The caller holds mu.
func (c *Cluster) end(s *session) {
	s.timer.Stop()
	c.sessions = slices.DeleteFunc(c.sessions, func(other *session) bool { return other == s })
	var bound []string
	for key, kv := range c.keys {
		if kv.Session == s.id {
			bound = append(bound, key)
		}
	}
	if len(bound) == 0 {
		return
	}
	c.revision++
	for _, key := range bound {
		delete(c.keys, key)
	}
	c.notify(bound)
}

// session finds a session that is alive, or nil. The caller holds mu.
func (c *Cluster) session(id dcs.SessionID) *session {
	for _, s := range c.sessions {
		if s.id == id {
			return s
		}
	}
	return nil
}

// handle is a client's side of a session.
type handle struct {
	client *client
	id     dcs.SessionID
	ttl    time.Duration
}

var _ dcs.Session = (*handle)(nil)

func (h *handle) ID() dcs.SessionID  { return h.id }
func (h *handle) TTL() time.Duration { return h.ttl }

func (h *handle) Renew(ctx context.Context) error {
	if err := outcome.NotSent(ctx, "renewal of session", string(h.id)); err != nil {
		return err
	}
	return h.client.do(func(c *Cluster) error {
		s := c.session(h.id)
		if s == nil {
			return fmt.Errorf("session %s cannot be renewed: %w", h.id, dcs.ErrSessionLost)
		}
		c.prolong(s)
		return nil
	})
}

func (h *handle) Close(ctx context.Context) error {
	if err := outcome.NotSent(ctx, "close of session", string(h.id)); err != nil {
		return err
	}
	return h.client.do(func(c *Cluster) error {
		if s := c.session(h.id); s != nil {
			c.end(s)
		}
		return nil
	})
}
