// Package pgctl controls one real PostgreSQL server (13 or later) on this
// machine: Controller makes its data directory, starts and stops it, points it
// at an upstream, fences, promotes, rewinds and clones it, and says how it is.
// It decides nothing: package ha does, through its interface
// PostgresController, which Controller satisfies.
//
// # Processes
//
// How the server's process is run is exchangeable. By default the controller is the
// postmaster's parent: it starts the binary postgres itself and waits for it, so
// the end of a server is an event and not the result of a poll. A server that
// outlived its controller is found again by postmaster.pid; its end is an event too
// (on Linux, by a pidfd; elsewhere it is polled). With Config.Commands somebody
// else is the parent, for example systemd, and the controller treats every server
// like one that it has found.
//
// With Config.Guard the parent is pghad-guard, a small program that holds the
// deadline until which the server may run writable (SetDeadline) and stops it when
// that passes. Guard and server outlive the controller; the next one finds both
// and goes on. When the guard dies, the server is stopped: by the kernel, and by
// the controller if there is one. One guard serves one life of the server and ends
// with it.
//
// A server counts as gone when no process of it is left, because backends
// outlive a killed postmaster by some milliseconds and can still write; processes
// are found by their working directory, which is the data directory for all of
// them. Zombies are dead.
//
// # Configuration
//
// The controller owns postgresql.conf, pg_hba.conf and pg_ident.conf in the data
// directory and writes them again at each change. The postgresql.conf that was
// there first is kept as postgresql.base.conf and included at the top; then come
// the user's parameters (Config.Parameters), then the managed ones, which
// therefore win. ALTER SYSTEM would win over all three: managed names are
// removed from postgresql.auto.conf at each write. What is in force is known by
// a revision number that is written as a setting of its own and read back in a
// new session, never by the success of a reload. A change that was cut off, with
// its context or with the life of the controller, is ended by the next change, and
// by SyncView before it says anything: no setting comes into force behind the back
// of who has just seen another one.
//
// restore_command is always empty: a voter must not get WAL that its fence does
// not see, and PostgreSQL 13 could not change it without a restart.
//
// # Access
//
// The controller connects over the unix socket by peer authentication, mapped
// from its operating-system user. The replication role (password, over TCP) may
// stream from every server at any time and run pg_rewind against it. Everybody
// else is admitted by Config.HBA, and only while the gate is open. A standby
// started by StartStandby has its gate open: it serves reads of what it has
// replayed. StartPrimary and Promote close it first.
//
// # What survives what
//
// Config.StateDir holds what must outlive a crash of the controller and must
// not come with a copy of another server's data: the settings in force, the
// passfile, notes of an unfinished initdb, rewind, clone or promotion. The next
// operation repairs what an interrupted one left: an unfinished clone is undone
// (the old data is still complete), an unfinished rewind is refused with
// pg.ErrIncompleteCopy until a clone has replaced it, a placeholder history file
// is removed.
package pgctl
