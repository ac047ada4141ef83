// Package hatest simulates clusters: the code that ships, unchanged and with
// its goroutines, on machines, clocks, disks, a network, a store and PostgreSQL
// servers that exist only in memory. One seed is one schedule: the same seed
// gives the same run, every time, with any GOMAXPROCS, with and without the race
// detector, a few hundred times faster than time passes.
//
// # How it works
//
// A World lives in a testing/synctest bubble. Whatever an agent does that leaves
// its own memory goes through a bus: each leg of a call to the store, news of a
// watch, an effect on PostgreSQL, a save to disk, and the firing of a timer. The
// goroutine waits; one driver lets everything come to rest, takes the one thing
// that is due next, lets it happen, and waits for rest again. When something is
// due follows from a hash of the seed and of what it is, not from the order in
// which things were asked for, so that no race of goroutines shows, and one thing
// taken out of a run leaves the rest as it was.
//
// # Simulating your own agent
//
// Run makes a World with an Agent of yours on each host: any function that
// touches the world through its Env only (Store, Clock, Wall, Rand, Disk,
// Postgres, Peers, Logger), and lets others ask it by Env.Serve. The function
// given to Run drives it: World.Start, World.RunFor, World.RunUntil,
// World.KillAgent, World.Cut, and World.Operate for what operators do. What must
// hold is looked at by the condition of RunUntil, after everything that happens.
//
// An agent's goroutines must end when its context does and its calls fail, must
// not hold a mutex while they wait, and must not let the order of a map, or a
// select over several things that can be ready at once, decide what they
// do. Two goroutines may ask the same at one instant if they do so from different
// places in the code: they are put in order by their stacks.
//
// # Simulating clusters
//
// Simulate runs ha.Node, by a Plan: configuration, and incidents that happen at
// a time or at a crash point. Incidents are faults, and what operators do:
// switchovers, maintenance, servers stopped by hand, rubbish in the records.
// NewPlan draws one from a seed; a Plan is text (ParsePlan), and a failure is
// kept as a Plan, not as a seed. A Plan can expect more than must always hold:
// see Expectation. Clients insert rows, some into whichever server takes them and
// one into each server. After a time everything is healed, and the cluster must
// become well in bounded time.
//
// Oracles look at the model and the store, never at agents:
//
//   - an acknowledged commit is on every later primary;
//   - the newest acknowledged commit is on as many lives of the recorded quorum
//     as the record counts on, at every moment;
//   - a node acknowledges nothing that a newer primary does not have;
//   - no two servers are ever primary of one timeline, and each was reserved;
//   - office is taken with R votes that do not surpass the winner, none of them
//     by a node that still receives, or with the vote of the recorded primary; or
//     it was handed over; or its holder has never stopped: then its server runs;
//   - an office is handed over when no process of the old primary is left and the
//     successor holds all of its WAL; the old primary then follows as it is;
//   - when office is taken no other server serves, unless its agent is dead,
//     disturbed, or has a wrong clock;
//   - who has promised a primary not to vote does not while that counts on it;
//   - in maintenance nobody changes roles, and no agent starts or stops a server;
//   - records are written under the revision that they replace, and what only
//     the leader writes under its token;
//   - when all trouble has ended, one primary, all others stream from it, the
//     quorum is whole, no switchover is open and no maintenance on.
//
// A run that did not become well can be excused, by a predicate over the model
// that has a name. Excuses are counted.
//
// # Commands
//
// A range of seeds, with one line at the end, and a hash of each run with -trace:
//
//	go test -v -timeout 0 ./ha/hatest -run 'TestSimulation$' -args -first 1 -seeds 200
//
// Failures are kept with -save DIR: the plan, a shrunk one, and its transcript.
// One plan, or one seed, with its transcript:
//
//	go test -v ./ha/hatest -run 'TestPlan$' -args -plan FILE
//	go test -v ./ha/hatest -run 'TestPlan$' -args -plan seed:17
//
// Everything in testdata/plans (row-*.plan is the matrix of scenarios of pgconsul's
// tests, as they are meant here), each crash point and each pair of them, the
// planted defects, and the speed:
//
//	go test -v ./ha/hatest -run TestPlans
//	go test -v -timeout 0 ./ha/hatest -run 'CrashPoints' -args -sweep
//	go test -v ./ha/hatest -run TestMutants
//	go test ./ha/hatest -run '^$' -bench Simulation
package hatest
