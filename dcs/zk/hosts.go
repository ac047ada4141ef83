package zk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/pghad/pghad/internal/timectx"
)

const (
	// Waits between rounds of attempts to connect, doubled each time.
	minDialWait = 50 * time.Millisecond
	maxDialWait = time.Second
)

// target is one address of one server.
type target struct {
	address string // with the port
	host    string // the name that the server is known by
}

// hosts says where to connect next. The member that served last comes first,
// then all the others in an order drawn by lot, then all again after a wait and
// another look at what the names stand for.
type hosts struct {
	cfg *Config

	mu      sync.Mutex
	last    target
	served  bool      // the last one has
	dialed  time.Time // when the last one was given out
	queue   []target  // of this round
	rounds  int       // without anybody who served
	trouble error     // of the last attempt
}

// next waits for its time and returns the next target.
func (h *hosts) next(ctx context.Context) (target, error) {
	h.mu.Lock()
	again, wait := h.served, h.wait()
	h.served = false
	look := !again && len(h.queue) == 0
	h.mu.Unlock()
	if err := timectx.Sleep(ctx, h.cfg.Clock, wait); err != nil {
		return target{}, err
	}
	if look {
		if err := h.look(ctx); err != nil {
			h.failed(err)
			return target{}, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !again {
		h.last, h.queue = h.queue[0], h.queue[1:]
	}
	h.dialed = h.cfg.Clock.Now()
	return h.last, nil
}

// wait is the pause before the next attempt: none within a round, unless the
// member served for a moment only. Between rounds it is within half and one and
// a half of what it should be, so that clients that lost their servers at once
// do not come back at once. The caller holds mu.
func (h *hosts) wait() time.Duration {
	switch {
	case h.served:
		return minDialWait - h.cfg.Clock.Since(h.dialed)
	case len(h.queue) > 0 || h.rounds == 0:
		return 0
	default:
		wait := min(minDialWait<<min(h.rounds-1, 10), maxDialWait)
		return wait/2 + rand.N(wait) //nolint:gosec // not a secret
	}
}

// look fills the queue. A name that cannot be found does not stop the others.
func (h *hosts) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*h.cfg.DialTimeout)
	defer cancel()
	var (
		found []target
		errs  []error
	)
	for _, server := range h.cfg.Servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			return fmt.Errorf("server %s: %w", server, err)
		}
		addresses := []string{host}
		if net.ParseIP(host) == nil {
			if addresses, err = h.cfg.Lookup(ctx, host); err != nil {
				errs = append(errs, fmt.Errorf("look up %s: %w", host, err))
				continue
			}
		}
		for _, address := range addresses {
			found = append(found, target{address: net.JoinHostPort(address, port), host: host})
		}
	}
	rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] }) //nolint:gosec // not a secret
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rounds++
	h.queue = found
	if len(found) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// connected says that the last target serves.
func (h *hosts) connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.served, h.queue, h.rounds, h.trouble = true, nil, 0, nil
}

// failed notes why an attempt did not succeed.
func (h *hosts) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trouble = err
}

// why is the last trouble, for an error message.
func (h *hosts) why() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.trouble == nil {
		return errNoConnection
	}
	return fmt.Errorf("%w: %w", errNoConnection, h.trouble)
}
