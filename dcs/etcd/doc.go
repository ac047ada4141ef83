// Package etcd implements dcs over etcd 3.4 and newer.
//
// Connection, balancing and credentials are those of etcd's client; the calls
// themselves are sent one by one, without the client's retries. What the
// client does beyond that is not used: its concurrency package can report a
// won election to a node that holds nothing, its KeepAliveOnce repeats itself
// without a pause while a server is away, and its watcher hides the loss of
// contact.
//
// # Mapping
//
// A revision is etcd's modification revision, a creation its creation
// revision, a session a lease, with the lease's number in hexadecimal as id.
// A prefix is a range. Reads are linearizable; every call demands that the
// member that answers has a leader.
//
// # Outcomes
//
// A call waits for a connection as long as its context lives. Whether the
// request was handed to a connection is observed, not guessed: what was not
// handed over is surely not done. After that only the server's own words prove
// that nothing was done, and not all of them do: see verdicts. Everything else
// is dcs.ErrAmbiguous.
package etcd
