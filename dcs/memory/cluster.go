package memory

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
)

// Defaults of Config, near those of the real stores.
const (
	DefaultMaxValue = 1 << 20
	DefaultMaxTxn   = 128
)

// Config configures a Cluster. The zero value is usable.
type Config struct {
	// Clock is the authority's clock; nil means the real one.
	Clock clock.Clock
	// Linger says how much longer than its TTL a session that is not renewed
	// stays; nil means not at all. It is asked at every grant and renewal, must
	// not call back into the cluster, and a negative answer counts as zero:
	// dying early would break the promise of a session.
	Linger func(dcs.SessionID) time.Duration
	// Changed is told of the keys that have been written or deleted, sorted,
	// with the cluster's lock held: it must not call back. Nil: nobody is told.
	Changed func(keys []string)
	// MoveCreates makes a write under another session than the key's another
	// incarnation of the key, as in stores where a key belongs to one session
	// for life. Otherwise Created stays as it is.
	MoveCreates bool
	// MaxValue is the longest value in bytes; zero means DefaultMaxValue.
	MaxValue int
	// MaxTxn is how many guards, and how many operations, one transaction may
	// have; zero means DefaultMaxTxn.
	MaxTxn int
}

// Cluster is the authority that the clients talk to. Its methods may be called
// from several goroutines at once.
type Cluster struct {
	cfg Config

	mu       sync.Mutex
	closed   bool
	revision dcs.Revision
	keys     map[string]dcs.KV
	sessions []*session // alive ones, in order of creation
	granted  uint64     // sessions ever granted
	watches  []*watch   // open ones, in order of creation
}

// New makes an empty cluster.
func New(cfg Config) *Cluster {
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.Linger == nil {
		cfg.Linger = func(dcs.SessionID) time.Duration { return 0 }
	}
	if cfg.MaxValue == 0 {
		cfg.MaxValue = DefaultMaxValue
	}
	if cfg.MaxTxn == 0 {
		cfg.MaxTxn = DefaultMaxTxn
	}
	return &Cluster{cfg: cfg, keys: map[string]dcs.KV{}}
}

// Client opens a connection. The name begins the ids of its sessions, which are
// never used again, also not by another client of the same name.
func (c *Cluster) Client(name string) dcs.Store {
	return &client{cluster: c, name: name}
}

// Expire ends a session now, as an operator or a faulty store would, and
// reports whether it was alive.
func (c *Cluster) Expire(id dcs.SessionID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expireDue()
	s := c.session(id)
	if s == nil {
		return false
	}
	c.end(s)
	return true
}

// Close ends all watches and stops all timers; later calls of all clients fail
// with dcs.ErrClosed. Idempotent.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, s := range c.sessions {
		s.timer.Stop()
	}
	c.sessions = nil
	for _, w := range slices.Clone(c.watches) {
		c.unwatch(w)
	}
}

// commit carries out txn, which has been validated. The caller holds mu.
func (c *Cluster) commit(txn dcs.Txn) (dcs.Revision, error) {
	if err := c.checkLimits(txn); err != nil {
		return 0, err
	}
	for _, g := range txn.If {
		if !holds(g, c.keys) {
			return 0, fmt.Errorf("key %s is not as the guard wants it: %w", g.Key, dcs.ErrConflict)
		}
	}
	for _, op := range txn.Then {
		if op.Session != "" && c.session(op.Session) == nil {
			return 0, fmt.Errorf("key %s cannot be bound to session %s: %w", op.Key, op.Session, dcs.ErrSessionLost)
		}
	}
	if len(txn.Then) == 0 {
		return 0, nil
	}
	c.revision++
	changed, wrote := make([]string, 0, len(txn.Then)), false
	for _, op := range txn.Then {
		if c.apply(op) {
			changed = append(changed, op.Key)
		}
		wrote = wrote || !op.Delete
	}
	c.notify(changed)
	if !wrote {
		return 0, nil
	}
	return c.revision, nil
}

// checkLimits refuses what a real store would refuse for its size.
func (c *Cluster) checkLimits(txn dcs.Txn) error {
	if n := max(len(txn.If), len(txn.Then)); n > c.cfg.MaxTxn {
		return fmt.Errorf("transaction has %d guards or operations, at most %d are possible: %w", n, c.cfg.MaxTxn, dcs.ErrInvalid)
	}
	for _, op := range txn.Then {
		if len(op.Value) > c.cfg.MaxValue {
			return fmt.Errorf("value of key %s has %d bytes, at most %d are possible: %w", op.Key, len(op.Value), c.cfg.MaxValue, dcs.ErrInvalid)
		}
	}
	return nil
}

func holds(g dcs.Guard, keys map[string]dcs.KV) bool {
	kv, exists := keys[g.Key]
	switch {
	case g.Absent:
		return !exists
	case g.Revision != 0 && kv.Revision != g.Revision:
		return false
	case g.Created != 0 && kv.Created != g.Created:
		return false
	}
	return exists
}

// apply carries out one operation at the present revision and reports whether
// it changed anything. The caller holds mu.
func (c *Cluster) apply(op dcs.Op) bool {
	before, existed := c.keys[op.Key]
	if op.Delete {
		delete(c.keys, op.Key)
		return existed
	}
	kv := dcs.KV{
		Key:      op.Key,
		Value:    slices.Clone(op.Value),
		Revision: c.revision,
		Created:  c.revision,
		Session:  op.Session,
	}
	if existed && (before.Session == op.Session || !c.cfg.MoveCreates) {
		kv.Created = before.Created
	}
	c.keys[op.Key] = kv
	return true
}

// list is the present state under prefix, sorted. The caller holds mu.
func (c *Cluster) list(prefix string) []dcs.KV {
	var kvs []dcs.KV
	for key, kv := range c.keys {
		if strings.HasPrefix(key, prefix) {
			kvs = append(kvs, copied(kv))
		}
	}
	slices.SortFunc(kvs, func(a, b dcs.KV) int { return strings.Compare(a.Key, b.Key) })
	return kvs
}

// copied gives the reader a value of its own.
func copied(kv dcs.KV) dcs.KV {
	kv.Value = slices.Clone(kv.Value)
	return kv
}
