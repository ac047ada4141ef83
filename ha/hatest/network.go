package hatest

import (
	"time"
)

// Network is how the network of a world behaves while nothing is cut. The zero
// value is a good network.
type Network struct {
	// Latency of one leg of a call to the store, and of its news: spread between
	// the two; default 0.2 to 2 ms. One leg in a hundred takes up to Tail.
	LatencyMin, LatencyMax, Tail time.Duration
	// Loss is the chance that a request or a reply is lost. Half of the lost
	// requests arrive later, when nobody waits for them any more.
	Loss float64
	// Stale is the chance that a watch delivers a state that is already old.
	Stale float64
	// Peers, where not zero, is the longest that one leg takes between two agents.
	Peers time.Duration
}

func (n Network) defaults() Network {
	if n.LatencyMin == 0 {
		n.LatencyMin = 200 * time.Microsecond
	}
	if n.LatencyMax == 0 {
		n.LatencyMax = 10 * n.LatencyMin
	}
	if n.Tail == 0 {
		n.Tail = 10 * n.LatencyMax
	}
	return n
}

// link is one direction between two machines.
type link struct{ from, to string }

// latency is how long one leg takes.
func (w *World) latency(leg string, id digest) time.Duration {
	n := w.cfg.Network
	roll := w.network.of(leg, id)
	if w.network.of("tail", id).chance(0.01) {
		return roll.spread(n.LatencyMax, n.Tail)
	}
	return roll.spread(n.LatencyMin, n.LatencyMax)
}

// peerLatency is how long one leg takes between two agents.
func (w *World) peerLatency(leg string, id digest) time.Duration {
	if longest := w.cfg.Network.Peers; longest > 0 {
		return w.network.of(leg, id).between(w.cfg.Network.LatencyMin, longest)
	}
	return w.latency(leg, id)
}

// Cut cuts the link from one machine to another, one way. It must be called as
// often to Heal. The store's machine is called "dcs".
func (w *World) Cut(from, to string) { w.cuts[link{from, to}]++ }

// Heal takes back one Cut.
func (w *World) Heal(from, to string) {
	l := link{from, to}
	if w.cuts[l]--; w.cuts[l] <= 0 {
		delete(w.cuts, l)
	}
}

// Reachable reports whether what one machine sends arrives at another one.
func (w *World) Reachable(from, to string) bool {
	return from == to || w.cuts[link{from, to}] == 0
}

func (w *World) storeReachable(from, to string) bool {
	return w.storeDown == 0 && w.Reachable(from, to)
}

// storeRefuses reports whether a request is refused at once, as a connection
// to a port on which nobody listens is.
func (w *World) storeRefuses(from string, id digest) bool {
	if w.storeDown == 0 || !w.Reachable(from, storeHost) {
		return false
	}
	return w.network.of("refused", id).chance(0.5)
}
