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
// postgresql.conf is the user's. The controller adds one line to it, the last one,
// which includes pghad.conf: the user's parameters (Config.Parameters), then the
// managed settings, which therefore win. Whatever is added below that line, and
// whatever file takes the place of the user's, is brought above it at the next write.
// Sizes and defaults of ours stand back behind good ones in the user's file, but not
// behind those in files that it includes. The other ways were worse: a file of ours
// given by config_file leaves the user's untouched, but a server started by somebody
// else, by the user's unit or by hand, would run without anything that is managed, and
// a primary without its synchronous setting; and values on the command line win over
// everything, but can be changed by a restart only, and have no place in a unit either.
// A copy of the data that is taken elsewhere does not start without the file.
//
// ALTER SYSTEM would win over all of them: managed names are removed from
// postgresql.auto.conf at each write, and with them what nobody may choose (fsync =
// off). What is overridden all the same while the server runs, Status shows, logs, and
// puts in force again. pg_hba.conf and pg_ident.conf are the controller's as a whole,
// because the gate is: rules of the user's own come from Config.HBA and Config.Ident,
// and where they lie only a restart could change.
//
// A copy brings the files of another server: its own are kept outside the data
// meanwhile and put back, and pghad.conf is written anew before the first start. A
// directory whose postgresql.conf is a generated one that includes
// postgresql.base.conf, as an earlier version had it, is converted at the first write:
// the user's text becomes postgresql.conf again.
//
// What is in force is known by a revision number that is written as a setting of its
// own and read back in a new session, never by the success of a reload. A change that
// was cut off, with its context or with the life of the controller, is ended by the
// next change, and by SyncView before it says anything: no setting comes into force
// behind the back of who has just seen another one.
//
// The user's parameters are tried with the server's own program when a controller is
// made: one that PostgreSQL does not take would keep every later change from coming
// into force.
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
// With Config.MonitorUser Status asks as a role without superuser's rights
// (MonitoringRole has the SQL). Sessions of the controller that are given up are
// closed; a request to cancel is never sent, because PostgreSQL would acknowledge a
// commit by it.
//
// # Archive
//
// Config.Archive is the only way to archive WAL: an archive_command in the user's
// file has no effect, and that is logged. The command runs behind a permission,
// a file in the state directory that exists while the server is a primary whose gate
// is open and that nobody has told to stop; under a guard it ends with the deadline.
// Without permission the archiver ends, so that it holds up no shutdown, and
// PostgreSQL starts it anew after ten seconds. After a promotion the WAL before it,
// as far as it is still there, and the histories of the ancestors are archived again:
// a standby takes for archived what it has received. Placeholder history files never
// are.
//
// # How a cluster begins
//
// Init runs initdb, Restore fills the directory by the user's command and recovers it
// to a point in time on a timeline of its own, Adopt takes in the data of a server
// that somebody else has run. Each happens on request only, refuses a directory that
// is not what it expects, and can be called again after a crash.
//
// # What is in the way
//
// Errors that a person has to put right are a *pg.FaultError: they name the file or
// the address and what to do, under one of the kinds of package pg. Nothing is
// destroyed by an operation that returns one. A clone replaces the data of the same
// cluster only, or an empty directory, and only after the copy has been found to be
// of the right version and system. Rewinds and clones that fail again and again are
// bounded by Config.Rejoin.
//
// A rewind is refused as pg.ErrRewindImpossible while the data is whole, if the WAL that
// its recovery would need is neither on the source nor left here by pg_rewind, or if the
// source has a tablespace that is not here. pg_basebackup puts tablespaces where they
// are on the source; where something lies there, which may be the former copy's, a clone
// is refused.
//
// # What survives what
//
// Config.StateDir holds what must outlive a crash of the controller and must
// not come with a copy of another server's data: the settings in force, the
// passfile, notes of an unfinished initdb, restore, rewind, clone or promotion, whose
// data it is, which copies have failed, which slots were asked for. The next
// operation repairs what an interrupted one left: an unfinished clone is undone
// (the old data is still complete), an unfinished rewind is refused with
// pg.ErrIncompleteCopy until a clone has replaced it, a placeholder history file
// is removed.
//
// A controller may be killed between any two of its effects (Effects): the next one
// comes to the same end. Programs that it runs on the data, such as pg_rewind, end
// with it on Linux; elsewhere they keep the next controller away until they have
// ended, by the lock that they hold.
//
// # Versions
//
// PostgreSQL 13 to 18. Everything is tested on 15; what needs neither pg_rewind nor
// pg_basebackup is tested on 13, 14, 16, 17 and 18 by scripts/postgres-versions.
package pgctl
