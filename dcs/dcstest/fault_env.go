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
	"github.com/pghad/pghad/internal/timectx"
)

const (
	// brief is the time that a call is given whose reply does not come.
	brief = 300 * time.Millisecond
	// grace is the time in which a call that was not answered could be repeated
	// behind its caller's back.
	grace = 2 * time.Second
	// request is the time that a call is given whose reply may come.
	request = 2 * time.Second
)

// as is the cluster's ability, which the suite has checked.
func as[T any](e *env) T {
	able, _ := e.cluster.(T)
	return able
}

// partition cuts the clients of a name off until heal, or the case's end.
func (e *env) partition(t *testing.T, client string) (heal func()) {
	t.Helper()
	p, who := as[Partitioner](e), e.who(client)
	p.Partition(who)
	heal = sync.OnceFunc(func() { p.Heal(who) })
	t.Cleanup(heal)
	return heal
}

// dropReplies makes the clients of a name hear nothing until heal, or the
// case's end.
func (e *env) dropReplies(t *testing.T, client string) (dropped <-chan struct{}, heal func()) {
	t.Helper()
	d, who := as[ReplyDropper](e), e.who(client)
	dropped = d.DropReplies(who)
	heal = sync.OnceFunc(func() { d.Heal(who) })
	t.Cleanup(heal)
	return dropped, heal
}

// pause makes the backend stand still until resume, or the case's end.
func (e *env) pause(t *testing.T) (resume func()) {
	t.Helper()
	p := as[Pauser](e)
	resume = sync.OnceFunc(func() {
		if err := p.Resume(); err != nil {
			t.Errorf("resume the backend: %v", err)
		}
	})
	t.Cleanup(resume)
	require.NoError(t, p.Pause())
	return resume
}

// kill makes the server that decides crash, or one that does not; at the case's
// end all are there again.
func (e *env) kill(t *testing.T, leader bool) {
	t.Helper()
	var do, restore func(context.Context) error
	if leader {
		k := as[LeaderKiller](e)
		do, restore = k.KillLeader, k.Restore
	} else {
		k := as[FollowerKiller](e)
		do, restore = k.KillFollower, k.Restore
	}
	t.Cleanup(func() {
		ctx, cancel := timectx.With(context.WithoutCancel(e.ctx), e.clk, patience/2, "restoring the servers")
		defer cancel()
		if err := restore(ctx); err != nil {
			t.Errorf("restore the servers: %v", err)
		}
	})
	require.NoError(t, do(e.ctx))
}

// briefly makes a context for a call whose reply does not come.
func (e *env) briefly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := timectx.With(e.ctx, e.clk, brief, "the call")
	t.Cleanup(cancel)
	return ctx
}

// until makes attempts, each in the time of a request, until one succeeds. It is
// for calls that may be repeated.
func (e *env) until(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	for {
		err := e.try(try)
		if err == nil {
			return
		}
		if e.clk.Now().After(e.ends) {
			require.NoError(t, err, what)
		}
		e.sleep(t, 20*time.Millisecond)
	}
}

func (e *env) try(try func(context.Context) error) error {
	ctx, cancel := timectx.With(e.ctx, e.clk, request, "the call")
	defer cancel()
	return try(ctx)
}

// awaitGet reads a key of which it is not known whether the backend serves.
func (e *env) awaitGet(t *testing.T, s dcs.Store, name string) (kv dcs.KV, exists bool) {
	t.Helper()
	e.until(t, "read "+name, func(ctx context.Context) (err error) {
		kv, err = s.Get(ctx, e.key(name))
		exists = err == nil
		if errors.Is(err, dcs.ErrNotFound) {
			err = nil
		}
		return err
	})
	return kv, exists
}

// returns requires that something ends soon, and waits for it.
func (e *env) returns(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	timer := e.clk.Timer(patience / 2)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		require.Fail(t, what+" hangs")
	}
}

// attempt is one write with what became of it.
type attempt struct {
	name string
	err  error
}

// ledger records writes of keys that each are written once, by several writers.
type ledger struct {
	mu       sync.Mutex
	attempts []attempt
	done     map[string]int // acknowledged ones, by writer
}

func (l *ledger) add(writer string, a attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
	if a.err == nil {
		if l.done == nil {
			l.done = map[string]int{}
		}
		l.done[writer]++
	}
}

func (l *ledger) acknowledged(writer string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done[writer]
}

// verify holds the attempts against what the store has: every write that was
// acknowledged is there, and none that surely was not done.
func (l *ledger) verify(t *testing.T, e *env, s dcs.Store) {
	t.Helper()
	var kvs []dcs.KV
	e.until(t, "list what was written", func(ctx context.Context) (err error) {
		kvs, err = s.List(ctx, e.base)
		return err
	})
	there := map[string]bool{}
	for _, name := range e.keys(kvs) {
		there[name] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	unknown := 0
	for _, a := range l.attempts {
		switch {
		case a.err == nil:
			require.True(t, there[a.name], "%s was acknowledged and is lost", a.name)
		case dcs.SurelyNotDone(a.err):
			require.False(t, there[a.name], "%s was surely not written, and is there: %v", a.name, a.err)
		default:
			require.ErrorIs(t, a.err, dcs.ErrAmbiguous)
			unknown++
		}
	}
	t.Logf("%d writes, %d of them of unknown outcome", len(l.attempts), unknown)
}

// write creates keys until stop is closed.
func (l *ledger) write(e *env, s dcs.Store, writer string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-e.ctx.Done():
			return
		default:
		}
		name := fmt.Sprintf("%s/%d", writer, i)
		err := e.try(func(ctx context.Context) error {
			_, err := dcs.Create(ctx, s, e.key(name), nil, "")
			return err
		})
		l.add(writer, attempt{name: name, err: err})
		_ = timectx.Sleep(e.ctx, e.clk, 10*time.Millisecond)
	}
}
