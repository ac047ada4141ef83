// Package quorum is the bookkeeping of synchronous replication as a pure
// function: Next takes what is recorded, what is in force on the primary and
// what the walsenders show, and says the one next step. There is no clock,
// store, SQL, goroutine or randomness in it; ha.QuorumTracker runs it.
//
// # What is kept true
//
// D is the recorded members and the primary, k the recorded number of
// acknowledgements, w = k + 1. At every instant, for every setting (V, K) that
// any walsender still runs by,
//
//	1 + max(0, K - |V \ D|) >= w
//
// so that every acknowledged commit has w copies inside D and any |D| - w + 1
// nodes of D hold one of them. Safe is this inequality.
//
// # Orders
//
// A change that asks less of the record (add a member, lower k) is recorded
// first and then set. A change that claims more of it (remove a member, raise
// k) is set first; then it must be proven that every walsender runs by it, and
// that what was acknowledged before has reached k members of the new set (the
// barrier); only then is it recorded. Members and k never change in one step.
//
// PostgreSQL does not show by which K a walsender runs: ANY 1 and ANY 2 look
// the same. It does show each walsender's priority, by the walsender's own copy
// of the setting. So a claim is proven by a setting under which every listed
// walsender must show another priority than before: FIRST K with names in
// front that no node can have (see Probe), or plain ANY where the walsenders
// showed nothing before.
//
// # Crashes
//
// Whatever is remembered (Progress) may be lost between any two steps. Next
// then goes on from record and setting; it proves again what it cannot know.
//
// # The caller's duties
//
// Ask again before every step: take a new look, call Next, carry out that one
// step, tell Progress. Write the record only under a guard that an older
// writer cannot pass, and nothing on a read while a write of unknown outcome
// may still land. Use the setting only on the server that the record names as
// the primary, and forget Progress when that server was restarted.
package quorum
