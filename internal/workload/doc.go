// Package workload puts clients on a cluster and proves afterwards that none of
// them was lied to. It is written once for the demo, tests, chaos runs,
// benchmarks and examples.
//
// Writers insert unique ids through whichever node takes writes. Each id is in a
// Ledger (a file) before it is sent, and gets one of three outcomes after:
// acknowledged, unknown or failed. PinnedWriters do the same but never change
// node: they are what sees a second writer. After the run Check connects anew to
// every node and compares the rows with the ledger.
//
// A client here never sends a cancel request, also not by an expiring context:
// PostgreSQL ends a commit's wait for its standbys on a cancel and then reports
// success for a commit that only one node has. Time limits are kept by closing
// the socket, and the outcome is then unknown.
package workload
