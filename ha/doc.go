// Package ha is PostgreSQL high availability in pieces that work alone:
// Locker, QuorumTracker, Elector, and Node, which joins them.
package ha
