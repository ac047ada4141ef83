package store_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/examples/store"
	"github.com/pghad/pghad/ha"
)

// users are all users of one file, and the paths on which their calls go: since
// those can be cut, the suite also tries what partitions do.
type users struct {
	path  string
	mu    sync.Mutex
	links map[string]*dcstest.Link
}

func (u *users) link(name string) *dcstest.Link {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.links[name] == nil {
		u.links[name] = new(dcstest.Link)
	}
	return u.links[name]
}

func (u *users) Client(_ testing.TB, name string) (dcs.Store, clock.Clock) {
	return dcstest.Faulty(store.Open(u.path), u.link(name)), clock.New()
}

func (u *users) True() clock.Clock                         { return clock.New() }
func (u *users) Partition(client string)                   { u.link(client).Cut() }
func (u *users) DropReplies(client string) <-chan struct{} { return u.link(client).DropReplies() }
func (u *users) Heal(client string)                        { u.link(client).Heal() }

// TestStore holds the store to the contract of package dcs, and has ha.Locker make
// locks of it. In a bubble hours pass in no time.
func TestStore(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness[*users]{
		New: func(t *testing.T) *users {
			t.Helper()
			return &users{path: filepath.Join(t.TempDir(), "state.json"), links: map[string]*dcstest.Link{}}
		},
		Leaf: dcstest.Bubble,
		Lock: contend,
		// Whoever has not looked for a while sees a dead session for a TTL more.
		Traits: dcstest.Traits{Linger: 10 * time.Second},
	})
}

// contend competes for a lock made of the store.
func contend(ctx context.Context, c dcstest.Contender) error {
	locker, err := ha.NewLocker(ha.LockerConfig{
		Store: c.Store, Clock: c.Clock, TTL: c.TTL, RenewEvery: c.TTL / 6, Margin: c.TTL / 6,
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		_ = locker.Hold(ctx, c.Key, []byte(c.Name), func(ctx context.Context, lease *ha.Lease) error {
			return c.Work(ctx, lease.Token())
		})
	}
	return locker.Close(context.WithoutCancel(ctx))
}

// TestFileIsAway: what cannot be read is no empty store.
func TestFileIsAway(t *testing.T) {
	t.Parallel()
	s := store.Open(filepath.Join(t.TempDir(), "missing", "state.json"))
	defer func() { require.NoError(t, s.Close()) }()
	_, err := s.Get(t.Context(), "/key")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.NotErrorIs(t, err, dcs.ErrNotFound)
	_, err = dcs.Put(t.Context(), s, "/key", nil)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.True(t, dcs.SurelyNotDone(err))
}
