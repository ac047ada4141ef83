package guard

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version of the protocol. A guard serves agents of its own version only.
const Version = 1

// maxLine bounds one line of the protocol, in bytes.
const maxLine = 1 << 20

// Hello is the first thing that a guard says.
type Hello struct {
	Version int    `json:"version"`
	Pid     int    `json:"pid"` // of the guard
	Status  Status `json:"status"`
}

// Request is what an agent asks: exactly one of its pointers is set.
type Request struct {
	ID       uint64    `json:"id"` // comes back in the response
	Start    *Start    `json:"start,omitempty"`
	Deadline *Deadline `json:"deadline,omitempty"`
	Stop     *Stop     `json:"stop,omitempty"`
	Status   *struct{} `json:"status,omitempty"`
}

// Start starts the server. A guard starts one in its life.
type Start struct {
	Argv       []string    `json:"argv"` // the program's path first
	Env        []string    `json:"env"`
	Dir        string      `json:"dir,omitempty"`        // working directory; default: /
	Credential *Credential `json:"credential,omitempty"` // default: the guard's own
	// Log is the file that takes standard output and error, for appending. It is
	// made if it is missing, and given to the credential's user. Default: the
	// guard's standard error.
	Log string `json:"log,omitempty"`
	// Deadline declares the server writable from its start on.
	Deadline *Deadline `json:"deadline,omitempty"`
}

// Credential is whom the server runs as, if the guard is root.
type Credential struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// Deadline is until when the server may run writable. Sent by itself it declares
// the running server writable, or moves its deadline, in either direction.
type Deadline struct {
	// Left is how long it takes until the deadline. Nothing left: the right to run
	// writable is revoked, and a server that was declared writable is stopped at
	// once.
	Left Duration `json:"left"`
	// At is when so much was left, read before the request was sent. Default: when
	// the guard reads the request.
	At *Instant `json:"at,omitempty"`
}

// until is the instant of the deadline. A reading from the future is not
// believed.
func (d Deadline) until(now Instant) Instant {
	at := now
	if d.At != nil {
		at = at.earlier(*d.At)
	}
	return at.Add(time.Duration(d.Left))
}

// Ahead is how far off the deadline is, at most zero if it has passed.
func (d Deadline) Ahead(now Instant) time.Duration { return d.until(now).Left(now) }

// Stop stops the server.
type Stop struct {
	Mode StopMode `json:"mode"`
}

// StopMode is how a server is stopped.
type StopMode string

const (
	// StopFast ends the sessions and shuts down cleanly, however long that takes.
	StopFast StopMode = "fast"
	// StopImmediate is SIGQUIT, and SIGKILL after Config.KillAfter.
	StopImmediate StopMode = "immediate"
)

// Response answers the request of the same id: by the status after it, or by an
// error.
type Response struct {
	ID     uint64  `json:"id,omitempty"`
	Status *Status `json:"status,omitempty"`
	Error  *Error  `json:"error,omitempty"`
}

// Status is how guard and server are.
type Status struct {
	State State `json:"state"`
	// Pid is the postmaster's, zero before its start. The number stays after its
	// end.
	Pid int `json:"pid,omitempty"`
	// Writable says that the server was declared writable, and Left how long its
	// deadline is off; at most zero: it has passed.
	Writable bool     `json:"writable,omitempty"`
	Left     Duration `json:"left,omitempty"`
	// Exit says how the postmaster has ended, once it has.
	Exit string `json:"exit,omitempty"`
}

// State of the server.
type State string

const (
	// StateIdle is before the start.
	StateIdle State = "idle"
	// StateRunning is from the start on.
	StateRunning State = "running"
	// StateStopping is from the first signal, or the end of the postmaster, until
	// no process is left.
	StateStopping State = "stopping"
	// StateGone is when no process is left, right before the guard ends.
	StateGone State = "gone"
)

// Event is something that happened.
type Event struct {
	Kind EventKind `json:"kind"`
	Exit string    `json:"exit,omitempty"` // of exited: as in Status
}

// EventKind is what happened.
type EventKind string

const (
	// EventPassed says that the deadline has passed, or was revoked, and that the
	// server is being stopped.
	EventPassed EventKind = "passed"
	// EventExited says that the postmaster has ended. Processes of the server may
	// be left.
	EventExited EventKind = "exited"
	// EventGone says that no process of the server is left. The guard ends now.
	EventGone EventKind = "gone"
)

// Error is a refusal. Compare with the Err variables by errors.Is.
type Error struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// The refusals.
var (
	// ErrBusy says that another agent is served.
	ErrBusy = &Error{Code: "busy"}
	// ErrDenied says that this user is none of those who may ask.
	ErrDenied = &Error{Code: "denied"}
	// ErrRequest says that the guard does not understand what it was told.
	ErrRequest = &Error{Code: "request"}
	// ErrState says that there is no server to do it with, or one too many.
	ErrState = &Error{Code: "state"}
	// ErrPassed says that the deadline has passed.
	ErrPassed = &Error{Code: "passed"}
	// ErrStart says that the server could not be started.
	ErrStart = &Error{Code: "start"}
	// ErrWatchdog says that the watchdog device cannot do its part.
	ErrWatchdog = &Error{Code: "watchdog"}
)

func (e *Error) Error() string { return cmp.Or(e.Text, e.Code) }

// Is reports whether target is a refusal for the same reason.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// because is a refusal for the reason of one of the Err variables.
func because(reason *Error, text string) *Error { return &Error{Code: reason.Code, Text: text} }

// message is a line of the guard: one of its parts.
type message struct {
	Hello *Hello `json:"hello,omitempty"`
	Event *Event `json:"event,omitempty"`
	Response
}

// Duration is a duration written as "7.5s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// decodeRequest reads one line. What it does not know it refuses: a misspelt
// deadline must not be taken for none.
func decodeRequest(line []byte) (Request, error) {
	var r Request
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("there is more on the line than one request")
	}
	return r, r.check()
}

// check refuses what cannot be meant.
func (r Request) check() error {
	asked := 0
	for _, is := range []bool{r.Start != nil, r.Deadline != nil, r.Stop != nil, r.Status != nil} {
		if is {
			asked++
		}
	}
	switch {
	case asked != 1:
		return fmt.Errorf("a request is one of start, deadline, stop and status, this is %d of them", asked)
	case r.Start != nil && len(r.Start.Argv) == 0:
		return errors.New("start: argv is empty, its first element is the path of the program")
	case r.Start != nil && r.Start.Deadline != nil:
		return r.Start.Deadline.check()
	case r.Deadline != nil:
		return r.Deadline.check()
	case r.Stop != nil && r.Stop.Mode != StopFast && r.Stop.Mode != StopImmediate:
		return fmt.Errorf("stop: mode %q, want %s or %s", r.Stop.Mode, StopFast, StopImmediate)
	}
	return nil
}

func (d Deadline) check() error {
	if d.At != nil && (d.At.Boot <= 0 || d.At.Wall <= 0) {
		return errors.New("deadline: at needs the readings of both clocks, boot and wall, in nanoseconds")
	}
	return nil
}
