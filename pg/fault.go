package pg

import (
	"errors"
	"strings"
)

// What can be wrong with a server's surroundings, to branch on by errors.Is. The
// error that carries one of them is a *FaultError, which names the place and what
// to do there. Nothing has been destroyed when one of them is returned.
var (
	// ErrBinaries says that PostgreSQL's programs are missing or do not run.
	ErrBinaries = errors.New("PostgreSQL's programs cannot be used")
	// ErrPermission says that a file or directory is not the server's user's, or
	// cannot be read or written.
	ErrPermission = errors.New("no permission")
	// ErrDiskFull says that the file system has no room left.
	ErrDiskFull = errors.New("disk full")
	// ErrNotEmpty says that a directory that is to be filled holds something.
	ErrNotEmpty = errors.New("directory is not empty")
	// ErrNotData says that a directory holds something, and not PostgreSQL's data.
	ErrNotData = errors.New("not a data directory")
	// ErrForeign says that data belongs to another cluster.
	ErrForeign = errors.New("data of another cluster")
	// ErrPortInUse says that somebody else listens at the server's address.
	ErrPortInUse = errors.New("address in use")
	// ErrPassword says that a server did not accept the password.
	ErrPassword = errors.New("password not accepted")
	// ErrRefused says that a server's pg_hba.conf does not admit us.
	ErrRefused = errors.New("not admitted")
	// ErrUnreachable says that nobody listens at an address, or that no packet comes
	// through.
	ErrUnreachable = errors.New("nobody answers")
	// ErrCorrupt says that data is damaged, so that it cannot be started.
	ErrCorrupt = errors.New("data is damaged")
	// ErrNoHistory says that the history file of a timeline is missing.
	ErrNoHistory = errors.New("history file of a timeline is missing")
	// ErrTooManyAttempts says that rewinds or clones have failed so often that no
	// other is tried now.
	ErrTooManyAttempts = errors.New("too many attempts have failed")
	// ErrParameter says that the server does not know a setting, or not its value.
	ErrParameter = errors.New("setting not accepted")
)

// FaultError is something wrong with a server's surroundings that only a person can
// put right: what it is, where, and what to do.
type FaultError struct {
	Kind    error  // one of the errors above, or ErrUnsupported
	Path    string // the file or directory, "" if it is not about one
	Address string // host and port, "" if it is not about one
	Remedy  string // what to do, in the imperative
	Err     error  // what was seen, nil if Kind says it all
}

// Error returns one sentence: where, what, what was seen, what to do.
func (e *FaultError) Error() string {
	seen := ""
	if e.Err != nil {
		seen = e.Err.Error()
	}
	var parts []string
	for _, place := range []string{e.Path, e.Address} {
		if place != "" && !strings.Contains(seen, place) {
			parts = append(parts, place)
		}
	}
	parts = append(parts, e.Kind.Error())
	if seen != "" {
		parts = append(parts, seen)
	}
	if e.Remedy != "" {
		parts = append(parts, e.Remedy)
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives errors.Is both the kind and what was seen.
func (e *FaultError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
