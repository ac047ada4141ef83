package api

import (
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
)

// maxSources is how many addresses a limiter tells apart. Further ones share
// one allowance.
const maxSources = 1024

// limiter lets so much pass per second from each address, and so much from all
// of them together.
type limiter struct {
	clock clock.Clock
	each  rate
	all   rate

	mu      sync.Mutex // guards what follows; never held over anything that waits
	sources map[netip.Addr]*bucket
	shared  bucket // of the addresses that are not told apart
	whole   bucket
}

// rate is an allowance: so much per second, and so much at once after a pause.
type rate struct{ perSecond, burst float64 }

// bucket is what is left of an allowance.
type bucket struct {
	used float64 // grows by what passes, shrinks with time
	at   time.Time
}

func newLimiter(clk clock.Clock, each, all rate) *limiter {
	return &limiter{clock: clk, each: each, all: all, sources: make(map[netip.Addr]*bucket)}
}

// allow reports whether one more may pass, and counts it if so.
func (l *limiter) allow(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	own := l.source(source, now)
	own.settle(now, l.each)
	l.whole.settle(now, l.all)
	if own.used+1 > l.each.burst || l.whole.used+1 > l.all.burst {
		return false
	}
	own.used++
	l.whole.used++
	return true
}

// source finds the bucket of an address.
func (l *limiter) source(source netip.Addr, now time.Time) *bucket {
	if b, known := l.sources[source]; known {
		return b
	}
	if len(l.sources) >= maxSources {
		for address, b := range l.sources {
			if b.settle(now, l.each); b.used == 0 { // as good as unknown
				delete(l.sources, address)
			}
		}
	}
	if len(l.sources) >= maxSources {
		return &l.shared
	}
	b := new(bucket)
	l.sources[source] = b
	return b
}

// settle lets time pass.
func (b *bucket) settle(now time.Time, r rate) {
	if passed := now.Sub(b.at); passed > 0 {
		b.used = math.Max(0, b.used-passed.Seconds()*r.perSecond)
		b.at = now
	}
}

// sourceOf is the address that limits go by. In IPv6 that is the network of 64
// bits, of which one machine has all addresses.
func sourceOf(remote string) netip.Addr {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	address = address.Unmap().WithZone("")
	if address.Is6() && !address.IsLoopback() {
		if network, err := address.Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return address
}
