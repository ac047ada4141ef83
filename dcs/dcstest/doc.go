// Package dcstest is the conformance suite for implementations of dcs.Store:
// ours, and other people's.
//
//	func TestConformance(t *testing.T) {
//		dcstest.Run(t, dcstest.Harness[*cluster]{
//			New:    func(t *testing.T) *cluster { ... },
//			Traits: dcstest.Traits{MinTTL: time.Second, Linger: 5 * time.Second},
//		})
//	}
//
// Each case proves one clause of the contract in package dcs. When it fails it
// says in one sentence what that means for a user. The suite gives no false
// alarms, and may miss a fault; run it with -race and repeatedly.
//
// # Traits and abilities
//
// What the backends honestly differ in is declared as Traits. Cases that break
// something need a Cluster that can do so: Partitioner, ReplyDropper, Pauser,
// LeaderKiller, FollowerKiller, SessionExpirer and Compacter are interfaces that
// a Cluster may implement. Where one is missing, its cases are not registered,
// and the log of the test says at its end what was left out. Those that pause,
// kill or compact run one at a time, and mend what they have broken, so that one
// backend may serve the whole suite; all others run at the same time, as far as
// -parallel permits, with clients and keys of their own. There may be keys of
// others in the backend too.
//
// With Harness.Lock the suite also runs whatever locks are made of the store
// (ha.Locker, say) under each of these faults, and looks for two holders at once
// in true time.
//
// # Tools
//
// The package has what the suite is made of, for tests of whoever uses a store:
// Faulty is a store whose calls fail, hang, come late, come twice, or lose their
// reply; Link is a path to a store that can be cut and healed; Terms finds two
// holders of a lock at one instant; Memory is a backend in this process that has
// nearly all abilities, and runs in a testing/synctest bubble.
package dcstest
