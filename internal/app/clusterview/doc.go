// Package clusterview turns the records of a cluster into one picture of it,
// for the command line and the demo.
//
// Build is a pure function: it says what the records say, and marks what they
// do not say instead of guessing. The records are self-reported by the nodes
// and sampled at different moments, so a picture is for people and for tests
// that wait for a state; nothing may be decided by it.
package clusterview
