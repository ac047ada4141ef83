// Package demo is a highly available cluster on one machine with nothing to
// configure: three nodes that are this very program (`run -c FILE`), a
// configuration store, and clients that write and remember what they were
// promised. The store is an etcd that is this very program too, or one or three
// processes of the etcd or of the ZooKeeper that is installed.
//
// Run shows it live, or plays a script: one fault, and a verdict at the end. The
// verdict comes from package workload, which trusts no agent: it compares what
// was acknowledged with the rows on every node. A script may promise more, for
// example that clients notice nothing, or that nobody had to be rewound; what of
// that did not hold is said in the result, and its verdict is broken.
//
// All files are in one temporary directory. It is removed at the end, and so is
// every process, also after an interrupt. If the demo is killed, another child,
// the sweeper, sees its standard input end, waits a moment for the nodes to stop,
// and removes what is left.
package demo
