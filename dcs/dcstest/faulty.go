package dcstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
	"github.com/pghad/pghad/internal/timectx"
)

// Faulty puts faults between a store and its user: what happens to each call is
// up to in. It works on every implementation, and in a testing/synctest bubble.
// Delays are by the real clock, which in a bubble is the bubble's.
//
// What the user is told is never more than is true, as long as Fault.Fail and
// Fault.Answer keep to that: a Faulty store is a correct one that has bad luck.
// Closing it ends all that is under way, and closes s. Whether a call whose reply
// arrives at the very instant at which its context ends has an outcome is left to
// chance, as it is with real stores.
func Faulty(s dcs.Store, in Injector) dcs.Store {
	f := &faulty{inner: s, injector: in, clock: clock.New(), calls: map[Kind]int{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

type faulty struct {
	inner    dcs.Store
	injector Injector
	clock    clock.Clock

	ctx    context.Context // ends when the store is closed; its lifetime is the store's
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows, and the injector
	closed  bool
	calls   map[Kind]int
	held    <-chan struct{} // closed when the last request that was held has been carried out
	flights sync.WaitGroup
}

// errLost is how a request ends that never arrives.
var errLost = errors.New("the request got lost")

// flight is one call under way.
type flight struct {
	call   Call
	fault  Fault
	before <-chan struct{} // of a held one: all that were held before have been carried out
	landed func()          // of a held one: it has been carried out, or never will be; called once
}

// begin asks the injector about a call. False: there is nothing to do but to
// pass it on.
func (f *faulty) begin(call Call) (*flight, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[call.Kind]++
	call.N = f.calls[call.Kind]
	fault := f.injector.Inject(call)
	if f.closed || fault.none() {
		return nil, false
	}
	fl := &flight{call: call, fault: fault, landed: func() {}}
	if fault.Hold != nil && fault.Fail == nil && !fault.Lose {
		landed := make(chan struct{})
		fl.before, f.held = f.held, landed
		fl.landed = func() { close(landed) }
	}
	return fl, true
}

// start runs something that Close waits for. It reports false if that has been
// called.
func (f *faulty) start(run func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.flights.Go(run)
	return true
}

// travel returns when the request has arrived, or why it never will.
func (f *faulty) travel(fl *flight) error {
	if fl.fault.Lose {
		return errLost
	}
	if fl.fault.Hold != nil {
		for _, ready := range []<-chan struct{}{fl.fault.Hold, fl.before} {
			if ready == nil {
				continue
			}
			select {
			case <-ready:
			case <-f.ctx.Done():
				return context.Cause(f.ctx)
			}
		}
	}
	return timectx.Sleep(f.ctx, f.clock, fl.fault.Delay)
}

// reply is what a call has brought.
type reply[T any] struct {
	value T
	err   error
}

// do makes one call.
func do[T any](ctx context.Context, f *faulty, call Call, send func(context.Context) (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return send(ctx)
	}
	fl, faulted := f.begin(call)
	if !faulted {
		return send(ctx)
	}
	if fl.fault.Fail != nil {
		return none, fmt.Errorf("%s: %w", fl.call, fl.fault.Fail)
	}
	replies := make(chan reply[T], 1)
	if !f.start(func() { carry(ctx, f, fl, send, replies) }) {
		fl.landed()
		return send(ctx)
	}
	select {
	case r := <-replies:
		return r.value, r.err
	case <-ctx.Done():
		return none, noReply(fl.call, outcome.Cause(ctx))
	case <-f.ctx.Done():
		return none, noReply(fl.call, dcs.ErrClosed)
	}
}

// carry takes the request to the store, and its reply back.
func carry[T any](ctx context.Context, f *faulty, fl *flight, send func(context.Context) (T, error), replies chan<- reply[T]) {
	r, arrived := arrive(ctx, f, fl, send)
	if !arrived {
		return
	}
	if fl.fault.Done != nil {
		fl.fault.Done()
	}
	if fl.fault.Swallow {
		return
	}
	if fl.fault.Answer != nil {
		r = reply[T]{err: fmt.Errorf("%s: %w", fl.call, fl.fault.Answer)}
	}
	if timectx.Sleep(f.ctx, f.clock, fl.fault.ReplyDelay) == nil {
		replies <- r
	}
}

// arrive lets the store carry out the request, unless it never gets there.
func arrive[T any](ctx context.Context, f *faulty, fl *flight, send func(context.Context) (T, error)) (r reply[T], arrived bool) {
	defer fl.landed()
	if f.travel(fl) != nil {
		return r, false
	}
	// The request is no longer its caller's.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()
	r.value, r.err = send(ctx)
	if fl.fault.Twice {
		_, _ = send(ctx)
	}
	return r, true
}

// noReply is what a caller is told who has waited in vain.
func noReply(c Call, cause error) error {
	switch {
	case !c.Writes():
		return fmt.Errorf("%s: no reply: %w", c, cause)
	case errors.Is(cause, dcs.ErrClosed):
		return fmt.Errorf("%s: no reply before the store was closed: %w", c, dcs.ErrAmbiguous)
	default:
		return fmt.Errorf("%s: no reply: %w: %w", c, dcs.ErrAmbiguous, cause)
	}
}

func (f *faulty) Get(ctx context.Context, key string) (dcs.KV, error) {
	return do(ctx, f, Call{Kind: KindGet, Key: key}, func(ctx context.Context) (dcs.KV, error) {
		return f.inner.Get(ctx, key)
	})
}

func (f *faulty) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	return do(ctx, f, Call{Kind: KindList, Key: prefix}, func(ctx context.Context) ([]dcs.KV, error) {
		return f.inner.List(ctx, prefix)
	})
}

func (f *faulty) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	// The request may arrive when the caller uses its buffers again.
	txn = clone(txn)
	return do(ctx, f, Call{Kind: KindCommit, Key: outcome.Keys(txn), Txn: txn}, func(ctx context.Context) (dcs.Revision, error) {
		return f.inner.Commit(ctx, txn)
	})
}

func (f *faulty) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	session, err := do(ctx, f, Call{Kind: KindNewSession}, func(ctx context.Context) (dcs.Session, error) {
		return f.inner.NewSession(ctx, ttl)
	})
	if err != nil {
		return nil, err
	}
	return &faultySession{Session: session, store: f}, nil
}

func (f *faulty) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.flights.Wait()
	return f.inner.Close()
}

type faultySession struct {
	dcs.Session
	store *faulty
}

func (s *faultySession) Renew(ctx context.Context) error {
	return s.do(ctx, KindRenew, s.Session.Renew)
}

func (s *faultySession) Close(ctx context.Context) error {
	return s.do(ctx, KindCloseSession, s.Session.Close)
}

func (s *faultySession) do(ctx context.Context, kind Kind, send func(context.Context) error) error {
	_, err := do(ctx, s.store, Call{Kind: kind, Session: s.ID()}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, send(ctx)
	})
	return err
}

// Watch relays what the store's own watch delivers, each delivery with its own
// fault.
func (f *faulty) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	w := &faultyWatch{store: f, prefix: prefix, out: make(chan dcs.Update, 1)}
	started := f.start(func() {
		defer close(w.out)
		defer w.drain()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(f.ctx, cancel)()
		w.run(ctx)
	})
	if !started {
		close(w.out)
	}
	return w.out
}

// faultyWatch is one watch. Its goroutine alone sends, and takes an unread
// older update out first.
type faultyWatch struct {
	store  *faulty
	prefix string
	out    chan dcs.Update
}

func (w *faultyWatch) run(ctx context.Context) {
	if fl, faulted := w.store.begin(Call{Kind: KindWatch, Key: w.prefix}); faulted {
		if fl.fault.Fail != nil {
			w.deliver(dcs.Update{Err: fmt.Errorf("%s: %w", fl.call, fl.fault.Fail)})
		}
		if !w.reach(ctx, fl) {
			<-ctx.Done()
			return
		}
	}
	for u := range w.store.inner.Watch(ctx, w.prefix) {
		w.relay(ctx, u)
	}
}

// reach waits until what is under way arrives, and reports whether it does.
func (w *faultyWatch) reach(ctx context.Context, fl *flight) bool {
	arrived := make(chan error, 1)
	travel := func() {
		defer fl.landed()
		arrived <- w.store.travel(fl)
	}
	if !w.store.start(travel) {
		fl.landed()
		return false
	}
	select {
	case err := <-arrived:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

func (w *faultyWatch) relay(ctx context.Context, u dcs.Update) {
	fl, faulted := w.store.begin(Call{Kind: KindUpdate, Key: w.prefix})
	if !faulted {
		w.deliver(u)
		return
	}
	if !w.reach(ctx, fl) || fl.fault.Swallow {
		return
	}
	if fl.fault.Done != nil {
		fl.fault.Done()
	}
	for _, err := range []error{fl.fault.Fail, fl.fault.Answer} {
		if err != nil {
			u = dcs.Update{Err: fmt.Errorf("watch of %s: %w", w.prefix, err)}
		}
	}
	if timectx.Sleep(ctx, w.store.clock, fl.fault.ReplyDelay) == nil {
		w.deliver(u)
	}
}

func (w *faultyWatch) deliver(u dcs.Update) {
	w.drain()
	w.out <- u
}

func (w *faultyWatch) drain() {
	select {
	case <-w.out:
	default:
	}
}

// clone copies a transaction down to its values.
func clone(txn dcs.Txn) dcs.Txn {
	copied := dcs.Txn{If: append([]dcs.Guard(nil), txn.If...), Then: append([]dcs.Op(nil), txn.Then...)}
	for i, op := range copied.Then {
		copied.Then[i].Value = append([]byte(nil), op.Value...)
	}
	return copied
}
