package ha

import (
	"context"
	"time"

	"github.com/pghad/pghad/pg"
)

// PostgresController is what a Node needs of its local PostgreSQL server: the
// union of the small interfaces below, of which each piece takes only what it
// uses. pg/pgctl implements it for a real server.
//
// Every method returns when its context ends; an operation cut off by it may
// have been carried out in part and is safe to call again. Only Stop may be
// called while another method runs; it then wins: the other method returns an
// error, and no process of the server is left when Stop returns nil.
type PostgresController interface {
	Observer
	Starter
	Yielder
	Fencer
	Promoter
	Follower
	Rebuilder
	SyncSetter
	SlotKeeper
	Gatekeeper
}

// Observer looks at the local server.
type Observer interface {
	// Status asks the server once, over one kept connection. A server that does
	// not answer is not an error: Health says so. An error means that not even
	// the process could be looked at.
	Status(ctx context.Context) (pg.Status, error)

	// WaitChange blocks until the generation of Status differs from seen, and
	// returns it: a start or an end of the postmaster, noticed by the event.
	WaitChange(ctx context.Context, seen uint64) (uint64, error)

	// OnDisk reads the data directory while no server runs. pg.ErrNoData if it
	// is empty or absent, pg.ErrIncompleteCopy if a copy was interrupted.
	OnDisk(ctx context.Context) (pg.OnDisk, error)

	// SelfCheck writes something with synchronous_commit = local: proof that a
	// primary can still write (X12). Its session is closed, never cancelled.
	SelfCheck(ctx context.Context) error
}

// Starter starts and stops the local server.
type Starter interface {
	// Init makes a new data directory (initdb) with the managed settings and
	// the replication role. It refuses one that is not empty.
	Init(ctx context.Context) error

	// StartStandby starts the server as a standby of up (the zero Upstream:
	// fenced) and returns when it admits the controller, or when it has exited
	// (an error). Placeholder history files are removed first. Starting takes as
	// long as recovery takes.
	StartStandby(ctx context.Context, up pg.Upstream) error

	// StartPrimary starts the server as a primary on the timeline that it has,
	// with setting in force from its first moment and the gate closed. It
	// checks the warrant right before the server becomes writable.
	StartPrimary(ctx context.Context, warrant pg.Warrant, setting pg.SyncSetting) error

	// Stop stops the server and returns nil when no process of it is left. A
	// fast stop that ctx cuts off leaves the server stopping. An immediate stop
	// escalates to SIGKILL by itself. Stopping a stopped server is nil.
	Stop(ctx context.Context, mode pg.StopMode) error
}

// Yielder stops a primary so that another server can go on where it ends.
type Yielder interface {
	// Yield stops a primary fast (see pg.StopFast), having shipped all its WAL
	// and the shutdown checkpoint to the standby that streams as to
	// (application_name). Walsenders of other standbys that would hold it up
	// are ended. nil means that no process of the server is left and that it
	// was shut down cleanly; the position is the end of the shutdown checkpoint.
	// That the standby has flushed it is for the caller to confirm: Identify.
	//
	// pg.ErrNotStopped: the standby was found unfit before anything was stopped, and
	// the primary serves on. When ctx ends later, the server is still stopping: see
	// Stop.
	Yield(ctx context.Context, to string) (pg.Position, error)
}

// Fencer makes a standby deaf, and reads the position of a voter.
type Fencer interface {
	// Fence clears the upstream and returns nil when it is proven that no WAL
	// comes in any more: a new session shows no upstream and no restore
	// command, there is no walreceiver process, and the startup process waits
	// in its retry sleep, having replayed all that is local (X1, X2). It ends a
	// receiver, or restarts the server, where that is what it takes. A server
	// that is not running is started as a fenced standby.
	Fence(ctx context.Context) error

	// Position is the end of the WAL held by a fenced standby. pg.ErrNotFenced
	// if the server is not (or no longer) fenced: the fence is checked again.
	Position(ctx context.Context) (pg.Position, error)
}

// Promoter promotes a fenced standby.
type Promoter interface {
	// Promote makes the standby the primary of timeline next, with the gate
	// closed and all client sessions ended. It writes a placeholder history
	// file where one is needed for PostgreSQL to choose that number, checks the
	// warrant right before the promotion, and asks the server afterwards:
	// pg.ErrWrongTimeline (server stopped) if it is another one. Once promotion
	// has begun ctx no longer ends it early; the controller's own outer
	// deadline does, by stopping the server. Calling it again on a server that
	// is the primary of timeline next already is a success.
	Promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error)
}

// Follower points a standby at its upstream.
type Follower interface {
	// Follow points a running standby at up by a reload. It returns when a new
	// session shows the setting, not when WAL streams.
	Follow(ctx context.Context, up pg.Upstream) error

	// Identify asks the server at up who it is, over the replication protocol.
	// What a standby says of Flushed it has flushed.
	Identify(ctx context.Context, up pg.Upstream) (pg.Remote, error)
}

// Rebuilder makes the local data a copy of another server's. The server must
// be stopped. Both return the floor: a position of the source read after the
// copy's end, below which this node must not count. Both leave a sentinel
// outside the data directory while they run, so that an interrupted copy is
// never started.
type Rebuilder interface {
	// Rewind runs pg_rewind. pg.ErrRewindImpossible if only a clone can help.
	Rewind(ctx context.Context, source pg.Upstream) (floor pg.Position, err error)

	// Clone replaces the data directory by a base backup, taken beside the old
	// one, which is removed when the new one is complete.
	Clone(ctx context.Context, source pg.Upstream) (floor pg.Position, err error)
}

// SyncSetter is all that a QuorumTracker needs of a server.
type SyncSetter interface {
	// SetSync writes synchronous_standby_names and reloads. It returns when a
	// new session shows the value; whether the walsenders have adopted it,
	// SyncView shows. It works on a standby too (dormant until promotion). On
	// a server that is not running it only writes: the value is in force from
	// the next start on.
	SetSync(ctx context.Context, setting pg.SyncSetting) error

	// SyncView opens a new session and reads the setting, the flush LSN and the
	// walsenders.
	SyncView(ctx context.Context) (pg.SyncView, error)

	// DropSenders terminates the walsenders and returns when they are gone.
	DropSenders(ctx context.Context) error

	// Checkpoint runs one CHECKPOINT to its end: the checkpointer has re-read
	// its configuration when the second one returns (X4, X8).
	Checkpoint(ctx context.Context) error
}

// SlotKeeper keeps physical replication slots.
type SlotKeeper interface {
	// EnsureSlots creates the slots that are missing, reserving WAL at once,
	// and advances those that nobody uses to pg.Slot.Advance (never past what
	// this server has replayed), so that a standby's slots do not hold WAL for
	// ever. It never removes a slot unless the configuration says after how long,
	// and replaces one that has lost its WAL. It works on a standby too.
	EnsureSlots(ctx context.Context, slots []pg.Slot) error
}

// DeadlineSetter is an optional ability of a PostgresController: the server is in
// the hands of a guard that outlives this process and stops it when its deadline
// passes. A Node keeps that deadline at the end of its warrant.
type DeadlineSetter interface {
	// SetDeadline says that the server may run writable for as long as left
	// returns, and no longer. left is called once, after the time from which it
	// counts was noted, so that nothing which holds the request up adds to it, and
	// in the order in which the calls take effect; it does not block. Nothing left
	// revokes the right: a server that runs writable is stopped at once.
	//
	// StartPrimary and Promote of such a controller refuse without a deadline that
	// is ahead (pg.ErrNoWarrant). It may be called while another method runs. An
	// error leaves open which deadline counts, this one or the one before;
	// errors.ErrUnsupported says that there is no guard.
	SetDeadline(ctx context.Context, left func() time.Duration) error
}

// Gatekeeper opens the read gate. A server started or promoted as a primary
// admits only its controller and replication until OpenGate.
type Gatekeeper interface {
	OpenGate(ctx context.Context) error
}
