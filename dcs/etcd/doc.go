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
// that nothing was done, and not all of them do: one table (verdicts) says which.
// Everything else is dcs.ErrAmbiguous.
//
// # Renewals
//
// A renewal is a keep-alive with a linearizable read after it, which can be that of
// guards (see dcs.Prover), and counts only if both are answered under the same
// leader. In etcd before 3.4.31 and 3.5.13 a leader that stood still answers a
// keep-alive when it wakes, although others have had another leader meanwhile, who
// knows nothing of it. The same versions let it end leases then that have been
// renewed without it, against which a client can do nothing: where members can
// stand still for long, as virtual machines do, use a newer etcd.
//
// # Several members
//
// All calls go to one member, the first of the endpoints that is connected, until
// it does not answer a call before its context's deadline, or says that it cannot
// serve; then to the next one, and so on in turn. So a member that refuses
// connections is met by no call, and one that is silent (its machine has stopped,
// the network loses everything) by those that are under way, whose outcome is
// unknown. It is the caller's to make them again: nothing is retried here. Watches
// move along.
//
// # Login
//
// With a user name, the first call logs in. A server gives a token that it
// forgets after a while, when it is restarted, and when users or roles are
// changed. A call that is refused for its token has not been carried out; it logs
// in again and is sent a second time, once.
package etcd
