package dcstest

import (
	"fmt"
	"sync"

	"github.com/pghad/pghad/dcs"
)

// Link is an Injector that is the path between one user and the store: it can be
// cut and healed while calls are under way. The zero value is a path that works.
// Its methods may be called from several goroutines at once.
type Link struct {
	mu      sync.Mutex
	healed  chan struct{} // closed by Heal; nil while the path works
	mute    bool          // requests arrive, replies do not
	refused bool          // calls fail at once
	dropped chan struct{} // closed when the first reply has been dropped
}

// Cut lets nothing pass any more. Requests are held back and arrive, in their
// order, when the path is healed, as a network delivers them again whose
// connections have not been given up. Their callers wait.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
}

// DropReplies lets requests pass, and nothing else. The channel is closed when
// the first reply has been dropped: that request surely has been carried out.
func (l *Link) DropReplies() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
	l.mute, l.dropped = true, make(chan struct{})
	return l.dropped
}

// Refuse makes all calls fail at once with dcs.ErrUnavailable.
func (l *Link) Refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
	l.refused = true
}

// begin takes the path out of service. What is held from before stays held. The
// caller holds mu.
func (l *Link) begin() {
	if l.healed == nil {
		l.healed = make(chan struct{})
	}
	l.mute, l.refused, l.dropped = false, false, nil
}

// Heal makes the path work again.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.healed != nil {
		close(l.healed)
	}
	l.healed, l.mute, l.refused, l.dropped = nil, false, false, nil
}

// Inject implements Injector.
func (l *Link) Inject(c Call) Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	watching := c.Kind == KindWatch || c.Kind == KindUpdate
	switch {
	case l.healed == nil:
		return Fault{}
	case l.mute && !watching:
		dropped := l.dropped
		return Fault{Swallow: true, Done: func() { l.tell(dropped) }}
	case l.refused && !watching:
		return Fault{Fail: fmt.Errorf("the path is down: %w", dcs.ErrUnavailable)}
	default:
		return Fault{Hold: l.healed}
	}
}

// tell closes the channel unless that has been done.
func (l *Link) tell(dropped chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-dropped:
	default:
		close(dropped)
	}
}
