package memory

import (
	"context"
	"slices"
	"strings"

	"github.com/pghad/pghad/dcs"
)

// watch is one open watch. Its channel holds one update: whoever delivers takes
// an unread older one out first, so that delivery never blocks and the latest
// wins. Only holders of the cluster's lock send and close.
type watch struct {
	client *client
	prefix string
	broken bool // the prefix is malformed and has been told so
	ch     chan dcs.Update
	forget func() bool // stops waiting for the end of the context
}

// watch opens a watch and delivers the present state. The caller holds mu.
func (c *Cluster) watch(ctx context.Context, cl *client, prefix string) *watch {
	w := &watch{client: cl, prefix: prefix, ch: make(chan dcs.Update, 1)}
	c.watches = append(c.watches, w)
	w.forget = context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unwatch(w)
	})
	if err := dcs.ValidatePrefix(prefix); err != nil {
		w.broken = true
		w.deliver(dcs.Update{Err: err})
	} else {
		w.deliver(dcs.Update{KVs: c.list(prefix)})
	}
	return w
}

// unwatch closes the watch once. The caller holds mu.
func (c *Cluster) unwatch(w *watch) {
	i := slices.Index(c.watches, w)
	if i < 0 {
		return
	}
	c.watches = slices.Delete(c.watches, i, i+1)
	w.forget()
	w.drain()
	close(w.ch)
}

// notify tells each watch of a changed key the state. The caller holds mu.
func (c *Cluster) notify(changed []string) {
	if c.cfg.Changed != nil && len(changed) > 0 {
		slices.Sort(changed)
		c.cfg.Changed(changed)
	}
	for _, w := range c.watches {
		if !w.broken && slices.ContainsFunc(changed, func(key string) bool { return strings.HasPrefix(key, w.prefix) }) {
			w.deliver(dcs.Update{KVs: c.list(w.prefix)})
		}
	}
}

func (w *watch) deliver(u dcs.Update) {
	w.drain()
	w.ch <- u
}

func (w *watch) drain() {
	select {
	case <-w.ch:
	default:
	}
}
