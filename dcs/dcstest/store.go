package dcstest

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

var storeCases = []suiteCase{
	{
		name:    "GetAfterCommit",
		meaning: "a node can read a state older than what was acknowledged before it asked, and decide on it.",
		run:     getAfterCommit,
	},
	{
		name:    "GetAbsentIsNotFound",
		meaning: "a missing record cannot be told from a store that cannot be read.",
		run: func(t *testing.T, e *env) {
			e.absent(t, e.client(t, "a"), "none")
		},
	},
	{
		name:    "ListSortedAndPrefixExact",
		meaning: "a cluster sees the records of another one whose name begins alike, or in an order that changes.",
		run:     listSortedAndPrefixExact,
	},
	{
		name:    "ListOfNothing",
		meaning: "an empty folder looks like an error, or the other way round.",
		run: func(t *testing.T, e *env) {
			kvs, err := e.client(t, "a").List(e.ctx, e.base)
			require.NoError(t, err)
			require.Nil(t, kvs)
		},
	},
	{
		name:    "ListOfMany",
		meaning: "in a large cluster a node does not see all records, and decides without some of them.",
		run:     listOfMany,
	},
	{
		name:    "ListMissesNothingThatStays",
		meaning: "a record that exists seems not to while others are written: a member looks gone.",
		run:     listMissesNothingThatStays,
	},
	{
		name:    "KeyWithValueAndChildren",
		meaning: "a record cannot have records below it, which the layout of a cluster needs.",
		run:     keyWithValueAndChildren,
	},
	{
		name:    "CreateIfAbsent",
		meaning: "two nodes can both believe that they created a lock.",
		run:     createIfAbsent,
	},
	{
		name:    "CASStaleRevision",
		meaning: "a node overwrites what another has written since it read.",
		run:     casStaleRevision,
	},
	{
		name:    "CASDetectsRecreate",
		meaning: "a key that was deleted and created again passes for the one that was read: an old holder keeps its lock.",
		run:     casDetectsRecreate,
	},
	{
		name:    "RevisionsGrowThroughDelete",
		meaning: "a fencing token can be lower than that of an earlier holder, whose late writes then pass.",
		run:     revisionsGrowThroughDelete,
	},
	{
		name:    "CreatedStaysWhileTheKeyLives",
		meaning: "a holder that writes to its lock loses it, or one that has lost it still passes the fence.",
		run:     createdStaysWhileTheKeyLives,
	},
	{
		name:    "GuardedDeleteKeepsAnotherIncarnation",
		meaning: "a former holder that lets go late deletes the lock of the present one.",
		run:     guardedDeleteKeepsAnotherIncarnation,
	},
	{
		name:    "GuardFailureWritesNothing",
		meaning: "a refused transaction has written a part of itself.",
		run:     guardFailureWritesNothing,
	},
	{
		name:    "MultiKeyAllOrNothing",
		meaning: "records that must agree can be seen or left half written.",
		run:     multiKeyAllOrNothing,
	},
	{
		name:    "GuardsWithoutOperations",
		meaning: "a node cannot check that it still holds a lock without writing.",
		run:     guardsWithoutOperations,
	},
	{
		name:    "DeleteOfAbsentKeySucceeds",
		meaning: "clearing up twice fails the second time.",
		run: func(t *testing.T, e *env) {
			rev, err := e.client(t, "a").Commit(e.ctx, dcs.Txn{Then: []dcs.Op{{Key: e.key("none"), Delete: true}}})
			require.NoError(t, err)
			require.Zero(t, rev, "nothing was written, so there is no revision of a write")
		},
	},
	{
		name:    "ValuesAreCopied",
		meaning: "a caller that reuses its buffer changes what is stored, or what others have read.",
		run:     valuesAreCopied,
	},
	{
		name:    "BinaryAndEmptyValues",
		meaning: "values that are not text are damaged, or an empty record looks like none.",
		run:     binaryAndEmptyValues,
	},
	{
		name:    "OversizeRejectedCleanly",
		meaning: "a record that has grown too large looks like an outage, and is retried for ever.",
		run:     oversizeRejectedCleanly,
	},
	{
		name:    "TooManyKeysRejectedCleanly",
		meaning: "a transaction that has grown too large looks like an outage, or is half done.",
		run:     tooManyKeysRejectedCleanly,
	},
	{
		name:    "InvalidRequestsAreRefused",
		meaning: "a malformed call reaches the store, where it may mean something else.",
		run:     invalidRequestsAreRefused,
	},
	{
		name:    "ContextAlreadyCancelled",
		meaning: "a call whose time is over before it begins still writes, or claims that it may have written.",
		run:     contextAlreadyCancelled,
	},
	{
		name:    "ContextCancelledMidCall",
		meaning: "an interrupted write claims to know an outcome that it does not know.",
		run:     contextCancelledMidCall,
	},
	{
		name:    "ConcurrentSwapsLoseNothing",
		meaning: "two nodes that write at once can undo each other's writes unnoticed.",
		run:     concurrentSwapsLoseNothing,
	},
	{
		name:    "CloseUnblocksEverything",
		meaning: "a node cannot stop, because something waits on a store that is closed.",
		run:     closeUnblocksEverything,
	},
	{
		name:    "NoGoroutinesLeft",
		meaning: "a program that opens stores again and again grows until it is killed.",
		run:     noGoroutinesLeft,
	},
}

func getAfterCommit(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	for i := range 20 {
		value := strconv.Itoa(i)
		rev := e.put(t, a, "k", value)
		kv := e.get(t, b, "k")
		require.Equal(t, e.key("k"), kv.Key)
		require.Equal(t, value, string(kv.Value))
		require.Equal(t, rev, kv.Revision)
		require.Empty(t, kv.Session)
	}
}

func listSortedAndPrefixExact(t *testing.T, e *env) {
	s := e.client(t, "a")
	for _, name := range []string{"b/2", "a", "b", "b/1", "ba", "b/1/x", "B", "c"} {
		e.put(t, s, name, name)
	}
	for prefix, want := range map[string][]string{
		"":     {"B", "a", "b", "b/1", "b/1/x", "b/2", "ba", "c"},
		"b/":   {"b/1", "b/1/x", "b/2"},
		"b":    {"b", "b/1", "b/1/x", "b/2", "ba"},
		"b/1":  {"b/1", "b/1/x"},
		"b/1/": {"b/1/x"},
		"ba":   {"ba"},
	} {
		kvs, err := s.List(e.ctx, e.base+prefix)
		require.NoError(t, err)
		require.Equal(t, want, e.keys(kvs), "prefix %q", prefix)
		for _, kv := range kvs {
			require.Equal(t, kv.Key[len(e.base):], string(kv.Value))
			require.NotZero(t, kv.Revision)
			require.Equal(t, kv.Revision, kv.Created)
		}
	}
}

func listOfMany(t *testing.T, e *env) {
	s := e.client(t, "a")
	const transactions = 8
	each := min(e.traits.MaxTxnKeys, 64)
	var want []string
	for i := range transactions {
		var txn dcs.Txn
		for j := range each {
			name := fmt.Sprintf("k%02d/%02d", i, j)
			want = append(want, name)
			txn.Then = append(txn.Then, dcs.Op{Key: e.key(name), Value: []byte(name)})
		}
		_, err := s.Commit(e.ctx, txn)
		require.NoError(t, err)
	}
	kvs, err := s.List(e.ctx, e.base)
	require.NoError(t, err)
	require.Equal(t, want, e.keys(kvs))
	require.Equal(t, want, e.keys(e.next(t, s.Watch(e.ctx, e.base))))
}

func listMissesNothingThatStays(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	stays := []string{"f", "f/5", "f/5/x", "f/9", "z"}
	for _, name := range stays {
		e.put(t, a, name, "")
	}
	done := make(chan error, 1)
	e.background.Go(func() {
		var err error
		for i := 0; i < 40 && err == nil; i++ {
			key := e.key(fmt.Sprintf("f/%d/%d", i%3+4, i%2)) // around and below what stays
			var rev dcs.Revision
			if rev, err = dcs.Create(e.ctx, a, key, nil, ""); err == nil {
				err = dcs.Delete(e.ctx, a, key, rev)
			}
		}
		done <- err
	})
	for ended := false; !ended; {
		select {
		case err := <-done:
			require.NoError(t, err)
			ended = true
		default:
			kvs, err := b.List(e.ctx, e.base)
			require.NoError(t, err)
			seen := e.keys(kvs)
			require.IsIncreasing(t, seen)
			require.Subset(t, seen, stays)
		}
	}
}

func keyWithValueAndChildren(t *testing.T, e *env) {
	s := e.client(t, "a")
	e.put(t, s, "k/child", "first the child")
	e.absent(t, s, "k")
	e.put(t, s, "k", "then the parent")
	require.Equal(t, "then the parent", string(e.get(t, s, "k").Value))
	require.NoError(t, dcs.Delete(e.ctx, s, e.key("k"), e.get(t, s, "k").Revision))
	require.Equal(t, "first the child", string(e.get(t, s, "k/child").Value))
	e.absent(t, s, "k")
}

func createIfAbsent(t *testing.T, e *env) {
	const nodes = 8
	var (
		wg   sync.WaitGroup
		errs [nodes]error
	)
	for i := range nodes {
		s := e.client(t, fmt.Sprintf("node%d", i))
		wg.Go(func() {
			_, errs[i] = dcs.Create(e.ctx, s, e.key("lock"), []byte(strconv.Itoa(i)), "")
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		if err == nil {
			require.Negative(t, winner, "a second node has created the key")
			winner = i
			continue
		}
		require.ErrorIs(t, err, dcs.ErrConflict)
	}
	require.GreaterOrEqual(t, winner, 0, "no node has created the key")
	require.Equal(t, strconv.Itoa(winner), string(e.get(t, e.client(t, "reader"), "lock").Value))
}

func casStaleRevision(t *testing.T, e *env) {
	s := e.client(t, "a")
	first := e.put(t, s, "k", "1")
	second, err := dcs.CompareAndSwap(e.ctx, s, e.key("k"), first, []byte("2"), "")
	require.NoError(t, err)
	require.Greater(t, second, first)

	_, err = dcs.CompareAndSwap(e.ctx, s, e.key("k"), first, []byte("3"), "")
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.ErrorIs(t, dcs.Delete(e.ctx, s, e.key("k"), first), dcs.ErrConflict)
	require.Equal(t, "2", string(e.get(t, s, "k").Value))
}

func casDetectsRecreate(t *testing.T, e *env) {
	s := e.client(t, "a")
	read := e.put(t, s, "k", "1")
	require.NoError(t, dcs.Delete(e.ctx, s, e.key("k"), read))
	e.create(t, s, "k", "")

	_, err := dcs.CompareAndSwap(e.ctx, s, e.key("k"), read, []byte("late"), "")
	require.ErrorIs(t, err, dcs.ErrConflict)
	_, err = s.Commit(e.ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.Held(e.key("k"), read)},
		Then: []dcs.Op{{Key: e.key("k"), Delete: true}},
	})
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.Equal(t, "k", string(e.get(t, s, "k").Value))
}

func guardedDeleteKeepsAnotherIncarnation(t *testing.T, e *env) {
	s := e.client(t, "a")
	remove := func(token dcs.Revision) error {
		_, err := s.Commit(e.ctx, dcs.Txn{
			If:   []dcs.Guard{dcs.Held(e.key("lock"), token)},
			Then: []dcs.Op{{Key: e.key("lock"), Delete: true}},
		})
		return err
	}
	former := e.create(t, s, "lock", "")
	require.NoError(t, remove(former))
	require.ErrorIs(t, remove(former), dcs.ErrConflict)
	present := e.create(t, s, "lock", "")
	require.ErrorIs(t, remove(former), dcs.ErrConflict)
	require.Equal(t, present, e.get(t, s, "lock").Created)
	e.put(t, s, "lock", "written by its holder")
	require.NoError(t, remove(present), "a write does not end the incarnation")
	e.absent(t, s, "lock")
}

func revisionsGrowThroughDelete(t *testing.T, e *env) {
	s := e.client(t, "a")
	var last dcs.Revision
	for range 5 {
		created := e.create(t, s, "k", "")
		require.Greater(t, created, last)
		last = e.put(t, s, "k", "again")
		require.Greater(t, last, created)
		require.NoError(t, dcs.Delete(e.ctx, s, e.key("k"), last))
	}
}

func createdStaysWhileTheKeyLives(t *testing.T, e *env) {
	s := e.client(t, "a")
	token := e.create(t, s, "k", "")
	rev := e.put(t, s, "k", "2")
	kv := e.get(t, s, "k")
	require.Equal(t, token, kv.Created)
	require.Equal(t, rev, kv.Revision)

	held := dcs.Txn{If: []dcs.Guard{{Key: e.key("k"), Created: token}}}
	_, err := s.Commit(e.ctx, held)
	require.NoError(t, err)
	_, err = s.Commit(e.ctx, dcs.Txn{If: []dcs.Guard{{Key: e.key("k"), Created: token, Revision: token}}})
	require.ErrorIs(t, err, dcs.ErrConflict, "both must hold when both are given")
	_, err = s.Commit(e.ctx, dcs.Txn{If: []dcs.Guard{{Key: e.key("k"), Created: token, Revision: rev}}})
	require.NoError(t, err)

	require.NoError(t, dcs.Delete(e.ctx, s, e.key("k"), rev))
	_, err = s.Commit(e.ctx, held)
	require.ErrorIs(t, err, dcs.ErrConflict, "an absent key is held by nobody")
}

func guardFailureWritesNothing(t *testing.T, e *env) {
	s := e.client(t, "a")
	rev := e.put(t, s, "k", "1")
	e.put(t, s, "gone", "1")
	for _, guard := range []dcs.Guard{
		{Key: e.key("k"), Absent: true},
		{Key: e.key("k"), Revision: rev + 1000},
		{Key: e.key("none"), Revision: rev},
		{Key: e.key("none"), Created: rev},
	} {
		_, err := s.Commit(e.ctx, dcs.Txn{
			If: []dcs.Guard{{Key: e.key("k"), Revision: rev}, guard},
			Then: []dcs.Op{
				{Key: e.key("k"), Value: []byte("2")},
				{Key: e.key("new")},
				{Key: e.key("gone"), Delete: true},
			},
		})
		require.ErrorIs(t, err, dcs.ErrConflict)
		kv := e.get(t, s, "k")
		require.Equal(t, "1", string(kv.Value))
		require.Equal(t, rev, kv.Revision)
		e.absent(t, s, "new")
		e.get(t, s, "gone")
	}
}

func multiKeyAllOrNothing(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	txn := func(round int) dcs.Txn {
		var txn dcs.Txn
		for i := range e.traits.MaxTxnKeys {
			txn.Then = append(txn.Then, dcs.Op{Key: e.key(fmt.Sprintf("k%03d", i)), Value: []byte(strconv.Itoa(round))})
		}
		return txn
	}
	for round := range 3 {
		rev, err := a.Commit(e.ctx, txn(round))
		require.NoError(t, err)
		kvs, err := b.List(e.ctx, e.base)
		require.NoError(t, err)
		require.Len(t, kvs, e.traits.MaxTxnKeys)
		for _, kv := range kvs {
			require.Equal(t, strconv.Itoa(round), string(kv.Value))
			require.Equal(t, rev, kv.Revision, "every key written gets the revision returned")
		}
	}
}

func guardsWithoutOperations(t *testing.T, e *env) {
	s := e.client(t, "a")
	rev := e.put(t, s, "k", "1")
	got, err := s.Commit(e.ctx, dcs.Txn{If: []dcs.Guard{dcs.At(e.key("k"), rev), dcs.At(e.key("none"), 0)}})
	require.NoError(t, err)
	require.Zero(t, got)
	_, err = s.Commit(e.ctx, dcs.Txn{If: []dcs.Guard{dcs.At(e.key("k"), 0)}})
	require.ErrorIs(t, err, dcs.ErrConflict)
	require.Equal(t, rev, e.get(t, s, "k").Revision)
}

func valuesAreCopied(t *testing.T, e *env) {
	s := e.client(t, "a")
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	updates := s.Watch(ctx, e.base)
	e.next(t, updates)

	value := []byte("value")
	_, err := dcs.Put(e.ctx, s, e.key("k"), value)
	require.NoError(t, err)
	seen := e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 1 })
	kvs, err := s.List(e.ctx, e.base)
	require.NoError(t, err)
	kv := e.get(t, s, "k")
	for _, mine := range [][]byte{value, seen[0].Value, kvs[0].Value, kv.Value} {
		mine[0] = 'X'
		require.Equal(t, "value", string(e.get(t, s, "k").Value))
	}
	e.put(t, s, "other", "")
	seen = e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 2 })
	require.Equal(t, "value", string(seen[0].Value))
}

func binaryAndEmptyValues(t *testing.T, e *env) {
	s := e.client(t, "a")
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for name, value := range map[string][]byte{
		"binary": every, "empty": {}, "nil": nil, "large": bytes.Repeat([]byte{0xfe}, e.traits.MaxValue),
	} {
		_, err := dcs.Create(e.ctx, s, e.key(name), value, "")
		require.NoError(t, err)
		kv := e.get(t, s, name)
		require.True(t, bytes.Equal(value, kv.Value), "value %s has been changed", name)
		require.NoError(t, dcs.Delete(e.ctx, s, e.key(name), kv.Revision))
	}
}

func oversizeRejectedCleanly(t *testing.T, e *env) {
	s := e.client(t, "a")
	_, err := dcs.Put(e.ctx, s, e.key("k"), make([]byte, 10*e.traits.MaxValue))
	require.ErrorIs(t, err, dcs.ErrInvalid)
	e.namesValueAndLimit(t, err)
	e.absent(t, s, "k")
	e.put(t, s, "k", "the connection is still good")
}

func tooManyKeysRejectedCleanly(t *testing.T, e *env) {
	if !e.traits.limitsKeys {
		t.Skip("NOT TESTED: the backend declares no MaxTxnKeys")
	}
	s := e.client(t, "a")
	var write, check dcs.Txn
	for i := range 10 * e.traits.MaxTxnKeys {
		key := e.key(fmt.Sprintf("k%d", i))
		write.Then = append(write.Then, dcs.Op{Key: key})
		check.If = append(check.If, dcs.At(key, 0))
	}
	for _, txn := range []dcs.Txn{write, check} {
		_, err := s.Commit(e.ctx, txn)
		require.ErrorIs(t, err, dcs.ErrInvalid)
		e.namesValueAndLimit(t, err)
	}
	kvs, err := s.List(e.ctx, e.base)
	require.NoError(t, err)
	require.Empty(t, kvs)
}

var number = regexp.MustCompile(`\d+`)

// namesValueAndLimit requires that an error has two numbers besides those in
// the case's keys.
func (e *env) namesValueAndLimit(t *testing.T, err error) {
	t.Helper()
	text := regexp.MustCompile(regexp.QuoteMeta(e.base)+`\S*`).ReplaceAllString(err.Error(), "")
	require.GreaterOrEqual(t, len(number.FindAllString(text, -1)), 2, "how much it was and what is possible: %s", err)
}

func invalidRequestsAreRefused(t *testing.T, e *env) {
	s := e.client(t, "a")
	_, err := s.Get(e.ctx, "no slash")
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = s.List(e.ctx, "")
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = s.Commit(e.ctx, dcs.Txn{})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = s.Commit(e.ctx, dcs.Txn{Then: []dcs.Op{{Key: e.base}}})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	_, err = s.Commit(e.ctx, dcs.Txn{Then: []dcs.Op{{Key: e.key("k")}, {Key: e.key("k")}}})
	require.ErrorIs(t, err, dcs.ErrInvalid)

	ctx, cancel := context.WithCancel(e.ctx)
	updates := s.Watch(ctx, "")
	select {
	case u := <-updates:
		require.ErrorIs(t, u.Err, dcs.ErrInvalid)
	case <-e.ctx.Done():
		require.NoError(t, context.Cause(e.ctx))
	}
	cancel()
	e.awaitClosed(t, updates)
}

func contextAlreadyCancelled(t *testing.T, e *env) {
	s := e.client(t, "a")
	session := e.session(t, s, e.longTTL())
	rev := e.put(t, s, "k", "1")
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()

	_, err := s.Get(ctx, e.key("k"))
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.List(ctx, e.base)
	require.ErrorIs(t, err, context.Canceled)
	_, commitErr := dcs.Put(ctx, s, e.key("k"), []byte("2"))
	_, sessionErr := s.NewSession(ctx, e.longTTL())
	for _, err := range []error{commitErr, sessionErr, session.Renew(ctx), session.Close(ctx)} {
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Equal(t, rev, e.get(t, s, "k").Revision)
	require.NoError(t, session.Renew(e.ctx))
	e.awaitClosed(t, s.Watch(ctx, e.base))
}

func contextCancelledMidCall(t *testing.T, e *env) {
	s := e.client(t, "a")
	unknown := 0
	for i := range 60 {
		ctx, cancel := context.WithCancel(e.ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range i * i {
				runtime.Gosched()
			}
			cancel()
		})
		name := strconv.Itoa(i)
		_, err := dcs.Create(ctx, s, e.key(name), nil, "")
		wg.Wait()
		switch {
		case err == nil:
			e.get(t, s, name)
		case dcs.SurelyNotDone(err):
			e.absent(t, s, name)
		default:
			require.ErrorIs(t, err, dcs.ErrAmbiguous)
			unknown++
		}
	}
	t.Logf("%d of 60 outcomes were unknown", unknown)
}

func concurrentSwapsLoseNothing(t *testing.T, e *env) {
	const nodes, each = 4, 10
	e.put(t, e.client(t, "first"), "n", "0")
	var (
		wg   sync.WaitGroup
		errs [nodes]error
	)
	for i := range nodes {
		s := e.client(t, fmt.Sprintf("node%d", i))
		wg.Go(func() {
			for done := 0; done < each && errs[i] == nil; {
				swapped, err := e.increment(s)
				if swapped {
					done++
				}
				errs[i] = err
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, strconv.Itoa(nodes*each), string(e.get(t, e.client(t, "last"), "n").Value))
}

// increment tries once to count up, and reports whether it came first.
func (e *env) increment(s dcs.Store) (bool, error) {
	kv, err := s.Get(e.ctx, e.key("n"))
	if err != nil {
		return false, fmt.Errorf("read the counter: %w", err)
	}
	n, err := strconv.Atoi(string(kv.Value))
	if err != nil {
		return false, fmt.Errorf("parse the counter: %w", err)
	}
	_, err = dcs.CompareAndSwap(e.ctx, s, kv.Key, kv.Revision, []byte(strconv.Itoa(n+1)), "")
	if err != nil && dcs.SurelyNotDone(err) {
		return false, nil
	}
	return err == nil, err
}

func closeUnblocksEverything(t *testing.T, e *env) {
	s, other := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, s, e.longTTL())
	e.create(t, s, "bound", session.ID())
	updates := s.Watch(e.ctx, e.base)
	e.next(t, updates)

	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "closing is idempotent")
	e.awaitClosed(t, updates)
	e.awaitClosed(t, s.Watch(e.ctx, e.base))
	_, getErr := s.Get(e.ctx, e.key("bound"))
	_, listErr := s.List(e.ctx, e.base)
	_, putErr := dcs.Put(e.ctx, s, e.key("k"), nil)
	_, sessionErr := s.NewSession(e.ctx, time.Hour)
	for _, err := range []error{getErr, listErr, putErr, sessionErr, session.Renew(e.ctx), session.Close(e.ctx)} {
		require.ErrorIs(t, err, dcs.ErrClosed)
	}
	require.Equal(t, session.ID(), e.get(t, other, "bound").Session, "closing a store does not end its sessions")
	e.absent(t, other, "k")
}

func noGoroutinesLeft(t *testing.T, e *env) {
	// Whatever is started from here inherits the label.
	pprof.Do(e.ctx, pprof.Labels("dcstest", e.base), func(ctx context.Context) {
		for range 3 {
			s, _ := e.cluster.Client(t, e.who("a"))
			session, err := s.NewSession(ctx, e.longTTL())
			require.NoError(t, err)
			e.create(t, s, "k", session.ID())
			require.NoError(t, session.Renew(ctx))
			left := s.Watch(ctx, e.base) // is ended by Close
			require.Len(t, e.next(t, left), 1)
			short, cancel := context.WithCancel(ctx)
			e.next(t, s.Watch(short, e.base))
			cancel()
			_, err = s.List(ctx, e.base)
			require.NoError(t, err)
			require.NoError(t, session.Close(ctx))
			require.NoError(t, s.Close())
			e.awaitClosed(t, left)
		}
	})
	var left string
	for wait := time.Millisecond; ; wait *= 2 {
		if left = labelled(t, e.base); left == "" {
			return
		}
		if e.clk.Now().Add(wait).After(e.ends) {
			require.Fail(t, "goroutines of a closed store are left", left)
		}
		e.sleep(t, wait)
	}
}

// labelled are the stacks of all goroutines with a label.
func labelled(t *testing.T, label string) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&all, 1))
	var found []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, strconv.Quote(label)) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}
