package dcstest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/internal/timectx"
)

// flawed is a Store of which some methods are replaced.
type flawed struct {
	dcs.Store

	get        func(ctx context.Context, key string) (dcs.KV, error)
	list       func(ctx context.Context, prefix string) ([]dcs.KV, error)
	watch      func(ctx context.Context, prefix string) <-chan dcs.Update
	commit     func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error)
	newSession func(ctx context.Context, ttl time.Duration) (dcs.Session, error)
	close      func() error
}

func (f *flawed) Get(ctx context.Context, key string) (dcs.KV, error) {
	if f.get != nil {
		return f.get(ctx, key)
	}
	return f.Store.Get(ctx, key)
}

func (f *flawed) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	if f.list != nil {
		return f.list(ctx, prefix)
	}
	return f.Store.List(ctx, prefix)
}

func (f *flawed) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	if f.watch != nil {
		return f.watch(ctx, prefix)
	}
	return f.Store.Watch(ctx, prefix)
}

func (f *flawed) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	if f.commit != nil {
		return f.commit(ctx, txn)
	}
	return f.Store.Commit(ctx, txn)
}

func (f *flawed) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	if f.newSession != nil {
		return f.newSession(ctx, ttl)
	}
	return f.Store.NewSession(ctx, ttl)
}

func (f *flawed) Close() error {
	if f.close != nil {
		return f.close()
	}
	return f.Store.Close()
}

// flawedSession is a Session of which some methods are replaced.
type flawedSession struct {
	dcs.Session

	id    dcs.SessionID
	ttl   time.Duration
	renew func(context.Context) error
	close func(context.Context) error
}

func (s *flawedSession) ID() dcs.SessionID  { return cmp.Or(s.id, s.Session.ID()) }
func (s *flawedSession) TTL() time.Duration { return cmp.Or(s.ttl, s.Session.TTL()) }

func (s *flawedSession) Renew(ctx context.Context) error {
	if s.renew != nil {
		return s.renew(ctx)
	}
	return s.Session.Renew(ctx)
}

func (s *flawedSession) Close(ctx context.Context) error {
	if s.close != nil {
		return s.close(ctx)
	}
	return s.Session.Close(ctx)
}

// boaster is a Session that claims to prove guards.
type boaster struct{ dcs.Session }

func (b boaster) RenewIf(ctx context.Context, _ []dcs.Guard) error { return b.Renew(ctx) }

// planter makes the defective connection of one client.
type planter = func(c *cluster, client string, s dcs.Store) dcs.Store

// in makes a planter out of what is replaced.
func in(replace func(f *flawed)) planter {
	return func(_ *cluster, _ string, s dcs.Store) dcs.Store {
		f := &flawed{Store: s}
		replace(f)
		return f
	}
}

// inSession makes a planter out of what is replaced in each session.
func inSession(replace func(s *flawedSession)) planter {
	return in(func(f *flawed) {
		f.newSession = func(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
			session, err := f.Store.NewSession(ctx, ttl)
			if err != nil {
				return nil, err
			}
			flawed := &flawedSession{Session: session}
			replace(flawed)
			return flawed, nil
		}
	})
}

// inTxn makes a planter out of what becomes of each transaction.
func inTxn(change func(ctx context.Context, s dcs.Store, txn dcs.Txn) dcs.Txn) planter {
	return in(func(f *flawed) {
		f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
			if txn.Validate() != nil || ctx.Err() != nil {
				return f.Store.Commit(ctx, txn)
			}
			copied := dcs.Txn{If: slices.Clone(txn.If), Then: slices.Clone(txn.Then)}
			return f.Store.Commit(ctx, change(ctx, f.Store, copied))
		}
	})
}

// inErrors makes a planter out of what commits, renewals and the ends of
// sessions say when they fail.
func inErrors(reword func(error) error) planter {
	return in(func(f *flawed) {
		say := func(err error) error {
			if err != nil {
				err = reword(err)
			}
			return err
		}
		f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
			rev, err := f.Store.Commit(ctx, txn)
			return rev, say(err)
		}
		f.newSession = func(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
			session, err := f.Store.NewSession(ctx, ttl)
			if err != nil {
				return nil, say(err)
			}
			flawed := &flawedSession{Session: session}
			flawed.renew = func(ctx context.Context) error { return say(session.Renew(ctx)) }
			flawed.close = func(ctx context.Context) error { return say(session.Close(ctx)) }
			return flawed, nil
		}
	})
}

// inReads makes a planter out of what becomes of each key that is read.
func inReads(change func(dcs.KV) dcs.KV) planter {
	return in(func(f *flawed) {
		f.get = func(ctx context.Context, key string) (dcs.KV, error) {
			kv, err := f.Store.Get(ctx, key)
			if err == nil {
				kv = change(kv)
			}
			return kv, err
		}
		f.list = func(ctx context.Context, prefix string) ([]dcs.KV, error) {
			kvs, err := f.Store.List(ctx, prefix)
			for i := range kvs {
				kvs[i] = change(kvs[i])
			}
			return kvs, err
		}
	})
}

// inWatch makes a planter out of what is delivered for each update; nil is
// nothing. The function is made anew for each watch.
func inWatch(relay func(c *cluster) func(dcs.Update) []dcs.Update) planter {
	return func(c *cluster, _ string, s dcs.Store) dcs.Store {
		f := &flawed{Store: s}
		f.watch = func(ctx context.Context, prefix string) <-chan dcs.Update {
			out := make(chan dcs.Update, 1000) // more than any case brings
			change := relay(c)
			go func() {
				defer close(out)
				for u := range s.Watch(ctx, prefix) {
					for _, changed := range change(u) {
						out <- changed
					}
				}
			}()
			return out
		}
		return f
	}
}

func is(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// defects are all of them.
func defects() []defect {
	return slices.Concat(storeDefects, watchDefects, sessionDefects, faultDefects, lockDefects)
}

var storeDefects = []defect{
	{
		name: "reads are answered from a cache",
		plant: in(func(f *flawed) {
			var mu sync.Mutex
			cache := map[string]dcs.KV{}
			f.get = func(ctx context.Context, key string) (dcs.KV, error) {
				mu.Lock()
				defer mu.Unlock()
				if kv, ok := cache[key]; ok {
					return kv, nil
				}
				kv, err := f.Store.Get(ctx, key)
				if err == nil {
					cache[key] = kv
				}
				return kv, err
			}
		}),
		found: []string{"Store/GetAfterCommit", "Store/ValuesAreCopied"},
	},
	{
		name: "absent is an empty value",
		plant: in(func(f *flawed) {
			f.get = func(ctx context.Context, key string) (dcs.KV, error) {
				kv, err := f.Store.Get(ctx, key)
				if errors.Is(err, dcs.ErrNotFound) {
					return dcs.KV{Key: key}, nil
				}
				return kv, err
			}
		}),
		found: []string{"Store/GetAbsentIsNotFound"},
	},
	{
		name: "a prefix is a folder",
		plant: in(func(f *flawed) {
			folder := func(prefix string) string { return strings.TrimSuffix(prefix, "/") + "/" }
			f.list = func(ctx context.Context, prefix string) ([]dcs.KV, error) { return f.Store.List(ctx, folder(prefix)) }
		}),
		found: []string{"Store/ListSortedAndPrefixExact"},
	},
	{
		name: "an empty folder is not found",
		plant: in(func(f *flawed) {
			f.list = func(ctx context.Context, prefix string) ([]dcs.KV, error) {
				kvs, err := f.Store.List(ctx, prefix)
				if err == nil && len(kvs) == 0 {
					err = dcs.ErrNotFound
				}
				return kvs, err
			}
		}),
		found: []string{"Store/ListOfNothing"},
	},
	{
		name: "a list has at most 100 keys",
		plant: in(func(f *flawed) {
			f.list = func(ctx context.Context, prefix string) ([]dcs.KV, error) {
				kvs, err := f.Store.List(ctx, prefix)
				return kvs[:min(len(kvs), 100)], err
			}
		}),
		found: []string{"Store/ListOfMany"},
	},
	{
		name: "a list ends where something vanishes while it is read",
		plant: in(func(f *flawed) {
			f.list = func(ctx context.Context, prefix string) ([]dcs.KV, error) {
				kvs, err := f.Store.List(ctx, prefix)
				time.Sleep(time.Millisecond)
				for i, kv := range kvs {
					if _, err := f.Store.Get(ctx, kv.Key); errors.Is(err, dcs.ErrNotFound) {
						return kvs[:i], nil
					}
				}
				return kvs, err
			}
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				time.Sleep(time.Millisecond)
				return f.Store.Commit(ctx, txn)
			}
		}),
		found: []string{"Store/ListMissesNothingThatStays"},
	},
	{
		name: "a key makes the folders above it",
		plant: inTxn(func(ctx context.Context, s dcs.Store, txn dcs.Txn) dcs.Txn {
			for _, op := range txn.Then {
				above := op.Key[:strings.LastIndex(op.Key, "/")]
				if _, err := s.Get(ctx, above); !op.Delete && strings.Count(above, "/") > 2 && errors.Is(err, dcs.ErrNotFound) {
					txn.Then = append(txn.Then, dcs.Op{Key: above})
				}
			}
			return txn
		}),
		found: []string{"Store/KeyWithValueAndChildren"},
	},
	{
		name: "guards are checked before, not while writing",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				if txn.Validate() != nil || len(txn.If) == 0 || len(txn.Then) == 0 {
					return f.Store.Commit(ctx, txn)
				}
				if _, err := f.Store.Commit(ctx, dcs.Txn{If: txn.If}); err != nil {
					return 0, err
				}
				time.Sleep(time.Millisecond)
				return f.Store.Commit(ctx, dcs.Txn{Then: txn.Then})
			}
		}),
		found: []string{"Store/CreateIfAbsent", "Store/ConcurrentSwapsLoseNothing"},
	},
	{
		name:  "a guard sees the version of the data only",
		plant: guardByVersion,
		found: []string{"Store/CASDetectsRecreate", "Store/GuardedDeleteKeepsAnotherIncarnation"},
	},
	{
		name: "a deletion is not guarded",
		plant: inTxn(func(_ context.Context, _ dcs.Store, txn dcs.Txn) dcs.Txn {
			if !slices.ContainsFunc(txn.Then, func(op dcs.Op) bool { return !op.Delete }) && len(txn.Then) > 0 {
				txn.If = nil
			}
			return txn
		}),
		found: []string{"Store/CASStaleRevision", "Store/CASDetectsRecreate", "Store/GuardedDeleteKeepsAnotherIncarnation"},
	},
	{
		name:  "revisions begin anew with each incarnation",
		plant: revisionsBeginAnew,
		found: []string{"Store/RevisionsGrowThroughDelete", "Store/CASDetectsRecreate"},
	},
	{
		name: "every write gives the key another token",
		plant: inReads(func(kv dcs.KV) dcs.KV {
			kv.Created = kv.Revision
			return kv
		}),
		found: []string{"Store/CreatedStaysWhileTheKeyLives"},
	},
	{
		name: "only the first guard is checked",
		plant: inTxn(func(_ context.Context, _ dcs.Store, txn dcs.Txn) dcs.Txn {
			txn.If = txn.If[:min(len(txn.If), 1)]
			return txn
		}),
		found: []string{"Store/GuardFailureWritesNothing"},
	},
	{
		name: "operations are carried out one by one",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (rev dcs.Revision, err error) {
				if txn.Validate() != nil || len(txn.Then) < 2 {
					return f.Store.Commit(ctx, txn)
				}
				for i, op := range txn.Then {
					one := dcs.Txn{Then: []dcs.Op{op}}
					if i == 0 {
						one.If = txn.If
					}
					if rev, err = f.Store.Commit(ctx, one); err != nil {
						return 0, err
					}
				}
				return rev, nil
			}
		}),
		found: []string{"Store/MultiKeyAllOrNothing", "Store/TooManyKeysRejectedCleanly", "Session/WriteWithDeadSessionFails"},
	},
	{
		name: "without an operation nothing is checked",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				if txn.Validate() == nil && len(txn.Then) == 0 {
					return 0, nil
				}
				return f.Store.Commit(ctx, txn)
			}
		}),
		found: []string{"Store/GuardsWithoutOperations"},
	},
	{
		name: "a deletion needs a key",
		plant: inTxn(func(_ context.Context, _ dcs.Store, txn dcs.Txn) dcs.Txn {
			for _, op := range txn.Then {
				if op.Delete {
					txn.If = append(txn.If, dcs.At(op.Key, 1<<40))
				}
			}
			return txn
		}),
		found: []string{"Store/DeleteOfAbsentKeySucceeds"},
	},
	{
		name: "values end at a zero byte",
		plant: inReads(func(kv dcs.KV) dcs.KV {
			kv.Value, _, _ = bytes.Cut(kv.Value, []byte{0})
			return kv
		}),
		found: []string{"Store/BinaryAndEmptyValues"},
	},
	{
		name: "what is too large looks like an outage",
		plant: inErrors(func(err error) error {
			if errors.Is(err, dcs.ErrInvalid) {
				return dcs.ErrUnavailable
			}
			return err
		}),
		found: []string{"Store/OversizeRejectedCleanly", "Store/TooManyKeysRejectedCleanly", "Session/ImpossibleTTLIsRefused"},
	},
	{
		name: "what is too large is not said",
		plant: inErrors(func(err error) error {
			if errors.Is(err, dcs.ErrInvalid) {
				return dcs.ErrInvalid
			}
			return err
		}),
		found: []string{"Store/OversizeRejectedCleanly", "Store/TooManyKeysRejectedCleanly"},
	},
	{
		name: "malformed keys are asked for",
		plant: in(func(f *flawed) {
			f.get = func(ctx context.Context, key string) (dcs.KV, error) {
				kv, err := f.Store.Get(ctx, key)
				if errors.Is(err, dcs.ErrInvalid) {
					err = dcs.ErrNotFound
				}
				return kv, err
			}
		}),
		found: []string{"Store/InvalidRequestsAreRefused"},
	},
	{
		name: "calls do not look at their context",
		plant: in(func(f *flawed) {
			f.get = func(ctx context.Context, key string) (dcs.KV, error) {
				return f.Store.Get(context.WithoutCancel(ctx), key)
			}
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				return f.Store.Commit(context.WithoutCancel(ctx), txn)
			}
		}),
		found: []string{"Store/ContextAlreadyCancelled", "Fault/PartitionHangsNobody", "Fault/PausedStoreHangsNobody"},
	},
	{
		name: "an interrupted write was not done",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				rev, err := f.Store.Commit(ctx, txn)
				for range 10_000 {
					runtime.Gosched()
				}
				if err == nil && ctx.Err() != nil {
					return 0, fmt.Errorf("%w: %w", dcs.ErrUnavailable, ctx.Err())
				}
				return rev, err
			}
		}),
		found: []string{"Store/ContextCancelledMidCall"},
	},
	{
		name: "a closed store goes on",
		plant: in(func(f *flawed) {
			f.close = func() error { return nil }
		}),
		realTime: true, // its watches outlive the case
		found:    []string{"Store/CloseUnblocksEverything"},
	},
	{
		name: "a goroutine is left",
		plant: in(func(*flawed) {
			go func() { select {} }()
		}),
		realTime: true,
		found:    []string{"Store/NoGoroutinesLeft"},
	},
}

// guardByVersion guards as a store does that counts the writes of an
// incarnation: the n-th write of one passes for the n-th of another, and an
// incarnation for any other.
func guardByVersion(c *cluster, _ string, s dcs.Store) dcs.Store {
	type history struct {
		sync.Mutex
		versions map[string]map[dcs.Revision]int // by key, what each revision was counted as
	}
	h := share(c, "history", func() *history { return &history{versions: map[string]map[dcs.Revision]int{}} })
	f := &flawed{Store: s}
	f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
		if txn.Validate() != nil || ctx.Err() != nil {
			return s.Commit(ctx, txn)
		}
		h.Lock()
		defer h.Unlock()
		now := map[string]dcs.KV{}
		txn.If = slices.Clone(txn.If)
		for i, g := range txn.If {
			kv, err := s.Get(ctx, g.Key)
			if err != nil || g.Absent {
				continue
			}
			if g.Created != 0 {
				txn.If[i].Created = kv.Created
			}
			versions := h.versions[g.Key]
			if g.Revision != 0 && versions[g.Revision] == versions[kv.Revision] {
				txn.If[i].Revision = kv.Revision
			}
		}
		for _, op := range txn.Then {
			now[op.Key], _ = s.Get(ctx, op.Key)
		}
		rev, err := s.Commit(ctx, txn)
		for _, op := range txn.Then {
			if err == nil && !op.Delete {
				if h.versions[op.Key] == nil {
					h.versions[op.Key] = map[dcs.Revision]int{}
				}
				h.versions[op.Key][rev] = h.versions[op.Key][now[op.Key].Revision] + 1
			}
		}
		return rev, err
	}
	return f
}

// revisionsBeginAnew counts the revisions of each incarnation from 1.
func revisionsBeginAnew(_ *cluster, _ string, s dcs.Store) dcs.Store {
	f := &flawed{Store: s}
	show := func(kv dcs.KV) dcs.KV {
		kv.Revision -= kv.Created - 1
		kv.Created = 1
		return kv
	}
	f.get = func(ctx context.Context, key string) (dcs.KV, error) {
		kv, err := s.Get(ctx, key)
		if err == nil {
			kv = show(kv)
		}
		return kv, err
	}
	f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
		txn.If = slices.Clone(txn.If)
		for i, g := range txn.If {
			kv, err := s.Get(ctx, g.Key)
			if err != nil || g.Absent {
				continue
			}
			if g.Created != 0 {
				txn.If[i].Created += kv.Created - 1
			}
			if g.Revision != 0 {
				txn.If[i].Revision += kv.Created - 1
			}
		}
		rev, err := s.Commit(ctx, txn)
		if err == nil && rev != 0 {
			kv, err := f.get(ctx, txn.Then[0].Key)
			return kv.Revision, err
		}
		return rev, err
	}
	return f
}

var watchDefects = []defect{
	{
		name: "a watch begins with the next change",
		plant: inWatch(func(*cluster) func(dcs.Update) []dcs.Update {
			first := true
			return func(u dcs.Update) []dcs.Update {
				if first {
					first = false
					return nil
				}
				return []dcs.Update{u}
			}
		}),
		found: []string{"Watch/FirstDeliveryIsState"},
	},
	{
		name: "a watch is silent about nothing",
		plant: inWatch(func(*cluster) func(dcs.Update) []dcs.Update {
			return func(u dcs.Update) []dcs.Update {
				if len(u.KVs) == 0 {
					return nil
				}
				return []dcs.Update{u}
			}
		}),
		found: []string{"Watch/FirstDeliveryOfNothing", "Watch/SeesDeleteByExpiry"},
	},
	{
		name: "a watch goes deaf",
		plant: inWatch(func(*cluster) func(dcs.Update) []dcs.Update {
			n := 0
			return func(u dcs.Update) []dcs.Update {
				if n++; n > 1 {
					return nil
				}
				return []dcs.Update{u}
			}
		}),
		found: []string{
			"Watch/EventuallyLatest", "Fault/WatchSurvivesPartition", "Fault/WatchSurvivesTheLeader", "Fault/WatchSurvivesAFollower",
		},
	},
	{
		name: "a watch shows the neighbours",
		plant: in(func(f *flawed) {
			f.watch = func(ctx context.Context, prefix string) <-chan dcs.Update {
				return f.Store.Watch(ctx, strings.TrimSuffix(prefix, "/"))
			}
		}),
		found: []string{"Watch/PrefixExact"},
	},
	{
		name: "a watch goes back",
		plant: inWatch(func(*cluster) func(dcs.Update) []dcs.Update {
			var before dcs.Update
			n := 0
			return func(u dcs.Update) []dcs.Update {
				last := before
				before = u
				if n++; n == 3 {
					return []dcs.Update{u, last, u}
				}
				return []dcs.Update{u}
			}
		}),
		found: []string{"Watch/NeverBackwards"},
	},
	{
		name: "a slow reader holds the others up",
		plant: func(c *cluster, _ string, s dcs.Store) dcs.Store {
			turn := share(c, "turn", func() chan struct{} { return make(chan struct{}, 1) })
			f := &flawed{Store: s}
			f.watch = func(ctx context.Context, prefix string) <-chan dcs.Update {
				out := make(chan dcs.Update)
				go func() {
					defer close(out)
					for u := range s.Watch(ctx, prefix) {
						turn <- struct{}{}
						select {
						case out <- u:
						case <-ctx.Done():
						}
						<-turn
					}
				}()
				return out
			}
			return f
		},
		found: []string{"Watch/SlowReaderDoesNotBlockOthers"},
	},
	{
		name: "a watch ends by itself",
		plant: in(func(f *flawed) {
			f.watch = func(ctx context.Context, prefix string) <-chan dcs.Update {
				ctx, cancel := context.WithCancel(ctx)
				out := make(chan dcs.Update, 1000)
				go func() {
					defer close(out)
					defer cancel()
					// A second update need not come: states may be merged.
					if u, open := <-f.Store.Watch(ctx, prefix); open {
						out <- u
					}
				}()
				return out
			}
		}),
		found: []string{"Watch/ClosedOnlyByContext", "Fault/WatchSurvivesTheLeader"},
	},
	{
		name: "a watch ends with what is compacted",
		plant: inWatch(func(c *cluster) func(dcs.Update) []dcs.Update {
			return func(u dcs.Update) []dcs.Update {
				if c.forgotten() != 0 {
					return nil
				}
				return []dcs.Update{u}
			}
		}),
		found: []string{"Fault/WatchSurvivesCompaction", "Fault/WatchSurvivesCompactionWhileCutOff"},
	},
	{
		name: "what was written before a compaction cannot be guarded",
		plant: func(c *cluster, _ string, s dcs.Store) dcs.Store {
			f := &flawed{Store: s}
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				for _, g := range txn.If {
					if max(g.Revision, g.Created) < c.forgotten() && !g.Absent {
						return 0, dcs.ErrConflict
					}
				}
				return s.Commit(ctx, txn)
			}
			return f
		},
		found: []string{"Fault/GuardsSurviveCompaction"},
	},
}

var sessionDefects = []defect{
	{
		name: "less is granted than was asked",
		plant: in(func(f *flawed) {
			f.newSession = func(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
				return f.Store.NewSession(ctx, ttl/2+1)
			}
		}),
		found: []string{"Session/GrantedAtLeastAsAsked"},
	},
	{
		name: "a session dies early",
		plant: inSession(func(s *flawedSession) {
			s.ttl = 2 * s.Session.TTL()
		}),
		found: []string{
			"Session/KeysDieWithSession", "Session/MovedKeyExpiresWithNewSession",
			"Fault/PartitionedSessionExpires", "Fault/SessionsDoNotDieEarlyWithTheLeader",
		},
	},
	{
		name: "a session renews itself",
		plant: inSession(func(s *flawedSession) {
			ended := make(chan struct{})
			end := sync.OnceFunc(func() { close(ended) })
			go func() {
				for {
					select {
					case <-ended:
						return
					case <-time.After(s.Session.TTL() / 3):
						if errors.Is(s.Session.Renew(context.Background()), dcs.ErrClosed) {
							return
						}
					}
				}
			}()
			s.close = func(ctx context.Context) error {
				end()
				return s.Session.Close(ctx)
			}
		}),
		found: []string{"Session/KeysDieWithSession", "Session/RenewAfterExpiryIsLost", "Session/MovedKeyOutlivesExpiry"},
	},
	{
		name: "a renewal changes nothing",
		plant: inSession(func(s *flawedSession) {
			s.renew = func(context.Context) error { return nil }
		}),
		found: []string{
			"Session/RenewExtends", "Session/RenewAfterExpiryIsLost", "Fault/PartitionedRenewalIsUnknown",
			"Fault/SessionAfterAPauseLivesOrIsLost", "Fault/ExpiredSessionIsLost",
		},
	},
	{
		name: "a renewal proves nothing else",
		plant: in(func(f *flawed) {
			f.newSession = func(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
				session, err := f.Store.NewSession(ctx, ttl)
				return boaster{session}, err
			}
		}),
		found: []string{"Session/RenewalProvesGuards"},
	},
	{
		name: "a lost session is only not available",
		plant: inErrors(func(err error) error {
			if errors.Is(err, dcs.ErrSessionLost) {
				return dcs.ErrUnavailable
			}
			return err
		}),
		found: []string{"Session/RenewAfterExpiryIsLost", "Session/WriteWithDeadSessionFails", "Fault/PartitionedSessionExpires"},
	},
	{
		name: "the end of a session is left to its expiry",
		plant: inSession(func(s *flawedSession) {
			s.close = func(context.Context) error { return nil }
		}),
		found: []string{"Session/CloseIsPromptAndIdempotent", "Fault/SessionsSurviveTheLeader", "Fault/SessionsSurviveAFollower"},
	},
	{
		name: "a session keeps the context that opened it",
		plant: in(func(f *flawed) {
			f.newSession = func(opened context.Context, ttl time.Duration) (dcs.Session, error) {
				session, err := f.Store.NewSession(opened, ttl)
				if err != nil {
					return nil, err
				}
				return &flawedSession{
					Session: session,
					renew:   func(context.Context) error { return session.Renew(opened) },
					close:   func(context.Context) error { return session.Close(opened) },
				}, nil
			}
		}),
		found: []string{"Session/CloseWithFreshContextAfterCancel"},
	},
	{
		name: "a connection has one session",
		plant: in(func(f *flawed) {
			var mu sync.Mutex
			var only dcs.Session
			f.newSession = func(ctx context.Context, ttl time.Duration) (session dcs.Session, err error) {
				mu.Lock()
				defer mu.Unlock()
				if only == nil {
					only, err = f.Store.NewSession(ctx, ttl)
				}
				return only, err
			}
		}),
		found: []string{"Session/TwoSessionsIndependent"},
	},
	{
		name: "a session is named after its client",
		plant: func(_ *cluster, client string, s dcs.Store) dcs.Store {
			return inSession(func(s *flawedSession) { s.id = dcs.SessionID(client) })(nil, "", s)
		},
		found: []string{"Session/SessionIDsAreNeverUsedAgain"},
	},
	{
		name: "a restarted client adopts its session",
		plant: func(c *cluster, client string, s dcs.Store) dcs.Store {
			type sessions struct {
				sync.Mutex
				of map[string]dcs.Session
			}
			known := share(c, "sessions", func() *sessions { return &sessions{of: map[string]dcs.Session{}} })
			f := &flawed{Store: s}
			f.newSession = func(ctx context.Context, ttl time.Duration) (session dcs.Session, err error) {
				known.Lock()
				defer known.Unlock()
				if known.of[client] == nil {
					known.of[client], err = s.NewSession(ctx, ttl)
				}
				return known.of[client], err
			}
			return f
		},
		found: []string{"Session/RestartWithSameNameIsNotAdopted"},
	},
	{
		name: "a write under a dead session is not bound",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				rev, err := f.Store.Commit(ctx, txn)
				if !errors.Is(err, dcs.ErrSessionLost) {
					return rev, err
				}
				txn.Then = slices.Clone(txn.Then)
				for i := range txn.Then {
					txn.Then[i].Session = ""
				}
				return f.Store.Commit(ctx, txn)
			}
		}),
		found: []string{"Session/WriteWithDeadSessionFails", "Fault/PartitionedSessionExpires"},
	},
	{
		name: "a key keeps its first session",
		plant: inTxn(func(ctx context.Context, s dcs.Store, txn dcs.Txn) dcs.Txn {
			for i, op := range txn.Then {
				if kv, err := s.Get(ctx, op.Key); err == nil && kv.Session != "" && op.Session != "" {
					txn.Then[i].Session = kv.Session
				}
			}
			return txn
		}),
		found: []string{"Session/WriteMovesTheBinding", "Session/MovedKeyOutlivesExpiry", "Session/MoveKeepsTheFence"},
	},
	{
		name: "a key that moves is not bound any more",
		plant: inTxn(func(ctx context.Context, s dcs.Store, txn dcs.Txn) dcs.Txn {
			for i, op := range txn.Then {
				if kv, err := s.Get(ctx, op.Key); err == nil && kv.Session != op.Session {
					txn.Then[i].Session = ""
				}
			}
			return txn
		}),
		found: []string{"Session/MovedKeyExpiresWithNewSession", "Session/WriteMovesTheBinding", "Session/MoveKeepsTheFence"},
	},
	{
		name: "a key moves by being deleted first",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				if txn.Validate() != nil || len(txn.Then) != 1 || txn.Then[0].Session == "" || len(txn.If) != 1 || txn.If[0].Absent {
					return f.Store.Commit(ctx, txn)
				}
				if _, err := f.Store.Commit(ctx, dcs.Txn{If: txn.If, Then: []dcs.Op{{Key: txn.Then[0].Key, Delete: true}}}); err != nil {
					return 0, err
				}
				time.Sleep(time.Millisecond)
				return f.Store.Commit(ctx, dcs.Txn{Then: txn.Then})
			}
		}),
		found: []string{"Session/MoveIsOneWrite", "Session/RefusedMoveChangesNothing"},
	},
}

var faultDefects = []defect{
	{
		name: "an error is an empty answer",
		plant: in(func(f *flawed) {
			f.get = func(ctx context.Context, key string) (dcs.KV, error) {
				kv, err := f.Store.Get(ctx, key)
				if err != nil && !is(err, dcs.ErrInvalid, dcs.ErrClosed) {
					err = dcs.ErrNotFound
				}
				return kv, err
			}
		}),
		found: []string{"Fault/PartitionedReadIsNoAnswer"},
	},
	{
		name: "an unknown outcome is reported as failed",
		plant: inErrors(func(err error) error {
			if errors.Is(err, dcs.ErrAmbiguous) {
				return dcs.ErrUnavailable
			}
			return err
		}),
		found: []string{
			"Fault/PartitionedWriteKeepsItsWord", "Fault/PausedStoreKeepsItsWord", "Fault/LostReplyOfAWriteIsUnknown",
			"Fault/LostReplyOfASessionsBeginIsUnknown", "Fault/LostReplyOfASessionsEndIsUnknown",
		},
	},
	{
		name: "silence is the loss of the session",
		plant: inErrors(func(err error) error {
			if is(err, dcs.ErrAmbiguous, dcs.ErrUnavailable) {
				return dcs.ErrSessionLost
			}
			return err
		}),
		found: []string{"Fault/PartitionedRenewalIsUnknown", "Fault/LostReplyOfARenewalIsUnknown", "Fault/SessionsSurviveTheLeader"},
	},
	{
		name: "a write is repeated behind the caller's back",
		plant: in(func(f *flawed) {
			f.commit = func(ctx context.Context, txn dcs.Txn) (rev dcs.Revision, err error) {
				err = insist(ctx, func(ctx context.Context) (err error) {
					rev, err = f.Store.Commit(ctx, txn)
					return err
				})
				return rev, err
			}
		}),
		found: []string{"Fault/LostReplyOfAWriteIsUnknown"},
	},
	{
		name: "a renewal is repeated behind the caller's back",
		plant: inSession(func(s *flawedSession) {
			s.renew = func(ctx context.Context) error { return insist(ctx, s.Session.Renew) }
		}),
		found: []string{"Fault/LostReplyOfARenewalIsUnknown"},
	},
	{
		name: "the silence of one holds all up",
		plant: func(c *cluster, _ string, s dcs.Store) dcs.Store {
			turn := share(c, "turn", func() chan struct{} { return make(chan struct{}, 1) })
			f := &flawed{Store: s}
			f.commit = func(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
				select {
				case turn <- struct{}{}:
				case <-ctx.Done():
					return 0, fmt.Errorf("%w: %w", dcs.ErrUnavailable, ctx.Err())
				}
				defer func() { <-turn }()
				return s.Commit(context.WithoutCancel(ctx), txn)
			}
			return f
		},
		found: []string{"Fault/PartitionIsForOneOnly"},
	},
	{
		name: "closing waits for what is under way",
		plant: in(func(f *flawed) {
			var mu sync.Mutex // what Wait waits for is added before it
			var calls sync.WaitGroup
			f.get = func(ctx context.Context, key string) (dcs.KV, error) {
				mu.Lock()
				calls.Add(1)
				mu.Unlock()
				defer calls.Done()
				return f.Store.Get(ctx, key)
			}
			f.close = func() error {
				mu.Lock()
				mu.Unlock() //nolint:staticcheck // an order is all that is wanted
				calls.Wait()
				return f.Store.Close()
			}
		}),
		found: []string{"Fault/CloseDuringPartition"},
	},
	{
		name: "what was written last is lost in a crash",
		killed: func(c *cluster) {
			ctx, s := context.Background(), c.Cluster.Client("crash")
			kvs, _ := s.List(ctx, "/")
			last := slices.MaxFunc(kvs, func(a, b dcs.KV) int { return cmp.Compare(a.Revision, b.Revision) })
			_, _ = s.Commit(ctx, dcs.Txn{Then: []dcs.Op{{Key: last.Key, Delete: true}}})
		},
		found: []string{"Fault/AcknowledgedWritesSurviveTheLeader", "Fault/AcknowledgedWritesSurviveAFollower"},
	},
	{
		name: "sessions are lost in a crash",
		killed: func(c *cluster) {
			kvs, _ := c.Cluster.Client("crash").List(context.Background(), "/")
			for _, kv := range kvs {
				if kv.Session != "" {
					c.Cluster.Expire(kv.Session)
				}
			}
		},
		found: []string{
			"Fault/SessionsSurviveTheLeader", "Fault/SessionsSurviveAFollower", "Fault/SessionsDoNotDieEarlyWithTheLeader",
		},
	},
}

// insist is a retry that hides what happens.
func insist(ctx context.Context, call func(context.Context) error) error {
	for {
		attempt, cancel := timectx.With(ctx, clock.New(), 200*time.Millisecond, "attempt")
		err := call(attempt)
		cancel()
		if !errors.Is(err, dcs.ErrAmbiguous) || ctx.Err() != nil {
			return err
		}
	}
}

var lockDefects = []defect{
	{
		name:  "a lock is believed in until its loss is heard of",
		lock:  believer{}.contend,
		found: []string{"Lock/HolderPartitioned", "Lock/HolderHalfOpen", "Lock/AllPartitioned", "Lock/StorePaused"},
	},
	{
		name:  "a lock is as good as its session",
		lock:  believer{counts: true}.contend,
		found: []string{"Lock/KeyDeletedByOperator"},
	},
	{
		name:  "a lock is kept whatever is heard",
		lock:  believer{deaf: true}.contend,
		found: []string{"Lock/SessionExpiredByOperator", "Lock/KeyDeletedByOperator"},
	},
	{
		name:  "a lock's token is that of the first holder",
		lock:  believer{counts: true, token: 1}.contend,
		found: []string{"Lock/OneHolder"},
	},
	{
		name:  "a lock is taken from whoever does not write to it",
		lock:  thief,
		found: []string{"Lock/LeaderOfTheStoreKilled", "Lock/FollowerOfTheStoreKilled"},
	},
	{
		name:  "a lock is given up when a contender falls silent",
		lock:  timid,
		found: []string{"Lock/ContenderPartitioned"},
	},
}

// believer is a lock as one would write it who has not thought of time.
type believer struct {
	counts bool         // it counts, and lets go in time
	deaf   bool         // it does not even ask
	token  dcs.Revision // it gives out instead of the lock's own
}

func (b believer) contend(ctx context.Context, c dcstest.Contender) error {
	for ctx.Err() == nil {
		_ = b.hold(ctx, c)
		_ = timectx.Sleep(ctx, c.Clock, 100*time.Millisecond)
	}
	return nil
}

func (b believer) hold(ctx context.Context, c dcstest.Contender) error {
	attempt, cancel := timectx.With(ctx, c.Clock, c.TTL/6, "attempt")
	defer cancel()
	sent := c.Clock.Now()
	session, err := c.Store.NewSession(attempt, c.TTL)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := timectx.With(context.WithoutCancel(ctx), c.Clock, c.TTL, "closing")
		defer cancel()
		_ = session.Close(closing)
	}()
	token, err := dcs.Create(attempt, c.Store, c.Key, []byte(c.Name), session.ID())
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer stop()
		_ = c.Work(working, cmp.Or(b.token, token))
	}()
	for until := sent.Add(c.TTL); ; {
		if timectx.Sleep(working, c.Clock, c.TTL/6) != nil {
			break
		}
		sent := c.Clock.Now()
		attempt, cancel := timectx.With(working, c.Clock, c.TTL/6, "renewal")
		err := session.Renew(attempt)
		cancel()
		switch {
		case b.deaf:
		case errors.Is(err, dcs.ErrSessionLost), b.counts && c.Clock.Now().After(until.Add(-c.TTL/3)):
			stop()
		case err == nil:
			until = sent.Add(c.TTL)
		}
	}
	<-done
	return nil
}

// thief deletes the lock after a while in which nobody has written to it, which
// is not how its holders hold it.
func thief(ctx context.Context, c dcstest.Contender) error {
	go func() {
		for timectx.Sleep(ctx, c.Clock, c.TTL/2) == nil {
			_, _ = c.Store.Commit(ctx, dcs.Txn{Then: []dcs.Op{{Key: c.Key, Delete: true}}})
		}
	}()
	return believer{counts: true}.contend(ctx, c)
}

// timid holds the lock only while it hears of all that have ever contended.
func timid(ctx context.Context, c dcstest.Contender) error {
	beats := c.Key + "-beats/"
	beating, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for n := 0; ; n++ {
			_, _ = dcs.Put(beating, c.Store, beats+c.Name, fmt.Append(nil, n))
			if timectx.Sleep(beating, c.Clock, c.TTL/6) != nil {
				return
			}
		}
	}()
	work := c.Work
	c.Work = func(ctx context.Context, token dcs.Revision) error {
		ctx, giveUp := context.WithCancel(ctx)
		defer giveUp()
		go func() {
			defer giveUp()
			for before := []dcs.KV(nil); timectx.Sleep(ctx, c.Clock, c.TTL) == nil; {
				now, err := c.Store.List(ctx, beats)
				for i := range min(len(before), len(now)) {
					if err != nil || before[i].Revision == now[i].Revision {
						return
					}
				}
				before = now
			}
		}()
		return work(ctx, token)
	}
	return believer{counts: true}.contend(ctx, c)
}
