package dcs

import "errors"

// The errors to branch on, by errors.Is. Every error of an implementation
// wraps exactly one of them, or is the context's own error for a read.
var (
	// ErrNotFound is the proof that a key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrConflict says that a guard did not hold; surely nothing was written.
	ErrConflict = errors.New("guard did not hold")
	// ErrSessionLost says that the session does not exist any more; final.
	ErrSessionLost = errors.New("session lost")
	// ErrUnavailable says that the store could not be asked; for a write it
	// says that surely nothing was written.
	ErrUnavailable = errors.New("store unavailable")
	// ErrAmbiguous says that a write may or may not have been carried out, and
	// may still be carried out later.
	ErrAmbiguous = errors.New("outcome unknown")
	// ErrInvalid says that the call itself is wrong (malformed key, impossible
	// TTL, contradictory transaction, beyond a limit); surely nothing was done.
	ErrInvalid = errors.New("invalid request")
	// ErrClosed says that the store has been closed.
	ErrClosed = errors.New("store closed")
)

// ErrNewer says that a record was written in a newer format than this program
// reads. It is an error of Record, not of a store.
var ErrNewer = errors.New("record of a newer format")
