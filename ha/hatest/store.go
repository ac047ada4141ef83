package hatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
)

// storeHost is the name of the machine that the store runs on, for links and
// clocks.
const storeHost = "dcs"

// store is an agent's connection to the store of the world. Each call has three
// moments: the request travels, the authority carries it out, the reply
// travels; at each of them the link may be cut, and the caller may have given
// up or died.
type store struct {
	agent  *agent
	client dcs.Store
}

var _ dcs.Store = (*store)(nil)

// do carries out a call. What says adds goes into the trace; apply is called by
// the driver, at the authority.
func (s *store) do(ctx context.Context, kind, key string, write bool, says func(digest) digest, apply func(context.Context) error) error {
	c := &carriage{store: s, kind: kind, key: key, write: write, says: says, apply: apply}
	if cause := context.Cause(ctx); cause != nil {
		return c.notSent(fmt.Errorf("%w: %w", ctx.Err(), cause))
	}
	gaveUp, err := s.agent.exchange(ctx, "dcs "+kind, key, c.send)
	switch {
	case errors.Is(err, ErrDead):
		return c.notSent(err)
	case gaveUp && write:
		return fmt.Errorf("%s of %s: no reply: %w: %w: %w", kind, key, dcs.ErrAmbiguous, ctx.Err(), err)
	case gaveUp:
		return fmt.Errorf("%s of %s: no reply: %w: %w", kind, key, ctx.Err(), err)
	}
	return err
}

// carriage is one call on its way.
type carriage struct {
	store *store
	kind  string
	key   string
	write bool
	says  func(digest) digest // what is written, for the trace
	apply func(context.Context) error

	task    *task
	id      digest
	retried bool
	err     error
}

func (c *carriage) notSent(cause error) error {
	if !c.write {
		return fmt.Errorf("%s of %s: %w", c.kind, c.key, cause)
	}
	return fmt.Errorf("%s of %s was not sent: %w: %w", c.kind, c.key, dcs.ErrUnavailable, cause)
}

func (c *carriage) world() *World { return c.store.agent.world }
func (c *carriage) from() string  { return c.store.agent.host.name }

func (c *carriage) label(what string) func() string {
	return func() string {
		if c.kind == "renew" || c.kind == "list" || c.kind == "get" {
			return ""
		}
		text := fmt.Sprintf("%s %s %s %s", c.store.agent.name, what, c.kind, c.key)
		if what == "hears" && c.err != nil {
			text += ": " + c.err.Error()
		}
		return text
	}
}

// send lets the request travel.
func (c *carriage) send(t *task, id digest) {
	w := c.world()
	c.task, c.id = t, id
	w.storeCalls++
	if c.says != nil {
		w.trace = c.says(w.trace)
	}
	delay := w.latency("request", id)
	if refused := w.storeRefuses(c.from(), id); refused {
		c.err = c.notSent(errors.New("connection refused"))
		t.finish(w.now()+delay, id, c.label("hears"), func() error { return c.err })
		return
	}
	w.after(delay, id, c.label("sends"), c.arrive)
}

// arrive is the moment at which the authority would carry the call out.
func (c *carriage) arrive() {
	w := c.world()
	if !w.storeReachable(c.from(), storeHost) || (!c.retried && w.network.of("lost request", c.id).chance(w.cfg.Network.Loss)) {
		// Lost, or held back by the network and delivered when nobody expects
		// it any more.
		if again := w.network.of("late", c.id); !c.retried && again.chance(0.5) {
			c.retried = true
			w.after(w.network.of("how late", c.id).spread(100*time.Millisecond, 20*time.Second), c.id.str("late"), c.label("sends late"), c.arrive)
		}
		return
	}
	if wait := w.storeStalledUntil - w.now(); wait > 0 {
		w.after(wait, c.id.str("stalled"), nil, c.arrive)
		return
	}
	c.err = c.apply(context.Background())
	if c.retried {
		w.reach("request applied late")
	}
	delay := w.latency("reply", c.id)
	w.after(delay, c.id.str("reply"), nil, func() {
		lost := w.network.of("lost reply", c.id).chance(w.cfg.Network.Loss)
		if lost || !w.storeReachable(storeHost, c.from()) {
			return
		}
		c.task.finish(w.now(), c.id, c.label("hears"), func() error { return c.err })
	})
}

func (s *store) Get(ctx context.Context, key string) (kv dcs.KV, err error) {
	var found dcs.KV
	err = s.do(ctx, "get", key, false, nil, func(ctx context.Context) (err error) {
		found, err = s.client.Get(ctx, key)
		return err
	})
	if err == nil {
		kv = found
	}
	return kv, err
}

func (s *store) List(ctx context.Context, prefix string) (kvs []dcs.KV, err error) {
	var found []dcs.KV
	err = s.do(ctx, "list", prefix, false, nil, func(ctx context.Context) (err error) {
		found, err = s.client.List(ctx, prefix)
		return err
	})
	if err == nil {
		kvs = found
	}
	return kvs, err
}

func (s *store) Commit(ctx context.Context, txn dcs.Txn) (rev dcs.Revision, err error) {
	if err := txn.Validate(); err != nil {
		return 0, err //nolint:wrapcheck // names the key
	}
	txn = dcs.Txn{If: slices.Clone(txn.If), Then: slices.Clone(txn.Then)}
	var written dcs.Revision
	says := func(d digest) digest {
		for _, op := range txn.Then {
			if !isTwin(op.Key) {
				d = d.str(op.Key).bytes(op.Value).str(string(op.Session))
			}
		}
		return d
	}
	w := s.agent.world
	err = s.do(ctx, "commit", txnName(txn), true, says, func(ctx context.Context) (err error) {
		written, err = s.client.Commit(ctx, txn)
		if err == nil {
			w.committed(s.agent, txn)
		}
		return err
	})
	if err == nil {
		rev = written
	}
	return rev, err
}

// txnName names a transaction by the keys that it writes, or guards. Twins of locks
// are no part of what a call is, besides their keys: it takes as long as it would
// without, so that plans keep the schedules for which they were written.
func txnName(txn dcs.Txn) string {
	var names []string
	for _, op := range txn.Then {
		if !isTwin(op.Key) || len(txn.Then) == 1 {
			names = append(names, op.Key)
		}
	}
	if len(names) == 0 {
		for _, g := range txn.If {
			if !isTwin(g.Key) {
				names = append(names, "?"+g.Key)
			}
		}
	}
	return strings.Join(names, " ")
}

func isTwin(key string) bool { return strings.HasSuffix(key, ha.TwinSuffix) }

func (s *store) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	var granted dcs.Session
	err := s.do(ctx, "session", ttl.String(), true, nil, func(ctx context.Context) (err error) {
		granted, err = s.client.NewSession(ctx, ttl)
		if err == nil {
			s.agent.host.sessions = append(s.agent.host.sessions, granted.ID())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &session{store: s, Session: granted}, nil
}

// Close does nothing: the connection ends with the agent.
func (s *store) Close() error { return nil }

// session is an agent's side of a session.
type session struct {
	dcs.Session
	store *store
}

func (s *session) Renew(ctx context.Context) error {
	return s.store.do(ctx, "renew", string(s.ID()), true, nil, s.Session.Renew)
}

func (s *session) Close(ctx context.Context) error {
	return s.store.do(ctx, "close", string(s.ID()), true, nil, s.Session.Close)
}

// Watch delivers states under prefix, late, with gaps, and sometimes as they
// were before the last change.
func (s *store) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	w := s.agent.world
	watch := &watch{store: s, prefix: prefix, ch: make(chan dcs.Update, 1)}
	w.arrive(&arrival{
		identity: identity{host: s.agent.host.name, life: s.agent.life, kind: "dcs watch", key: prefix},
		enter: func(id digest) {
			watch.id = id
			if !watch.closed {
				w.watches = append(w.watches, watch)
				watch.schedule()
			}
		},
	})
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		watch.closed = true
		close(watch.ch)
	})
	return watch.ch
}

// watch is one open watch.
type watch struct {
	store   *store
	prefix  string
	id      digest
	ch      chan dcs.Update
	closed  bool // guarded by world.mu
	pending bool // a delivery is on its way
	count   uint64
}

// schedule sends the news on its way.
func (wa *watch) schedule() {
	if wa.pending || wa.closed {
		return
	}
	w := wa.store.agent.world
	wa.pending = true
	wa.count++
	id := wa.id.num(wa.count)
	delay := w.latency("news", id)
	var stale []dcs.KV
	isStale := w.network.of("stale", id).chance(w.cfg.Network.Stale)
	if isStale {
		stale, _ = wa.store.client.List(context.Background(), wa.prefix)
		delay = w.network.of("how stale", id).spread(100*time.Millisecond, 10*time.Second)
	}
	w.schedule(&item{due: w.now() + delay, id: id, agent: wa.store.agent, run: func() {
		wa.pending = false
		if !w.storeReachable(storeHost, wa.store.agent.host.name) {
			w.after(time.Second, id.str("again"), nil, wa.schedule)
			wa.deliver(dcs.Update{Err: fmt.Errorf("watch %s: %w", wa.prefix, dcs.ErrUnavailable)})
			return
		}
		if isStale {
			wa.deliver(dcs.Update{KVs: stale})
			wa.schedule() // the present state follows
			return
		}
		kvs, err := wa.store.client.List(context.Background(), wa.prefix)
		wa.deliver(dcs.Update{KVs: kvs, Err: err})
	}})
}

// deliver replaces what has not been read.
func (wa *watch) deliver(u dcs.Update) {
	w := wa.store.agent.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if wa.closed {
		return
	}
	w.storeCalls++
	select {
	case <-wa.ch:
	default:
	}
	wa.ch <- u
}
