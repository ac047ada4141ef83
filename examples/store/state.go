package store

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/dcs"
)

// maxValues is how many bytes the values of one transaction may have.
const maxValues = 1 << 20

// state is what the file says.
type state struct {
	Revision dcs.Revision             `json:"revision"`
	Keys     map[string]*entry        `json:"keys"`
	Opened   uint64                   `json:"opened"` // sessions so far
	Sessions map[dcs.SessionID]*alive `json:"sessions"`
}

// entry is a key that exists.
type entry struct {
	Value    []byte        `json:"value"`
	Revision dcs.Revision  `json:"revision"`
	Created  dcs.Revision  `json:"created"`
	Session  dcs.SessionID `json:"session,omitempty"`
}

// alive is a session that is.
type alive struct {
	TTL      time.Duration `json:"ttl"`
	Renewals uint64        `json:"renewals"`
}

// get reads a key.
func (st *state) get(key string) (dcs.KV, error) {
	e := st.Keys[key]
	if e == nil {
		return dcs.KV{}, dcs.ErrNotFound
	}
	return dcs.KV{Key: key, Value: e.Value, Revision: e.Revision, Created: e.Created, Session: e.Session}, nil
}

// list is the state under a prefix, sorted.
func (st *state) list(prefix string) []dcs.KV {
	var kvs []dcs.KV
	for _, key := range slices.Sorted(maps.Keys(st.Keys)) {
		if strings.HasPrefix(key, prefix) {
			kv, _ := st.get(key) // it is there
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// commit carries out a transaction that has been validated, or leaves the state
// as it is.
func (st *state) commit(txn dcs.Txn) (dcs.Revision, error) {
	size := 0
	for _, op := range txn.Then {
		size += len(op.Value)
		if op.Session != "" && st.Sessions[op.Session] == nil {
			return 0, fmt.Errorf("key %s, session %s: %w", op.Key, op.Session, dcs.ErrSessionLost)
		}
	}
	if size > maxValues {
		return 0, fmt.Errorf("values of %d bytes, of which %d are possible: %w", size, maxValues, dcs.ErrInvalid)
	}
	for _, g := range txn.If {
		if !st.holds(g) {
			return 0, fmt.Errorf("key %s: %w", g.Key, dcs.ErrConflict)
		}
	}
	if len(txn.Then) == 0 {
		return 0, nil
	}
	st.Revision++
	var written dcs.Revision
	for _, op := range txn.Then {
		if op.Delete {
			delete(st.Keys, op.Key)
			continue
		}
		written = st.Revision
		e := &entry{Value: op.Value, Revision: written, Created: written, Session: op.Session}
		if before := st.Keys[op.Key]; before != nil {
			e.Created = before.Created
		}
		st.Keys[op.Key] = e
	}
	return written, nil
}

func (st *state) holds(g dcs.Guard) bool {
	kv, err := st.get(g.Key)
	return (err != nil) == g.Absent &&
		(g.Revision == 0 || kv.Revision == g.Revision) &&
		(g.Created == 0 || kv.Created == g.Created)
}

// begin begins a session.
func (st *state) begin(ttl time.Duration) dcs.SessionID {
	st.Opened++
	id := dcs.SessionID(strconv.FormatUint(st.Opened, 10))
	st.Sessions[id] = &alive{TTL: ttl}
	return id
}

// end ends a session, if it is alive, and deletes its keys.
func (st *state) end(id dcs.SessionID) {
	delete(st.Sessions, id)
	maps.DeleteFunc(st.Keys, func(_ string, e *entry) bool { return e.Session == id })
}
