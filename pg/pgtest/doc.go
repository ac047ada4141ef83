// Package pgtest is a model of PostgreSQL servers in memory: as much of their
// replication as decides whether a commit can be lost. Whoever builds high
// availability on PostgreSQL runs it on the model, under any schedule, with any
// process stopped or killed between any two steps, and asks the model what is
// true afterwards.
//
// # A world without time
//
// Cluster is passive. It has no goroutine, no clock, no randomness and takes no
// order from a map. What processes and wires may do next is listed by Enabled,
// as Events with stable identities; Fire lets one of them happen. A simulator
// chooses which and when; a script fires all by Settle. So one sequence of
// choices is one history, always.
//
// The work of an agent goes through a Controller, which has the methods of
// ha.PostgresController. It does its work as a sequence of named effects, each
// of which a Runner lets pass, delays, or refuses for ever, as when the agent
// dies; and waits by asking its Runner to tell it when a condition holds. What
// the server was told goes on by events, whatever becomes of the agent.
//
// Faults are methods of Cluster: Freeze and Thaw of single processes,
// KillPostmaster, KillBackend, CrashNode, LoseDisk, Image and Restore,
// PauseReplay, AddReceiver, WriteHistory. The network is Config.Reachable, asked
// for each direction. A machine that is off is one that nobody reaches.
//
// # Ground truth
//
// Each WAL record has an identity that no server can see. Log, Contains and
// Visible tell what a server really holds and shows, Ledger what each client was
// told, and when; Config.OnStep is called after every step, for oracles.
//
// # Rules
//
// What the model does was seen on PostgreSQL 15, or stands in its source. Those
// with a constant of type Rule can be switched off; then whatever rests on them
// has to fail.
//
//	P1  a cancelled wait for standbys says success: Session.Cancel
//	P2  a terminated one says nothing, and the row is visible: Session.Close
//	P3  after a restart every flushed commit is visible: finishCrashRecovery
//	P4  who waits is hidden on the primary and may be visible on a standby: Visible
//	P5  synchronous_commit belongs to the session: Session.SetLevel
//	P6  remote_write does not survive the standby's machine: CrashNode
//	P7  emptying the setting releases everybody as a success: syncRep.define
//	P8  a walsender counts by its own copy of the setting: RuleOwnCopy
//	P11 a standby that catches up releases nobody: syncRep.candidates
//	P12 walsenders of one name count separately: RuleNamesCountTwice
//	P13 promotion first replays everything in pg_wal, and (P14) ends a pause of replay
//	P20 a fast stop ships everything, and waits for frozen receivers: sender.finished.
//	    A full connection, or a frozen walsender, keeps even the shutdown checkpoint
//	    from being written: senderDeaf. SIGTERM ends a walsender with a full connection
//	P26 slots are not in the WAL: takeCopy
//	X1  only the startup process stops a receiver, when it next asks for WAL: RuleReceiverOutlivesReload
//	X2  a connecting receiver is not shown, and can come through: Status, Server.Receiving
//	X4  commits wait once the checkpointer has read the setting, also after a promotion
//	X5  a promotion takes the number above the highest history file, without gaps: disk.newest
//	X6  what was received is forgotten with the server; replay begins behind it: process.received
//	X7  a receiver reports as flushed what was replayed, whosever it was: newReceiver
//	X8  walsenders may show a setting that no commit waits for yet: checkpointer
//	X9  a cascaded standby goes on across its upstream's promotion: sender.promotionEvents
//	X12 a local commit returns while others wait: SelfCheck
//	X13 a history file from the past keeps the server from starting: disk.refuses
//	X14 one from the future keeps it from following, until a restart: startup.rescan
//	C4  names have no case; FIRST counts the first; cascaded ones never: RuleCascadedNeverCounts
//	C9  half a record is received, never replayed: wal.partial
//	C10 the control file lags behind a promotion: RuleLateCheckpoint
//	C11 a promotion can be cut off between any two of its steps: promotionStep
//	C12 twin timelines with equal records flow into each other: follows
//	C13 a standby past the fork streams up to it, never further, and acknowledges what
//	    it does not hold: startable, rescan
//	C14 pg_rewind wants a clean target and believes control files: planRewind
//	C15 recovery without standby.signal ends on the timeline at hand: recoveryLineage
//	C17 children outlive a killed postmaster for a moment: process.postmasterEvents
//	C18 a frozen postmaster admits nobody and disturbs no session: Controller.answers
//	C20 WAL that nobody holds is removed: RuleRetention
//	C22 a base backup ends with its source's server; half of it never starts: clone
//
// A receiver that has reached the end of a timeline waits for the startup process
// and goes on, on its old connection, whatever primary_conninfo says by then
// (walreceiverfuncs.c): only its end makes a fence. What a receiver flushes while
// it ends is read after the startup process's next sleep: a fence sees two.
//
// What IDENTIFY_SYSTEM says of a standby is one answer: its timeline is the one that
// it replays, and received WAL counts only if it is of that: process.available.
//
// A controller's settings are a note, then files, then what the server has read. An
// agent that dies on the way leaves them apart: the next one calls the gate closed,
// and ends the change before it says which setting is in force (SyncView).
//
// Not modelled: SQL, vacuum, logical decoding, tablespaces, archives and restore
// commands, recovery targets, full disks, recovery conflicts.
package pgtest
