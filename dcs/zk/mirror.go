package zk

import (
	"context"
	"errors"
	"sync"

	"github.com/go-zookeeper/zk"
)

// mirror keeps what has been read of the tree through one connection for as long
// as nothing is heard of a change. ZooKeeper's watches tell once of one change,
// before the client can see what has changed; so what is kept is forgotten in
// time, and a watch is set only by who reads anew. All watches of a store share
// the mirror, since each that is set costs memory until it fires.
type mirror struct {
	link *link

	mu        sync.Mutex
	nodes     map[string]*kept[*node]
	folders   map[string]*kept[[]string]
	followers map[chan<- struct{}]bool
}

var _ reader = (*mirror)(nil)

// kept is what has been read, once it has been. It is forgotten by taking it out
// of its map: who began to read before then keeps something that nobody finds.
type kept[T any] struct {
	read  bool
	value T
}

// follow has signal sent to, if it is empty, after every change of what is kept.
func (m *mirror) follow(signal chan<- struct{}) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.followers == nil {
		m.followers = map[chan<- struct{}]bool{}
	}
	m.followers[signal] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.followers, signal)
	}
}

// event forgets what has changed. It is called by the client, for each event
// before it reads any further.
func (m *mirror) event(e zk.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Type != zk.EventNodeChildrenChanged {
		delete(m.nodes, e.Path)
	}
	if e.Type != zk.EventNodeDataChanged {
		delete(m.folders, e.Path)
	}
	for signal := range m.followers {
		select {
		case signal <- struct{}{}:
		default:
		}
	}
}

// forget forgets everything: something may have changed that was kept from this client.
func (m *mirror) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes, m.folders = nil, nil
	for signal := range m.followers {
		select {
		case signal <- struct{}{}:
		default:
		}
	}
}

func (m *mirror) node(ctx context.Context, path string) (*node, error) {
	return reading(ctx, m, &m.nodes, path, func(conn *zk.Conn) (*node, bool, error) {
		data, stat, _, err := conn.GetW(path)
		found, err := nodeOf(data, stat, err)
		return found, found != nil, err // no watch is set on what is not there
	})
}

func (m *mirror) children(ctx context.Context, path string) ([]string, error) {
	return reading(ctx, m, &m.folders, path, func(conn *zk.Conn) ([]string, bool, error) {
		for {
			names, _, _, err := conn.ChildrenW(path)
			if !errors.Is(err, zk.ErrNoNode) {
				return names, err == nil, err
			}
			// A watch for the creation of the folder.
			found, _, _, err := conn.ExistsW(path)
			if err != nil || !found {
				return nil, err == nil, err
			}
		}
	})
}

// reading returns what is kept of a path, or reads it and keeps it if a watch
// has been set and nothing was heard of a change since before it was read.
func reading[T any](ctx context.Context, m *mirror, all *map[string]*kept[T], path string, read func(*zk.Conn) (T, bool, error)) (T, error) {
	m.mu.Lock()
	mine := (*all)[path]
	if mine == nil {
		mine = &kept[T]{}
		if *all == nil {
			*all = map[string]*kept[T]{}
		}
		(*all)[path] = mine
	}
	value, known := mine.value, mine.read
	m.mu.Unlock()
	if known {
		return value, nil
	}
	type result struct {
		value   T
		watched bool
	}
	r, err := do(ctx, m.link, func(conn *zk.Conn) (result, error) {
		value, watched, err := read(conn)
		return result{value, watched}, err
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil && r.watched:
		mine.value, mine.read = r.value, true
	case !mine.read && (*all)[path] == mine:
		delete(*all, path)
	}
	return r.value, err
}
