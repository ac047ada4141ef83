// Package ha is PostgreSQL high availability in pieces that work alone, and the
// Node that joins them.
//
//   - Locker and Lease hold a named lock with a fencing token and a local deadline.
//   - QuorumTracker keeps synchronous_standby_names and the recorded quorum in
//     step on a primary, in the only safe order.
//   - Elector fences, votes and names the most advanced node when the leader is
//     gone. It also gives the recorded primary, which never stopped, its office
//     back after the store was away.
//   - SwitchoverCoordinator moves the primary to another node on purpose.
//   - Operator is what people ask of a cluster: a switchover, maintenance.
//   - Peers asks other nodes directly; package ha/api has it over HTTP.
//   - Node is one node of a cluster: it looks, decides what it is to be, does
//     one thing, and looks again.
//
// What they need from outside are interfaces: dcs.Store for the distributed
// configuration store, PostgresController (a union of small interfaces) for the
// local server, Disk for what a node must not forget. This package imports no
// implementation of them.
//
// # The promise
//
// In quorum mode, with synchronous_commit at on or above, a commit that was
// acknowledged to a client is never lost by an automatic action, whatever the
// timing: pauses, clock errors, partitions, crashes, restarts, faults of the
// store. It rests on the quorum of copies, not on clocks: every acknowledged
// commit is on w = k+1 nodes of the recorded set D, an election needs fenced
// votes of R = |D|-w+1 nodes of D, and two such sets share a node. Leases are
// for availability and for reads.
//
// # Warrants
//
// A server runs writable on a warrant only. That is the lease of `leader`; or,
// while the store does not renew it, the promises of k members of the recorded
// quorum not to fence for a while, without whom no election can be won; or
// maintenance. Both are counted from before they were asked for. When the last
// one ends the server is stopped at once. A warrant of promises writes no record.
//
// The promise does not cover: a client that cancels a commit while it waits
// (PostgreSQL then reports success for a local commit, and database drivers
// send a cancel when a context expires), sessions that lower
// synchronous_commit, and a store that was restored to an older copy without
// its nodes noticing.
//
// # The caller's duties
//
//   - One Node per data directory, one data directory per node name.
//   - The Disk survives what the data directory survives, and is not on it.
//   - The store is linearizable, as dcs.Store demands.
//   - Node.Promise is served to the other nodes, and NodeConfig.Peers reaches it;
//     without both a primary stops when the store is away for a lease.
//   - All nodes of a cluster have the same Timing. Margin is as long as an
//     immediate stop of the server takes.
//   - Nobody else writes the managed settings of the server, promotes it, or
//     starts it.
//
// # Decisions and effects
//
// What is decided is in the packages below this one (quorum, election, rejoin,
// role, switchover): pure functions from what was observed to what should be done. What is
// here gathers the observation, carries out one step, and asks again before
// each step that cannot be undone. After a crash at any point the next look
// derives the same next step from the records, the server and the disk.
package ha
