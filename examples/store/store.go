// Package store is a store of one's own: a dcs.Store that keeps everything in one
// file, for the processes of one machine. It is small, and it is right: the test
// has the suite of package dcstest say so.
//
//	go test ./examples/store
//
// A file has no clock that could end sessions, and the clocks of its users differ.
// So each user judges by its own: a session whose count of renewals has stayed the
// same for a whole TTL since this user first saw it is over. Who renews counts from
// before the renewal, who judges counts from after having seen it. However late
// either of them is, no session ends early.
package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pghad/pghad/dcs"
)

// look is the time from one look of a watch at the file to the next.
const look = 50 * time.Millisecond

// Store is one user's connection to the file.
type Store struct {
	file file

	ctx    context.Context // ends when the store is closed
	cancel context.CancelFunc

	mu      sync.Mutex // guards the fields below, and orders watches.Add before watches.Wait
	seen    map[dcs.SessionID]sight
	watches sync.WaitGroup
}

var _ dcs.Store = (*Store)(nil)

// Open makes a store of the file at path. The first write creates it.
func Open(path string) *Store {
	ctx, cancel := context.WithCancel(context.Background())
	return &Store{file: file{path}, ctx: ctx, cancel: cancel, seen: map[dcs.SessionID]sight{}}
}

// Get implements dcs.Store.
func (s *Store) Get(ctx context.Context, key string) (kv dcs.KV, err error) {
	if err := dcs.ValidateKey(key); err != nil {
		return dcs.KV{}, err //nolint:wrapcheck // names the key
	}
	err = s.do(ctx, "get "+key, reads, func(st *state) (err error) {
		kv, err = st.get(key)
		return err
	})
	return kv, err
}

// List implements dcs.Store.
func (s *Store) List(ctx context.Context, prefix string) (kvs []dcs.KV, err error) {
	if err := dcs.ValidatePrefix(prefix); err != nil {
		return nil, err //nolint:wrapcheck // names the prefix
	}
	err = s.do(ctx, "list "+prefix, reads, func(st *state) error {
		kvs = st.list(prefix)
		return nil
	})
	return kvs, err
}

// Commit implements dcs.Store.
func (s *Store) Commit(ctx context.Context, txn dcs.Txn) (rev dcs.Revision, err error) {
	if err := txn.Validate(); err != nil {
		return 0, err //nolint:wrapcheck // names the key
	}
	err = s.do(ctx, "commit", writes, func(st *state) (err error) {
		rev, err = st.commit(txn)
		return err
	})
	if err != nil {
		return 0, err
	}
	return rev, nil
}

// access says what a call does if it succeeds.
type access bool

const (
	reads  access = false
	writes access = true
)

// do carries out one call while nobody else has the file. A write that fails
// before the file is replaced has surely not happened.
func (s *Store) do(ctx context.Context, name string, how access, call func(*state) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(dcs.ErrClosed) })()
	unlock, err := s.file.lock(ctx)
	switch {
	case s.ctx.Err() != nil:
		if err == nil {
			unlock()
		}
		return fmt.Errorf("%s: %w", name, dcs.ErrClosed)
	case err != nil && ctx.Err() != nil && how == reads:
		return fmt.Errorf("%s: %w", name, err)
	case err != nil:
		return fmt.Errorf("%s was not carried out: %w: %w", name, dcs.ErrUnavailable, err)
	}
	defer unlock()
	st, err := s.file.read()
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, dcs.ErrUnavailable, err)
	}
	changed := s.expire(st)
	callErr := call(st)
	if callErr == nil && how == writes {
		changed = true
	}
	if changed {
		if err := s.file.write(st); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.expire(st) // from now on we know of what we have just written
	if callErr != nil {
		return fmt.Errorf("%s: %w", name, callErr)
	}
	return nil
}

// Watch implements dcs.Store. It looks at the file again and again.
func (s *Store) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	updates := make(chan dcs.Update, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		close(updates)
		return updates
	}
	s.watches.Go(func() { s.watch(ctx, prefix, updates) })
	return updates
}

func (s *Store) watch(ctx context.Context, prefix string, updates chan dcs.Update) {
	defer close(updates)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	deliver := func(u dcs.Update) {
		select {
		case <-updates: // nobody has read the last one: the latest wins
		default:
		}
		updates <- u
	}
	if err := dcs.ValidatePrefix(prefix); err != nil {
		deliver(dcs.Update{Err: err})
		<-ctx.Done()
		return
	}
	var known []dcs.KV
	for first := true; ctx.Err() == nil; {
		kvs, err := s.List(ctx, prefix)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			deliver(dcs.Update{Err: err})
			first = true
		case first || !slices.EqualFunc(kvs, known, sameWrite):
			known, first = slices.Clone(kvs), false
			deliver(dcs.Update{KVs: kvs})
		}
		wait(ctx, look)
	}
}

// sameWrite reports whether nothing was written to a key in between.
func sameWrite(a, b dcs.KV) bool { return a.Key == b.Key && a.Revision == b.Revision }

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Close implements dcs.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.watches.Wait()
	return nil
}
