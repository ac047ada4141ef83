package zk

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
)

// reader reads the tree through one connection. What is not there is nil
// without an error.
type reader interface {
	node(ctx context.Context, path string) (*node, error)
	children(ctx context.Context, path string) ([]string, error)
}

// node is a node with its data. Whoever gets it must not change it.
type node struct {
	data []byte
	stat zk.Stat
}

func (n *node) kv(key string) dcs.KV {
	return dcs.KV{
		Key:      key,
		Value:    bytes.Clone(n.data),
		Revision: dcs.Revision(n.stat.Mzxid), //nolint:gosec // ids of transactions are positive
		Created:  dcs.Revision(n.stat.Czxid), //nolint:gosec // ids of transactions are positive
		Session:  sessionID(n.stat.EphemeralOwner),
	}
}

// plain reads each time.
type plain struct{ link *link }

func (p plain) node(ctx context.Context, path string) (*node, error) {
	return do(ctx, p.link, func(conn *zk.Conn) (*node, error) {
		data, stat, err := conn.Get(path)
		return nodeOf(data, stat, err)
	})
}

func (p plain) children(ctx context.Context, path string) ([]string, error) {
	return do(ctx, p.link, func(conn *zk.Conn) ([]string, error) {
		names, _, err := conn.Children(path)
		if errors.Is(err, zk.ErrNoNode) {
			return nil, nil
		}
		return names, err
	})
}

func nodeOf(data []byte, stat *zk.Stat, err error) (*node, error) {
	if errors.Is(err, zk.ErrNoNode) {
		return nil, nil //nolint:nilnil // see reader
	}
	if err != nil {
		return nil, err
	}
	return &node{data: data, stat: *stat}, nil
}

// list reads all keys with a prefix, sorted. Each is read after list was
// called; the list is not a snapshot.
func list(ctx context.Context, r reader, t tree, prefix string) ([]dcs.KV, error) {
	var kvs []dcs.KV
	for folders := []folder{t.above(prefix)}; len(folders) > 0; {
		contents := make([]content, len(folders))
		err := each(len(folders), func(i int) (err error) {
			contents[i], err = contentOf(ctx, r, folders[i], prefix)
			return err
		})
		if err != nil {
			return nil, err
		}
		folders = nil
		for _, c := range contents {
			kvs = append(kvs, c.kvs...)
			folders = append(folders, c.folders...)
		}
	}
	slices.SortFunc(kvs, func(a, b dcs.KV) int { return strings.Compare(a.Key, b.Key) })
	return kvs, nil
}

// content is what is in a folder: keys, and folders that may have some.
type content struct {
	kvs     []dcs.KV
	folders []folder
}

func contentOf(ctx context.Context, r reader, f folder, prefix string) (content, error) {
	names, err := r.children(ctx, f.path())
	if err != nil {
		return content{}, err
	}
	var (
		c    content
		keys []string
	)
	for _, name := range names {
		if key, ok := f.keyOf(name); ok {
			if strings.HasPrefix(key, prefix) {
				keys = append(keys, key)
			}
		} else if sub, ok := f.folderOf(name); ok && sub.mayHave(prefix) {
			c.folders = append(c.folders, sub)
		}
	}
	nodes := make([]*node, len(keys))
	err = each(len(keys), func(i int) (err error) {
		nodes[i], err = r.node(ctx, f.tree.place(keys[i]).node)
		return err
	})
	for i, key := range keys {
		if nodes[i] != nil { // it may have been deleted meanwhile
			c.kvs = append(c.kvs, nodes[i].kv(key))
		}
	}
	return c, err
}
