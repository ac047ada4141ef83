package ha_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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

// adopter is a node that holds the lock as long as it can: it adopts what it
// has lost, also in its next life, and now and then lets go.
type adopter struct {
	w    *lockWorld
	name string
	rand *rand.Rand

	locker *ha.Locker
	store  *faultyStore
	rule   func(storeCall) fault
	former []*ha.Lease // of this life, not all released

	mu      sync.Mutex
	lease   *ha.Lease // that the node relies on
	adopted int
}

// live starts another life. What the one before has sent may still land.
func (a *adopter) live() {
	ended, cancel := context.WithCancel(background)
	cancel()
	if a.locker != nil {
		a.store.setRule(partitioned)
		_ = a.locker.Close(ended)
	}
	a.former = nil
	a.locker, a.store = a.w.node(a.name)
	a.rule = badNetwork(rand.New(rand.NewPCG(a.rand.Uint64(), 0)))
	a.store.setRule(a.rule)
}

// badNetwork makes a rule by which three calls in ten go wrong.
func badNetwork(random *rand.Rand) func(storeCall) fault {
	delay := func(most time.Duration) time.Duration { return 1 + time.Duration(random.Int64N(int64(most))) }
	return func(storeCall) fault {
		switch random.IntN(20) {
		case 0:
			return fault{fail: true, lost: true}
		case 1:
			return fault{fail: true, late: delay(2 * time.Second)}
		case 2:
			return fault{fail: true, late: delay(20 * time.Second)}
		case 3:
			return fault{request: delay(3 * time.Second), reply: delay(3 * time.Second)}
		case 4:
			return fault{lost: true}
		case 5:
			return fault{mute: true}
		}
		return fault{request: delay(10 * time.Millisecond), reply: delay(10 * time.Millisecond)}
	}
}

func (a *adopter) setLease(ls *ha.Lease, adopted int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lease = ls
	a.adopted += adopted
	if ls != nil {
		a.former = append(a.former, ls)
	}
}

// run lives on until ctx ends.
func (a *adopter) run(ctx context.Context) {
	a.live()
	var token dcs.Revision // of the holding that is there to be adopted, or zero
	for ctx.Err() == nil {
		time.Sleep(time.Duration(1+a.rand.IntN(1000)) * time.Millisecond)
		if a.rand.IntN(5) == 0 {
			a.setLease(nil, 0)
			a.live()
		}
		if n := len(a.former); n > 0 && a.rand.IntN(4) == 0 { // perhaps once more
			_ = a.former[a.rand.IntN(n)].Release(ctx)
		}
		var lease *ha.Lease
		var err error
		if token == 0 {
			lease, err = a.locker.TryAcquire(ctx, lockKey, []byte(a.name))
		} else if lease, err = a.locker.Adopt(ctx, lockKey, token, []byte(a.name), a.count(ctx)); err == nil {
			assert.GreaterOrEqual(a.w.t, lease.Token(), token)
		}
		if errors.Is(err, ha.ErrFenced) || errors.Is(err, ha.ErrReleased) {
			token = 0
		}
		if err != nil {
			continue
		}
		a.setLease(lease, min(1, int(token)))
		token = lease.Token()
		give := a.rand.IntN(3) == 0
		patience, cancel := context.WithTimeout(ctx, time.Duration(a.rand.IntN(int(30*time.Second))))
		select {
		case <-patience.Done():
		case <-lease.Context().Done():
		}
		cancel()
		switch {
		case give:
			_ = lease.Release(ctx)
		case lease.Check() == nil:
			a.store.setRule(halfOpen)
			<-lease.Context().Done()
			a.store.setRule(a.rule)
		}
	}
}

// count is a transaction that writes a record as it was read, or nothing.
func (a *adopter) count(ctx context.Context) dcs.Txn {
	if a.rand.IntN(2) == 0 {
		return dcs.Txn{}
	}
	kv, err := a.w.admin.Get(ctx, recordKey)
	if err != nil {
		kv = dcs.KV{}
	}
	return dcs.Txn{
		If:   []dcs.Guard{dcs.At(recordKey, kv.Revision)},
		Then: []dcs.Op{{Key: recordKey, Value: append(kv.Value, 'x')}},
	}
}

// check requires that a lease in force is what the store shows.
func (a *adopter) check() (inForce bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lease == nil || a.lease.Check() != nil {
		return false
	}
	kv := a.w.key(lockKey)
	require.Equal(a.w.t, a.lease.Session(), kv.Session, "%s relies on a key of another session", a.name)
	require.Equal(a.w.t, a.lease.Token(), kv.Created, "%s relies on another token", a.name)
	return true
}

// TestAdoptUnderFaults lets nodes compete over a bad network, adopt what they
// have lost, live anew and release more than once. A lease that is in force is
// always one that the store would show, so that there are never two.
func TestAdoptUnderFaults(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	adopted := map[bool]int{}
	t.Cleanup(func() {
		for creates, n := range adopted {
			assert.Positive(t, n, "token grows %t: nothing was adopted", creates)
		}
	})
	for seed := range uint64(12) {
		for _, creates := range []bool{false, true} {
			t.Run(fmt.Sprintf("seed %d, token grows %t", seed, creates), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					n := adoptUnderFaults(t, seed, creates)
					mu.Lock()
					defer mu.Unlock()
					adopted[creates] += n
				})
			})
		}
	}
}

func adoptUnderFaults(t *testing.T, seed uint64, creates bool) (adopted int) {
	t.Helper()
	cluster := memory.New(memory.Config{Clock: clock.New(), MoveCreates: creates})
	t.Cleanup(cluster.Close)
	w := &lockWorld{t: t, cluster: cluster, admin: cluster.Client("admin")}
	ctx, cancel := context.WithCancel(background)
	var wg sync.WaitGroup
	nodes := make([]*adopter, 3)
	for i := range nodes {
		nodes[i] = &adopter{w: w, name: string(rune('a' + i)), rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		wg.Go(func() { nodes[i].run(ctx) })
	}
	for range 4 * 60 * 10 {
		time.Sleep(250*time.Millisecond + 1)
		synctest.Wait()
		for _, a := range nodes {
			a.check()
		}
	}
	cancel()
	wg.Wait()
	for _, a := range nodes {
		adopted += a.adopted
	}
	return adopted
}
