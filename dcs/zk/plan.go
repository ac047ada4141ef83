package zk

import (
	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
)

// plan is the transaction of ZooKeeper that a look at the keys leads to. Its
// checks hold exactly as long as what was seen does, as far as it matters.
type plan struct {
	refused string // key whose guard does not hold; then there are only checks, which prove that
	checks  []any
	writes  []any
	raises  []any // of the folders of keys that are created
}

// ops are the operations in the order in which they are carried out. None sees
// what is written in the same transaction: each node is written once.
func (p *plan) ops() []any {
	ops := append([]any{}, p.checks...)
	return append(append(ops, p.writes...), p.raises...)
}

// planner makes a plan.
type planner struct {
	plan

	store   *Store
	seen    view
	checked map[string]bool // folders
	raised  map[string]bool // folders
}

func (s *Store) plan(txn dcs.Txn, seen view) plan {
	p := planner{store: s, seen: seen, checked: map[string]bool{}, raised: map[string]bool{}}
	for _, g := range txn.If {
		if !holds(g, seen.nodes[g.Key]) {
			p.refuse(g.Key)
			return p.plan
		}
	}
	created := map[string]bool{}
	for _, op := range txn.Then {
		created[op.Key] = !op.Delete && seen.nodes[op.Key] == nil
	}
	for _, g := range txn.If {
		// The creation of a key fails if it exists: no other check is needed, and
		// nodes that create different keys in a folder do not disturb each other.
		if !g.Absent || !created[g.Key] {
			p.guard(g)
		}
	}
	for _, op := range txn.Then {
		p.write(op)
	}
	return p.plan
}

// holds reports whether a guard holds for a node, nil if absent.
func holds(g dcs.Guard, stat *zk.Stat) bool {
	switch {
	case stat == nil || g.Absent:
		return stat == nil && g.Absent
	case g.Revision != 0 && g.Revision != dcs.Revision(stat.Mzxid): //nolint:gosec // ids of transactions are positive
		return false
	case g.Created != 0 && g.Created != dcs.Revision(stat.Czxid): //nolint:gosec // ids of transactions are positive
		return false
	}
	return true
}

// refuse proves that the key is what it was when it was looked at.
func (p *planner) refuse(key string) {
	p.refused = key
	at := p.store.tree.place(key)
	p.check(at.folder)
	if stat := p.seen.nodes[key]; stat != nil {
		p.checks = append(p.checks, &zk.CheckVersionRequest{Path: at.node, Version: stat.Version})
	}
}

// check demands that no key in the folder has been created since it was looked
// at.
func (p *planner) check(folder string) {
	if !p.checked[folder] {
		p.checked[folder] = true
		p.checks = append(p.checks, &zk.CheckVersionRequest{Path: folder, Version: p.seen.folders[folder]})
	}
}

// guard demands what a guard does. Its key is as the guard wants it.
func (p *planner) guard(g dcs.Guard) {
	at := p.store.tree.place(g.Key)
	p.check(at.folder)
	switch {
	case g.Absent:
	case g.Revision != 0:
		p.checks = append(p.checks, &zk.CheckVersionRequest{Path: at.node, Version: p.seen.nodes[g.Key].Version})
	default:
		p.checks = append(p.checks, &zk.CheckVersionRequest{Path: at.node, Version: -1})
	}
}

func (p *planner) write(op dcs.Op) {
	at, stat := p.store.tree.place(op.Key), p.seen.nodes[op.Key]
	switch {
	case op.Delete && stat == nil:
		p.check(at.folder)
	case op.Delete:
		p.delete(at)
	case stat == nil:
		p.create(at, op)
	case sessionID(stat.EphemeralOwner) == op.Session:
		p.check(at.folder) // as long as it is the same incarnation its session is the same
		p.writes = append(p.writes, &zk.SetDataRequest{Path: at.node, Data: data(op), Version: -1})
	default:
		p.delete(at)
		p.create(at, op)
	}
}

func (p *planner) delete(at place) {
	p.writes = append(p.writes, &zk.DeleteRequest{Path: at.node, Version: -1})
}

// create creates a node and raises the version of its folder, which is how
// others notice that a node is not the one that they have seen.
func (p *planner) create(at place, op dcs.Op) {
	flags := int32(zk.FlagPersistent)
	if op.Session != "" {
		flags = zk.FlagEphemeral
	}
	p.writes = append(p.writes, &zk.CreateRequest{Path: at.node, Data: data(op), Acl: p.store.cfg.ACL, Flags: flags})
	if !p.raised[at.folder] {
		p.raised[at.folder] = true
		p.raises = append(p.raises, &zk.SetDataRequest{Path: at.folder, Data: []byte{}, Version: -1})
	}
}

// data is never nil: ZooKeeper tells nil from empty, and tools trip over it.
func data(op dcs.Op) []byte {
	if op.Value == nil {
		return []byte{}
	}
	return op.Value
}

// revision is the id of the transaction, zero if it wrote no key. Whatever
// writes a key sets the data of a node.
func revision(answers []zk.MultiResponse) dcs.Revision {
	for _, answer := range answers {
		if answer.Stat != nil {
			return dcs.Revision(answer.Stat.Mzxid) //nolint:gosec // ids of transactions are positive
		}
	}
	return 0
}

// size is how many bytes the plan takes as a packet, without its length.
func (p *plan) size() int {
	const (
		integer = 4
		header  = integer + 1 + integer
	)
	size := integer + integer + header // of the packet, and at its end
	for _, op := range p.ops() {
		size += header
		switch op := op.(type) {
		case *zk.CheckVersionRequest:
			size += integer + len(op.Path) + integer
		case *zk.DeleteRequest:
			size += integer + len(op.Path) + integer
		case *zk.SetDataRequest:
			size += integer + len(op.Path) + integer + len(op.Data) + integer
		case *zk.CreateRequest:
			size += integer + len(op.Path) + integer + len(op.Data) + integer + integer
			for _, acl := range op.Acl {
				size += integer + integer + len(acl.Scheme) + integer + len(acl.ID)
			}
		}
	}
	return size
}
