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
// key stays until it is deleted. An id is never used again.
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
// goes on by itself and next delivers the whole state again. That there was no
// Err does not prove contact: a short loss may go unnoticed.
type Update struct {
	KVs []KV // sorted by key
	Err error
}

// Guard is one condition of a transaction. Exactly one of the forms is used:
// Absent (the key does not exist), Revision (the key's last write has this
// revision), Created (the key exists and has been created at this revision:
// the fencing guard of a lock). Revision and Created may be given together.
//
// A guard of a revision never holds for another incarnation of the key, however
// the store counts.
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
//
// A call returns when it has an outcome, when its context ends, or when the
// store is closed, whichever comes first, also while no server can be reached:
// it waits for a connection as long as its context lives. A context that has
// ended already makes a read fail with the context's error, and a write with
// ErrUnavailable: nothing was sent.
type Store interface {
	// Get reads one key, linearizably: it reflects every Commit that had
	// returned before Get was called. ErrNotFound is the proof that the key was
	// absent at some instant during the call; any other error proves nothing.
	Get(ctx context.Context, key string) (KV, error)

	// List reads all keys that start with prefix, sorted by key. Each key is
	// read linearizably: one that existed all the time is in the list, with what
	// was last written to it before the call or later. But the list is not a
	// snapshot across keys: whoever needs several keys to agree says so by the
	// guards of a Commit. Nothing there is (nil, nil); an error proves nothing.
	List(ctx context.Context, prefix string) ([]KV, error)

	// Watch delivers the present state under prefix first, then newer states.
	// States may be skipped, but never go back for a key, and the latest one is
	// delivered in the end if contact lasts. Delivery is latest wins: a slow
	// reader holds nobody up, and the state belongs to the reader. The channel
	// is closed when ctx ends or the store is closed, and for no other reason.
	// A malformed prefix is told by an Update with ErrInvalid, and nothing
	// follows.
	Watch(ctx context.Context, prefix string) <-chan Update

	// Commit carries out txn and returns the revision given to every key that
	// it wrote, or zero when it wrote none.
	//
	// Surely nothing was written, and will not be, after ErrConflict (a guard
	// did not hold at some instant during the call), ErrSessionLost (an
	// operation names a session that is gone), ErrUnavailable, ErrInvalid and
	// ErrClosed. ErrAmbiguous: unknown, and what was written may still appear
	// later. The transaction is sent once.
	Commit(ctx context.Context, txn Txn) (Revision, error)

	// NewSession opens a session that lives for at least the TTL it reports,
	// counted from before the call was sent. It reports at least what was asked,
	// and may report more. Whether ttl is possible is checked here: ErrInvalid
	// says what is allowed. After ErrAmbiguous there may be a session that
	// nobody knows of; it binds no key, and expires.
	//
	// The session does not end with ctx, and not with the store either.
	NewSession(ctx context.Context, ttl time.Duration) (Session, error)

	// Close releases the connection. It ends watches and the calls that are
	// under way, and makes later calls fail with ErrClosed. It does not end
	// sessions: they expire, as they do when the process dies. It is bounded,
	// also while no server can be reached. Idempotent.
	Close() error
}

// Session keeps keys alive. Its keys vanish when it is closed, or when TTL
// passes without a successful Renew; how much later they vanish is up to the
// store, earlier they do not, unless an operator ends the session.
type Session interface {
	// ID names the session in KV.Session and Op.Session. It proves whose a key
	// is, which the key's value does not.
	ID() SessionID

	// TTL is what one success (of NewSession, of Renew) buys, counted from the
	// moment of sending.
	TTL() time.Duration

	// Renew makes exactly one attempt. nil proves that the session existed at
	// the authority after the call was sent; it does not prove that a key which
	// was bound to it still exists. ErrSessionLost is final: no write under the
	// session can land any more, and its keys are gone or about to go. Any other
	// error: unknown, try again while the time bought lasts.
	Renew(ctx context.Context) error

	// Close ends the session and deletes its keys: after nil they are gone (where
	// the session had been lost before, at the latest a moment later), and no
	// write under the session can land any more. Idempotent. It must be given a
	// context that is still alive, not the one whose end is the reason for
	// closing. After any error the session may live on until it expires; Close
	// may be called again.
	Close(ctx context.Context) error
}

// Prover is what a Session may implement beyond what it has to: a renewal and the
// proof that goes with it, where the store can do both for less than each costs
// alone. It is found by assertion; ha.Locker makes use of it.
type Prover interface {
	// RenewIf is Renew, and then proves that all guards held at one instant.
	//
	// ErrConflict proves the renewal, and that a guard did not hold. ErrInvalid:
	// the guards are malformed or too many for one transaction, and what became of
	// the renewal is unknown. All else is as with Renew, which RenewIf without
	// guards is.
	RenewIf(ctx context.Context, guards []Guard) error
}
