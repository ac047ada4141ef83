package api

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pghad/pghad/internal/timectx"
)

// acceptPause is how long a listener waits that could not accept: the machine
// may be short of something.
const acceptPause = 50 * time.Millisecond

// What a listener lets pass. Nodes keep their connections; what checks their
// health may connect anew each time.
var (
	connectionsOfOne = rate{perSecond: 20, burst: 64}
	connectionsOfAll = rate{perSecond: 200, burst: 512}
)

// listener closes the connections that are too many: at once, in all or from
// one address, or too soon after others. It ends only when it is closed.
type listener struct {
	net.Listener
	most, mostOfOne int
	limiter         *limiter
	refused, failed *seldom
	life            context.Context // ends with Close
	end             context.CancelFunc
	close           func() error // closes what is below, once

	mu   sync.Mutex // guards what follows; never held over anything that waits
	open map[netip.Addr]int
	all  int
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) || l.life.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil, net.ErrClosed
		}
		if err != nil { // of one connection, or of the machine: the next one may do
			l.failed.warn(l.life, "error", err)
			_ = timectx.Sleep(l.life, l.limiter.clock, acceptPause)
			continue
		}
		source := sourceOf(conn.RemoteAddr().String())
		if !l.enter(source) {
			l.refused.warn(l.life, "reason", "too many connections", "from", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.leave(source) })}, nil
	}
}

// Close implements net.Listener, any number of times. Connections stay open.
func (l *listener) Close() error {
	l.end()
	return l.close()
}

func (l *listener) enter(source netip.Addr) bool {
	if !l.limiter.allow(source) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.open[source] >= l.mostOfOne {
		return false
	}
	l.all++
	l.open[source]++
	return true
}

func (l *listener) leave(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[source]--; l.open[source] == 0 {
		delete(l.open, source)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
