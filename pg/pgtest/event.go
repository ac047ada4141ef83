package pgtest

import (
	"fmt"
	"slices"
)

// Event is something that a process of a server, or the network, may do next. It
// is a value and its own identity: the same thing that waits to be done is the
// same Event, until it has been fired or can no longer happen.
type Event struct {
	Node    string // where it happens
	Process string // "postmaster", "startup", "sender b.1#2", ...
	Action  string // "reload", "ship", ...
}

// String is for plans and traces.
func (e Event) String() string { return e.Node + "/" + e.Process + "/" + e.Action }

// The actions that wait for time to pass, not for work to be done. A simulator
// gives them the longer delays.
const (
	actionWake       = "wake"             // wal_retrieve_retry_interval is over
	actionTimeout    = "timeout"          // of a connection, or of the attempt to make one
	actionCheckpoint = "timed checkpoint" // by time or size
	actionStatus     = "status"           // wal_receiver_status_interval is over
	actionShipPart   = "ship part"        // WAL up to the middle of a record
	actionFlush      = "flush"            // of WAL
)

// Timer reports whether the event waits for time rather than for work.
func (e Event) Timer() bool {
	switch e.Action {
	case actionWake, actionTimeout, actionCheckpoint, actionStatus:
		return true
	}
	return false
}

// Rare reports whether the event is an alternative to another one that is
// enabled with it: an incomplete record on the wire, for example.
func (e Event) Rare() bool { return e.Action == actionShipPart }

// agenda collects what may happen next, and fires one of it.
type agenda struct {
	node  string
	found []Event
	wanted,
	fired bool // whether one event is looked for, and was found
	event Event
}

// may says that a process may do something now.
func (a *agenda) may(enabled bool, process, action string, act func()) {
	if !enabled || a.fired {
		return
	}
	e := Event{Node: a.node, Process: process, Action: action}
	if !a.wanted {
		a.found = append(a.found, e)
		return
	}
	if e == a.event {
		a.fired = true
		act()
	}
}

// Enabled is everything that may happen next, in an order that depends on the
// state only.
func (c *Cluster) Enabled() []Event {
	return look(c, func() []Event {
		var found []Event
		for _, s := range c.servers {
			a := agenda{node: s.Name, found: found}
			s.events(&a)
			found = a.found
		}
		return found
	})
}

// Fire lets one event happen, and reports whether it was enabled.
func (c *Cluster) Fire(e Event) bool {
	a := agenda{node: e.Node, wanted: true, event: e}
	c.mu.Lock()
	if s := c.server(e.Node); s != nil {
		s.events(&a)
	}
	if a.fired {
		c.steps++
	}
	step := c.steps
	c.mu.Unlock()
	if a.fired && c.cfg.OnStep != nil {
		c.cfg.OnStep(step, e.String())
	}
	return a.fired
}

// Quiet accepts every event that is neither a timer nor rare: what a cluster
// does by itself in no time.
func Quiet(e Event) bool { return !e.Timer() && !e.Rare() }

// settleLimit is how many events Settle fires before it takes the rest for an
// endless loop.
const settleLimit = 100_000

// Settle fires the enabled events that accept takes, one after another, until
// none is left; nil means Quiet. It panics when that has no end. It returns how
// many events it has fired.
func (c *Cluster) Settle(accept func(Event) bool) int {
	if accept == nil {
		accept = Quiet
	}
	for fired := 0; ; fired++ {
		enabled := c.Enabled()
		i := slices.IndexFunc(enabled, accept)
		if i < 0 {
			return fired
		}
		if fired == settleLimit {
			panic(fmt.Sprintf("pgtest: %d events and no end: still %v", fired, enabled[i]))
		}
		c.Fire(enabled[i])
	}
}
