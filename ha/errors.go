package ha

import (
	"errors"
	"fmt"

	"github.com/pghad/pghad/dcs"
)

// The errors of locks and leases to branch on, by errors.Is. Those from
// ErrExpired to ErrReleased, and dcs.ErrSessionLost, are also the causes with
// which a lease's context ends.
var (
	// ErrHeld says that somebody else holds the lock. It comes as a *HeldError,
	// which says who.
	ErrHeld = errors.New("lock is held")
	// ErrExpired says that the time which the last renewal bought is used up.
	ErrExpired = errors.New("lease expired")
	// ErrFenced says that the lock's key is gone, is another incarnation, or was
	// taken to another session: somebody else may hold the lock already.
	ErrFenced = errors.New("lock was taken away")
	// ErrGated says that the gate was closed: the holder is not fit to lead.
	ErrGated = errors.New("gate is closed")
	// ErrReleased says that the lease was released on purpose.
	ErrReleased = errors.New("lease released")
	// ErrOverrun says that work went on after its lease had ended and the
	// margin had passed: it may run beside another holder's. Whoever gets it
	// must end the work by force.
	ErrOverrun = errors.New("work outlived its lease")
	// ErrClosed says that the piece was closed and takes no more orders.
	ErrClosed = errors.New("closed")
)

// HeldError is the ErrHeld of one attempt, with what was read of the holder.
type HeldError struct {
	Key string
	// Holder is the lock's key, or its twin, as it was read after the attempt. It is a hint:
	// it may be gone by now. Its Revision is zero if the lock changed hands so
	// fast that no holder was seen, or if this Locker is itself acquiring it.
	Holder dcs.KV
}

func (e *HeldError) Error() string {
	if e.Holder.Revision == 0 {
		return fmt.Sprintf("lock %s is held", e.Key)
	}
	if e.Holder.Key == e.Key+TwinSuffix {
		return fmt.Sprintf("lock %s is held until %.100q in session %s has noticed that its key was deleted, or %s is deleted too",
			e.Key, e.Holder.Value, e.Holder.Session, e.Holder.Key)
	}
	return fmt.Sprintf("lock %s is held by %.100q in session %s", e.Key, e.Holder.Value, e.Holder.Session)
}

// Unwrap makes errors.Is(err, ErrHeld) true.
func (e *HeldError) Unwrap() error { return ErrHeld }
