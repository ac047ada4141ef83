package dcs

import (
	"context"
	"time"
)

// Revision identifies one write of one key. Successive revisions of the same
// key strictly increase, through deletion and re-creation. Revisions of
// different keys must not be compared. Zero means "no such key".
type Revision uint64

// SessionID names a session at the store. The empty id is "no session": the
// key stays until it is deleted.
type SessionID string

// KV is a key as one linearizable read saw it. The value belongs to the caller.
type KV struct {
	Key      string
	Value    []byte
	Revision Revision  // last write
	Created  Revision  // first write of this incarnation of the key: a lock's fencing token
	Session  SessionID // the session that the key is bound to, or ""
}

// Update is one delivery of a watch: the whole state under the prefix, or the
// news that contact was lost (Err set, KVs meaningless). After an Err the watch
// goes on by itself and next delivers the whole state again.
type Update struct {
	KVs []KV // sorted by key
	Err error
}

// Guard is one condition of a transaction. Exactly one of the forms is used:
// Absent (the key does not exist), Revision (the key's last write has this
// revision), Created (the key exists and has been created at this revision:
// the fencing guard of a lock). Revision and Created may be given together.
type Guard struct {
	Key      string
	Absent   bool
	Revision Revision
	Created  Revision
}

// Op is one operation of a transaction: a write of Value under Session (""
// unbinds), or a deletion. Deleting a key that does not exist succeeds.
//
// A write under another session than the key is bound to moves the key: it
// outlives the end of the former session, however that ends, and vanishes with
// the new one; at no time is it absent. Its Created is the same as before or
// greater, never smaller: where the store cannot move a key it makes another
// incarnation of it. Who moves a lock reads its token afterwards.
type Op struct {
	Key     string
	Value   []byte
	Session SessionID
	Delete  bool
}

// Txn is carried out whole or not at all. A key may occur in several guards
// but in at most one operation. A Txn without operations only checks its
// guards, linearizably.
type Txn struct {
	If   []Guard
	Then []Op
}

// Store is a connection to a distributed configuration store.
type Store interface {
	// Get reads one key, linearizably: it reflects every Commit that had
	// returned before Get was called. ErrNotFound is the proof that the key is
	// absent; any other error proves nothing.
	Get(ctx context.Context, key string) (KV, error)

	// List reads all keys that start with prefix, sorted by key. Each key is
	// read linearizably, but the list is not a snapshot across keys: whoever
	// needs several keys to agree says so by the guards of a Commit. Nothing
	// there is (nil, nil).
	List(ctx context.Context, prefix string) ([]KV, error)

	// Watch delivers the present state under prefix first, then newer states.
	// States may be skipped, but never go back for a key. Delivery is latest
	// wins: a slow reader holds nobody up. The channel is closed when ctx ends
	// or the store is closed, and for no other reason. A malformed prefix is
	// told by an Update with ErrInvalid, and nothing follows.
	Watch(ctx context.Context, prefix string) <-chan Update

	// Commit carries out txn and returns the revision given to every key that
	// it wrote, or zero when it wrote none. Errors: ErrConflict (a guard did not hold), ErrSessionLost (an
	// operation names a session that is gone), ErrUnavailable, ErrInvalid,
	// ErrClosed: surely nothing written. ErrAmbiguous: unknown.
	Commit(ctx context.Context, txn Txn) (Revision, error)

	// NewSession opens a session that lives for at least the TTL it reports,
	// counted from before the call was sent. Whether ttl is possible is checked
	// here (ErrInvalid says what is allowed); the store may grant more than was
	// asked.
	NewSession(ctx context.Context, ttl time.Duration) (Session, error)

	// Close releases the connection. It ends watches and makes later calls
	// fail with ErrClosed. It does not end sessions: they expire. Idempotent.
	Close() error
}

// Session keeps keys alive. Its keys vanish when it is closed, or when TTL
// passes without a successful Renew; how much later they vanish is up to the
// store, earlier they do not.
type Session interface {
	ID() SessionID

	// TTL is what one success (of NewSession, of Renew) buys, counted from the
	// moment of sending.
	TTL() time.Duration

	// Renew makes exactly one attempt. nil proves that the session existed at
	// the authority after the call was sent. ErrSessionLost is final. Any other
	// error: unknown, try again while the time bought lasts.
	Renew(ctx context.Context) error

	// Close ends the session and deletes its keys promptly. Idempotent. It
	// must be given a context that is still alive, not the one whose end is
	// the reason for closing.
	Close(ctx context.Context) error
}
