// Package dcs is the vocabulary of a distributed configuration store: a small,
// linearizable key-value store with guarded transactions, sessions that keys
// can be bound to, and watches. It is what the locks, elections and records of
// package ha are built on; dcs/memory, dcs/etcd and dcs/zk implement it, and
// dcs/dcstest holds implementations to what is promised here.
//
// # Model
//
// A key names a value, the revision of its last write and the revision of its
// creation. A key may be bound to a session and then disappears with it. All
// writes go through Commit: every guard holds and every operation is carried
// out, or nothing is. The usual single writes are functions on top of that:
// Create, CompareAndSwap, Put, Delete, and Record for values of a Go type.
//
// # Outcomes have three values
//
// A write is done (nil), surely not done (ErrConflict, ErrUnavailable,
// ErrSessionLost, ErrInvalid, ErrClosed), or unknown (ErrAmbiguous). An
// unknown outcome is not a failure: the write may have landed, or may still
// land later. Whoever builds on the key afterwards first writes it again,
// guarded by the revision just read, so that the lost write can no longer
// land; Settle does that. A read that fails says nothing about the key: an
// error is never "empty".
//
// # What is promised
//
// Every promise is the weakest statement that is true of all stores that this
// package is made for: etcd, ZooKeeper and one inside the process, and those
// that may come, which are Consul, DynamoDB and Kubernetes. A caller that
// relies on no more than this can change the store. What each method promises
// stands at the method. In addition:
//
//   - Commits are linearizable, and so are Get and each single key of a List.
//   - A key's revisions only grow, also through deletion and re-creation. That
//     makes Created a fencing token. Revisions of different keys must not be
//     compared: some stores count for each key.
//   - What one transaction guards and writes should lie in one folder of two
//     segments, /namespace/cluster/. A store that keeps a cluster in one object
//     refuses other transactions with ErrInvalid.
//   - At least 64 guards and operations, and 256 KiB of keys and values, fit into
//     one transaction. More may be refused with ErrInvalid, and then the error
//     says how much it was and what the limit is.
//   - A session outlives its TTL, never the reverse: no transaction of anybody
//     else finds a bound key absent before the TTL has passed since the last
//     success was sent, by a clock whose rate is true. Where a store has no
//     clock of its own (DynamoDB, Kubernetes) contenders judge by theirs, so
//     the caller allows for an error of rate on both sides; ha.Locker does. How
//     much longer the key stays is not promised at all: it may be as much again.
//   - A watch is a hint to look again. It may skip states, come late, and miss
//     the fact that a key was absent in between (compare Created). It does not
//     go back, and it does not end by itself.
//
// # What is not promised
//
// That a list of keys is a snapshot; that a key which Get shows is still there
// when the call returns; that a session still lives because it was renewed a
// moment ago; that a store which has been restored from a copy says so: a
// revision lower than one seen before is the sign of it, and it is the caller's
// to remember.
//
// # The caller's duties
//
// No method retries behind the caller's back, with one exception: what a server
// refused for its login before doing anything is sent again with a new login.
// Each call is bounded by its context alone: give it a deadline. No method
// decides when a lease has ended: a backend supplies one-shot calls, and all
// timing lives in ha.Locker, written once. Keys obey ValidateKey.
//
// Every implementation is safe for use by several goroutines at once, and
// leaves no goroutine behind after Close.
package dcs
