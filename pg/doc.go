// Package pg is the vocabulary of PostgreSQL replication: positions (LSN,
// Timeline, Position), lineage (Switch, History, Lineage), the synchronous
// setting (SyncSetting), what a server says of itself (Status), where to find
// another one (Upstream, Conninfo), the right to run writable (Warrant), and what
// can be in the way (FaultError). It holds
// values and their text forms only: pg/pgctl controls a real server, package
// ha decides.
//
// # Positions
//
// An LSN is a position in bytes of WAL and means something only together with
// the timeline of the WAL that is held: LSNs of different lineages are never
// compared. Position carries both, Lineage.Contains decides whether a position
// lies on a server's history.
//
// # Health has three values
//
// Alive, dead, unknown. "Does not answer" is not "does not write": a server
// whose postmaster is stopped still commits on open sessions.
package pg
