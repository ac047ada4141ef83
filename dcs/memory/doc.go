// Package memory is a distributed configuration store inside one process: a
// Cluster is the authority, and each Client of it is a connection as a node
// would have one.
//
// It is exact rather than fast. Every call is carried out at one instant, under
// one lock, in the order of arrival; nothing depends on the order of a map, and
// no goroutine is started except by the clock and by contexts that end. So it
// runs inside a testing/synctest bubble, where a run repeats itself.
//
// # Time
//
// Sessions expire by the cluster's clock, which thereby is the authority's
// clock. The clients' own clocks do not matter here: a node with a wrong clock
// is made by giving the node, not the cluster, another one. Config.Linger lets
// the authority expire sessions late, Cluster.Expire early.
//
// # Faults
//
// A healthy store is all that this package is. Delay, loss, unknown outcomes,
// writes that land after their caller has given up, and stale watches are made
// outside, by a dcs.Store that wraps a client: calls here never block, so a
// wrapper decides alone when each leg of a call takes place.
package memory
