package dcstest_test

import (
	"context"
	"hash/fnv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/internal/lockertest"
)

func TestTerms(t *testing.T) {
	t.Parallel()
	type step struct {
		wait   time.Duration
		holder string // begins; empty: the step ends the term of this number
		token  dcs.Revision
		ends   int
	}
	begin := func(wait time.Duration, holder string, token dcs.Revision) step {
		return step{wait: wait, holder: holder, token: token}
	}
	end := func(wait time.Duration, n int) step { return step{wait: wait, ends: n} }
	const s = time.Second
	for _, tc := range []struct {
		name  string
		steps []step
		finds []string
	}{
		{"one after the other", []step{begin(0, "a", 1), end(s, 0), begin(s, "b", 2), end(s, 1)}, nil},
		{"one takes over at the instant at which the other ends", []step{begin(0, "a", 1), end(s, 0), begin(0, "b", 2)}, nil},
		{"an end that is recorded late in the same instant", []step{begin(0, "a", 1), begin(s, "b", 2), end(0, 0)}, nil},
		{
			"two at once",
			[]step{begin(0, "a", 1), begin(3*s, "b", 2), end(s, 0), end(s, 1)},
			[]string{"lock l has two holders: a with token 1 from 0s to 4s and b with token 2 from 3s to 5s, for 1s"},
		},
		{
			"one inside the other",
			[]step{begin(0, "a", 1), begin(3*s, "b", 2), end(s, 1), end(s, 0)},
			[]string{"lock l has two holders: a with token 1 from 0s to 5s and b with token 2 from 3s to 4s, for 1s"},
		},
		{
			"one that never ends",
			[]step{begin(0, "a", 1), begin(3*s, "b", 2)},
			[]string{"lock l has two holders: a with token 1 from 0s to no end and b with token 2 from 3s to no end"},
		},
		{
			"a token that goes back",
			[]step{begin(0, "a", 7), end(s, 0), begin(s, "b", 6), end(s, 1)},
			[]string{"the token of lock l does not grow: a with token 7 from 0s to 1s, then b with token 6 from 2s to 3s"},
		},
		{
			"a token that two have",
			[]step{begin(0, "a", 7), end(s, 0), begin(s, "b", 7), end(s, 1)},
			[]string{"the token of lock l does not grow: a with token 7 from 0s to 1s, then b with token 7 from 2s to 3s"},
		},
		{"a holding that is taken along", []step{begin(0, "a", 7), end(s, 0), begin(s, "a", 7), end(s, 1)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			mock := clock.NewMock()
			terms := dcstest.NewTerms(mock)
			var begun []*dcstest.Term
			for _, st := range tc.steps {
				mock.Add(st.wait)
				if st.holder == "" {
					begun[st.ends].End()
					continue
				}
				begun = append(begun, terms.Begin("l", st.holder, st.token))
				terms.Begin("of something else", "c", 1)
			}
			var found []string
			for _, violation := range terms.Violations() {
				if violation[:6] == "lock l" || violation[:19] == "the token of lock l" {
					found = append(found, violation)
				}
			}
			require.Equal(t, tc.finds, found)
			require.Len(t, terms.All("l"), len(begun))
		})
	}
}

// TestTermsOfLockersUnderNoise lets three nodes compete for one lock while
// requests and replies are late, lost, doubled and held back, and orders what
// they did in true time. A seed is a history.
func TestTermsOfLockersUnderNoise(t *testing.T) {
	t.Parallel()
	for seed := range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := memory.New(memory.Config{})
			terms := dcstest.NewTerms(nil)
			ctx, cancel := context.WithCancel(t.Context())
			var nodes sync.WaitGroup
			for _, name := range []string{"a", "b", "c"} {
				store := dcstest.Faulty(c.Client(name), noise{seed: seed, node: name})
				nodes.Go(func() {
					defer func() { _ = store.Close() }()
					_ = lockertest.Contend(ctx, dcstest.Contender{
						Name: name, Store: store, Clock: clock.New(), Key: "/noise/lock", TTL: 10 * time.Second,
						Work: func(ctx context.Context, token dcs.Revision) error {
							term := terms.Begin("lock", name, token)
							defer term.End()
							<-ctx.Done()
							time.Sleep(time.Second) // the work takes a part of the margin to stop
							return nil
						},
					})
				})
			}
			time.Sleep(10 * time.Minute)
			cancel()
			nodes.Wait()
			c.Close()
			require.GreaterOrEqual(t, len(terms.All("lock")), 2, "seed %d: the noise must end terms", seed)
			terms.Verify(t)
		})
	}
}

// noise is a network with good and bad times. What happens to a call depends on
// the seed, the node, and which of its calls it is.
type noise struct {
	seed int
	node string
}

func (n noise) Inject(c dcstest.Call) dcstest.Fault {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(n.seed), byte(c.N), byte(c.N >> 8)})
	_, _ = h.Write([]byte(n.node + string(c.Kind)))
	x := h.Sum64()
	f := dcstest.Fault{
		Delay:      time.Duration(x%97) * time.Millisecond,
		ReplyDelay: time.Duration(x/97%89) * time.Millisecond,
	}
	bad := uint64(20)
	if c.N/25%3 == 2 { // a bad time
		bad = 2
	}
	if x>>20%bad != 0 {
		return f
	}
	switch x >> 40 % 5 {
	case 0:
		f.Lose = true
	case 1:
		f.Swallow = true
	case 2:
		f.Delay += 20 * time.Second
	case 3:
		f.Twice = true
	case 4:
		f.ReplyDelay += 5 * time.Second
	}
	return f
}
