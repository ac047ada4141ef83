// Package dcs is the vocabulary of a distributed configuration store: a small,
// linearizable key-value store with guarded transactions, sessions that keys
// can be bound to, and watches. It is what the locks, elections and records of
// package ha are built on; dcs/memory, dcs/etcd and dcs/zk implement it.
//
// # Model
//
// A key names a value, the revision of its last write and the revision of its
// creation. A key may be bound to a session and then disappears with it. All
// writes go through Commit: every guard holds and every operation is carried
// out, or nothing is.
//
// # Outcomes have three values
//
// A write is done (nil), surely not done (ErrConflict, ErrUnavailable,
// ErrSessionLost, ErrInvalid, ErrClosed), or unknown (ErrAmbiguous). An
// unknown outcome is not a failure: the write may have landed, or may still
// land later. Whoever builds on the key afterwards first writes it again,
// guarded by the revision just read, so that the lost write can no longer
// land. A read that fails says nothing about the key: an error is never
// "empty".
//
// # The caller's duties
//
// No method retries behind the caller's back. No method decides when a lease
// has ended: a backend supplies one-shot calls, and all timing lives in
// ha.Locker, written once. A Watch is a hint to look again, never proof.
//
// Every implementation is safe for use by several goroutines at once.
package dcs
