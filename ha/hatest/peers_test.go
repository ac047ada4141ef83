package hatest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/hatest"
	"github.com/pghad/pghad/ha/quorum"
)

// answer is what became of one question.
type answer struct {
	promise ha.Promise
	err     error
	took    time.Duration
}

// asked lets the agent of a ask that of b ten seconds after the start, for two
// seconds at most. It returns the answer, nil if there was none in a minute, and
// how often b was asked.
func asked(t *testing.T, network hatest.Network, trouble func(w *hatest.World)) (got *answer, times int) {
	t.Helper()
	agent := func(ctx context.Context, env hatest.Env) error {
		env.Serve(func(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
			times++
			// A handler may take its time.
			err := env.Disk.Save(ha.LocalState{Pledge: ask.Term})
			return ha.Promise{Given: true, Member: quorum.Member{Node: env.Name}}, err
		})
		if env.Name != "a" {
			<-ctx.Done()
			return nil
		}
		env.Clock.Sleep(10 * time.Second)
		began := env.Clock.Now()
		waiting, cancel := env.Clock.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		var a answer
		a.promise, a.err = env.Peers.AskPromise(waiting, ha.Peer{Name: "b", APIURL: "http://b:8008"}, ha.PromiseRequest{Term: 7, For: time.Second})
		a.took = env.Clock.Since(began)
		got = &a
		<-ctx.Done()
		return nil
	}
	hatest.Run(t, hatest.Config{Seed: 1, Hosts: []string{"a", "b"}, Agent: agent, Network: network}, func(w *hatest.World) {
		w.Start()
		w.RunFor(time.Second)
		trouble(w)
		w.RunUntil(time.Minute, func() bool { return got != nil })
		w.ResumeAgent("b")
		w.RunFor(time.Second)
	})
	return got, times
}

func TestPeers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		network  hatest.Network
		trouble  func(w *hatest.World)
		answered bool
		times    int // b was asked
	}{
		{"well", hatest.Network{}, func(*hatest.World) {}, true, 1},
		{"the way there is cut", hatest.Network{}, func(w *hatest.World) { w.Cut("a", "b") }, false, 0},
		{"the way back is cut", hatest.Network{}, func(w *hatest.World) { w.Cut("b", "a") }, false, 1},
		{"agents do not reach each other", hatest.Network{}, func(w *hatest.World) { w.CutPeers("b") }, false, 0},
		{"and do again", hatest.Network{}, func(w *hatest.World) { w.CutPeers("b"); w.HealPeers("b") }, true, 1},
		{"everything is lost", hatest.Network{Loss: 1}, func(*hatest.World) {}, false, 0},
		{"its agent is dead", hatest.Network{}, func(w *hatest.World) { w.KillAgent("b") }, false, 0},
		{"its agent is new", hatest.Network{}, func(w *hatest.World) { w.KillAgent("b"); w.Start("b") }, true, 1},
		{"its agent is paused, and answers when nobody waits", hatest.Network{}, func(w *hatest.World) { w.PauseAgent("b") }, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, times := asked(t, tc.network, tc.trouble)
			require.NotNil(t, got)
			require.LessOrEqual(t, got.took, 2*time.Second)
			require.Equal(t, tc.times, times)
			if !tc.answered {
				require.Error(t, got.err)
				require.False(t, got.promise.Given)
				return
			}
			require.NoError(t, got.err)
			require.Equal(t, ha.Promise{Given: true, Member: quorum.Member{Node: "b"}}, got.promise)
		})
	}
}

// Who asks is killed, asked at no address, or out of time: it returns.
func TestPeersThatAreNotAsked(t *testing.T) {
	t.Parallel()
	var errs []string
	agent := func(ctx context.Context, env hatest.Env) error {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		for _, q := range []struct {
			ctx context.Context
			url string
		}{{ctx, ""}, {ctx, "://"}, {ended, "http://b:8008"}} {
			_, err := env.Peers.AskPromise(q.ctx, ha.Peer{Name: "b", APIURL: q.url}, ha.PromiseRequest{})
			errs = append(errs, err.Error())
		}
		_, err := env.Peers.AskPromise(ctx, ha.Peer{Name: "c", APIURL: "http://nobody:8008"}, ha.PromiseRequest{})
		errs = append(errs, err.Error())
		return nil
	}
	hatest.Run(t, hatest.Config{Seed: 1, Hosts: []string{"a"}, Agent: agent}, func(w *hatest.World) {
		w.Start()
		w.RunFor(time.Second)
		require.Len(t, errs, 3)
		w.KillAgent("a")
		require.Len(t, errs, 4)
	})
	for n, want := range []string{"is no address", "is no address", "context canceled", "killed"} {
		require.True(t, strings.HasPrefix(errs[n], "ask "), errs[n])
		require.Contains(t, errs[n], want)
	}
}

// An operator has a way to the store of its own, which can be cut.
func TestOperator(t *testing.T) {
	t.Parallel()
	idle := func(ctx context.Context, _ hatest.Env) error {
		<-ctx.Done()
		return nil
	}
	hatest.Run(t, hatest.Config{Seed: 1, Hosts: []string{"a"}, Agent: idle}, func(w *hatest.World) {
		w.Start()
		lists, fails := 0, 0
		look := func(ctx context.Context, env hatest.Env) error {
			ctx, cancel := env.Clock.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := env.Store.List(ctx, "/"); err != nil {
				fails++
				return err
			}
			lists++
			return nil
		}
		w.Operate(look)
		w.Operate(look)
		w.RunFor(2 * time.Second)
		require.Equal(t, 2, lists)
		w.Cut("operator", "dcs")
		w.Operate(look)
		w.RunFor(2 * time.Second)
		require.Equal(t, 1, fails)
	})
}
