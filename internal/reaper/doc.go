// Package reaper adopts and reaps orphans: processes whose parent has ended
// before them, such as the backends of a killed postmaster.
//
// A process that has started a Reaper is their subreaper: they become its
// children, not those of process 1, and when they end they are reaped within
// milliseconds. That matters twice. In a container process 1 may reap late or
// never, and who waits until "no process of the old server is left" should not
// wait for process 1.
//
// The reaper never steals the exit status of a child that the process started
// itself through os or os/exec: the Go runtime holds a pidfd for each of those
// from the moment it exists until Wait has returned, and what has a pidfd in
// this process is left alone. Nothing has to be registered, so a library may
// start processes without knowing of the reaper. Where the kernel has no
// pidfds (before Linux 5.4) Start refuses, and orphans go to process 1 as
// usual.
package reaper

import "errors"

// ErrUnsupported says that this system cannot do it; orphans are then left to
// process 1.
var ErrUnsupported = errors.New("reaping orphans is not possible here")

// Config configures a Reaper. The zero value is usable.
type Config struct {
	// Reaped, if set, is called for each orphan after it has been reaped, from
	// the reaper's goroutine. It must not block.
	Reaped func(pid int)
}
