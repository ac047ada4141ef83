// Package daemon runs one node of a cluster as a process: it makes the pieces
// of the library from a configuration, joins them in an ha.Node, and ends it in
// order when the process is told to stop.
package daemon
