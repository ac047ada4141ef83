package pg

import (
	"errors"
	"time"
)

// Warrant is the right to run a server writable until a deadline: a lease, the
// promises of k members, or maintenance. Whoever starts or promotes a server
// asks Check right before, and again before every further step that cannot be
// undone.
type Warrant interface {
	// Check returns nil while the warrant is in force, and why not otherwise.
	Check() error
	// Until is when the warrant ends at the latest, by the holder's clock.
	Until() time.Time
}

// The errors to branch on, by errors.Is.
var (
	// ErrNoData says that the data directory is empty or absent.
	ErrNoData = errors.New("no data directory")
	// ErrNoWarrant says that the server may not run writable now.
	ErrNoWarrant = errors.New("no warrant to run writable")
	// ErrNotRunning says that the operation needs a running server.
	ErrNotRunning = errors.New("server is not running")
	// ErrNotStopped says that a primary was not stopped, because the server that
	// was to go on could not: it runs and serves as before.
	ErrNotStopped = errors.New("server was not stopped and goes on")
	// ErrNotFenced says that a position was asked of a server that may still
	// receive WAL.
	ErrNotFenced = errors.New("server is not fenced")
	// ErrRewindImpossible says that pg_rewind cannot help, only a new copy.
	ErrRewindImpossible = errors.New("rewind impossible")
	// ErrIncompleteCopy says that a rewind or clone was interrupted: the data
	// directory must never be started.
	ErrIncompleteCopy = errors.New("data directory is an interrupted copy")
	// ErrWrongTimeline says that a promotion ended on another timeline than
	// the reserved one. The server has been stopped.
	ErrWrongTimeline = errors.New("promoted to another timeline than reserved")
	// ErrUnsupported says that the server's version or settings do not allow
	// what was asked.
	ErrUnsupported = errors.New("not supported by this server")
)
