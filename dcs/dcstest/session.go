package dcstest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

var sessionCases = []suiteCase{
	{
		name:    "GrantedAtLeastAsAsked",
		meaning: "a node believes that it holds its locks for longer than the store keeps them: two primaries.",
		run:     grantedAtLeastAsAsked,
	},
	{
		name:    "ImpossibleTTLIsRefused",
		meaning: "a mistake in the configuration looks like an outage.",
		run: func(t *testing.T, e *env) {
			for _, ttl := range []time.Duration{0, -time.Second} {
				_, err := e.client(t, "a").NewSession(e.ctx, ttl)
				require.ErrorIs(t, err, dcs.ErrInvalid)
			}
			if e.traits.MaxTTL > 0 {
				_, err := e.client(t, "a").NewSession(e.ctx, 10*e.traits.MaxTTL)
				require.ErrorIs(t, err, dcs.ErrInvalid)
				e.namesValueAndLimit(t, err)
			}
		},
	},
	{
		name:    "KeysDieWithSession",
		meaning: "a lock vanishes while its holder still relies on it, or stays for ever after its death.",
		run:     keysDieWithSession,
	},
	{
		name:    "RenewExtends",
		meaning: "a holder that renews in time loses its lock.",
		run:     renewExtends,
	},
	{
		name:    "RenewAfterExpiryIsLost",
		meaning: "a node goes on as the holder of a lock that others may hold by now.",
		run:     renewAfterExpiryIsLost,
	},
	{
		name:    "CloseIsPromptAndIdempotent",
		meaning: "an orderly handover waits for the TTL as if the node had crashed, or fails when repeated.",
		run:     closeIsPromptAndIdempotent,
	},
	{
		name:    "CloseWithFreshContextAfterCancel",
		meaning: "a node that was told to stop cannot let go of its locks.",
		run:     closeWithFreshContextAfterCancel,
	},
	{
		name:    "TwoSessionsIndependent",
		meaning: "letting go of one lock lets go of another.",
		run:     twoSessionsIndependent,
	},
	{
		name:    "SessionIDsAreNeverUsedAgain",
		meaning: "a node takes the lock of another for its own, because it knows its own by the session.",
		run:     sessionIDsAreNeverUsedAgain,
	},
	{
		name:    "WriteWithDeadSessionFails",
		meaning: "a key is left that no expiry will ever remove, or a refused transaction is half done.",
		run:     writeWithDeadSessionFails,
	},
	{
		name:    "WriteMovesTheBinding",
		meaning: "a record dies with the session of a former writer, or outlives its present one.",
		run:     writeMovesTheBinding,
	},
	{
		name:    "MovedKeyOutlivesExpiry",
		meaning: "a lock that its holder took along into a new session vanishes when the old one expires.",
		run:     movedKeyOutlivesExpiry,
	},
	{
		name:    "MovedKeyExpiresWithNewSession",
		meaning: "a lock that was taken along into a new session stays for ever after its holder's death.",
		run:     movedKeyExpiresWithNewSession,
	},
	{
		name:    "MoveKeepsTheFence",
		meaning: "a lock's token goes back when its holder takes it along, and late writes of earlier holders pass.",
		run:     moveKeepsTheFence,
	},
	{
		name:    "MoveIsOneWrite",
		meaning: "while a holder takes its lock along others see the lock free, and take it.",
		run:     moveIsOneWrite,
	},
	{
		name:    "RefusedMoveChangesNothing",
		meaning: "a holder that could not take its lock along loses it, or keeps it for longer than it knows.",
		run:     refusedMoveChangesNothing,
	},
	{
		name:    "RenewalProvesGuards",
		meaning: "a node goes on under a lock that it has lost, because the renewal that should have proven it did not look.",
		run:     renewalProvesGuards,
	},
	{
		name:    "RestartWithSameNameIsNotAdopted",
		meaning: "a restarted node takes up the lock of its former life, which is about to expire under it.",
		run:     restartWithSameNameIsNotAdopted,
	},
}

func grantedAtLeastAsAsked(t *testing.T, e *env) {
	s := e.client(t, "a")
	for _, ttl := range []time.Duration{
		max(e.traits.MinTTL, time.Millisecond),
		e.ttl() + time.Millisecond,
		e.ttl() + 1500*time.Millisecond,
		e.longTTL(),
	} {
		session := e.session(t, s, ttl)
		require.GreaterOrEqual(t, session.TTL(), ttl)
		require.NotEmpty(t, session.ID())
	}
}

func keysDieWithSession(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	e.put(t, a, "unbound", "")
	session, sent := e.shortSession(t, a, "k1", "k2")
	updates := b.Watch(e.ctx, e.base)
	kvs := e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) < 3 })
	require.GreaterOrEqual(t, e.clk.Since(sent), session.TTL(), "the keys died early")
	if len(kvs) > 1 { // each key may be told of on its own
		kvs = e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 1 })
	}
	require.Equal(t, []string{"unbound"}, e.keys(kvs))
	require.LessOrEqual(t, e.clk.Since(sent), session.TTL()+e.traits.Linger, "the keys died late")
}

func renewExtends(t *testing.T, e *env) {
	s := e.client(t, "a")
	session := e.session(t, s, 3*e.ttl())
	e.create(t, s, "k", session.ID())
	// All that matters is measured, so that a machine that stalls for longer
	// than the TTL raises no false alarm.
	start := e.clk.Now()
	for sent := start; e.clk.Since(start) < 2*session.TTL(); {
		e.sleep(t, session.TTL()/6)
		next := e.clk.Now()
		err := session.Renew(e.ctx)
		if e.clk.Since(sent) >= session.TTL() {
			t.Skip("NOT TESTED: this machine was too slow to renew in time")
		}
		require.NoError(t, err)
		sent = next
	}
	kv := e.get(t, s, "k")
	require.Equal(t, session.ID(), kv.Session)
	require.Equal(t, kv.Created, kv.Revision, "a renewal does not write to the keys")
}

func renewAfterExpiryIsLost(t *testing.T, e *env) {
	s := e.client(t, "a")
	session, _ := e.shortSession(t, s, "k")
	e.await(t, s.Watch(e.ctx, e.base), func(kvs []dcs.KV) bool { return len(kvs) == 0 })
	require.ErrorIs(t, session.Renew(e.ctx), dcs.ErrSessionLost)
	require.ErrorIs(t, session.Renew(e.ctx), dcs.ErrSessionLost, "a loss is final")
	require.NoError(t, session.Close(e.ctx), "closing a session that is gone does nothing")
}

func closeIsPromptAndIdempotent(t *testing.T, e *env) {
	s := e.client(t, "a")
	session := e.session(t, s, e.longTTL())
	e.create(t, s, "k", session.ID())
	require.NoError(t, session.Close(e.ctx))
	e.absent(t, s, "k")
	require.NoError(t, session.Close(e.ctx))
	require.ErrorIs(t, session.Renew(e.ctx), dcs.ErrSessionLost)
}

func closeWithFreshContextAfterCancel(t *testing.T, e *env) {
	s := e.client(t, "a")
	ctx, cancel := context.WithCancel(e.ctx)
	session, err := s.NewSession(ctx, e.longTTL())
	require.NoError(t, err)
	_, err = dcs.Create(ctx, s, e.key("k"), nil, session.ID())
	require.NoError(t, err)
	cancel()
	require.NoError(t, session.Renew(e.ctx), "a session does not end with the context that opened it")
	require.Error(t, session.Close(ctx))
	e.get(t, s, "k")
	require.NoError(t, session.Close(e.ctx))
	e.absent(t, s, "k")
}

func twoSessionsIndependent(t *testing.T, e *env) {
	s := e.client(t, "a")
	first, second := e.session(t, s, e.longTTL()), e.session(t, s, e.longTTL())
	require.NotEqual(t, first.ID(), second.ID())
	e.create(t, s, "first", first.ID())
	e.create(t, s, "second", second.ID())
	require.NoError(t, first.Close(e.ctx))
	e.absent(t, s, "first")
	require.Equal(t, second.ID(), e.get(t, s, "second").Session)
	require.NoError(t, second.Renew(e.ctx))
}

func sessionIDsAreNeverUsedAgain(t *testing.T, e *env) {
	seen := map[dcs.SessionID]bool{}
	for range 5 {
		s := e.client(t, "node")
		session := e.session(t, s, e.longTTL())
		require.False(t, seen[session.ID()], "session %s is not the first of its name", session.ID())
		seen[session.ID()] = true
		require.NoError(t, session.Close(e.ctx))
	}
}

func writeWithDeadSessionFails(t *testing.T, e *env) {
	s := e.client(t, "a")
	session := e.session(t, s, e.longTTL())
	require.NoError(t, session.Close(e.ctx))
	e.put(t, s, "old", "1")
	_, err := s.Commit(e.ctx, dcs.Txn{Then: []dcs.Op{
		{Key: e.key("old"), Value: []byte("2")},
		{Key: e.key("bound"), Session: session.ID()},
	}})
	require.ErrorIs(t, err, dcs.ErrSessionLost)
	e.absent(t, s, "bound")
	require.Equal(t, "1", string(e.get(t, s, "old").Value))
}

func writeMovesTheBinding(t *testing.T, e *env) {
	s := e.client(t, "a")
	first, second := e.session(t, s, e.longTTL()), e.session(t, s, e.longTTL())
	for _, name := range []string{"unbound", "moved", "kept"} {
		e.create(t, s, name, first.ID())
	}
	e.put(t, s, "unbound", "")
	moved := e.get(t, s, "moved")
	_, err := dcs.CompareAndSwap(e.ctx, s, moved.Key, moved.Revision, nil, second.ID())
	require.NoError(t, err)

	require.NoError(t, first.Close(e.ctx))
	e.absent(t, s, "kept")
	require.Empty(t, e.get(t, s, "unbound").Session)
	require.Equal(t, second.ID(), e.get(t, s, "moved").Session)
	require.NoError(t, second.Close(e.ctx))
	e.absent(t, s, "moved")
	e.get(t, s, "unbound")
}

// move writes a key, as it was read, under another session.
func (e *env) move(s dcs.Store, kv dcs.KV, to dcs.SessionID) (dcs.Revision, error) {
	return s.Commit(e.ctx, dcs.Txn{
		If:   []dcs.Guard{{Key: kv.Key, Created: kv.Created, Revision: kv.Revision}},
		Then: []dcs.Op{{Key: kv.Key, Value: []byte("moved"), Session: to}},
	})
}

func movedKeyOutlivesExpiry(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	second := e.session(t, b, e.longTTL())
	for {
		e.shortSession(t, a, "moved", "kept")
		kv, err := a.Get(e.ctx, e.key("moved"))
		if err == nil {
			_, err = e.move(b, kv, second.ID())
		}
		if err == nil {
			break
		}
		// This machine stalls: the session has expired before the move.
		if !errors.Is(err, dcs.ErrConflict) {
			require.ErrorIs(t, err, dcs.ErrNotFound)
		}
		e.absent(t, a, "moved")
		e.await(t, a.Watch(e.ctx, e.base), func(kvs []dcs.KV) bool { return len(kvs) == 0 })
	}
	kvs := e.await(t, b.Watch(e.ctx, e.base), func(kvs []dcs.KV) bool { return len(kvs) < 2 })
	require.Equal(t, []string{"moved"}, e.keys(kvs))
	require.Equal(t, second.ID(), e.get(t, a, "moved").Session)
	require.NoError(t, second.Close(e.ctx))
	e.absent(t, a, "moved")
}

func movedKeyExpiresWithNewSession(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	first := e.session(t, a, e.longTTL())
	for {
		e.create(t, a, "moved", first.ID())
		sent := e.clk.Now()
		second := e.session(t, b, e.ttl())
		_, err := e.move(b, e.get(t, b, "moved"), second.ID())
		if err != nil {
			require.ErrorIs(t, err, dcs.ErrSessionLost)
			require.GreaterOrEqual(t, e.clk.Since(sent), second.TTL(), "the session died early")
			require.NoError(t, dcs.Delete(e.ctx, a, e.key("moved"), e.get(t, a, "moved").Revision))
			continue
		}
		e.await(t, a.Watch(e.ctx, e.base), func(kvs []dcs.KV) bool { return len(kvs) == 0 })
		require.GreaterOrEqual(t, e.clk.Since(sent), second.TTL(), "the key died early")
		require.LessOrEqual(t, e.clk.Since(sent), second.TTL()+e.traits.Linger, "the key died late")
		break
	}
	require.NoError(t, first.Renew(e.ctx), "the former session is not concerned")
}

func moveKeepsTheFence(t *testing.T, e *env) {
	s := e.client(t, "a")
	first, second := e.session(t, s, e.longTTL()), e.session(t, s, e.longTTL())
	e.create(t, s, "bound", first.ID())
	e.create(t, s, "unbound", "")
	for _, step := range []struct {
		name string
		to   dcs.SessionID
	}{
		{"bound", second.ID()},
		{"bound", first.ID()}, // and back
		{"bound", ""},
		{"unbound", second.ID()},
	} {
		before := e.get(t, s, step.name)
		rev, err := e.move(s, before, step.to)
		require.NoError(t, err)
		after := e.get(t, s, step.name)
		require.Equal(t, dcs.KV{
			Key: before.Key, Value: []byte("moved"), Revision: rev, Created: after.Created, Session: step.to,
		}, after)
		require.Greater(t, after.Revision, before.Revision)
		require.GreaterOrEqual(t, after.Created, before.Created, "the token must not go back")
		require.LessOrEqual(t, after.Created, after.Revision)

		check := func(g dcs.Guard) error {
			_, err := s.Commit(e.ctx, dcs.Txn{If: []dcs.Guard{g}})
			return err
		}
		require.NoError(t, check(dcs.Held(after.Key, after.Created)))
		require.NoError(t, check(dcs.At(after.Key, after.Revision)))
		require.ErrorIs(t, check(dcs.At(before.Key, before.Revision)), dcs.ErrConflict)
		if after.Created != before.Created {
			require.ErrorIs(t, check(dcs.Held(before.Key, before.Created)), dcs.ErrConflict)
		}
		_, err = e.move(s, before, step.to)
		require.ErrorIs(t, err, dcs.ErrConflict, "what was read before the move holds no more")
	}
	kv := e.get(t, s, "bound")
	require.NoError(t, dcs.Delete(e.ctx, s, kv.Key, kv.Revision))
	require.Greater(t, e.create(t, s, "bound", first.ID()), kv.Created, "the next holding's token")
}

func moveIsOneWrite(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	sessions := []dcs.Session{e.session(t, a, e.longTTL()), e.session(t, a, e.longTTL())}
	e.create(t, a, "k", sessions[0].ID())
	updates := b.Watch(e.ctx, e.base)
	e.next(t, updates)
	const moves = 20
	done := make(chan error, 1)
	e.background.Go(func() {
		var err error
		for i := 1; i <= moves && err == nil; i++ {
			var kv dcs.KV
			if kv, err = a.Get(e.ctx, e.key("k")); err == nil {
				_, err = e.move(a, kv, sessions[i%2].ID())
			}
		}
		if err == nil {
			_, err = dcs.Put(e.ctx, a, e.key("last"), nil)
		}
		done <- err
	})
	for last := false; !last; {
		e.get(t, b, "k")
		_, err := dcs.Create(e.ctx, b, e.key("k"), nil, "")
		require.ErrorIs(t, err, dcs.ErrConflict, "the key was absent for a moment")
		kvs := e.next(t, updates)
		require.NotEmpty(t, kvs)
		require.Equal(t, "k", e.keys(kvs)[0])
		last = len(kvs) == 2
	}
	require.NoError(t, <-done)
}

func refusedMoveChangesNothing(t *testing.T, e *env) {
	s := e.client(t, "a")
	first, second := e.session(t, s, e.longTTL()), e.session(t, s, e.longTTL())
	e.create(t, s, "k", first.ID())
	before := e.get(t, s, "k")
	stale := before
	stale.Revision++
	_, err := e.move(s, stale, second.ID())
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.Equal(t, before, e.get(t, s, "k"))
	require.NoError(t, second.Close(e.ctx))
	_, err = e.move(s, before, second.ID())
	require.ErrorIs(t, err, dcs.ErrSessionLost)
	require.Equal(t, before, e.get(t, s, "k"))
	require.NoError(t, first.Close(e.ctx))
	e.absent(t, s, "k")
}

func restartWithSameNameIsNotAdopted(t *testing.T, e *env) {
	before := e.client(t, "node")
	old := e.session(t, before, e.longTTL())
	token := e.create(t, before, "lock", old.ID())
	require.NoError(t, before.Close())

	after := e.client(t, "node")
	session := e.session(t, after, e.longTTL())
	require.NotEqual(t, old.ID(), session.ID())
	kv := e.get(t, after, "lock")
	require.Equal(t, old.ID(), kv.Session, "the lock still belongs to the former life")
	require.Equal(t, token, kv.Created)
	_, err := dcs.Create(e.ctx, after, e.key("lock"), nil, session.ID())
	require.ErrorIs(t, err, dcs.ErrConflict)
}

// renewalProvesGuards is about an ability of sessions that many do not have.
func renewalProvesGuards(t *testing.T, e *env) {
	s := e.client(t, "a")
	session := e.session(t, s, e.longTTL())
	prover, proves := session.(dcs.Prover)
	if !proves {
		t.Logf("%T is no dcs.Prover: there is nothing to test", session)
		return
	}
	token, former := e.create(t, s, "lock", session.ID()), e.put(t, s, "record", "1")
	rev := e.put(t, s, "record", "2")
	require.NoError(t, prover.RenewIf(e.ctx, nil))
	hold := []dcs.Guard{dcs.Held(e.key("lock"), token), dcs.At(e.key("record"), rev), dcs.At(e.key("none"), 0)}
	require.NoError(t, prover.RenewIf(e.ctx, hold))
	for _, other := range []dcs.Guard{
		dcs.Held(e.key("lock"), token+1), dcs.At(e.key("record"), former), dcs.At(e.key("lock"), 0), dcs.Held(e.key("none"), token),
	} {
		require.ErrorIs(t, prover.RenewIf(e.ctx, append(hold, other)), dcs.ErrConflict)
	}
	require.ErrorIs(t, prover.RenewIf(e.ctx, []dcs.Guard{{Key: "no key"}}), dcs.ErrInvalid)
	var many []dcs.Guard
	for i := range min(64, e.traits.MaxTxnKeys) {
		many = append(many, dcs.At(e.key(fmt.Sprintf("none/%d", i)), 0))
	}
	require.NoError(t, prover.RenewIf(e.ctx, many))

	require.NoError(t, dcs.Delete(e.ctx, s, e.key("lock"), token))
	require.ErrorIs(t, prover.RenewIf(e.ctx, hold), dcs.ErrConflict)
	require.NoError(t, prover.RenewIf(e.ctx, hold[1:]), "the session is as good as before")
	require.NoError(t, session.Close(e.ctx))
	require.ErrorIs(t, prover.RenewIf(e.ctx, hold[1:]), dcs.ErrSessionLost)
}
