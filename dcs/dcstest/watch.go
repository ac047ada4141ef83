package dcstest

import (
	"context"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

var watchCases = []suiteCase{
	{
		name:    "FirstDeliveryIsState",
		meaning: "a node that begins to watch waits for a change before it knows anything.",
		run:     firstDeliveryIsState,
	},
	{
		name:    "FirstDeliveryOfNothing",
		meaning: "a node that watches an empty folder never learns that it is empty.",
		run: func(t *testing.T, e *env) {
			require.Empty(t, e.next(t, e.client(t, "a").Watch(e.ctx, e.base)))
		},
	},
	{
		name:    "EventuallyLatest",
		meaning: "a change can be missed for good, and a node waits for what has long happened.",
		run:     eventuallyLatest,
	},
	{
		name:    "PrefixExact",
		meaning: "a node is woken, or misled, by the records of another cluster whose name begins alike.",
		run:     watchPrefixExact,
	},
	{
		name:    "NeverBackwards",
		meaning: "a node sees a record return to an older state, and may act on it.",
		run:     neverBackwards,
	},
	{
		name:    "SlowReaderDoesNotBlockOthers",
		meaning: "one busy component stops the whole node from hearing of changes, or from writing.",
		run:     slowReaderDoesNotBlockOthers,
	},
	{
		name:    "SeesDeleteByExpiry",
		meaning: "nobody is woken when a dead primary's lock disappears, and a failover begins late.",
		run:     seesDeleteByExpiry,
	},
	{
		name:    "ClosedOnlyByContext",
		meaning: "a watch ends by itself, and a node goes deaf.",
		run:     closedOnlyByContext,
	},
}

func firstDeliveryIsState(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	session := e.session(t, a, e.longTTL())
	rev := e.put(t, a, "k2", "2")
	created := e.create(t, a, "k1", session.ID())
	require.Equal(t, []dcs.KV{
		{Key: e.key("k1"), Value: []byte("k1"), Revision: created, Created: created, Session: session.ID()},
		{Key: e.key("k2"), Value: []byte("2"), Revision: rev, Created: rev},
	}, e.next(t, b.Watch(e.ctx, e.base)))
}

func eventuallyLatest(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	updates := b.Watch(e.ctx, e.base)
	require.Empty(t, e.next(t, updates))
	for i := range 50 {
		e.put(t, a, "k", strconv.Itoa(i))
	}
	e.put(t, a, "gone", "")
	require.NoError(t, dcs.Delete(e.ctx, a, e.key("gone"), e.get(t, a, "gone").Revision))
	last := e.put(t, a, "last", "")
	kvs := e.await(t, updates, func(kvs []dcs.KV) bool {
		return slices.ContainsFunc(kvs, func(kv dcs.KV) bool { return kv.Revision == last })
	})
	require.Equal(t, []string{"k", "last"}, e.keys(kvs))
	require.Equal(t, "49", string(kvs[0].Value))
	require.Less(t, kvs[0].Created, kvs[0].Revision)
}

func watchPrefixExact(t *testing.T, e *env) {
	s := e.client(t, "a")
	updates := s.Watch(e.ctx, e.key("one/"))
	require.Empty(t, e.next(t, updates))
	e.put(t, s, "one", "the prefix without its slash")
	e.put(t, s, "one2/k", "a longer name")
	e.put(t, s, "one/k", "the one")
	e.await(t, updates, func(kvs []dcs.KV) bool {
		if len(kvs) == 0 {
			return false // a needless delivery of the same state is no fault
		}
		require.Equal(t, []string{"one/k"}, e.keys(kvs))
		return true
	})
}

func neverBackwards(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	updates := b.Watch(e.ctx, e.base)
	const readers, writes = 10, 100
	for i := range readers { // one state after the other
		rev := e.put(t, a, "k", strconv.Itoa(i-readers))
		e.await(t, updates, func(kvs []dcs.KV) bool {
			if len(kvs) == 0 {
				require.Zero(t, i, "the key has vanished again")
				return false
			}
			require.LessOrEqual(t, kvs[0].Revision, rev)
			require.Contains(t, []string{strconv.Itoa(i - readers), strconv.Itoa(i - readers - 1)}, string(kvs[0].Value))
			return kvs[0].Revision == rev
		})
	}
	done := make(chan error, 1)
	e.background.Go(func() {
		var err error
		for i := 0; i < writes && err == nil; i++ {
			_, err = dcs.Put(e.ctx, a, e.key("k"), []byte(strconv.Itoa(i)))
		}
		done <- err
	})
	seen := -1
	for seen < writes-1 {
		kvs := e.next(t, updates)
		require.NotEmpty(t, kvs, "the key has vanished again")
		value, err := strconv.Atoi(string(kvs[0].Value))
		require.NoError(t, err)
		require.GreaterOrEqual(t, value, seen)
		seen = value
	}
	require.NoError(t, <-done)
}

func slowReaderDoesNotBlockOthers(t *testing.T, e *env) {
	s := e.client(t, "a")
	slow, quick := s.Watch(e.ctx, e.base), s.Watch(e.ctx, e.base)
	require.Empty(t, e.next(t, quick))
	e.sleep(t, brief/3) // by now the slow one has something to read, most likely
	var last dcs.Revision
	for i := range 100 {
		last = e.put(t, s, "k", strconv.Itoa(i))
	}
	latest := func(kvs []dcs.KV) bool { return len(kvs) == 1 && kvs[0].Revision == last }
	e.await(t, quick, latest)
	e.await(t, slow, latest)
}

func seesDeleteByExpiry(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	e.shortSession(t, a, "k")
	updates := b.Watch(e.ctx, e.base)
	e.await(t, updates, func(kvs []dcs.KV) bool { return len(kvs) == 0 })
	e.absent(t, a, "k")
}

func closedOnlyByContext(t *testing.T, e *env) {
	a, b := e.client(t, "a"), e.client(t, "b")
	ctx, cancel := context.WithCancel(e.ctx)
	ended, stays := b.Watch(ctx, e.base), b.Watch(e.ctx, e.base)
	require.Empty(t, e.next(t, ended))
	e.put(t, a, "k", "1")
	e.await(t, ended, func(kvs []dcs.KV) bool { return len(kvs) == 1 })
	cancel()
	e.awaitClosed(t, ended)

	last := e.put(t, a, "k", "2")
	e.await(t, stays, func(kvs []dcs.KV) bool { return len(kvs) == 1 && kvs[0].Revision == last })
}
