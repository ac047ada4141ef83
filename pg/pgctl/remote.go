package pgctl

import (
	"context"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/pg"
)

// remoteIdle is how long a connection to another server is kept for the next
// question. It is short: the connection takes one of max_wal_senders there.
const remoteIdle = 2 * time.Second

// keptRemote is the connection of the last Identify, for one more. Who asks a
// server before and after the stop in a switchover does not wait the second time
// for a process over there and for the check of its password.
type keptRemote struct {
	mu      sync.Mutex
	session *session
	address string
	timer   *clock.Timer
	closed  bool
}

// take returns the connection to an address, nil if there is none. It is the
// caller's to keep again, or to close.
func (k *keptRemote) take(address string) *session {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.session == nil || k.address != address {
		return nil
	}
	s := k.session
	k.session = nil
	k.timer.Stop()
	return s
}

// keep keeps a connection for some time, instead of the one before it.
func (k *keptRemote) keep(s *session, address string, clk clock.Clock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
	if k.closed {
		s.close()
		return
	}
	k.session, k.address = s, address
	k.timer = clk.AfterFunc(remoteIdle, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.session == s {
			k.drop()
		}
	})
}

// drop needs k.mu.
func (k *keptRemote) drop() {
	if k.session != nil {
		k.timer.Stop()
		k.session.close()
		k.session = nil
	}
}

func (k *keptRemote) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
	k.closed = true
}

// greetAgain is greet, on the connection of the last Identify if that was to the
// same address and still works. It reports whether the connection is a new one.
func (c *Controller) greetAgain(ctx context.Context, up pg.Upstream) (s *session, remote pg.Remote, fresh bool, err error) {
	if s = c.remote.take(up.Address()); s != nil {
		short, cancel := c.short(ctx, "answer on a kept connection")
		err = askSystem(short, s, &remote)
		cancel()
		if err == nil {
			return s, remote, false, nil
		}
		s.close()
		if ctx.Err() != nil {
			return nil, remote, false, err
		}
	}
	s, remote, err = c.greet(ctx, up)
	return s, remote, true, err
}
