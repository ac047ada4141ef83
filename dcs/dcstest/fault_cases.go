package dcstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

var faultCases = []suiteCase{
	{
		name:    "PartitionedReadIsNoAnswer",
		meaning: "a node that is cut off takes the silence for an empty store: no leader, no members, no record.",
		needs:   []ability{canPartition},
		run:     partitionedReadIsNoAnswer,
	},
	{
		name:    "PartitionedWriteKeepsItsWord",
		meaning: "a node is told that a write surely was not done, acts on that, and the write lands later.",
		needs:   []ability{canPartition},
		run: func(t *testing.T, e *env) {
			unansweredWritesKeepTheirWord(t, e, func(t *testing.T) func() { return e.partition(t, "a") })
		},
	},
	{
		name:    "PartitionedRenewalIsUnknown",
		meaning: "a node that is cut off for a moment gives up all its locks, or believes that it has renewed them.",
		needs:   []ability{canPartition},
		run:     partitionedRenewalIsUnknown,
	},
	{
		name:    "PartitionedSessionExpires",
		meaning: "the locks of a node that is cut off stay for ever, vanish early, or it believes in them afterwards.",
		needs:   []ability{canPartition},
		run:     partitionedSessionExpires,
	},
	{
		name:    "PartitionHangsNobody",
		meaning: "a call does not end with its context while the network is silent: the node cannot stop PostgreSQL in time.",
		needs:   []ability{canPartition},
		run: func(t *testing.T, e *env) {
			nobodyHangs(t, e, func(t *testing.T) func() { return e.partition(t, "a") })
		},
	},
	{
		name:    "PartitionIsForOneOnly",
		meaning: "one node that is cut off keeps the others from working.",
		needs:   []ability{canPartition},
		run:     partitionIsForOneOnly,
	},
	{
		name:    "CloseDuringPartition",
		meaning: "a node that is cut off cannot stop.",
		needs:   []ability{canPartition},
		run:     closeDuringPartition,
	},
	{
		name:    "WatchSurvivesPartition",
		meaning: "a node that was cut off for a while is deaf afterwards, or is told of the past.",
		needs:   []ability{canPartition},
		run:     watchSurvivesPartition,
	},
	{
		name:    "LostReplyOfAWriteIsUnknown",
		meaning: "a write that was carried out is reported as failed, or as a conflict with itself: two nodes act on opposite beliefs.",
		needs:   []ability{canDrop},
		run:     lostReplyOfAWriteIsUnknown,
	},
	{
		name:    "LostReplyOfARenewalIsUnknown",
		meaning: "a renewal is repeated behind the caller's back: it takes longer than its caller counts on, or a loss is hidden.",
		needs:   []ability{canDrop},
		run:     lostReplyOfARenewalIsUnknown,
	},
	{
		name:    "LostReplyOfASessionsBeginIsUnknown",
		meaning: "sessions pile up that nobody knows of, or a node is given a session that it did not get.",
		needs:   []ability{canDrop},
		run:     lostReplyOfASessionsBeginIsUnknown,
	},
	{
		name:    "LostReplyOfASessionsEndIsUnknown",
		meaning: "a node believes that its locks are free, or cannot try again to free them.",
		needs:   []ability{canDrop},
		run:     lostReplyOfASessionsEndIsUnknown,
	},
	{
		name:    "PausedStoreHangsNobody",
		meaning: "a call does not end with its context while the store stands still: the node cannot stop PostgreSQL in time.",
		needs:   []ability{canPause},
		run: func(t *testing.T, e *env) {
			nobodyHangs(t, e, e.pause)
		},
	},
	{
		name:    "PausedStoreKeepsItsWord",
		meaning: "a node is told that a write surely was not done, acts on that, and the write lands when the store goes on.",
		needs:   []ability{canPause},
		run: func(t *testing.T, e *env) {
			unansweredWritesKeepTheirWord(t, e, e.pause)
		},
	},
	{
		name:    "SessionAfterAPauseLivesOrIsLost",
		meaning: "after the store stood still a node holds a lock that does not exist any more.",
		needs:   []ability{canPause},
		run:     sessionAfterAPauseLivesOrIsLost,
	},
	{
		name:    "AcknowledgedWritesSurviveTheLeader",
		meaning: "a record that was acknowledged is lost in a failover of the store, or one that was refused appears.",
		needs:   []ability{canKill},
		run:     func(t *testing.T, e *env) { acknowledgedWritesSurvive(t, e, true) },
	},
	{
		name:    "SessionsSurviveTheLeader",
		meaning: "every failover of the store makes all nodes lose their locks.",
		needs:   []ability{canKill},
		run:     func(t *testing.T, e *env) { sessionsSurvive(t, e, true) },
	},
	{
		name:    "SessionsDoNotDieEarlyWithTheLeader",
		meaning: "a failover of the store takes a lock away while its holder still relies on it: two primaries.",
		needs:   []ability{canKill},
		run:     sessionsDoNotDieEarlyWithTheLeader,
	},
	{
		name:    "WatchSurvivesTheLeader",
		meaning: "a failover of the store makes nodes deaf, or tells them of the past.",
		needs:   []ability{canKill},
		run:     func(t *testing.T, e *env) { watchSurvivesAKill(t, e, true) },
	},
	{
		name:    "AcknowledgedWritesSurviveAFollower",
		meaning: "a record that was acknowledged is lost when one server of the store crashes.",
		needs:   []ability{canKillOther},
		run:     func(t *testing.T, e *env) { acknowledgedWritesSurvive(t, e, false) },
	},
	{
		name:    "SessionsSurviveAFollower",
		meaning: "nodes lose their locks because one server of the store crashes.",
		needs:   []ability{canKillOther},
		run:     func(t *testing.T, e *env) { sessionsSurvive(t, e, false) },
	},
	{
		name:    "WatchSurvivesAFollower",
		meaning: "a node becomes deaf because the server that it is connected with crashes.",
		needs:   []ability{canKillOther},
		run:     func(t *testing.T, e *env) { watchSurvivesAKill(t, e, false) },
	},
	{
		name:    "ExpiredSessionIsLost",
		meaning: "a node does not notice that an operator, or the store, has ended its session.",
		needs:   []ability{canExpire},
		run:     expiredSessionIsLost,
	},
	{
		name:    "WatchSurvivesCompaction",
		meaning: "after a compaction nodes are deaf, or miss what happened around it.",
		needs:   []ability{canCompact},
		run:     watchSurvivesCompaction,
	},
	{
		name:    "WatchSurvivesCompactionWhileCutOff",
		meaning: "a node that was cut off longer than the store keeps its history is deaf afterwards.",
		needs:   []ability{canCompact, canPartition},
		run:     watchSurvivesCompactionWhileCutOff,
	},
	{
		name:    "GuardsSurviveCompaction",
		meaning: "after a compaction a node cannot change what it read before, or the fence lets everybody pass.",
		needs:   []ability{canCompact},
		run:     guardsSurviveCompaction,
	},
}

// isNoAnswer requires that a read has failed without saying anything about the
// key.
func isNoAnswer(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, dcs.ErrNotFound)
	require.NotErrorIs(t, err, dcs.ErrInvalid)
	require.NotErrorIs(t, err, dcs.ErrClosed)
}

// isUnknown requires that a renewal has failed without ending the session.
func isUnknown(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, dcs.ErrSessionLost)
	require.NotErrorIs(t, err, dcs.ErrInvalid)
	require.NotErrorIs(t, err, dcs.ErrClosed)
}

func partitionedReadIsNoAnswer(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	e.put(t, b, "k", "1")
	e.get(t, a, "k")
	heal := e.partition(t, "a")
	for _, name := range []string{"k", "none"} {
		_, err := a.Get(e.briefly(t), e.key(name))
		isNoAnswer(t, err)
	}
	_, err := a.List(e.briefly(t), e.base)
	isNoAnswer(t, err)
	_, err = a.Commit(e.briefly(t), dcs.Txn{If: []dcs.Guard{dcs.At(e.key("none"), 0)}})
	require.Error(t, err, "a check is a read")
	require.NotErrorIs(t, err, dcs.ErrConflict)
	heal()
	kv, exists := e.awaitGet(t, a, "k")
	require.True(t, exists)
	require.Equal(t, "1", string(kv.Value))
}

// unansweredWritesKeepTheirWord makes writes while nobody answers, and looks
// afterwards whether what surely was not done has been done.
func unansweredWritesKeepTheirWord(t *testing.T, e *env, silence func(t *testing.T) (end func())) {
	a, b := e.client(t, "a"), e.client(t, "b")
	swapped := e.put(t, a, "swapped", "before")
	var attempts ledger
	end := silence(t)
	for i := range 3 {
		name := fmt.Sprintf("created%d", i)
		_, err := dcs.Create(e.briefly(t), a, e.key(name), nil, "")
		require.Error(t, err)
		attempts.add("a", attempt{name: name, err: err})
	}
	_, swapErr := dcs.CompareAndSwap(e.briefly(t), a, e.key("swapped"), swapped, []byte("after"), "")
	require.Error(t, swapErr)
	end()

	// What is under way arrives before what the same client sends now, and after
	// a while if at all.
	e.until(t, "write after the silence", func(ctx context.Context) error {
		_, err := dcs.Put(ctx, a, e.key("last"), nil)
		return err
	})
	e.sleep(t, grace)
	attempts.verify(t, e, b)
	if kv := e.get(t, b, "swapped"); dcs.SurelyNotDone(swapErr) {
		require.Equal(t, "before", string(kv.Value), "surely not done: %v", swapErr)
	} else {
		require.ErrorIs(t, swapErr, dcs.ErrAmbiguous)
		require.Contains(t, []string{"before", "after"}, string(kv.Value))
	}

	settled, err := dcs.Settle(e.ctx, a, e.key("swapped"))
	require.NoError(t, err)
	e.sleep(t, grace/4)
	require.Equal(t, settled, e.get(t, b, "swapped"), "what was settled stays")
}

func partitionedRenewalIsUnknown(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, a, e.longTTL())
	token := e.create(t, a, "k", session.ID())
	heal := e.partition(t, "a")
	for range 2 {
		isUnknown(t, session.Renew(e.briefly(t)))
	}
	heal()
	e.until(t, "renew", session.Renew)
	require.Equal(t, token, e.get(t, b, "k").Created)
}

func partitionedSessionExpires(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session, sent := e.shortSession(t, a, "k")
	heal := e.partition(t, "a")
	updates := b.Watch(e.ctx, e.base)
	e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 0 })
	require.GreaterOrEqual(t, e.clk.Since(sent), session.TTL(), "the key died early")
	require.LessOrEqual(t, e.clk.Since(sent), session.TTL()+e.traits.Linger, "the key died late")
	next := e.create(t, b, "k", "")
	require.Error(t, session.Renew(e.briefly(t)))
	heal()
	e.until(t, "hear of the loss", func(ctx context.Context) error {
		err := session.Renew(ctx)
		require.Error(t, err, "a session that has expired is not renewed")
		if errors.Is(err, dcs.ErrSessionLost) {
			return nil
		}
		return err
	})
	_, err := dcs.Create(e.ctx, a, e.key("bound"), nil, session.ID())
	require.ErrorIs(t, err, dcs.ErrSessionLost)
	require.Equal(t, next, e.get(t, a, "k").Created)
}

// nobodyHangs makes one call of each kind while nobody answers, and looks
// whether it ends with its context.
func nobodyHangs(t *testing.T, e *env, silence func(t *testing.T) (end func())) {
	s := e.client(t, "a")
	renewed, closed := e.session(t, s, e.longTTL()), e.session(t, s, e.longTTL())
	e.put(t, s, "k", "")
	watching, stopWatching := context.WithCancel(e.ctx)
	defer stopWatching()
	before := s.Watch(watching, e.base)
	e.next(t, before)
	end := silence(t)
	calls := map[string]func(context.Context) error{
		"Get": func(ctx context.Context) error {
			_, err := s.Get(ctx, e.key("k"))
			return err
		},
		"List": func(ctx context.Context) error {
			_, err := s.List(ctx, e.base)
			return err
		},
		"Commit": func(ctx context.Context) error {
			_, err := dcs.Put(ctx, s, e.key("k"), nil)
			return err
		},
		"NewSession": func(ctx context.Context) error {
			_, err := s.NewSession(ctx, e.longTTL())
			return err
		},
		"Renew": renewed.Renew,
		"Close": closed.Close,
	}
	var ended sync.WaitGroup
	errs := make(map[string]error, len(calls))
	var mu sync.Mutex
	for name, call := range calls {
		for _, how := range []string{"deadline", "cancel"} {
			ctx := e.briefly(t)
			if how == "cancel" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(e.ctx)
				e.clk.AfterFunc(brief, cancel)
			}
			ended.Go(func() {
				err := call(ctx)
				mu.Lock()
				defer mu.Unlock()
				errs[name+" by "+how] = err
			})
		}
	}
	e.returns(t, "a call", ended.Wait)
	for name, err := range errs {
		require.Error(t, err, name)
	}
	during := s.Watch(watching, e.base)
	stopWatching()
	e.awaitClosed(t, before)
	e.awaitClosed(t, during)
	end()
	e.until(t, "use the store again", func(ctx context.Context) error {
		_, err := s.Get(ctx, e.key("k"))
		return err
	})
}

func partitionIsForOneOnly(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, b, e.longTTL())
	e.put(t, a, "k", "1")
	updates := b.Watch(e.ctx, e.base)
	e.next(t, updates)
	e.partition(t, "a")
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() { _, _ = dcs.Put(e.briefly(t), a, e.key("lost"), nil) })
	}
	e.sleep(t, brief/3) // so that they are under way, most likely
	for i := range 20 {
		e.put(t, b, "k", strconv.Itoa(i))
		require.NoError(t, session.Renew(e.ctx))
	}
	e.await(t, updates, func(kvs []dcs.KV) bool { return string(kvs[0].Value) == "19" })
	e.returns(t, "a call of the one that is cut off", calls.Wait)
}

func closeDuringPartition(t *testing.T, e *env) {
	s, _ := e.cluster.Client(t, e.who("a"))
	session, err := s.NewSession(e.ctx, e.longTTL())
	require.NoError(t, err)
	e.create(t, s, "k", session.ID())
	updates := s.Watch(e.ctx, e.base)
	e.next(t, updates)
	heal := e.partition(t, "a")
	failed := make(chan error, 1)
	e.background.Go(func() {
		_, err := s.Get(e.ctx, e.key("k"))
		failed <- err
	})
	e.sleep(t, brief) // so that the call is under way, most likely
	e.returns(t, "Close", func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	e.returns(t, "the call that was under way", func() {
		if err := <-failed; !errors.Is(err, dcs.ErrClosed) {
			t.Errorf("the call that was under way says: %v", err)
		}
	})
	e.awaitClosed(t, updates)
	heal()
	require.Equal(t, session.ID(), e.get(t, e.client(t, "b"), "k").Session, "the session is left to expire")
}

// follow reads a watch in the background until it shows the key "last", and
// requires that the key "k", which holds a number that grows, never goes back.
func (e *env) follow(t *testing.T, updates <-chan dcs.Update) (caughtUp func()) {
	t.Helper()
	result := make(chan error, 1)
	e.background.Go(func() {
		seen := -1
		for u := range updates {
			if u.Err != nil {
				continue
			}
			names := e.keys(u.KVs)
			if i := slices.Index(names, "k"); i >= 0 {
				value, err := strconv.Atoi(string(u.KVs[i].Value))
				if err != nil || value < seen {
					result <- fmt.Errorf("the watch went from %d to %s", seen, u.KVs[i].Value)
					return
				}
				seen = value
			}
			if slices.Contains(names, "last") {
				result <- nil
				return
			}
		}
		result <- errors.New("the watch was closed")
	})
	return func() {
		t.Helper()
		select {
		case err := <-result:
			require.NoError(t, err)
		case <-e.ctx.Done():
			require.NoError(t, context.Cause(e.ctx), "the watch never shows what was written last")
		}
	}
}

// count writes numbers to the key "k", each under the revision of the one
// before, so that none that gets lost lands later.
func (e *env) count(t *testing.T, s dcs.Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		value := strconv.Itoa(i)
		e.until(t, "count", func(ctx context.Context) error {
			kv, err := s.Get(ctx, e.key("k"))
			if err != nil && !errors.Is(err, dcs.ErrNotFound) || string(kv.Value) == value {
				return err
			}
			_, err = dcs.CompareAndSwap(ctx, s, e.key("k"), kv.Revision, []byte(value), "")
			return err
		})
	}
}

func watchSurvivesPartition(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	e.count(t, b, 0, 1)
	updates := a.Watch(e.ctx, e.base)
	e.next(t, updates)
	caughtUp := e.follow(t, updates)
	e.count(t, b, 1, 5)
	heal := e.partition(t, "a")
	e.count(t, b, 5, 20)
	_, _ = a.Get(e.briefly(t), e.key("k"))
	heal()
	e.count(t, b, 20, 25)
	e.put(t, b, "last", "")
	caughtUp()
}

// lostReply makes a call whose reply gets lost, and returns what the caller is
// told. A reply that comes nevertheless is to a second request.
func (e *env) lostReply(t *testing.T, call func(context.Context) error) error {
	t.Helper()
	dropped, heal := e.dropReplies(t, "a")
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	result := make(chan error, 1)
	e.background.Go(func() { result <- call(ctx) })
	select {
	case <-dropped:
	case <-e.ctx.Done():
		require.NoError(t, context.Cause(e.ctx), "waiting for the request to be carried out")
	}
	heal()
	timer := e.clk.Timer(grace)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-timer.C:
	}
	cancel()
	var err error
	e.returns(t, "the call", func() { err = <-result })
	return err
}

// reconnected waits until a client that has lost a reply reaches the store again: a
// connection that is only being made could not lose the reply of what it never carried.
func (e *env) reconnected(t *testing.T, s dcs.Store) {
	t.Helper()
	e.until(t, "reach the store again", func(ctx context.Context) error {
		_, err := s.List(ctx, e.base)
		return err
	})
}

func lostReplyOfAWriteIsUnknown(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	swapped, deleted := e.put(t, a, "swapped", "before"), e.put(t, a, "deleted", "")

	err := e.lostReply(t, func(ctx context.Context) error {
		_, err := dcs.Create(ctx, a, e.key("created"), nil, "")
		return err
	})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	e.get(t, b, "created")
	e.reconnected(t, a)

	err = e.lostReply(t, func(ctx context.Context) error {
		_, err := dcs.CompareAndSwap(ctx, a, e.key("swapped"), swapped, []byte("after"), "")
		return err
	})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.Equal(t, "after", string(e.get(t, b, "swapped").Value))
	e.reconnected(t, a)

	err = e.lostReply(t, func(ctx context.Context) error {
		return dcs.Delete(ctx, a, e.key("deleted"), deleted)
	})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	e.absent(t, b, "deleted")
}

func lostReplyOfARenewalIsUnknown(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, a, e.longTTL())
	e.create(t, a, "k", session.ID())
	isUnknown(t, e.lostReply(t, session.Renew))
	e.until(t, "renew", session.Renew)
	require.Equal(t, session.ID(), e.get(t, b, "k").Session)
}

func lostReplyOfASessionsBeginIsUnknown(t *testing.T, e *env) {
	a := e.client(t, "a")
	e.put(t, a, "k", "") // the client is connected
	var lost dcs.Session
	err := e.lostReply(t, func(ctx context.Context) (err error) {
		lost, err = a.NewSession(ctx, e.ttl())
		return err
	})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.Nil(t, lost)
	session := e.session(t, a, e.longTTL())
	require.NoError(t, session.Renew(e.ctx))
}

func lostReplyOfASessionsEndIsUnknown(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, a, e.longTTL())
	e.create(t, a, "k", session.ID())
	require.ErrorIs(t, e.lostReply(t, session.Close), dcs.ErrAmbiguous)
	e.absent(t, b, "k")
	e.until(t, "close again", session.Close)
}

func sessionAfterAPauseLivesOrIsLost(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session, _ := e.shortSession(t, a, "k")
	resume := e.pause(t)
	require.Error(t, session.Renew(e.briefly(t)))
	e.sleep(t, session.TTL())
	resume()
	var err error
	e.until(t, "renew or hear of the loss", func(ctx context.Context) error {
		err = session.Renew(ctx)
		if errors.Is(err, dcs.ErrSessionLost) {
			return nil
		}
		return err
	})
	if err == nil {
		// Renewed at this instant at the earliest: on a machine that stalls now
		// for longer than the TTL nothing is known.
		sent := e.clk.Now()
		kv, exists := e.awaitGet(t, b, "k")
		if e.clk.Since(sent) < session.TTL()/2 {
			require.True(t, exists, "the session was renewed, and the key is gone")
			require.Equal(t, session.ID(), kv.Session)
		}
		return
	}
	e.until(t, "see the key vanish", func(ctx context.Context) error {
		_, err := b.Get(ctx, e.key("k"))
		if errors.Is(err, dcs.ErrNotFound) {
			return nil
		}
		return fmt.Errorf("the session was lost, and the key is still there: %w", err)
	})
	require.ErrorIs(t, session.Renew(e.ctx), dcs.ErrSessionLost, "a loss is final")
}

func acknowledgedWritesSurvive(t *testing.T, e *env, leader bool) {
	var (
		book    ledger
		writing sync.WaitGroup
		stop    = make(chan struct{})
	)
	writers := []string{"a", "b", "c"}
	for _, name := range writers {
		s := e.client(t, name)
		writing.Go(func() { book.write(e, s, name, stop) })
	}
	each := func(n int) {
		for _, name := range writers {
			from := book.acknowledged(name)
			e.until(t, "write as "+name, func(context.Context) error {
				if book.acknowledged(name) < from+n {
					return errors.New("too few writes are acknowledged")
				}
				return nil
			})
		}
	}
	each(5)
	e.kill(t, leader)
	each(10)
	close(stop)
	writing.Wait()
	book.verify(t, e, e.client(t, "reader"))
}

func sessionsSurvive(t *testing.T, e *env, leader bool) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, a, e.traits.clamp(patience))
	token := e.create(t, a, "k", session.ID())
	e.kill(t, leader)
	e.until(t, "renew", func(ctx context.Context) error {
		err := session.Renew(ctx)
		require.NotErrorIs(t, err, dcs.ErrSessionLost)
		return err
	})
	kv, exists := e.awaitGet(t, b, "k")
	require.True(t, exists)
	require.Equal(t, token, kv.Created)
	require.Equal(t, session.ID(), kv.Session)
	e.until(t, "close the session", session.Close)
	_, exists = e.awaitGet(t, b, "k")
	require.False(t, exists)
}

func sessionsDoNotDieEarlyWithTheLeader(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session, sent := e.boundSession(t, a, e.traits.clamp(4*e.ttl()), "k")
	updates := b.Watch(e.ctx, e.base)
	e.kill(t, true)
	e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 0 })
	require.GreaterOrEqual(t, e.clk.Since(sent), session.TTL(), "the key died early")
}

func watchSurvivesAKill(t *testing.T, e *env, leader bool) {
	writer := e.client(t, "writer")
	e.count(t, writer, 0, 1)
	var caughtUp []func()
	for i := range 3 { // so that some of them, most likely, were connected with what dies
		updates := e.client(t, fmt.Sprintf("reader%d", i)).Watch(e.ctx, e.base)
		e.next(t, updates)
		caughtUp = append(caughtUp, e.follow(t, updates))
	}
	e.count(t, writer, 1, 5)
	e.kill(t, leader)
	e.count(t, writer, 5, 20)
	e.until(t, "write the last key", func(ctx context.Context) error {
		_, err := dcs.Put(ctx, writer, e.key("last"), nil)
		return err
	})
	for _, reader := range caughtUp {
		reader()
	}
}

// expiryTTL is longer than a case should take, and much shorter than it may.
const expiryTTL = 30 * time.Second

func expiredSessionIsLost(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	// Where a server drops what comes for a session that it has just ended, as
	// ZooKeeper does, the client hears of it after some part of the TTL.
	ttl := e.traits.clamp(expiryTTL)
	session, other := e.session(t, a, ttl), e.session(t, a, ttl)
	e.create(t, a, "k", session.ID())
	e.create(t, a, "other", other.ID())
	updates := b.Watch(e.ctx, e.base)
	require.Len(t, e.next(t, updates), 2)
	require.NoError(t, as[SessionExpirer](e).Expire(e.ctx, session.ID()))

	require.Equal(t, []string{"other"}, e.keys(e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 1 })))
	e.absent(t, a, "k")
	_, err := dcs.Create(e.ctx, a, e.key("bound"), nil, session.ID())
	require.ErrorIs(t, err, dcs.ErrSessionLost)
	for range 2 {
		require.ErrorIs(t, session.Renew(e.ctx), dcs.ErrSessionLost)
	}
	require.NoError(t, session.Close(e.ctx), "closing a session that is gone does nothing")
	require.NoError(t, other.Renew(e.ctx), "the other session is not concerned")
	require.Equal(t, other.ID(), e.get(t, b, "other").Session)
}

func watchSurvivesCompaction(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	updates := a.Watch(e.ctx, e.base)
	require.Empty(t, e.next(t, updates))
	caughtUp := e.follow(t, updates)
	for i := range 10 {
		e.count(t, b, 5*i, 5*i+5)
		require.NoError(t, as[Compacter](e).Compact(e.ctx))
	}
	e.put(t, b, "last", "")
	caughtUp()
}

func watchSurvivesCompactionWhileCutOff(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	e.count(t, b, 0, 1)
	e.put(t, b, "gone", "")
	updates := a.Watch(e.ctx, e.base)
	e.next(t, updates)
	caughtUp := e.follow(t, updates)
	heal := e.partition(t, "a")
	e.count(t, b, 1, 20)
	require.NoError(t, dcs.Delete(e.ctx, b, e.key("gone"), e.get(t, b, "gone").Revision))
	require.NoError(t, as[Compacter](e).Compact(e.ctx))
	heal()
	e.count(t, b, 20, 25)
	e.put(t, b, "last", "")
	caughtUp()
	again := a.Watch(e.ctx, e.base)
	require.Equal(t, []string{"k", "last"}, e.keys(e.next(t, again)))
}

func guardsSurviveCompaction(t *testing.T, e *env) {
	s := e.client(t, "a")
	token := e.create(t, s, "lock", "")
	rev := e.put(t, s, "record", "1")
	former := e.put(t, s, "gone", "1")
	require.NoError(t, dcs.Delete(e.ctx, s, e.key("gone"), former))
	e.count(t, s, 0, 10)
	require.NoError(t, as[Compacter](e).Compact(e.ctx))

	_, err := s.Commit(e.ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.Held(e.key("lock"), token), dcs.At(e.key("record"), rev), dcs.At(e.key("gone"), 0)},
		Then: []dcs.Op{{Key: e.key("record"), Value: []byte("2")}},
	})
	require.NoError(t, err)
	for _, guard := range []dcs.Guard{
		dcs.Held(e.key("gone"), former), dcs.At(e.key("gone"), former), dcs.At(e.key("record"), rev),
	} {
		_, err := s.Commit(e.ctx, dcs.Txn{If: []dcs.Guard{guard}})
		require.ErrorIs(t, err, dcs.ErrConflict)
	}
	require.Greater(t, e.create(t, s, "gone", ""), former, "the token grows on")
}
