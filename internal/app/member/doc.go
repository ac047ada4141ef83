// Package member runs a node's part of the embedded store: one member of an etcd
// that consists of the nodes themselves, so that three machines need nothing else.
//
// A member is a process of its own (Run), started by the agent and started again
// when it ends (Start). It lives as long as the agent: it ends when its standard
// input does, whatever has ended the agent, and not by the signals that end an
// agent in order, which needs the store to let go of its locks.
//
// Which members there are is fixed when the cluster is made. One that has lost its
// data is put back by an operator with etcd's own tools.
package member
