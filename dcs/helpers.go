package dcs

import (
	"context"
	"errors"
	"fmt"
)

// At is the guard that says "as I read it": the key's last write has revision
// rev, and rev zero, which no written key has, means that the key is absent.
func At(key string, rev Revision) Guard {
	if rev == 0 {
		return Guard{Key: key, Absent: true}
	}
	return Guard{Key: key, Revision: rev}
}

// Held is the fencing guard: the key still is the incarnation that was created
// at token, whatever has been written to it since.
func Held(key string, token Revision) Guard { return Guard{Key: key, Created: token} }

// Create writes a key that must not exist yet. ErrConflict: it exists. The
// errors are those of Store.Commit.
func Create(ctx context.Context, s Store, key string, value []byte, session SessionID) (Revision, error) {
	return CompareAndSwap(ctx, s, key, 0, value, session)
}

// CompareAndSwap writes a key whose last write must have revision rev; zero
// means that it must not exist. ErrConflict: something else has been written
// since. The errors are those of Store.Commit.
func CompareAndSwap(ctx context.Context, s Store, key string, rev Revision, value []byte, session SessionID) (Revision, error) {
	return s.Commit(ctx, Txn{
		If:   []Guard{At(key, rev)},
		Then: []Op{{Key: key, Value: value, Session: session}},
	})
}

// Delete removes a key whose last write must have revision rev, which must not
// be zero. ErrConflict: the key has been written or removed since. The errors
// are those of Store.Commit.
func Delete(ctx context.Context, s Store, key string, rev Revision) error {
	_, err := s.Commit(ctx, Txn{
		If:   []Guard{{Key: key, Revision: rev}},
		Then: []Op{{Key: key, Delete: true}},
	})
	return err
}

// Put writes a key whatever it holds now, and unbinds it from any session. It
// overwrites what others wrote, and one whose outcome is unknown may land at any
// time later, over whatever is there then. So it is for keys with one writer,
// for operators' tools and for tests. The errors are those of Store.Commit.
func Put(ctx context.Context, s Store, key string, value []byte) (Revision, error) {
	return s.Commit(ctx, Txn{Then: []Op{{Key: key, Value: value}}})
}

// Settle ends the doubt about a key after ErrAmbiguous: it reads the key and
// writes the same value again under the revision just read. After nil, no
// earlier write that was guarded by a revision of the key can land any more, and
// what is returned can be built on. Settle binds the key to the session that it
// is bound to now.
//
// ErrNotFound: the key does not exist, and a creation of unknown outcome may
// still land; what makes that impossible is to create the key. ErrConflict:
// somebody else has written it meanwhile; Settle may be called again. The other
// errors are those of Store.Get and Store.Commit.
func Settle(ctx context.Context, s Store, key string) (KV, error) {
	kv, err := s.Get(ctx, key)
	if err != nil {
		return KV{}, fmt.Errorf("settle %s: %w", key, err)
	}
	rev, err := CompareAndSwap(ctx, s, key, kv.Revision, kv.Value, kv.Session)
	if err != nil {
		return KV{}, fmt.Errorf("settle %s: %w", key, err)
	}
	kv.Revision = rev
	return kv, nil
}

// SurelyNotDone reports whether err proves that a write was not carried out
// and will not be. It is false for nil, for ErrAmbiguous and for every error
// that this package does not know.
func SurelyNotDone(err error) bool {
	if errors.Is(err, ErrAmbiguous) {
		return false
	}
	for _, proof := range []error{ErrConflict, ErrUnavailable, ErrSessionLost, ErrInvalid, ErrClosed} {
		if errors.Is(err, proof) {
			return true
		}
	}
	return false
}
