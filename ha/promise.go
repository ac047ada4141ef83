package ha

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
)

// promiser gives promises on behalf of a member: not to fence, and so not to
// vote, until a time. The node's loop says whether it may, requests come from
// elsewhere. It is safe for use by several goroutines at once.
//
// A promise is counted by the clock alone: it stands still while the machine
// sleeps, which makes a promise last longer, never shorter.
type promiser struct {
	clock   clock.Clock
	longest time.Duration
	ask     func() // somebody waits for the loop to make promises possible

	mu      sync.Mutex // never held over anything that waits
	self    quorum.Member
	term    uint64 // whose primary the server streams from, unfenced; 0: no promise is given
	nonce   string
	why     string // no promise is given
	durable bool   // a restart would know that there may be a promise
	wanted  bool   // a request waits for that
	asked   time.Time
	until   time.Time
}

// allow lets promises be given to the primary of a term.
func (p *promiser) allow(self quorum.Member, term uint64, nonce string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.self, p.term, p.nonce, p.why = self, term, nonce, ""
}

// deny lets no more promises be given. Those that were given stay in force.
func (p *promiser) deny(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.term, p.why = 0, why
}

// bound is how long the last promise is still in force.
func (p *promiser) bound() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.until.Sub(p.clock.Now()), 0)
}

// bind makes the node wait as if it had given its longest promise just now: a
// node that was restarted may have, also with another configuration.
func (p *promiser) bind(longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = p.clock.Now().Add(longest)
	p.durable = longest >= p.longest
}

// arm says whether a restart would know of a promise.
func (p *promiser) arm(durable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.durable = durable
	if durable {
		p.wanted = false
	}
}

// disarm takes arm back when no promise is in force and nobody has asked for one
// for a while. It reports whether it has; from then on none is given.
func (p *promiser) disarm() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if p.wanted || p.until.After(now) || p.asked.Add(p.longest).After(now) {
		return false
	}
	p.durable = false
	return true
}

// waiting reports whether a request waits for arm, and armed whether it need not.
func (p *promiser) waiting() (waiting, armed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted, p.durable
}

// promise answers a request.
func (p *promiser) promise(ask PromiseRequest) Promise {
	p.mu.Lock()
	defer p.mu.Unlock()
	no := func(format string, args ...any) Promise {
		return Promise{Member: p.self, Why: fmt.Sprintf(format, args...)}
	}
	switch {
	case p.term == 0:
		return no("%s", p.why)
	case ask.Member != p.self:
		return no("this is %s, and %s was asked", p.self, ask.Member)
	case ask.Term != p.term || ask.Nonce != p.nonce:
		return no("this node follows term %d, and the request is of term %d", p.term, ask.Term)
	case ask.For <= 0 || ask.For > p.longest:
		return no("a promise for %s was asked for, at most %s is given", ask.For, p.longest)
	}
	p.asked = p.clock.Now()
	if !p.durable {
		if !p.wanted {
			p.wanted = true
			p.ask()
		}
		return no("not ready yet, ask again")
	}
	if until := p.clock.Now().Add(ask.For); until.After(p.until) {
		p.until = until
	}
	return Promise{Given: true, Member: p.self}
}

// Promise answers a primary that asks this node not to fence itself for a while:
// see PromiseRequest. It does not block, and may be called from any goroutine,
// also when Run has not begun or has ended. It returns an error if the request
// is for another cluster.
func (n *Node) Promise(_ context.Context, ask PromiseRequest) (Promise, error) {
	if ask.Cluster != n.keys.Prefix() {
		return Promise{}, fmt.Errorf("promise: this node belongs to %s, and the request is for %.100q", n.keys.Prefix(), ask.Cluster)
	}
	return n.promiser.promise(ask), nil
}

// preparePromises says whether this node may promise its primary not to fence,
// and makes durable that it may have.
func (n *Node) preparePromises(v look) {
	p, local := n.promiser, n.memory.State()
	state := v.records.Failover.Value
	switch {
	case !v.standby() || local.BelowFloor() || !n.followsPledged(v, local):
		p.deny("this node follows no primary")
	case v.storeErr == nil && (state.ID != local.Pledge || state.Nonce != local.PledgeNonce || state.Phase != record.PhaseTaken):
		p.deny(fmt.Sprintf("this node sees election %d (%s)", state.ID, state.Phase))
	default:
		p.allow(n.self(), local.Pledge, local.PledgeNonce)
		if waiting, armed := p.waiting(); !armed && (v.storeErr != nil || waiting) {
			n.setPromising(max(p.longest, local.Promising))
			return
		}
	}
	if local.Promising > 0 && v.storeErr == nil && p.disarm() {
		n.setPromising(0)
	}
}

// followsPledged reports whether the server follows the primary of this node's
// pledge. After a restart of the agent, while the store is away, that shows by the
// name under which it streams: a node streams from no primary of an older term,
// and who has voted streams from nobody.
func (n *Node) followsPledged(v look, local LocalState) bool {
	if n.following.term != 0 {
		return n.following.term == local.Pledge
	}
	return v.storeErr != nil && local.Pledge > 0 && !local.PledgeOwn && v.server.Streams() && streamsAs(v.server, n.streamName())
}

func (n *Node) setPromising(longest time.Duration) {
	err := n.memory.Update(func(s *LocalState) { s.Promising = longest })
	if err != nil {
		n.cfg.Logger.Warn("local state", "error", err)
		return
	}
	n.promiser.arm(longest > 0)
}

// askPromises keeps the warrant of a term alive while the lease is in doubt: when
// a renewal is overdue, it asks the members of the quorum. It returns when the
// warrant ends.
func (n *Node) askPromises(o *office) {
	if n.cfg.Peers == nil {
		return
	}
	ctx, t := o.ctx, n.locker.timing
	doubt := t.doubt()
	for ctx.Err() == nil {
		pause := o.warrant.leaseLeft() - doubt
		if hung := n.progress.check(); hung != nil {
			pause = max(pause, t.RenewEvery/4) // the warrant of who sees to nothing is not to last
		}
		if pause <= 0 {
			asked, cancel := n.request(ctx, "asking for promises")
			o.warrant.ask(asked, n.cfg.Peers)
			cancel()
			pause = t.RenewEvery / 4
			if left, _ := o.warrant.lasts(); left > doubt {
				pause = t.RenewEvery
			}
		}
		if timectx.Sleep(ctx, n.cfg.Clock, pause) != nil {
			return
		}
	}
}
