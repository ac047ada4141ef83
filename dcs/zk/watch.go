package zk

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/timectx"
)

const (
	// watchPatience is how long a look at the state may take before contact
	// counts as lost.
	watchPatience = 5 * time.Second
	// Waits between attempts to regain contact, doubled each time.
	minWatchWait = 50 * time.Millisecond
	maxWatchWait = time.Second
)

// watch is one open watch: a goroutine that looks at the state, looks again
// whenever something has changed, and begins anew on another connection.
type watch struct {
	store  *Store
	prefix string
	// out holds one update. The goroutine alone sends and takes an unread
	// older one out first, so that it never blocks and the latest wins.
	out  chan dcs.Update
	last []dcs.KV // delivered since contact was last regained, without the values
	seen bool     // last is valid
	lost bool     // the reader has been told that contact is lost
}

// Watch implements dcs.Store.
func (s *Store) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	w := &watch{store: s, prefix: prefix, out: make(chan dcs.Update, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(w.out)
		return w.out
	}
	s.work.Go(func() {
		defer close(w.out)
		defer w.drain()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		w.run(ctx)
	})
	return w.out
}

func (w *watch) run(ctx context.Context) {
	if err := dcs.ValidatePrefix(w.prefix); err != nil {
		w.deliver(dcs.Update{Err: err})
		<-ctx.Done()
		return
	}
	wait := minWatchWait
	for {
		opened, err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		w.reportLoss(err)
		if opened {
			wait = minWatchWait
		}
		if timectx.Sleep(ctx, w.store.cfg.Clock, wait) != nil {
			return
		}
		wait = min(2*wait, maxWatchWait)
	}
}

// follow delivers the state and then every change of it, until the connection
// is lost. It reports whether it got as far as following.
func (w *watch) follow(ctx context.Context) (opened bool, err error) {
	var l *link
	err = w.patiently(ctx, func(ctx context.Context) (err error) {
		l, err = w.store.upToDate(ctx)
		return err
	})
	if err != nil {
		return false, err
	}
	changed := make(chan struct{}, 1)
	defer l.mirror.follow(changed)()
	for {
		var kvs []dcs.KV
		err := w.patiently(ctx, func(ctx context.Context) (err error) {
			kvs, err = list(ctx, l.mirror, w.store.tree, w.prefix)
			return err
		})
		if err != nil {
			return opened, err
		}
		opened = true
		w.deliverState(kvs)
		select {
		case <-changed:
		case <-l.ctx.Done():
			return opened, l.why()
		case <-ctx.Done():
			return opened, ctx.Err()
		}
	}
}

// patiently does something that must not take long.
func (w *watch) patiently(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := timectx.With(ctx, w.store.cfg.Clock, watchPatience, "a look at a watched prefix")
	defer cancel()
	err := do(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%s)", context.Cause(ctx), err.Error())
	}
	return err
}

// deliverState delivers what is not what was delivered last.
func (w *watch) deliverState(kvs []dcs.KV) {
	if w.seen && slices.EqualFunc(w.last, kvs, sameWrite) {
		return
	}
	w.seen, w.last = true, slices.Clone(kvs)
	for i := range w.last {
		w.last[i].Value = nil
	}
	if w.lost {
		w.lost = false
		w.store.cfg.Logger.Info("watch has regained contact", "prefix", w.prefix)
	}
	w.deliver(dcs.Update{KVs: kvs})
}

func sameWrite(a, b dcs.KV) bool { return a.Key == b.Key && a.Revision == b.Revision }

// reportLoss tells the reader once for each loss of contact.
func (w *watch) reportLoss(err error) {
	if w.lost {
		return
	}
	w.lost, w.seen = true, false
	err = fmt.Errorf("watch of %s: %w: %s", w.prefix, dcs.ErrUnavailable, err.Error())
	w.store.cfg.Logger.Warn("watch has lost contact", "prefix", w.prefix, "error", err)
	w.deliver(dcs.Update{Err: err})
}

func (w *watch) deliver(u dcs.Update) {
	w.drain()
	w.out <- u
}

func (w *watch) drain() {
	select {
	case <-w.out:
	default:
	}
}
