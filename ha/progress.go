package ha

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
)

// progress is how the node's loop gets on. A loop that hangs, for example in a call
// of the operating system about a dead disk, sees to nothing any more; but what
// renews its locks runs beside it, and would keep everybody else from doing so. It is
// safe for use by several goroutines at once.
//
// It is counted by the clock alone, which stands still while the machine sleeps: who
// has slept has not hung.
type progress struct {
	clock clock.Clock
	// patience is how long nothing may be heard of the loop. It is above what each of
	// its steps may take, and above a lease: a process that was stopped for so long
	// that it counts as hung has lost its locks anyway.
	patience time.Duration

	mu    sync.Mutex // never held over anything that waits
	at    time.Time  // when something was last heard
	doing string     // the effect under way, "" if there is none
}

// unhurried are the effects that take as long as there is data, or have a limit of
// their own.
var unhurried = []string{"rejoin/", "bootstrap/", "server/promote"}

func newProgress(clk clock.Clock, t Timing) *progress {
	return &progress{clock: clk, patience: t.TTL + t.ElectionTimeout + t.Observe + t.Request, at: clk.Now()}
}

// note says that the loop goes on.
func (p *progress) note() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.clock.Now()
}

// check is nil while the loop goes on.
func (p *progress) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(unhurried, func(prefix string) bool { return strings.HasPrefix(p.doing, prefix) }) {
		return nil
	}
	if silence := p.clock.Now().Sub(p.at); silence > p.patience {
		return fmt.Errorf("the node hangs: nothing was heard of its loop for %s, at most %s is allowed", silence.Round(time.Millisecond), p.patience)
	}
	return nil
}

// follow returns effects that are noted, each as a step of the loop.
func (p *progress) follow(e Effects) Effects {
	mark := func(name, doing string, tell func(string)) {
		p.mu.Lock()
		p.at, p.doing = p.clock.Now(), doing
		p.mu.Unlock()
		if tell != nil {
			tell(name)
		}
	}
	return Effects{
		Before: func(name string) { mark(name, name, e.Before) },
		After:  func(name string) { mark(name, "", e.After) },
	}
}
