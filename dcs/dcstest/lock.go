package dcstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

var lockCases = []suiteCase{
	{
		name:    "OneHolder",
		meaning: "two nodes hold the lock at once, or a later holder has a lower fencing token.",
		run:     oneHolder,
	},
	{
		name:    "HolderPartitioned",
		meaning: "a primary that is cut off goes on beside its successor, or nobody succeeds it.",
		needs:   []ability{canPartition},
		run: func(t *testing.T, e *env) {
			holderIsCutOff(t, e, func(t *testing.T, client string) func() { return e.partition(t, client) })
		},
	},
	{
		name:    "HolderHalfOpen",
		meaning: "a primary whose renewals arrive and are not answered goes on beside its successor.",
		needs:   []ability{canDrop},
		run: func(t *testing.T, e *env) {
			holderIsCutOff(t, e, func(t *testing.T, client string) func() {
				t.Helper()
				_, heal := e.dropReplies(t, client)
				return heal
			})
		},
	},
	{
		name:    "ContenderPartitioned",
		meaning: "a replica that is cut off costs the primary its lock.",
		needs:   []ability{canPartition},
		run:     contenderPartitioned,
	},
	{
		name:    "AllPartitioned",
		meaning: "after an outage of the whole network two nodes hold the lock, or nobody ever again.",
		needs:   []ability{canPartition},
		run: func(t *testing.T, e *env) {
			nobodyCanRenew(t, e, func(t *testing.T) func() {
				t.Helper()
				a, b := e.partition(t, "a"), e.partition(t, "b")
				return func() { a(); b() }
			})
		},
	},
	{
		name:    "StorePaused",
		meaning: "after the store stood still two nodes hold the lock, or nobody ever again.",
		needs:   []ability{canPause},
		run: func(t *testing.T, e *env) {
			nobodyCanRenew(t, e, e.pause)
		},
	},
	{
		name:    "LeaderOfTheStoreKilled",
		meaning: "a failover of the store makes two nodes hold the lock, or nobody ever again.",
		needs:   []ability{canKill},
		run:     func(t *testing.T, e *env) { serverKilled(t, e, true) },
	},
	{
		name:    "FollowerOfTheStoreKilled",
		meaning: "a crash of one server of the store makes two nodes hold the lock, or nobody ever again.",
		needs:   []ability{canKillOther},
		run:     func(t *testing.T, e *env) { serverKilled(t, e, false) },
	},
	{
		name:    "SessionExpiredByOperator",
		meaning: "a primary does not notice that its session was ended.",
		needs:   []ability{canExpire},
		run: func(t *testing.T, e *env) {
			holdingIsTakenAway(t, e, func(t *testing.T, _ dcs.Store, kv dcs.KV) {
				t.Helper()
				require.NoError(t, as[SessionExpirer](e).Expire(e.ctx, kv.Session))
			})
		},
	},
	{
		name:    "KeyDeletedByOperator",
		meaning: "a primary does not notice that its lock was deleted, because its session lives on.",
		run: func(t *testing.T, e *env) {
			holdingIsTakenAway(t, e, func(t *testing.T, s dcs.Store, kv dcs.KV) {
				t.Helper()
				_, err := s.Commit(e.ctx, dcs.Txn{
					If:   []dcs.Guard{dcs.Held(kv.Key, kv.Created)},
					Then: []dcs.Op{{Key: kv.Key, Delete: true}},
				})
				require.NoError(t, err)
			})
		},
	},
}

// contest is several contenders for one lock.
type contest struct {
	e     *env
	admin dcs.Store
	terms *Terms
	end   context.CancelFunc
	ended sync.WaitGroup

	mu    sync.Mutex
	yield context.CancelFunc // ends the work of the last term that began
	errs  []error
}

// lockName is what the contest is about in its record of terms.
const lockName = "the lock"

// compete begins a contest of contenders with these names.
func (e *env) compete(t *testing.T, names ...string) *contest {
	t.Helper()
	c := &contest{e: e, admin: e.client(t, "admin"), terms: NewTerms(e.clk)}
	ctx, cancel := context.WithCancel(e.ctx)
	c.end = cancel
	for _, name := range names {
		s, clk := e.clientWithClock(t, name)
		c.ended.Go(func() {
			err := e.lock(ctx, Contender{
				Name: name, Store: s, Clock: clk,
				Key: e.key("lock"), TTL: e.traits.clamp(minLockTTL),
				Work: func(ctx context.Context, token dcs.Revision) error { return c.hold(ctx, name, token) },
			})
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil {
				c.errs = append(c.errs, fmt.Errorf("contender %s: %w", name, err))
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		c.ended.Wait()
	})
	return c
}

// hold is the work under the lock: it lasts until the context ends, or the
// contest wants another holder.
func (c *contest) hold(ctx context.Context, name string, token dcs.Revision) error {
	term := c.terms.Begin(lockName, name, token)
	defer term.End()
	ctx, yield := context.WithCancel(ctx)
	defer yield()
	c.mu.Lock()
	c.yield = yield
	c.mu.Unlock()
	<-ctx.Done()
	return nil
}

// await waits for a holder whose token is greater than that of an earlier term.
func (c *contest) await(t *testing.T, after dcs.Revision) Term {
	t.Helper()
	var found Term
	c.e.until(t, "see the next holder of the lock", func(context.Context) error {
		for _, term := range c.terms.All(lockName) {
			if term.Token > after && term.Until.IsZero() {
				found = term
				return nil
			}
		}
		return errors.New("nobody holds the lock")
	})
	return found
}

// awaitEnd waits until nothing is done any more in the name of a term.
func (c *contest) awaitEnd(t *testing.T, token dcs.Revision) {
	t.Helper()
	c.e.until(t, "see the holder stop", func(context.Context) error {
		for _, term := range c.terms.All(lockName) {
			if term.Token == token && term.Until.IsZero() {
				return fmt.Errorf("%s still works under token %d", term.Holder, token)
			}
		}
		return nil
	})
}

// stop makes all contenders give up.
func (c *contest) stop(t *testing.T) {
	t.Helper()
	c.end()
	c.e.returns(t, "the contest", c.ended.Wait)
	for _, err := range c.errs {
		require.NoError(t, err)
	}
}

// fenced requires that a former holder writes nothing any more.
func (c *contest) fenced(t *testing.T, former dcs.Revision) {
	t.Helper()
	_, err := c.admin.Commit(c.e.ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.Held(c.e.key("lock"), former)},
		Then: []dcs.Op{{Key: c.e.key("protected"), Value: []byte("late")}},
	})
	require.ErrorIs(t, err, dcs.ErrConflict)
}

func oneHolder(t *testing.T, e *env) {
	c := e.compete(t, "a", "b", "c")
	var last dcs.Revision
	for range 6 {
		term := c.await(t, last)
		if last != 0 {
			c.fenced(t, last)
		}
		last = term.Token
		c.mu.Lock()
		c.yield()
		c.mu.Unlock()
		c.awaitEnd(t, last)
	}
	c.stop(t)
	c.terms.Verify(t)
	e.absent(t, c.admin, "lock")
}

// holderIsCutOff cuts one holder after the other off, each until there is
// another one.
func holderIsCutOff(t *testing.T, e *env, cut func(t *testing.T, client string) (heal func())) {
	c := e.compete(t, "a", "b")
	former := c.await(t, 0)
	for range 2 {
		heal := cut(t, former.Holder)
		next := c.await(t, former.Token)
		require.NotEqual(t, former.Holder, next.Holder)
		c.fenced(t, former.Token)
		heal()
		former = next
	}
	c.stop(t)
	c.terms.Verify(t)
}

func contenderPartitioned(t *testing.T, e *env) {
	c := e.compete(t, "a", "b")
	holder := c.await(t, 0)
	other := map[string]string{"a": "b", "b": "a"}[holder.Holder]
	heal := e.partition(t, other)
	// A machine that stalls can cost the holder its lock too.
	const tolerable = 500 * time.Millisecond
	slowest := time.Duration(0)
	for began := e.clk.Now(); e.clk.Since(began) < 2*e.traits.clamp(minLockTTL); {
		asked := e.clk.Now()
		e.awaitGet(t, c.admin, "lock")
		e.sleep(t, tolerable/10)
		slowest = max(slowest, e.clk.Since(asked))
	}
	heal()
	if slowest < tolerable {
		require.Equal(t, holder, c.await(t, 0), "the holder is not concerned")
	} else {
		t.Logf("NOT TESTED whether the holder kept the lock: this machine stalled for %s", slowest)
	}
	c.stop(t)
	c.terms.Verify(t)
}

// nobodyCanRenew lasts until the holder has stopped and its session, most
// likely, has ended.
func nobodyCanRenew(t *testing.T, e *env, begin func(t *testing.T) (end func())) {
	c := e.compete(t, "a", "b")
	former := c.await(t, 0)
	end := begin(t)
	c.awaitEnd(t, former.Token)
	e.sleep(t, e.traits.clamp(minLockTTL))
	end()
	next := c.await(t, former.Token)
	e.until(t, "use the store again", func(ctx context.Context) error {
		_, err := c.admin.Get(ctx, e.key("lock"))
		return err
	})
	c.fenced(t, former.Token)
	require.Greater(t, next.Token, former.Token)
	c.stop(t)
	c.terms.Verify(t)
}

// serverKilled requires of the time afterwards that there is a holder, be it the
// same or another one, and one only.
func serverKilled(t *testing.T, e *env, leader bool) {
	c := e.compete(t, "a", "b")
	former := c.await(t, 0)
	e.kill(t, leader)
	e.sleep(t, 2*e.traits.clamp(minLockTTL))
	present := c.await(t, 0)
	require.GreaterOrEqual(t, present.Token, former.Token)
	if present.Token > former.Token {
		c.fenced(t, former.Token)
	}
	c.stop(t)
	c.terms.Verify(t)
}

// holdingIsTakenAway takes the lock from its holder in a way that no timing
// guards against. Two may work at once then, for as long as the first does not
// know: that it stops, and that it is fenced, is all there is.
func holdingIsTakenAway(t *testing.T, e *env, take func(t *testing.T, s dcs.Store, kv dcs.KV)) {
	c := e.compete(t, "a", "b")
	former := c.await(t, 0)
	take(t, c.admin, e.get(t, c.admin, "lock"))
	next := c.await(t, former.Token)
	c.fenced(t, former.Token)
	c.awaitEnd(t, former.Token)
	require.Greater(t, next.Token, former.Token)
	c.stop(t)
}
