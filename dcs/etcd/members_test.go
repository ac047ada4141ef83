package etcd_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// TestDeadEndpoints: it is enough that one of the members that are configured is
// there.
func TestDeadEndpoints(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	var endpoints []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		endpoints = append(endpoints, l.Addr().String())
	}
	s := open(t, etcd.Config{Endpoints: append(endpoints, server.Address())})
	session, err := s.NewSession(within(t, patience), time.Minute)
	require.NoError(t, err)
	for i := range 6 {
		_, err = dcs.Create(within(t, patience), s, fmt.Sprintf("/k%d", i), nil, session.ID())
		require.NoError(t, err)
		require.NoError(t, session.Renew(within(t, patience)))
	}
	require.Len(t, (<-s.Watch(t.Context(), "/")).KVs, 6)
}

// TestMembers breaks members of one cluster, one way after the other.
func TestMembers(t *testing.T) {
	t.Parallel()
	for name, binary := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := testbed.StartEtcdCluster(t, testbed.EtcdConfig{Binary: binary(t)}, 3)
			for _, part := range []struct {
				name string
				run  func(*testing.T, *testbed.EtcdCluster)
			}{
				{"a silent member is left", silentMemberIsLeft},
				{"a member without the others refuses", memberWithoutOthersRefuses},
				{"members die in turn", membersDieInTurn},
				{"a deposed leader that wakes", deposedLeaderWakes},
			} {
				t.Run(part.name, func(t *testing.T) { part.run(t, c) })
			}
		})
	}
}

// silentMemberIsLeft freezes a member whose connections stay open. Calls and
// watches that have met it are told, and the others are met instead.
func silentMemberIsLeft(t *testing.T, c *testbed.EtcdCluster) {
	leader, others, err := c.Leader(t.Context())
	require.NoError(t, err)
	s := open(t, etcd.Config{Endpoints: []string{others[0].Address(), others[1].Address(), leader.Address()}})
	var watches []<-chan dcs.Update
	for range 3 {
		updates := s.Watch(t.Context(), "/silent/")
		await(t, updates, func(u dcs.Update) bool { return u.Err == nil })
		watches = append(watches, updates)
	}
	require.NoError(t, others[0].Pause())
	defer func() { require.NoError(t, others[0].Resume()) }()

	in, out, deadline := 0, 0, time.Now().Add(patience)
	for in < 12 {
		require.True(t, time.Now().Before(deadline), "the silent member is still asked")
		_, err := dcs.Put(within(t, 500*time.Millisecond), s, "/silent/k", nil)
		if err == nil {
			in++
			continue
		}
		require.True(t, errors.Is(err, dcs.ErrAmbiguous) || errors.Is(err, dcs.ErrUnavailable), "%v", err)
		in = 0
		out++
	}
	t.Logf("%d calls got no answer", out)
	last, err := dcs.Put(within(t, patience), s, "/silent/last", nil)
	require.NoError(t, err)
	for _, updates := range watches {
		await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == 2 && u.KVs[1].Revision == last })
	}
}

// memberWithoutOthersRefuses asks a member that has no leader: it knows that
// nothing was done, and watches are told.
func memberWithoutOthersRefuses(t *testing.T, c *testbed.EtcdCluster) {
	leader, others, err := c.Leader(t.Context())
	require.NoError(t, err)
	s := open(t, etcd.Config{Endpoints: others[1].Endpoints()})
	updates := s.Watch(t.Context(), "/alone/")
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil })
	for _, other := range []*testbed.EtcdServer{leader, others[0]} {
		require.NoError(t, other.Pause())
		defer func() { require.NoError(t, other.Resume()) }()
	}
	var refused []string
	for n := 0; len(refused) < 3; n++ {
		key := fmt.Sprintf("/alone/%d", n)
		_, err := dcs.Create(within(t, patience), s, key, nil, "")
		require.Error(t, err, "one of three cannot decide")
		if dcs.SurelyNotDone(err) {
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			refused = append(refused, key)
		} else {
			require.ErrorIs(t, err, dcs.ErrAmbiguous)
		}
	}
	_, err = s.Get(within(t, patience), "/alone/none")
	requireOnly(t, err, dcs.ErrUnavailable)
	u := await(t, updates, func(u dcs.Update) bool { return u.Err != nil })
	requireOnly(t, u.Err, dcs.ErrUnavailable)

	require.NoError(t, leader.Resume())
	require.NoError(t, others[0].Resume())
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil })
	require.Eventually(t, func() bool {
		_, err := dcs.Put(within(t, patience), s, "/alone/last", nil)
		return err == nil
	}, patience, 20*time.Millisecond)
	u = await(t, updates, func(u dcs.Update) bool {
		return len(u.KVs) > 0 && u.KVs[len(u.KVs)-1].Key == "/alone/last"
	})
	for _, kv := range u.KVs {
		require.NotContains(t, refused, kv.Key, "it was surely not written")
	}
}

// membersDieInTurn kills each member once, while the others serve.
func membersDieInTurn(t *testing.T, c *testbed.EtcdCluster) {
	s := open(t, etcd.Config{Endpoints: c.Endpoints()})
	session, err := s.NewSession(within(t, patience), time.Minute)
	require.NoError(t, err)
	token, err := dcs.Create(within(t, patience), s, "/turn/lock", nil, session.ID())
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/turn/")
	for i, member := range c.Members() {
		require.NoError(t, member.Kill())
		var rev dcs.Revision
		require.Eventually(t, func() bool {
			var err error
			rev, err = dcs.Put(within(t, time.Second), s, fmt.Sprintf("/turn/%d", i), nil)
			return err == nil
		}, patience, 20*time.Millisecond)
		await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == i+2 && u.KVs[i].Revision == rev })
		require.Eventually(t, func() bool { return session.Renew(within(t, time.Second)) == nil }, patience, 20*time.Millisecond)
		require.NoError(t, member.Start(t.Context()))
	}
	_, err = s.Commit(within(t, patience), dcs.Txn{If: []dcs.Guard{dcs.Held("/turn/lock", token)}})
	require.NoError(t, err)
}

// deposedLeaderWakes freezes the leader until the others have had another one for
// a while. Then it wakes, and finds renewals that have been waiting before it. Those
// that are reported as done must be worth their TTL, which counts from when they
// were sent and not from when the next leader took office.
func deposedLeaderWakes(t *testing.T, c *testbed.EtcdCluster) {
	const n, ttl, deposed = 8, 8 * time.Second, 4 * time.Second
	leader, others, err := c.Leader(t.Context())
	require.NoError(t, err)
	s := open(t, etcd.Config{Endpoints: leader.Endpoints()})
	later := open(t, etcd.Config{Endpoints: []string{others[0].Address(), others[1].Address()}})
	var sessions [n]dcs.Session
	for i := range sessions {
		sessions[i], err = s.NewSession(within(t, patience), ttl)
		require.NoError(t, err)
		_, err = dcs.Create(within(t, patience), s, fmt.Sprintf("/deposed/%d", i), nil, sessions[i].ID())
		require.NoError(t, err)
	}
	kept, err := later.NewSession(within(t, patience), ttl)
	require.NoError(t, err)

	require.NoError(t, leader.Pause())
	defer func() { require.NoError(t, leader.Resume()) }()
	require.Eventually(t, func() bool { return kept.Renew(within(t, time.Second)) == nil }, patience, 20*time.Millisecond)
	for elected := time.Now(); time.Since(elected) < deposed; {
		require.NoError(t, kept.Renew(within(t, patience)))
	}
	var renewals sync.WaitGroup
	var errs [n]error
	sent := time.Now()
	for i, session := range sessions {
		renewals.Go(func() { errs[i] = session.Renew(within(t, patience)) })
	}
	rest(t, 300*time.Millisecond) // they lie before the sleeping leader
	require.NoError(t, leader.Resume())
	renewals.Wait()
	for gone := 0; gone < n; rest(t, 100*time.Millisecond) {
		require.NoError(t, kept.Renew(within(t, patience)), "this one has been renewed all the time")
		kvs, err := later.List(within(t, patience), "/deposed/")
		require.NoError(t, err)
		lived := time.Since(sent)
		gone = n - len(kvs)
		for i, err := range errs {
			there := slices.ContainsFunc(kvs, func(kv dcs.KV) bool { return kv.Session == sessions[i].ID() })
			require.True(t, err != nil || there || lived >= ttl, "session %d of %s ends %s after it was renewed", i, ttl, lived)
		}
	}
	t.Logf("renewals that were waiting for the former leader: %v", errors.Join(errs[:]...))
}

// rest lets time pass.
func rest(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
