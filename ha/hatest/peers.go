package hatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/pghad/pghad/ha"
)

// PromiseHandler answers what the agents of other hosts ask of this one: see
// ha.Peers. Its context ends with the agent.
type PromiseHandler func(context.Context, ha.PromiseRequest) (ha.Promise, error)

// apiPort is where agents serve one another.
const apiPort = 8008

// apiURL is the Env.APIURL of a host.
func apiURL(host string) string {
	return (&url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(apiPort))}).String()
}

// CutPeers keeps the agent of a host from being asked by others, and from
// asking them: its server and its connection to the store are not concerned. It
// must be called as often to HealPeers.
func (w *World) CutPeers(name string) { w.peerCuts[name]++ }

// HealPeers takes back one CutPeers.
func (w *World) HealPeers(name string) {
	if w.peerCuts[name]--; w.peerCuts[name] <= 0 {
		delete(w.peerCuts, name)
	}
}

func (w *World) peersReach(from, to string) bool {
	return w.peerCuts[from] == 0 && w.peerCuts[to] == 0 && w.Reachable(from, to)
}

// peers is an agent's connection to the agents of other hosts.
type peers struct{ agent *agent }

var _ ha.Peers = (*peers)(nil)

// AskPromise implements ha.Peers. The question travels, is answered by whatever
// agent runs there when it arrives, and the answer travels; at each of these
// moments the link may be cut or the agent dead, and then nothing comes. A
// question that arrives at an agent that is paused is answered afterwards.
func (p *peers) AskPromise(ctx context.Context, peer ha.Peer, ask ha.PromiseRequest) (ha.Promise, error) {
	asked := func(err error) error { return fmt.Errorf("ask %s for a promise: %w", peer.Name, err) }
	if cause := context.Cause(ctx); cause != nil {
		return ha.Promise{}, asked(cause)
	}
	to, err := url.Parse(peer.APIURL)
	if err != nil || to.Hostname() == "" {
		return ha.Promise{}, asked(fmt.Errorf("%q is no address", peer.APIURL))
	}
	c := &peerCall{asker: p.agent, to: to.Hostname(), ask: ask}
	key := fmt.Sprintf("%s %d %s %s %s", c.to, ask.Term, ask.Nonce, ask.Member, ask.For)
	gaveUp, err := p.agent.exchange(ctx, "peer", key, c.send)
	switch {
	case gaveUp:
		return ha.Promise{}, asked(fmt.Errorf("no answer: %w: %w", ctx.Err(), err))
	case err != nil:
		return ha.Promise{}, asked(err)
	}
	return c.promise, nil
}

// peerCall is one question on its way.
type peerCall struct {
	asker *agent
	to    string
	ask   ha.PromiseRequest

	task    *task
	id      digest
	late    bool
	sent    time.Duration // when it was
	given   time.Duration // when it was answered
	life    *agent        // that has answered
	promise ha.Promise
}

func (c *peerCall) label(what string) func() string {
	return func() string { return fmt.Sprintf("%s %s", c.asker.name, what) }
}

// send lets the question travel.
func (c *peerCall) send(t *task, id digest) {
	w := c.asker.world
	c.task, c.id, c.sent = t, id, w.now()
	w.after(w.peerLatency("request", id), id, c.label(fmt.Sprintf("asks %s for a promise of %s", c.to, c.ask.For)), c.arrive)
}

// arrive is when the question would reach the other agent's machine.
func (c *peerCall) arrive() {
	w, from := c.asker.world, c.asker.host.name
	if !w.peersReach(from, c.to) || (!c.late && w.network.of("lost request", c.id).chance(w.cfg.Network.Loss)) {
		if again := w.network.of("late", c.id); !c.late && again.chance(0.5) {
			c.late = true
			w.after(w.network.of("how late", c.id).spread(100*time.Millisecond, 20*time.Second), c.id.str("late"), nil, c.arrive)
		}
		return
	}
	h := w.host(c.to)
	if h == nil || h.down {
		return
	}
	if a := h.agent; !h.alive() || a.serve == nil {
		if !h.halted && w.network.of("refused", c.id).chance(0.5) {
			c.reply(ha.Promise{}, errors.New("connection refused"))
		}
		return
	}
	life := h.agent
	w.schedule(&item{due: w.now(), id: c.id.str("asked"), agent: life, run: func() { c.deliver(life) }})
}

// deliver lets the other agent answer. It may take its time.
func (c *peerCall) deliver(to *agent) {
	w := c.asker.world
	c.life, c.given = to, w.now()
	if c.late {
		w.reach("question of a peer delivered late")
	}
	go func() {
		promise, err := to.serve(to.ctx, c.ask)
		w.arrive(&arrival{
			identity: identity{host: to.host.name, life: to.life, kind: "peer answer", key: c.asker.name},
			enter: func(digest) {
				if !to.dead {
					c.reply(promise, err)
				}
			},
		})
	}()
}

// reply lets the answer travel.
func (c *peerCall) reply(promise ha.Promise, err error) {
	w := c.asker.world
	said := fmt.Sprintf("%t %s %v", promise.Given, promise.Why, err)
	w.trace = w.trace.str(said)
	w.after(w.peerLatency("reply", c.id), c.id.str("reply"), nil, func() {
		lost := w.network.of("lost reply", c.id).chance(w.cfg.Network.Loss)
		if lost || !w.peersReach(c.to, c.asker.host.name) {
			return
		}
		c.task.finish(w.now(), c.id, c.label("hears from "+c.to+": "+said), func() error {
			c.promise = promise
			w.promised(c, promise, err)
			return err
		})
	})
}

// promised is told of every answer that has reached the one who asked, right
// before that one goes on.
func (w *World) promised(c *peerCall, promise ha.Promise, err error) {
	switch {
	case c.life == nil || err != nil || c.task.over:
		return
	case !promise.Given:
		w.reach("promise refused")
		return
	}
	w.reach("promise given")
	for _, f := range w.onPromise {
		f(promiseGiven{
			by: promise.Member, host: c.to, primary: c.asker.host.name, term: c.ask.Term,
			sent: c.sent, given: c.given, length: c.ask.For,
		})
	}
}
