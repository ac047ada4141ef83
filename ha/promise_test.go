package ha

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

func life(node string) quorum.Member { return quorum.Member{Node: node, Incarnation: "1"} }

// member is a promiser of b that follows term 7.
func newPromiser(clk clock.Clock, asked *int) *promiser {
	p := &promiser{clock: clk, longest: 10 * time.Second, ask: func() { *asked++ }, why: "not looked yet"}
	p.allow(life("b"), 7, "x")
	p.arm(true)
	return p
}

func request(change func(*PromiseRequest)) PromiseRequest {
	ask := PromiseRequest{Term: 7, Nonce: "x", Primary: life("a"), Member: life("b"), For: 10 * time.Second}
	if change != nil {
		change(&ask)
	}
	return ask
}

func TestPromiser(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*promiser)
		ask     func(*PromiseRequest)
		why     string // "": given
	}{
		"given":            {nil, nil, ""},
		"another life":     {nil, func(r *PromiseRequest) { r.Member.Incarnation = "2" }, "this is b.1, and b.2 was asked"},
		"another term":     {nil, func(r *PromiseRequest) { r.Term = 6 }, "follows term 7"},
		"another nonce":    {nil, func(r *PromiseRequest) { r.Nonce = "y" }, "follows term 7"},
		"too long":         {nil, func(r *PromiseRequest) { r.For = 11 * time.Second }, "at most 10s is given"},
		"for nothing":      {nil, func(r *PromiseRequest) { r.For = 0 }, "at most 10s is given"},
		"follows nobody":   {func(p *promiser) { p.deny("this node follows no primary") }, nil, "follows no primary"},
		"sees an election": {func(p *promiser) { p.deny("this node sees election 8 (fencing)") }, nil, "election 8"},
		"not durable yet":  {func(p *promiser) { p.arm(false) }, nil, "not ready yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			p := newPromiser(clock.NewMock(), &asked)
			if c.prepare != nil {
				c.prepare(p)
			}
			answer := p.promise(request(c.ask))
			require.Equal(t, c.why == "", answer.Given, answer.Why)
			require.Contains(t, answer.Why, c.why)
			require.Equal(t, life("b"), answer.Member)
			require.Equal(t, c.why == "", p.bound() > 0, "who has not promised is not bound")
		})
	}
}

func TestPromiseIsKeptAlsoWhenNoMoreAreGiven(t *testing.T) {
	t.Parallel()
	clk, asked := clock.NewMock(), 0
	p := newPromiser(clk, &asked)
	require.True(t, p.promise(request(nil)).Given)
	p.deny("an election is open")
	clk.Add(9 * time.Second)
	require.Equal(t, time.Second, p.bound())
	require.False(t, p.disarm(), "a restart must know of it")
	shorter := request(func(r *PromiseRequest) { r.For = time.Millisecond })
	p.allow(life("b"), 7, "x")
	require.True(t, p.promise(shorter).Given)
	require.Equal(t, time.Second, p.bound(), "a later promise takes nothing back")
	clk.Add(time.Second)
	require.Zero(t, p.bound())
	require.False(t, p.disarm(), "who has just asked will ask again")
	clk.Add(10 * time.Second)
	require.True(t, p.disarm())
	require.False(t, p.promise(request(nil)).Given, "nothing is promised that a restart would not know of")
	require.Equal(t, 1, asked, "the loop is asked to make it possible")
	waiting, armed := p.waiting()
	require.True(t, waiting)
	require.False(t, armed)
	require.False(t, p.disarm(), "somebody waits")
}

func TestRestartedPromiserWaitsOutTheLongestPromise(t *testing.T) {
	t.Parallel()
	clk := clock.NewMock()
	p := &promiser{clock: clk, longest: 10 * time.Second}
	p.bind(10 * time.Second)
	require.Equal(t, 10*time.Second, p.bound())
	clk.Add(10 * time.Second)
	require.Zero(t, p.bound())
}

// tellers answer for all members but those that are silent.
type tellers map[string]bool

func (silent tellers) AskPromise(ctx context.Context, peer Peer, ask PromiseRequest) (Promise, error) {
	if silent[peer.Name] {
		<-ctx.Done()
		return Promise{}, errors.New("no answer")
	}
	return Promise{Given: true, Member: ask.Member}, nil
}

// inOffice gives a warrant on a fresh lease, with b and c as members and k.
func inOffice(t *testing.T, k int) (*warrant, *memory.Cluster) {
	t.Helper()
	store := memory.New(memory.Config{Clock: clock.New()})
	locker, err := NewLocker(LockerConfig{Store: store.Client("a"), Clock: clock.New()})
	require.NoError(t, err)
	lease, err := locker.TryAcquire(t.Context(), "/leader", []byte("a"))
	require.NoError(t, err)
	recorded := quorum.Config{Mode: quorum.ModeQuorum, Primary: life("a"), Members: []quorum.Member{life("b"), life("c")}, K: k}
	w := newWarrant(locker, lease, recorded, request(nil))
	w.seen(true, false, []Peer{{Name: "b", APIURL: "b"}, {Name: "c", APIURL: "c"}})
	t.Cleanup(func() { require.NoError(t, locker.Close(context.WithoutCancel(t.Context()))) })
	return w, store
}

// loseLease ends the lease as the store's loss does in the end.
func loseLease(t *testing.T, w *warrant) {
	t.Helper()
	require.NoError(t, w.lease.Release(t.Context()))
}

func TestWarrantLastsAsLongAsThePromises(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := inOffice(t, 1)
		require.NoError(t, w.Check())
		w.ask(t.Context(), tellers{})
		loseLease(t, w)
		worth := w.locker.timing.window(10 * time.Second)
		left, err := w.lasts()
		require.ErrorIs(t, err, ErrReleased, "why the lease does not count")
		require.Equal(t, worth, left)
		require.Equal(t, time.Now().Add(worth), w.Until())
		time.Sleep(left - 1)
		require.NoError(t, w.Check())
		time.Sleep(1)
		require.ErrorIs(t, w.Check(), pg.ErrNoWarrant)
	})
}

func TestWarrantNeedsKPromisesOfEveryRecordThatMayBeInForce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := inOffice(t, 1)
		onlyB := tellers{"c": true}
		ask := func(who tellers) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			w.ask(ctx, who)
		}
		require.False(t, w.standsAlone())
		ask(onlyB)
		require.True(t, w.standsAlone(), "one of two is k")

		wider := quorum.Config{Mode: quorum.ModeQuorum, Primary: life("a"), Members: []quorum.Member{life("c"), life("d")}, K: 1}
		w.propose(wider)
		require.False(t, w.standsAlone(), "a record that may have landed counts c and d only")
		ask(tellers{})
		require.True(t, w.standsAlone(), "b for the one, c for the other")
		w.settle(quorum.Config{Mode: quorum.ModeQuorum, Primary: life("a"), Members: []quorum.Member{life("b"), life("c"), life("d")}, K: 3})
		require.False(t, w.standsAlone(), "d has not been asked")
		w.settle(quorum.Config{Mode: quorum.ModeQuorum, Primary: life("a")})
		require.True(t, w.standsAlone(), "with k = 0 no election can do without this node")
	})
}

func TestWarrantOfAnotherTermHasNoOldPromises(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := inOffice(t, 1)
		w.ask(t.Context(), tellers{})
		next := request(func(r *PromiseRequest) { r.Term = 8 })
		w.renewed(w.lease, w.claims[0], next)
		loseLease(t, w)
		require.Error(t, w.Check())
	})
}

func TestWarrantAsksNobodyForAServerThatDoesNotServe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := inOffice(t, 1)
		w.seen(false, false, nil)
		w.ask(t.Context(), tellers{})
		require.False(t, w.standsAlone())
		w.seen(false, true, nil)
		loseLease(t, w)
		require.NoError(t, w.Check(), "maintenance")
		w.seen(false, false, nil)
		require.ErrorIs(t, w.Check(), ErrReleased)
		w.seen(false, true, nil)
		require.ErrorIs(t, w.Check(), ErrReleased, "an end is final")
	})
}

func TestWarrantGuardStopsWhenTheLastPromiseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, store := inOffice(t, 1)
		w.ask(t.Context(), tellers{})
		asked, stopped := time.Now(), make(chan time.Time, 1)
		go func() {
			_ = w.guard(func(error) error { stopped <- time.Now(); return nil })
		}()
		require.True(t, store.Expire(w.lease.Session()))
		require.Equal(t, asked.Add(w.locker.timing.window(10*time.Second)), <-stopped)
	})
}

func TestWarrantGuardOutlivesALeaseThatWasReleased(t *testing.T) {
	t.Parallel()
	for _, promises := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w, _ := inOffice(t, 1)
			if promises {
				w.ask(t.Context(), tellers{})
			}
			stopped := make(chan error, 1)
			go func() { _ = w.guard(func(cause error) error { stopped <- cause; return nil }) }()
			loseLease(t, w)
			require.ErrorIs(t, <-stopped, ErrReleased, "its key is gone, and the server serves")
		})
	}
}

func TestWarrantGuardLeavesTheServerOfATermThatWasLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _ := inOffice(t, 1)
		ended := make(chan error, 1)
		go func() { ended <- w.guard(func(error) error { panic("stopped") }) }()
		w.leave(ErrResigned)
		require.NoError(t, <-ended)
	})
}
