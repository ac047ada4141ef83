package ha

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/pg"
)

// unlimited is how long a warrant lasts that nothing but an end can end.
const unlimited = 365 * 24 * time.Hour

// warrant is the right of the server of one term to be written to: a lease of
// `leader`, the promises of k recorded members, or maintenance; whichever lasts
// longest. It is safe for use by several goroutines at once.
type warrant struct {
	locker *Locker
	wake   chan struct{} // something has changed that may have shortened it
	moved  chan struct{} // something has changed that may have moved its end

	mu      sync.Mutex // never held over anything that waits
	lease   *Lease
	request PromiseRequest // what members are asked, but for Member
	// claims are the records that may be in force: one, or two while the outcome
	// of a write is unknown. Promises must satisfy each of them.
	claims      []quorum.Config
	promises    map[quorum.Member]promised
	peers       []Peer
	fit         bool // the server was seen to serve at the last look
	maintenance bool
	free        bool  // the guard of the server has been told that it has no deadline
	ended       error // final
	left        bool  // the term has been left: the server is nobody's business here any more
}

// promised is what one member's promise is worth: a window counted from before
// it was asked for.
type promised struct {
	sent   instant
	window time.Duration
}

var _ pg.Warrant = (*warrant)(nil)

func newWarrant(locker *Locker, lease *Lease, recorded quorum.Config, request PromiseRequest) *warrant {
	w := &warrant{
		locker: locker, wake: make(chan struct{}, 1), moved: make(chan struct{}, 1), promises: map[quorum.Member]promised{},
	}
	w.renewed(lease, recorded, request)
	return w
}

// renewed puts the warrant on a new lease, of the same term or of another one of
// the same primary: then the promises that were given to the term before are void.
func (w *warrant) renewed(lease *Lease, recorded quorum.Config, request PromiseRequest) {
	w.mu.Lock()
	if request.Term != w.request.Term {
		clear(w.promises)
	}
	w.lease, w.request, w.claims = lease, request, []quorum.Config{recorded}
	w.mu.Unlock()
	lease.onRenewal(w.poke)
	context.AfterFunc(lease.Context(), w.poke)
	w.poke()
}

func (w *warrant) poke() {
	for _, news := range []chan struct{}{w.wake, w.moved} {
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// Check implements pg.Warrant.
func (w *warrant) Check() error {
	left, err := w.lasts()
	if left > 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", pg.ErrNoWarrant, err)
}

// Until implements pg.Warrant.
func (w *warrant) Until() time.Time {
	left, _ := w.lasts()
	return w.locker.cfg.Clock.Now().Add(left)
}

// lasts is how long the warrant lasts if nothing renews it, and why not longer.
// Zero is final.
func (w *warrant) lasts() (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return 0, w.ended
	}
	if w.maintenance {
		return unlimited, nil
	}
	err := w.lease.Check()
	promised, _ := w.byPromises()
	left := max(w.lease.remaining(), promised)
	if left <= 0 {
		if err == nil {
			err = ErrExpired
		}
		w.ended = err // whatever comes now comes too late
	}
	return left, err
}

// remaining is how long the lease lasts if it is not renewed, by both clocks;
// zero if it has ended.
func (ls *Lease) remaining() time.Duration {
	ls.locker.mu.Lock()
	defer ls.locker.unlock()
	if ls.ended {
		return 0
	}
	return max(ls.left(), 0)
}

// byPromises is how long no other node can win an election: as long as k members
// of each record that may be in force do not fence; in mode async, where one vote
// may decide, all members. It is alone where no election can do without this node:
// then that is unlimited. The caller holds mu.
func (w *warrant) byPromises() (left time.Duration, alone bool) {
	least := unlimited
	alone = true
	for _, claim := range w.claims {
		needed := claim.K
		if claim.Mode == quorum.ModeAsync {
			needed = len(claim.Members)
		}
		if needed == 0 {
			continue // every vote is needed, that of this node too
		}
		alone = false
		var lefts []time.Duration
		for _, m := range claim.Members {
			if p, ok := w.promises[m]; ok {
				lefts = append(lefts, p.window-w.locker.since(p.sent))
			}
		}
		if len(lefts) < needed {
			return 0, false
		}
		slices.SortFunc(lefts, func(a, b time.Duration) int { return int(b - a) })
		least = min(least, lefts[needed-1])
	}
	return max(least, 0), alone
}

// leaseLeft is how long the lease lasts if it is not renewed.
func (w *warrant) leaseLeft() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lease.remaining()
}

// standsAlone reports whether the warrant holds without the lease.
func (w *warrant) standsAlone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	promised, _ := w.byPromises()
	return w.ended == nil && (w.maintenance || promised > 0)
}

// leave ends the warrant for good, and guard with it: the caller has stopped the
// server, or leaves it to somebody else.
func (w *warrant) leave(cause error) {
	w.mu.Lock()
	w.left = true
	if w.ended == nil {
		w.ended = cause
	}
	w.mu.Unlock()
	w.poke()
}

// term is the one that the warrant is for now.
func (w *warrant) term() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.request.Term
}

func (w *warrant) hasLeft() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left
}

// propose adds a record that is about to be written.
func (w *warrant) propose(next quorum.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claims = append(w.claims, next)
}

// settle says that one record is in force and no other one can come.
func (w *warrant) settle(recorded quorum.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claims = []quorum.Config{recorded}
}

// settled is the record in force, if there is only one that may be.
func (w *warrant) settled() (quorum.Config, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.claims[0], len(w.claims) == 1
}

// seen notes what the last look has shown.
func (w *warrant) seen(fit, maintenance bool, peers []Peer) {
	w.mu.Lock()
	changed := w.maintenance != maintenance
	w.fit, w.maintenance = fit, maintenance
	if peers != nil {
		w.peers = peers
	}
	w.mu.Unlock()
	if changed {
		w.poke() // what it rests on now may have ended long ago
	}
}

// guard stops the server when the warrant ends, whatever the loop is waiting
// for. It returns when that is done, or nil at once when the term has been left.
func (w *warrant) guard(stop func(cause error) error) error {
	look := max(w.locker.timing.Margin/2, 1)
	for {
		left, err := w.lasts()
		switch {
		case w.hasLeft():
			return nil
		case left <= 0:
			return stop(err)
		}
		if w.leaseLeft() <= 0 {
			// Promises are counted by both clocks, of which a timer sees only one.
			left = min(left, look)
		}
		timer := w.locker.cfg.Clock.AfterFunc(left, w.poke)
		<-w.wake
		timer.Stop()
	}
}

// ask asks all members of the records that may be in force for promises, and
// counts those that come. It returns when all have answered or their time is up.
func (w *warrant) ask(ctx context.Context, peers Peers) {
	var wait sync.WaitGroup
	for _, q := range w.questions() {
		peer, ask, m := q.peer, q.ask, q.ask.Member
		wait.Go(func() {
			sent := w.locker.now()
			promise, err := peers.AskPromise(ctx, peer, ask)
			switch {
			case err != nil:
				w.locker.log.DebugContext(ctx, "no answer to the request for a promise", "member", m.String(), "error", err)
			case !promise.Given || promise.Member != m:
				w.locker.log.DebugContext(ctx, "no promise", "member", m.String(), "why", promise.Why)
			default:
				w.count(ask.Term, m, promised{sent: sent, window: w.locker.timing.window(ask.For)})
			}
		})
	}
	wait.Wait()
}

func (w *warrant) count(term uint64, m quorum.Member, p promised) {
	w.mu.Lock()
	if before, ok := w.promises[m]; term == w.request.Term && (!ok || p.sent.clock.After(before.sent.clock)) {
		w.promises[m] = p
	}
	w.mu.Unlock()
	w.poke()
}

type promiseQuestion struct {
	peer Peer
	ask  PromiseRequest
}

// questions are what to ask whom: all members of the records that may be in
// force, sorted; nobody if the server does not serve.
func (w *warrant) questions() []promiseQuestion {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fit || w.ended != nil {
		return nil
	}
	var all []quorum.Member
	for _, claim := range w.claims {
		all = append(all, claim.Members...)
	}
	slices.SortFunc(all, quorum.Member.Compare)
	var questions []promiseQuestion
	for _, m := range slices.Compact(all) {
		if i := slices.IndexFunc(w.peers, func(p Peer) bool { return p.Name == m.Node }); i >= 0 {
			ask := w.request
			ask.Member = m
			questions = append(questions, promiseQuestion{peer: w.peers[i], ask: ask})
		}
	}
	return questions
}
