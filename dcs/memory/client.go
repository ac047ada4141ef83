package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// client is one connection to a cluster.
type client struct {
	cluster *Cluster
	name    string
	closed  bool // guarded by the cluster's lock
}

var _ dcs.Store = (*client)(nil)

// do runs one call at the authority.
func (cl *client) do(call func(*Cluster) error) error {
	c := cl.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl.closed || c.closed {
		return fmt.Errorf("client %s: %w", cl.name, dcs.ErrClosed)
	}
	c.expireDue()
	return call(c)
}

func (cl *client) Get(ctx context.Context, key string) (dcs.KV, error) {
	if err := dcs.ValidateKey(key); err != nil {
		return dcs.KV{}, err
	}
	if err := outcome.Read(ctx, "get", key); err != nil {
		return dcs.KV{}, err
	}
	var kv dcs.KV
	err := cl.do(func(c *Cluster) error {
		found, ok := c.keys[key]
		if !ok {
			return fmt.Errorf("get %s: %w", key, dcs.ErrNotFound)
		}
		kv = copied(found)
		return nil
	})
	return kv, err
}

func (cl *client) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	if err := dcs.ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	if err := outcome.Read(ctx, "list", prefix); err != nil {
		return nil, err
	}
	var kvs []dcs.KV
	err := cl.do(func(c *Cluster) error {
		kvs = c.list(prefix)
		return nil
	})
	return kvs, err
}

func (cl *client) Watch(ctx context.Context, prefix string) <-chan dcs.Update {
	var ch <-chan dcs.Update
	err := cl.do(func(c *Cluster) error {
		ch = c.watch(ctx, cl, prefix).ch
		return nil
	})
	if err != nil {
		closed := make(chan dcs.Update)
		close(closed)
		return closed
	}
	return ch
}

func (cl *client) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	if err := outcome.NotSent(ctx, "commit of", outcome.Keys(txn)); err != nil {
		return 0, err
	}
	var rev dcs.Revision
	err := cl.do(func(c *Cluster) error {
		var err error
		rev, err = c.commit(txn)
		return err
	})
	return rev, err
}

func (cl *client) NewSession(ctx context.Context, ttl time.Duration) (dcs.Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("session with a ttl of %s, which must be positive: %w", ttl, dcs.ErrInvalid)
	}
	if err := outcome.NotSent(ctx, "new session of client", cl.name); err != nil {
		return nil, err
	}
	var h *handle
	err := cl.do(func(c *Cluster) error {
		h = &handle{client: cl, id: c.grant(cl.name, ttl).id, ttl: ttl}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (cl *client) Close() error {
	c := cl.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	cl.closed = true
	for _, w := range slices.Clone(c.watches) {
		if w.client == cl {
			c.unwatch(w)
		}
	}
	return nil
}
