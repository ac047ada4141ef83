package zk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
)

const (
	// maxAttempts is how often a transaction gives way to others that came
	// first.
	maxAttempts = 100
	// maxPacket is what a member takes in one packet by default
	// (jute.maxbuffer). It drops the connection of whoever sends more.
	maxPacket = 1<<20 - 1
)

// commit carries out a transaction that has been validated: it looks at what
// the transaction is about, decides, and has the ensemble carry that out under
// the condition that what it saw still holds. It begins anew when it does not.
func (s *Store) commit(ctx context.Context, l *link, c call, txn dcs.Txn) (dcs.Revision, error) {
	for range maxAttempts {
		seen, err := s.look(ctx, l, txn)
		if err != nil {
			return 0, c.explain(ctx, s.ctx, false, err)
		}
		p := s.plan(txn, seen)
		if size := p.size(); size > maxPacket {
			return 0, fmt.Errorf("%s %s: %d bytes, of which ZooKeeper takes at most %d in one transaction: %w", c.name, c.object, size, maxPacket, dcs.ErrInvalid)
		}
		// Nothing may be sent for a caller who has gone meanwhile.
		if err := c.beforeSending(ctx, s.ctx); err != nil {
			return 0, err
		}
		answers, err := do(ctx, l, func(conn *zk.Conn) ([]zk.MultiResponse, error) { return conn.Multi(p.ops()...) })
		switch {
		case err == nil && p.refused != "":
			return 0, fmt.Errorf("%s %s: key %s is not as the guard wants it: %w", c.name, c.object, p.refused, dcs.ErrConflict)
		case err == nil:
			return revision(answers), nil
		case !errors.Is(verdict(err), dcs.ErrConflict):
			return 0, c.explain(ctx, s.ctx, true, err)
		}
		// The refused transaction has passed through the ensemble in its turn: the
		// next look sees at least what it was refused for.
	}
	return 0, fmt.Errorf("%s %s: others came first %d times: %w", c.name, c.object, maxAttempts, dcs.ErrUnavailable)
}

// view is what a look has seen.
type view struct {
	folders map[string]int32    // version of each folder, read before the nodes in it
	nodes   map[string]*zk.Stat // by key; nil if absent
}

// look reads the state of all keys of a transaction, and makes their folders.
func (s *Store) look(ctx context.Context, l *link, txn dcs.Txn) (view, error) {
	seen := view{folders: map[string]int32{}, nodes: map[string]*zk.Stat{}}
	var folders, keys []string
	note := func(key string) {
		if _, known := seen.nodes[key]; known {
			return
		}
		seen.nodes[key] = nil
		keys = append(keys, key)
		folder := s.tree.place(key).folder
		if _, known := seen.folders[folder]; !known {
			seen.folders[folder] = 0
			folders = append(folders, folder)
		}
	}
	for _, g := range txn.If {
		note(g.Key)
	}
	for _, op := range txn.Then {
		note(op.Key)
	}
	versions := make([]int32, len(folders))
	err := each(len(folders), func(i int) error {
		version, err := s.folderVersion(ctx, l, folders[i])
		versions[i] = version
		return err
	})
	if err != nil {
		return view{}, err
	}
	stats := make([]*zk.Stat, len(keys))
	err = each(len(keys), func(i int) error {
		stat, err := exists(ctx, l, s.tree.place(keys[i]).node)
		stats[i] = stat
		return err
	})
	for i, folder := range folders {
		seen.folders[folder] = versions[i]
	}
	for i, key := range keys {
		seen.nodes[key] = stats[i]
	}
	return seen, err
}

// folderVersion makes the folder if need be.
func (s *Store) folderVersion(ctx context.Context, l *link, folder string) (int32, error) {
	stat, err := exists(ctx, l, folder)
	if err == nil && stat == nil {
		if err = s.makeFolder(ctx, l, folder); err == nil {
			stat, err = exists(ctx, l, folder)
		}
	}
	switch {
	case err != nil:
		return 0, err
	case stat == nil:
		return 0, fmt.Errorf("folder %s has been deleted as soon as it was made", folder)
	default:
		return stat.Version, nil
	}
}

// makeFolder makes a folder, and those above it.
func (s *Store) makeFolder(ctx context.Context, l *link, folder string) error {
	_, err := do(ctx, l, func(conn *zk.Conn) (string, error) {
		return conn.Create(folder, []byte{}, zk.FlagPersistent, s.cfg.ACL)
	})
	switch {
	case err == nil || errors.Is(err, zk.ErrNodeExists):
		return nil
	case !errors.Is(err, zk.ErrNoNode):
		return err
	}
	if err := s.makeFolder(ctx, l, folder[:strings.LastIndexByte(folder, '/')]); err != nil {
		return err
	}
	return s.makeFolder(ctx, l, folder)
}

// exists returns nil without an error if there is no such node.
func exists(ctx context.Context, l *link, path string) (*zk.Stat, error) {
	return do(ctx, l, func(conn *zk.Conn) (*zk.Stat, error) {
		found, stat, err := conn.Exists(path)
		if err != nil || !found {
			return nil, err
		}
		return stat, nil
	})
}

// each does n things at once and returns the first error in their order.
func each(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
