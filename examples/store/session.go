package store

import (
	"context"
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
)

// sight is what this user knows of a session's life.
type sight struct {
	renewals uint64
	since    time.Time // when this user first saw this count
}

// expire notes how often each session has been renewed, ends those that have not
// been for too long, and reports whether there were any. The caller has the file.
func (s *Store) expire(st *state) (some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for id := range s.seen {
		if st.Sessions[id] == nil {
			delete(s.seen, id)
		}
	}
	for id, session := range st.Sessions {
		was, known := s.seen[id]
		switch {
		case !known || was.renewals != session.Renewals:
			s.seen[id] = sight{session.Renewals, now}
		case now.Sub(was.since) >= session.TTL:
			st.end(id)
			some = true
		}
	}
	return some
}

// session is a user's side of a session.
type session struct {
	store *Store
	id    dcs.SessionID
	ttl   time.Duration
}

// NewSession implements dcs.Store.
func (s *Store) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("session with a ttl of %s, which must be positive: %w", ttl, dcs.ErrInvalid)
	}
	var id dcs.SessionID
	err := s.do(ctx, "new session", writes, func(st *state) error {
		id = st.begin(ttl)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &session{store: s, id: id, ttl: ttl}, nil
}

func (s *session) ID() dcs.SessionID  { return s.id }
func (s *session) TTL() time.Duration { return s.ttl }

// Renew implements dcs.Session.
func (s *session) Renew(ctx context.Context) error {
	return s.store.do(ctx, "renew session "+string(s.id), writes, func(st *state) error {
		alive := st.Sessions[s.id]
		if alive == nil {
			return dcs.ErrSessionLost
		}
		alive.Renewals++
		return nil
	})
}

// Close implements dcs.Session.
func (s *session) Close(ctx context.Context) error {
	return s.store.do(ctx, "close session "+string(s.id), writes, func(st *state) error {
		st.end(s.id)
		return nil
	})
}
