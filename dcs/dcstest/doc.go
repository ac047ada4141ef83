// Package dcstest is the conformance suite for implementations of dcs.Store:
// ours, and other people's.
//
//	func TestConformance(t *testing.T) {
//		dcstest.Run(t, dcstest.Harness{
//			New:    func(t *testing.T) dcstest.Cluster { ... },
//			Traits: dcstest.Traits{MinTTL: time.Second, Linger: 5 * time.Second},
//		})
//	}
//
// Each case proves one clause of the contract in package dcs. When it fails it
// says in one sentence what that means for a user. The suite gives no false
// alarms, and may miss a fault; run it with -race and repeatedly.
//
// What the backends honestly differ in is declared as Traits. Cases that need
// to break something (the network, a server, a session) ask the Cluster for
// that ability by a type assertion; a backend that lacks it skips them, loudly.
//
// Every case keeps to keys of its own, so one backend may serve all of them at
// once, also with keys of others in it.
package dcstest
