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
// What the model does was seen on PostgreSQL 15, or stands in its source. Each rule
// is a constant of type Rule and can be switched off; then whatever rests on it has
// to fail, and the recipe that pins it does: see below.
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
//	X4  commits wait once the checkpointer has read the setting, also after a promotion;
//	    one that is there when the server starts is in force at once: server.launch
//	X5  a promotion takes the number above the highest history file, without gaps: disk.newest
//	X6  what was received is forgotten with the server; replay begins behind it: process.received
//	X7  a receiver reports as flushed what was replayed, whosever it was: newReceiver
//	X8  walsenders may show a setting that no commit waits for yet: checkpointer
//	X9  a cascaded standby goes on across its upstream's promotion: sender.promotionEvents
//	X12 a local commit returns while others wait: SelfCheck
//	X13 a history file from the past keeps the server from starting: disk.refuses
//	X14 one from the future keeps it from following, until a restart: startup.rescan
//	C4  names have no case; FIRST counts the first; cascaded ones never: RuleCascadedNeverCounts
//	C6  remote_apply waits for replay, on for the flush: syncRep.releasedFor
//	C9  half a record is received, never replayed: wal.partial; a receiver asks for the
//	    segment from its beginning: requestReceiver
//	C10 the control file lags behind a promotion: RuleLateCheckpoint
//	C11 a promotion can be cut off between any two of its steps: promotionStep
//	C12 twin timelines with equal records flow into each other: follows
//	C13 a standby past the fork streams up to it, never further, and acknowledges what
//	    it does not hold: startable, rescan
//	C14 pg_rewind wants a clean target and believes control files: planRewind
//	C15 recovery without standby.signal ends on the timeline at hand: recoveryLineage
//	C17 children outlive a killed postmaster for a moment: process.postmasterEvents
//	C18 a frozen postmaster admits nobody and disturbs no session: Controller.answers
//	C19 nobody is admitted before recovery has ended: process.starting
//	C20 WAL that nobody holds is removed, and what exceeds a slot's limit: removeWAL
//	C21 a server that can make no WAL file ends, as a standby only its receiver does; a
//	    commit is answered when it is durable at home: process.flush, receiver.receive
//	C22 a base backup ends with its source's server; half of it never starts: clone
//	C23 a query can hold up replay, and a promotion with it: startup.held
//	C24 a standby passes on what it has received, replayed or not: process.available
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
// commands, recovery targets, a disk that is full elsewhere than in pg_wal. How long a
// record is, in bytes, the model does not claim to know: of two servers on different
// timelines it may hold another one for the longer.
//
// # What the model promises
//
// It may do everything that a real server does, as far as a client, a controller or
// an administrator can see: states and roles, timelines, the order of positions,
// what each commit's client was told, who sees which row, who counts as
// synchronous, and how each operation ends. It need not do the same each time: for
// whatever several processes do at once it knows all orders, Fire takes one. It does
// not promise to do nothing else: the less it does that no server would, the better,
// and each rule has a recipe that notices when it is missing.
//
// # The conformance suite
//
// Run holds servers to that, whoever controls them. A recipe is a text in
// testdata/conformance: what is done to the servers, step by step, and what must be
// seen.
//
//	# C7. Who asks for local is acknowledged with no standby at all.
//	rule P5
//	servers n1 n2
//
//	sync n1 ANY 1 (n2)
//	stop n2 fast
//	commit w1 on n1 at local
//	see commit w1 = acked
//	commit w2 on n1
//	keep commit w2 = waiting
//
// A step is an action, after "->" its outcome if that is not "ok" ("any" leaves it
// open), "begin" in front of one that the script does not wait for ("end" does, or
// "abort" cuts it off); or a look: "see" waits until it is so, "keep" then sees to it
// that it stays so, "note" takes it as it is. Outcomes are the errors on which callers
// branch. "rule" names what the recipe pins, "model" says that no real server can be
// made to do it. The first server is the primary, the others are its standbys. A line
// that is none is answered with all actions, or all looks, that there are.
//
// A recipe is played on the servers of a Factory. What it says must be seen, and what
// was seen, its trace, must be possible on the model: schedules are searched for one
// that shows the same. The traces of PostgreSQL 15 are kept beside the recipes. Tests
// of this package see to it that the model allows all of them; that without a rule it
// does not allow those of the recipes that pin it; and that on the model itself every
// recipe holds in many orders of events.
//
//	go test ./pg/pgtest -run TestConformance                   # on the model
//	go test ./pg/pgctl -run TestConformance                    # on real servers
//	go test -v ./pg/pgctl -run TestConformance/C12             # one recipe, with its trace
//	go test -timeout 0 ./pg/pgctl -run TestConformance -args -full             # gigabytes and minutes
//	go test -timeout 0 ./pg/pgctl -run TestConformance -args -scripts 100      # random scripts; -first SEED
//	go test ./pg/pgctl -run TestConformance -args -record ../pgtest/testdata/conformance
//
// The last one takes what is seen for what the model is held to from then on: read the
// difference before it is committed.
//
// # Your own controller
//
// Whoever has written a controller of PostgreSQL implements Servers around it, and
// plays the recipes:
//
//	func TestConformance(t *testing.T) {
//		pgtest.Run(t, func(t *testing.T, names []string) pgtest.Servers {
//			return newServers(t, names) // machines without a running server
//		}, pgtest.AtOnce(8))
//	}
//
// Control is what its methods have to mean: the contract of
// ha.PostgresController, of which the suite uses the most part. Faults, Operator,
// Clients and Witness go past the controller, to processes, files and sessions of the
// servers; the tests of pg/pgctl have them for servers on one machine, whose
// connections run through links that can be cut, and can be taken over as they are.
// Servers must be configured as the recipes expect it:
//
//   - segments of 1 MB (initdb --wal-segsize=1), data checksums, wal_keep_size 0,
//     no checkpoint but on request (checkpoint_timeout 1h, max_wal_size 8GB),
//     max_standby_streaming_delay -1, wal_receiver_status_interval 1s,
//     wal_retrieve_retry_interval 100ms, restart_after_crash off;
//   - a table rows(id text) that the clients' role may write, and nothing in it.
//
// A method that cannot do what it is asked returns an error, and the recipe that needs
// it fails; leave recipes out with go test's -skip.
package pgtest
