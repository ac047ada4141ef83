package ha_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
)

const recordKey = "/service/test/quorum"

// adoptionTest runs a body in a bubble, over a store that keeps the token of a
// key that is moved, and over one that does not.
func adoptionTest(t *testing.T, body func(t *testing.T, w *lockWorld)) {
	t.Helper()
	for _, creates := range []bool{false, true} {
		t.Run(fmt.Sprintf("token grows %t", creates), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cluster := memory.New(memory.Config{Clock: clock.New(), MoveCreates: creates})
				t.Cleanup(cluster.Close)
				body(t, &lockWorld{t: t, cluster: cluster, admin: cluster.Client("admin")})
			})
		})
	}
}

// loseHolding makes a lease of l that has ended while the store was away, with
// its key still there. The store is back.
func (w *lockWorld) loseHolding(l *ha.Locker, f *faultyStore) *ha.Lease {
	w.t.Helper()
	lease, err := l.TryAcquire(background, lockKey, []byte("before"))
	require.NoError(w.t, err)
	w.loseContact(f, lease)
	return lease
}

// loseContact ends a lease by keeping the store's replies from its holder.
func (w *lockWorld) loseContact(f *faultyStore, lease *ha.Lease) {
	w.t.Helper()
	f.setRule(halfOpen)
	<-lease.Context().Done()
	f.setRule(nil)
	synctest.Wait()
	w.key(lockKey)
}

// key reads a key that must exist.
func (w *lockWorld) key(key string) dcs.KV {
	w.t.Helper()
	kv, err := w.admin.Get(background, key)
	require.NoError(w.t, err)
	return kv
}

// recording is what an adoption carries: a record that must be as it is now.
func (w *lockWorld) recording(value string) dcs.Txn {
	w.t.Helper()
	kv, err := w.admin.Get(background, recordKey)
	if err != nil {
		require.ErrorIs(w.t, err, dcs.ErrNotFound)
	}
	return dcs.Txn{
		If:   []dcs.Guard{dcs.At(recordKey, kv.Revision)},
		Then: []dcs.Op{{Key: recordKey, Value: []byte(value)}},
	}
}

// requireInForce fails unless the lease is what the store shows, and stays so
// for longer than any session lives that is not renewed.
func (w *lockWorld) requireInForce(lease *ha.Lease) {
	w.t.Helper()
	for range 2 {
		require.NoError(w.t, lease.Check())
		kv := w.key(lockKey)
		require.Equal(w.t, lease.Session(), kv.Session)
		require.Equal(w.t, lease.Token(), kv.Created)
		time.Sleep(time.Minute)
	}
}

// requireFree fails unless another node gets the lock, and keeps it whatever
// lands yet.
func (w *lockWorld) requireFree(other *ha.Locker, above dcs.Revision) {
	w.t.Helper()
	next, err := other.TryAcquire(background, lockKey, []byte("next"))
	require.NoError(w.t, err)
	require.Greater(w.t, next.Token(), above)
	w.requireInForce(next)
	require.Equal(w.t, "next", string(w.key(lockKey).Value))
}

func adopting(c storeCall) bool { return c.takes(lockKey) }

func TestAdoptAfterTheStoreWasAway(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		b, _ := w.node("b")
		old := w.loseHolding(l, f)
		lease, err := l.Adopt(background, lockKey, old.Token(), []byte("after"), w.recording("1"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, lease.Token(), old.Token())
		require.NotEqual(t, old.Session(), lease.Session())
		require.Equal(t, "after", string(w.key(lockKey).Value))
		require.Equal(t, "1", string(w.key(recordKey).Value))

		require.False(t, w.cluster.Expire(old.Session()), "the old session was closed")
		calls := f.count(callCommit)
		require.NoError(t, old.Release(background))
		require.Equal(t, calls, f.count(callCommit), "nothing to release")
		w.requireInForce(lease)
		require.NoError(t, old.Release(background))
		require.ErrorIs(t, old.Check(), ha.ErrExpired, "an ended lease stays so")

		require.NoError(t, lease.Release(background))
		w.requireFree(b, lease.Token())
	})
}

// TestAdoptAfterARestart: another process, which knows nothing but the token;
// the former one is still about, and does all that a process does at its end.
func TestAdoptAfterARestart(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"release", "close", "expiry"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				former, f := w.node("a")
				old := w.loseHolding(former, f)
				l, _ := w.node("a")
				lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
				require.NoError(t, err)
				switch end {
				case "release":
					require.NoError(t, old.Release(background))
				case "close":
					require.NoError(t, former.Close(background))
				case "expiry":
					require.True(t, w.cluster.Expire(old.Session()))
				}
				w.requireInForce(lease)
				require.NoError(t, lease.Release(background))
				require.False(t, w.exists(lockKey))
			})
		})
	}
}

// TestAdoptAgainAndAgain: each life takes the holding over from the one before,
// and all that is left of the earlier ones is given up at last.
func TestAdoptAgainAndAgain(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		leases := []*ha.Lease{w.loseHolding(l, f)}
		for range 3 {
			last := leases[len(leases)-1]
			next, err := l.Adopt(background, lockKey, last.Token(), nil, dcs.Txn{})
			require.NoError(t, err)
			require.GreaterOrEqual(t, next.Token(), last.Token())
			leases = append(leases, next)
			w.loseContact(f, next)
		}
		last, err := l.Adopt(background, lockKey, leases[len(leases)-1].Token(), nil, dcs.Txn{})
		require.NoError(t, err)
		for _, old := range leases {
			require.NoError(t, old.Release(background))
		}
		w.requireInForce(last)
		require.NoError(t, l.Close(background))
		require.False(t, w.exists(lockKey), "what was adopted is released like any other lock")
	})
}

// TestAdoptBesideOtherLocks: the old session stays open for a lock that is not
// released yet, and is closed with that.
func TestAdoptBesideOtherLocks(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		other, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		old := w.loseHolding(l, f)
		lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
		require.NoError(t, err)
		require.True(t, w.exists(other.Key()), "its work may go on")
		require.NoError(t, other.Release(background))
		require.False(t, w.cluster.Expire(old.Session()))
		w.requireInForce(lease)
	})
}

func TestAdoptRefused(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		unfit := errors.New("disk is full")
		var verdict error
		l, f := w.node("a", func(cfg *ha.LockerConfig) {
			cfg.Gate = func(context.Context) error { return verdict }
		})
		b, _ := w.node("b")
		adopt := func(token dcs.Revision, with dcs.Txn) error {
			_, err := l.Adopt(background, lockKey, token, []byte("after"), with)
			return err
		}
		lease, err := l.TryAcquire(background, lockKey, []byte("before"))
		require.NoError(t, err)
		require.ErrorIs(t, adopt(lease.Token(), dcs.Txn{}), ha.ErrHeld, "in force")
		w.loseContact(f, lease)
		before := w.key(lockKey)

		require.ErrorIs(t, adopt(0, dcs.Txn{}), dcs.ErrInvalid, "by name, never")
		require.ErrorIs(t, adopt(lease.Token(), dcs.Txn{Then: []dcs.Op{{Key: lockKey}}}), dcs.ErrInvalid)
		require.ErrorIs(t, adopt(lease.Token()+1, w.recording("1")), ha.ErrFenced)
		err = adopt(lease.Token(), dcs.Txn{If: []dcs.Guard{dcs.At(recordKey, 1)}, Then: w.recording("1").Then})
		require.ErrorIs(t, err, dcs.ErrConflict)
		require.NotErrorIs(t, err, ha.ErrFenced)
		verdict = unfit
		require.ErrorIs(t, adopt(lease.Token(), dcs.Txn{}), ha.ErrGated)
		verdict = nil
		require.Equal(t, before, w.key(lockKey))
		require.False(t, w.exists(recordKey))

		require.NoError(t, lease.Release(background))
		err = adopt(lease.Token(), w.recording("1"))
		require.ErrorIs(t, err, ha.ErrFenced, "gone")
		require.NotErrorIs(t, err, dcs.ErrAmbiguous)
		_, err = b.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		require.ErrorIs(t, adopt(lease.Token(), dcs.Txn{}), ha.ErrFenced, "somebody else's")
		require.NoError(t, l.Close(background))
		require.ErrorIs(t, adopt(lease.Token(), dcs.Txn{}), ha.ErrClosed)
		require.False(t, w.exists(recordKey))
	})
}

// TestAdoptWhatIsBeingReleased: a holding is not adopted while its release is
// under way, nor while the Locker goes on trying.
func TestAdoptWhatIsBeingReleased(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		_, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		lease, err := l.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		f.setRule(first(3, func(c storeCall) bool { return c.deletes(lockKey) }, fault{lost: true}))
		released := make(chan error, 1)
		go func() { released <- lease.Release(background) }()
		synctest.Wait()
		_, err = l.Adopt(background, lockKey, lease.Token(), nil, dcs.Txn{})
		require.ErrorIs(t, err, ha.ErrHeld)
		require.ErrorIs(t, <-released, dcs.ErrAmbiguous)
		_, err = l.Adopt(background, lockKey, lease.Token(), nil, dcs.Txn{})
		require.ErrorIs(t, err, ha.ErrReleased)
		time.Sleep(2 * ha.DefaultRenewEvery)
		require.False(t, w.exists(lockKey))
	})
}

func TestAdoptAmbiguous(t *testing.T) {
	t.Parallel()
	never := time.Duration(-1)
	for _, tc := range []struct {
		name   string
		what   fault
		times  int
		solved bool // by the adoption itself, since it can read what became of it
	}{
		{"landed", fault{fail: true}, 1, true},
		{"not landed", fault{fail: true, lost: true}, 1, true},
		{"landed, reply lost", fault{mute: true}, 1, true},
		{"not landed, reply lost", fault{lost: true}, 1, true},
		{"landed every time", fault{fail: true}, 9, true},
		{"twice not landed", fault{fail: true, lost: true}, 2, true},
		{"lands before the repetition", fault{fail: true, late: time.Millisecond}, 1, true},
		{"lands after the repetition", fault{fail: true, late: 20 * time.Second}, 1, true},
		{"never landed", fault{fail: true, lost: true}, 9, false},
		{"lands after a while", fault{fail: true, late: 2 * time.Second}, 9, false},
		{"lands late", fault{fail: true, late: 5 * time.Second}, 9, false},
		{"lands when all is over", fault{fail: true, late: time.Minute}, 9, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, again := range []time.Duration{never, 0, 3 * time.Second} {
				t.Run(fmt.Sprintf("again after %s", again), func(t *testing.T) {
					t.Parallel()
					adoptionTest(t, func(t *testing.T, w *lockWorld) {
						adoptAmbiguous(t, w, first(tc.times, adopting, tc.what), tc.solved, again)
					})
				})
			}
		})
	}
	for _, again := range []time.Duration{never, 0, 3 * time.Second} {
		t.Run(fmt.Sprintf("landed, and then nothing can be read, again after %s", again), func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				blind := false
				adoptAmbiguous(t, w, func(c storeCall) fault {
					blind = blind || adopting(c)
					if blind && c.kind == callGet {
						return fault{fail: true, lost: true}
					}
					return fault{}
				}, false, again)
			})
		})
	}
}

// adoptAmbiguous adopts under a rule, which is lifted when that has returned,
// and once more, unless again is negative.
func adoptAmbiguous(t *testing.T, w *lockWorld, rule func(storeCall) fault, solved bool, again time.Duration) {
	t.Helper()
	l, f := w.node("a")
	b, _ := w.node("b")
	old := w.loseHolding(l, f)
	f.setRule(rule)
	lease, err := l.Adopt(background, lockKey, old.Token(), []byte("after"), w.recording("1"))
	f.setRule(nil)
	if !solved {
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		require.NotErrorIs(t, err, ha.ErrFenced)
		if again < 0 {
			time.Sleep(20 * time.Second)
			require.False(t, w.exists(lockKey), "the key is let go")
			require.NoError(t, old.Release(background))
			w.requireFree(b, old.Token())
			return
		}
		time.Sleep(again)
		lease, err = l.Adopt(background, lockKey, old.Token(), []byte("after"), w.recording("2"))
	}
	require.NoError(t, err)
	record := w.key(recordKey)
	require.Equal(t, record.Revision, w.key(lockKey).Revision, "the operations were carried out with the move")
	require.NoError(t, old.Release(background))
	w.requireInForce(lease)
	require.NoError(t, lease.Release(background))
	w.requireFree(b, lease.Token())
	require.Equal(t, record, w.key(recordKey), "nothing has landed since")
}

// TestAdoptIsNotMistaken: an earlier adoption that ended in doubt lands while a
// later one is in doubt. What the later one carries was not carried out.
func TestAdoptIsNotMistaken(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		old := w.loseHolding(l, f)
		var earlier dcs.Txn
		calls := 0
		f.setRule(func(c storeCall) fault {
			if !adopting(c) {
				return fault{}
			}
			switch calls++; calls {
			case 1, 2, 3:
				earlier = c.txn
			case 4:
				_, err := w.admin.Commit(background, earlier)
				assert.NoError(t, err)
			default:
				return fault{}
			}
			return fault{fail: true, lost: true}
		})
		_, err := l.Adopt(background, lockKey, old.Token(), nil, w.recording("1"))
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		_, err = l.Adopt(background, lockKey, old.Token(), nil, w.recording("2"))
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		require.Equal(t, "1", string(w.key(recordKey).Value))
		lease, err := l.Adopt(background, lockKey, old.Token(), nil, w.recording("3"))
		require.NoError(t, err)
		w.requireInForce(lease)
		require.Equal(t, "3", string(w.key(recordKey).Value))
	})
}

// TestAdoptLandsAfterTheRelease: of two attempts the first lands when the lease
// that the second has got was released, and somebody else holds the lock.
func TestAdoptLandsAfterTheRelease(t *testing.T) {
	t.Parallel()
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken by another %t", taken), func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				l, f := w.node("a")
				b, _ := w.node("b")
				_, err := l.TryAcquire(background, lockKey+"/other", nil)
				require.NoError(t, err)
				old := w.loseHolding(l, f)
				f.setRule(first(1, adopting, fault{fail: true, late: 5 * time.Second}))
				lease, err := l.Adopt(background, lockKey, old.Token(), []byte("after"), dcs.Txn{})
				require.NoError(t, err)
				require.NoError(t, lease.Release(background))
				if taken {
					w.requireFree(b, lease.Token())
					return
				}
				time.Sleep(10 * time.Second)
				require.False(t, w.exists(lockKey))
			})
		})
	}
}

// TestAdoptDuringALostRelease: what the former life has sent to delete its key
// lands after the adoption, and finds another revision.
func TestAdoptDuringALostRelease(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprintf("same process %t", same), func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				former, f := w.node("a")
				l := former
				if !same {
					l, _ = w.node("a")
				}
				old := w.loseHolding(former, f)
				f.setRule(func(c storeCall) fault {
					switch {
					case c.deletes(lockKey):
						return fault{fail: true, late: 20 * time.Second}
					case c.kind == callEnd:
						return fault{fail: true, lost: true}
					}
					return fault{}
				})
				require.ErrorIs(t, old.Release(background), dcs.ErrAmbiguous)
				lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
				require.NoError(t, err)
				f.setRule(nil)
				w.requireInForce(lease)
				require.NoError(t, old.Release(background))
				w.requireInForce(lease)
			})
		})
	}
}

// TestAdoptWhileBeingReleased: the release of the former life is under way; who
// comes first at the store has it.
func TestAdoptWhileBeingReleased(t *testing.T) {
	t.Parallel()
	for _, late := range []time.Duration{0, time.Second} {
		t.Run(fmt.Sprintf("deleted after %s", late), func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				l, f := w.node("a")
				old := w.loseHolding(l, f)
				f.setRule(first(1, func(c storeCall) bool { return c.deletes(lockKey) }, fault{request: late, reply: time.Second}))
				released := make(chan error, 1)
				go func() { released <- old.Release(background) }()
				synctest.Wait()
				time.Sleep(time.Second / 2)
				lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
				require.NoError(t, <-released, "the key is not the old lease's any more")
				if late == 0 {
					require.ErrorIs(t, err, ha.ErrFenced)
					require.False(t, w.exists(lockKey))
					return
				}
				require.NoError(t, err)
				w.requireInForce(lease)
			})
		})
	}
}

// TestAdoptWhatAnAttemptHasLeft: an acquisition that ended in doubt has brought
// the key under the present session. Its sweep was on the way.
func TestAdoptWhatAnAttemptHasLeft(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		_, err := l.TryAcquire(background, lockKey+"/other", nil)
		require.NoError(t, err)
		f.setRule(first(3, adopting, fault{fail: true, late: time.Second}))
		_, err = l.TryAcquire(background, lockKey, nil)
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		f.setRule(first(1, func(c storeCall) bool { return c.deletes(lockKey) }, fault{fail: true, late: 5 * time.Second}))
		time.Sleep(ha.DefaultRenewEvery)
		synctest.Wait()
		lease, err := l.Adopt(background, lockKey, w.key(lockKey).Created, nil, dcs.Txn{})
		require.NoError(t, err)
		w.requireInForce(lease)
	})
}

// TestAdoptTooLate: the machine sleeps while a reply is on its way. What was
// moved may be moved again while its session lives.
func TestAdoptTooLate(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{callCommit, callGet} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLockWorld(t)
				wall := &steppedWall{}
				l, f := w.node("a", func(cfg *ha.LockerConfig) { cfg.Wall = wall.now })
				old := w.loseHolding(l, f)
				sent := false
				f.setRule(func(c storeCall) fault {
					sent = sent || adopting(c)
					if sent && c.kind == kind {
						wall.step(time.Minute)
					}
					return fault{}
				})
				_, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
				f.setRule(nil)
				require.ErrorIs(t, err, dcs.ErrAmbiguous)
				between := w.key(lockKey).Session
				require.NotEqual(t, old.Session(), between)
				lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
				require.NoError(t, err)
				require.False(t, w.cluster.Expire(between), "it was closed")
				w.requireInForce(lease)
			})
		})
	}
}

// TestAdoptInterrupted: the store goes away while a holding is adopted, for
// longer than the new session lasts. When it is back the holding is still there.
func TestAdoptInterrupted(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"again", "close", "lost"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				l, f := w.node("a")
				old := w.loseHolding(l, f)
				away := false
				f.setRule(func(c storeCall) fault {
					away = away || adopting(c)
					return fault{mute: away}
				})
				_, err := l.Adopt(background, lockKey, old.Token(), nil, w.recording("1"))
				require.ErrorIs(t, err, dcs.ErrAmbiguous)
				time.Sleep(3 * time.Second)
				f.setRule(nil)
				between := w.key(lockKey)
				require.NotEqual(t, old.Session(), between.Session)
				switch end {
				case "again":
					lease, err := l.Adopt(background, lockKey, old.Token(), nil, w.recording("2"))
					require.NoError(t, err)
					require.False(t, w.cluster.Expire(between.Session), "it was closed")
					w.requireInForce(lease)
				case "close":
					require.NoError(t, l.Close(background))
					require.False(t, w.exists(lockKey))
				case "lost":
					require.True(t, w.cluster.Expire(between.Session))
					_, err = l.Adopt(background, lockKey, old.Token(), nil, w.recording("2"))
					require.ErrorIs(t, err, ha.ErrFenced)
					require.NotErrorIs(t, err, dcs.ErrAmbiguous)
					ends := f.count(callEnd)
					require.NoError(t, l.Close(background))
					require.LessOrEqual(t, f.count(callEnd)-ends, 2, "nothing is left of the one in between")
				}
			})
		})
	}
}

// TestAdoptLosesAtOnce: the transaction has landed, and before its token is known
// the key is deleted, or taken into another session.
func TestAdoptLosesAtOnce(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{true, false} {
		for _, with := range []bool{false, true} {
			t.Run(fmt.Sprintf("deleted %t, with operations %t", deleted, with), func(t *testing.T) {
				t.Parallel()
				adoptionTest(t, func(t *testing.T, w *lockWorld) {
					l, f := w.node("a")
					old := w.loseHolding(l, f)
					var txn dcs.Txn
					if with {
						txn = w.recording("1")
					}
					op := dcs.Op{Key: lockKey, Delete: deleted}
					if !deleted {
						op.Session = old.Session()
					}
					sent := false
					f.setRule(func(c storeCall) fault {
						if sent && c.kind == callGet {
							_, err := w.admin.Commit(background, dcs.Txn{Then: []dcs.Op{op}})
							assert.NoError(t, err)
							sent = false
						}
						sent = sent || adopting(c)
						return fault{}
					})
					_, err := l.Adopt(background, lockKey, old.Token(), nil, txn)
					require.ErrorIs(t, err, ha.ErrFenced)
					require.Equal(t, with, errors.Is(err, dcs.ErrAmbiguous))
					require.Equal(t, with, w.exists(recordKey))
				})
			})
		}
	}
}

// TestAdoptIsBounded: an adoption waits neither for a context that has ended,
// nor for the old session to be closed.
func TestAdoptIsBounded(t *testing.T) {
	t.Parallel()
	t.Run("context", func(t *testing.T) {
		t.Parallel()
		adoptionTest(t, func(t *testing.T, w *lockWorld) {
			l, f := w.node("a")
			old := w.loseHolding(l, f)
			ctx, cancel := context.WithCancel(background)
			time.AfterFunc(100*time.Millisecond, cancel)
			f.setRule(first(9, adopting, fault{fail: true, lost: true}))
			start := time.Now()
			_, err := l.Adopt(ctx, lockKey, old.Token(), nil, dcs.Txn{})
			require.ErrorIs(t, err, dcs.ErrAmbiguous)
			require.Equal(t, 100*time.Millisecond, time.Since(start))
		})
	})
	t.Run("old session", func(t *testing.T) {
		t.Parallel()
		adoptionTest(t, func(t *testing.T, w *lockWorld) {
			l, f := w.node("a")
			old := w.loseHolding(l, f)
			f.setRule(func(c storeCall) fault { return fault{lost: c.kind == callEnd, reply: time.Millisecond} })
			start := time.Now()
			lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
			require.NoError(t, err)
			require.LessOrEqual(t, time.Since(start), ha.DefaultRequest+10*time.Millisecond)
			require.NoError(t, old.Release(background))
			w.requireInForce(lease)
			require.False(t, w.cluster.Expire(old.Session()), "it has expired")
		})
	})
}

// TestAdoptSessionLost: the new session is lost on the way; the key is still
// under the old one.
func TestAdoptSessionLost(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		old := w.loseHolding(l, f)
		id, err := l.Session(background)
		require.NoError(t, err)
		w.cluster.Expire(id)
		_, err = l.Adopt(background, lockKey, old.Token(), nil, w.recording("1"))
		require.ErrorIs(t, err, dcs.ErrSessionLost)
		require.NotErrorIs(t, err, dcs.ErrAmbiguous)
		require.Equal(t, old.Session(), w.key(lockKey).Session)
		lease, err := l.Adopt(background, lockKey, old.Token(), nil, w.recording("1"))
		require.NoError(t, err)
		w.requireInForce(lease)
	})
}

// TestAdoptFencedInDoubt: the outcome is unknown, and then the key is gone.
func TestAdoptFencedInDoubt(t *testing.T) {
	t.Parallel()
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprintf("with operations %t", with), func(t *testing.T) {
			t.Parallel()
			adoptionTest(t, func(t *testing.T, w *lockWorld) {
				l, f := w.node("a")
				old := w.loseHolding(l, f)
				f.setRule(first(1, func(c storeCall) bool {
					if !adopting(c) {
						return false
					}
					_, err := w.admin.Commit(background, dcs.Txn{Then: []dcs.Op{{Key: lockKey, Delete: true}}})
					return assert.NoError(t, err)
				}, fault{fail: true, late: time.Second}))
				var txn dcs.Txn
				if with {
					txn = w.recording("1")
				}
				_, err := l.Adopt(background, lockKey, old.Token(), nil, txn)
				require.ErrorIs(t, err, ha.ErrFenced)
				require.Equal(t, with, errors.Is(err, dcs.ErrAmbiguous))
				time.Sleep(10 * time.Second)
				require.False(t, w.exists(lockKey))
				require.False(t, w.exists(recordKey))
			})
		})
	}
}

// TestAdoptRewrittenMeanwhile: a late write of the former life changes the value
// between reading and moving.
func TestAdoptRewrittenMeanwhile(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		old := w.loseHolding(l, f)
		times := 0
		f.setRule(func(c storeCall) fault {
			if adopting(c) && times < 2 {
				times++
				_, err := w.admin.Commit(background, dcs.Txn{Then: []dcs.Op{{Key: lockKey, Session: old.Session()}}})
				assert.NoError(t, err)
			}
			return fault{}
		})
		lease, err := l.Adopt(background, lockKey, old.Token(), []byte("after"), w.recording("1"))
		require.NoError(t, err)
		require.Equal(t, 2, times)
		w.requireInForce(lease)
	})
}

// TestAdoptUnderWork: the work of the lost lease goes on under the new one, and
// returns at its own pace.
func TestAdoptUnderWork(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		l, f := w.node("a")
		begun, finish, returned := make(chan *ha.Lease, 1), make(chan struct{}), make(chan error, 1)
		go func() {
			returned <- l.Hold(background, lockKey, nil, func(_ context.Context, ls *ha.Lease) error {
				begun <- ls
				<-finish
				return nil
			})
		}()
		old := <-begun
		w.loseContact(f, old)
		lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
		require.NoError(t, err)
		close(finish)
		require.ErrorIs(t, <-returned, ha.ErrExpired)
		w.requireInForce(lease)
		require.NoError(t, l.Close(background))
		require.False(t, w.exists(lockKey))
	})
}

// TestAdoptEndsTheFormerLife: a former life that is not over, against what Adopt
// asks of its caller, loses its lease with the next renewal.
func TestAdoptEndsTheFormerLife(t *testing.T) {
	t.Parallel()
	adoptionTest(t, func(t *testing.T, w *lockWorld) {
		former, _ := w.node("a")
		l, _ := w.node("a")
		old, err := former.TryAcquire(background, lockKey, nil)
		require.NoError(t, err)
		lease, err := l.Adopt(background, lockKey, old.Token(), nil, dcs.Txn{})
		require.NoError(t, err)
		time.Sleep(ha.DefaultRenewEvery)
		synctest.Wait()
		require.Error(t, old.Context().Err())
		require.ErrorIs(t, old.Check(), ha.ErrFenced)
		require.NoError(t, old.Release(background))
		w.requireInForce(lease)
	})
}
