package zk_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	client "github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

// TestRenewalHoldsWhenTheMemberIsCutOff freezes the member that has answered
// renewals right after it has. A request alone would not do: what a follower
// knows of its clients' signs of life the leader learns later, from this one
// never.
func TestRenewalHoldsWhenTheMemberIsCutOff(t *testing.T) {
	t.Parallel()
	// With long ticks followers report seldom.
	e := testbed.StartZooKeeperEnsemble(t, 3, "tickTime=1500", "syncLimit=20")
	leader, others, err := e.Leader(t.Context())
	require.NoError(t, err)
	follower := others[0]
	watcher := admin(t, leader.Address())
	s := open(t, zk.Config{Servers: []string{follower.Address()}})

	// The client gives signs of life every third of the TTL. For one session or
	// the other the last one is long ago when it is renewed.
	const n, ttl = 6, 8 * time.Second
	var sessions [n]dcs.Session
	begun := time.Now()
	for i := range sessions {
		sessions[i], err = s.NewSession(t.Context(), ttl)
		require.NoError(t, err)
		_, err = dcs.Create(t.Context(), s, "/"+string(sessions[i].ID()), nil, sessions[i].ID())
		require.NoError(t, err)
		require.NoError(t, sleep(t.Context(), ttl/3/n))
	}
	var (
		sent [n]time.Time
		errs [n]error
		wg   sync.WaitGroup
	)
	for i, session := range sessions {
		wg.Go(func() {
			sent[i] = time.Now()
			errs[i] = session.Renew(t.Context())
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); errors.Is(err, dcs.ErrSessionLost) && time.Since(begun) >= ttl {
		t.Skipf("NOT TESTED: this machine stalled for so long that sessions expired: %v", err)
	}
	require.NoError(t, errors.Join(errs[:]...))
	require.NoError(t, follower.Pause())
	var lived [n]time.Duration
	for i, session := range sessions {
		wg.Go(func() {
			errs[i] = awaitAbsence(watcher, "/:"+string(session.ID()))
			lived[i] = time.Since(sent[i])
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs[:]...))
	for _, d := range lived {
		require.GreaterOrEqual(t, d, ttl, "a key died early")
	}
	t.Logf("sessions of %s ended %s after their renewal", ttl, lived)
}

func awaitAbsence(conn *client.Conn, path string) error {
	for {
		found, _, events, err := conn.ExistsW(path)
		if err != nil || !found {
			return err
		}
		select {
		case <-events:
		case <-time.After(patience):
			return errors.New(path + " outlives its session")
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestDeposedLeaderServesNoReads freezes the leader until the others have
// elected another and written something, and asks the former leader as soon as
// it wakes.
func TestDeposedLeaderServesNoReads(t *testing.T) {
	t.Parallel()
	// With long sessions connections survive the leader's sleep.
	e := testbed.StartZooKeeperEnsemble(t, 3, "minSessionTimeout=60000")
	leader, others, err := e.Leader(t.Context())
	require.NoError(t, err)
	s := open(t, zk.Config{Servers: []string{leader.Address()}})
	rev, err := dcs.Put(t.Context(), s, "/k", []byte("old"))
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/k")
	require.Len(t, (<-updates).KVs, 1)

	require.NoError(t, leader.Pause())
	later := open(t, zk.Config{Servers: []string{others[0].Address(), others[1].Address()}})
	last, err := dcs.CompareAndSwap(within(t, patience), later, "/k", rev, []byte("new"), "")
	for ; dcs.SurelyNotDone(err) && !errors.Is(err, dcs.ErrConflict) || errors.Is(err, dcs.ErrAmbiguous); err = putAgain(t, later, &last) {
		t.Logf("not written yet: %v", err)
	}
	require.NoError(t, err)

	type answer struct {
		kv  dcs.KV
		err error
	}
	answers := make(chan answer)
	for range 5 {
		go func() {
			kv, err := s.Get(within(t, patience), "/k")
			answers <- answer{kv, err}
		}()
	}
	require.NoError(t, sleep(t.Context(), 300*time.Millisecond)) // the requests lie before the sleeping leader
	require.NoError(t, leader.Resume())
	for range 5 {
		if a := <-answers; a.err == nil {
			require.Equal(t, last, a.kv.Revision, "it reads %q", a.kv.Value)
		} else {
			require.ErrorIs(t, a.err, dcs.ErrUnavailable)
		}
	}
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil && u.KVs[0].Revision == last })
}

func putAgain(t *testing.T, s dcs.Store, last *dcs.Revision) (err error) {
	t.Helper()
	*last, err = dcs.Put(within(t, patience), s, "/k", []byte("new"))
	return err
}

// TestEnsemble breaks members of one ensemble, one way after the other.
func TestEnsemble(t *testing.T) { //nolint:tparallel // the parts break the same members
	t.Parallel()
	e := testbed.StartZooKeeperEnsemble(t, 3)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *testbed.ZooKeeperEnsemble)
	}{
		{"late writes are fenced", lateWritesAreFenced},
		{"a frozen member is passed over", frozenMemberIsPassedOver},
		{"a session moves", sessionMoves},
		{"the leader dies", leaderDies},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, e) })
	}
}

// frozenMemberIsPassedOver: a member that takes connections and does not speak
// must not cost a session its life.
func frozenMemberIsPassedOver(t *testing.T, e *testbed.ZooKeeperEnsemble) {
	_, others, err := e.Leader(t.Context())
	require.NoError(t, err)
	s := open(t, zk.Config{Servers: e.Addresses()})
	var sessions []dcs.Session
	for range 6 { // some of them at the follower that will freeze
		session, err := s.NewSession(within(t, patience), time.Minute)
		require.NoError(t, err)
		sessions = append(sessions, session)
	}
	require.NoError(t, others[0].Pause())
	for _, session := range sessions {
		require.NoError(t, session.Renew(within(t, patience)))
		_, err := dcs.Create(within(t, patience), s, "/held/"+string(session.ID()), nil, session.ID())
		require.NoError(t, err)
	}
	require.NoError(t, others[0].Resume())
	for _, session := range sessions {
		require.NoError(t, session.Renew(within(t, patience)))
	}
}

// sessionMoves takes a session from one member to another by a renewal, while
// a write under it is still on its way to the first. That write is refused when it
// arrives, since the session has moved; and what is bound to the session lives on,
// also when the first member dies.
func sessionMoves(t *testing.T, e *testbed.ZooKeeperEnsemble) {
	var (
		ways    []*testbed.Proxy
		servers []string
	)
	for _, address := range e.Addresses() {
		way, err := testbed.NewProxy(address, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, way.Close()) })
		ways, servers = append(ways, way), append(servers, way.Address())
	}
	s := open(t, zk.Config{Servers: servers, DialTimeout: 500 * time.Millisecond})
	ways[1].Cut()
	ways[2].Cut()
	session, err := s.NewSession(within(t, patience), time.Minute)
	require.NoError(t, err)
	token, err := dcs.Create(within(t, patience), s, "/moves/lock", nil, session.ID())
	require.NoError(t, err)

	ways[0].Cut()
	late := make(chan error, 1)
	go func() {
		_, err := dcs.CompareAndSwap(within(t, patience), s, "/moves/lock", token, []byte("late"), session.ID())
		late <- err
	}()
	require.NoError(t, sleep(t.Context(), 100*time.Millisecond)) // it is on its way, most likely
	ways[1].Heal()
	ways[2].Heal()
	require.NoError(t, session.Renew(within(t, patience)))
	ways[0].Heal()
	err = <-late
	require.Error(t, err)
	require.True(t, errors.Is(err, dcs.ErrAmbiguous) || errors.Is(err, dcs.ErrUnavailable), "%v", err)

	require.NoError(t, e.Members()[0].Kill())
	defer func() { require.NoError(t, e.Members()[0].Start(t.Context())) }()
	for range 3 {
		require.NoError(t, session.Renew(within(t, patience)))
	}
	kv, err := s.Get(within(t, patience), "/moves/lock")
	require.NoError(t, err)
	require.Equal(t, dcs.KV{Key: "/moves/lock", Value: []byte{}, Revision: token, Created: token, Session: session.ID()}, kv)
	_, err = dcs.CompareAndSwap(within(t, patience), s, "/moves/lock", token, []byte("here"), session.ID())
	require.NoError(t, err)
}

// leaderDies kills the leader under clients that write and hold keys.
func leaderDies(t *testing.T, e *testbed.ZooKeeperEnsemble) {
	s := open(t, zk.Config{Servers: e.Addresses()})
	session, err := s.NewSession(within(t, patience), time.Minute)
	require.NoError(t, err)
	token, err := dcs.Create(within(t, patience), s, "/dies/lock", nil, session.ID())
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/dies/")
	require.Len(t, await(t, updates, func(u dcs.Update) bool { return u.Err == nil }).KVs, 1)

	leader, _, err := e.Leader(t.Context())
	require.NoError(t, err)
	require.NoError(t, leader.Kill())
	held := dcs.Txn{If: []dcs.Guard{dcs.Held("/dies/lock", token)}, Then: []dcs.Op{{Key: "/dies/written"}}}
	var rev dcs.Revision
	for deadline := time.Now().Add(patience); ; {
		rev, err = s.Commit(within(t, patience), held)
		if err == nil {
			break
		}
		require.NotErrorIs(t, err, dcs.ErrConflict)
		require.True(t, time.Now().Before(deadline), "%v", err)
	}
	require.NoError(t, session.Renew(within(t, patience)))
	u := await(t, updates, func(u dcs.Update) bool { return u.Err == nil && len(u.KVs) == 2 })
	require.Equal(t, token, u.KVs[0].Created)
	require.Equal(t, rev, u.KVs[1].Revision)

	require.NoError(t, leader.Start(t.Context()))
	conn := admin(t, leader.Address())
	_, err = conn.Sync("/")
	require.NoError(t, err)
	found, _, err := conn.Exists("/dies/:written")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, client.StateHasSession, conn.State())
}

// lateWritesAreFenced has nodes take a lock in turn, write under its token, and go on
// writing after they have lost it. In the order of their revisions the writes
// that landed have growing tokens.
func lateWritesAreFenced(t *testing.T, e *testbed.ZooKeeperEnsemble) {
	const nodes, rounds = 4, 15
	type write struct{ rev, token dcs.Revision }
	var (
		wg     sync.WaitGroup
		writes [nodes][]write
		errs   [nodes]error
	)
	for i := range nodes {
		// Each at another member first, and the followers lag.
		s := open(t, zk.Config{Servers: []string{e.Addresses()[i%3]}})
		session, err := s.NewSession(t.Context(), time.Hour)
		require.NoError(t, err)
		node := fencedNode{store: s, session: session.ID()}
		wg.Go(func() {
			for held := 0; held < rounds && errs[i] == nil; {
				var took bool
				took, errs[i] = node.take(t.Context())
				if took {
					held++
				}
				for range 3 {
					if rev := node.write(t.Context(), &errs[i]); rev != 0 {
						writes[i] = append(writes[i], write{rev, node.token})
					}
				}
				if took && errs[i] == nil {
					errs[i] = node.release(t.Context())
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs[:]...))
	all := slices.Concat(writes[:]...)
	slices.SortFunc(all, func(a, b write) int { return cmp.Compare(a.rev, b.rev) })
	require.GreaterOrEqual(t, len(all), 3*nodes*rounds, "every holder writes")
	for i := 1; i < len(all); i++ {
		require.GreaterOrEqual(t, all[i].token, all[i-1].token, "a late write has landed")
	}
}

// fencedNode takes a lock, and uses the token of its last holding for as long as
// it has no other.
type fencedNode struct {
	store   dcs.Store
	session dcs.SessionID
	token   dcs.Revision
}

const fencedLock = "/a/b/lock"

func (n *fencedNode) take(ctx context.Context) (bool, error) {
	token, err := dcs.Create(ctx, n.store, fencedLock, nil, n.session)
	if errors.Is(err, dcs.ErrConflict) {
		return false, nil
	}
	if err == nil {
		n.token = token
	}
	return err == nil, err
}

// write returns zero if the token is not in force any more.
func (n *fencedNode) write(ctx context.Context, failed *error) dcs.Revision {
	if n.token == 0 {
		return 0
	}
	rev, err := n.store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.Held(fencedLock, n.token)},
		Then: []dcs.Op{{Key: "/a/b/record"}, {Key: fencedLock, Session: n.session}},
	})
	if err != nil && !errors.Is(err, dcs.ErrConflict) {
		*failed = err
	}
	return rev
}

func (n *fencedNode) release(ctx context.Context) error {
	_, err := n.store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.Held(fencedLock, n.token)},
		Then: []dcs.Op{{Key: fencedLock, Delete: true}},
	})
	return err
}
