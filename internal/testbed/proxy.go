package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/pprof"
	"sync"
)

// Proxy is a way to a server that can be cut, in both directions or on the way
// back. The server's end and the client's see open connections meanwhile. Its
// methods may be called from several goroutines at once.
type Proxy struct {
	listener net.Listener
	target   string
	inspect  func() func([]byte) int
	tasks    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	healed  chan struct{} // closed by Heal; nil while everything passes
	mute    bool          // what the server sends is dropped
	dropped func()        // told that an answer has been dropped; nil: nobody is
	pairs   map[*proxied]bool
}

// proxied is one connection through a Proxy.
type proxied struct {
	client, server net.Conn
	lossy          bool // some of what the server sent has been dropped; guarded by Proxy.mu
}

// NewProxy listens on a free loopback port for connections to target, a
// host:port. For each connection inspect makes a function that is given all that
// the server sends, in pieces, and says how many answers to requests were
// completed by each; nil counts every piece.
func NewProxy(target string, inspect func() func([]byte) int) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy to %s: %w", target, err)
	}
	if inspect == nil {
		inspect = func() func([]byte) int { return func([]byte) int { return 1 } }
	}
	p := &Proxy{listener: listener, target: target, inspect: inspect, pairs: map[*proxied]bool{}}
	p.tasks.Go(p.accept)
	return p, nil
}

// Address is the host and port where clients connect.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Cut lets nothing pass any more. What is sent meanwhile arrives after Heal, as
// TCP sends it again.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
}

// DropReplies drops what the server sends. When an answer has been dropped it
// calls dropped, each time, with a lock held under which the proxy cannot be
// used.
func (p *Proxy) DropReplies(dropped func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	p.mute, p.dropped = true, dropped
}

// begin takes the way out of service. The caller holds mu.
func (p *Proxy) begin() {
	if p.healed == nil {
		p.healed = make(chan struct{})
	}
	p.mute, p.dropped = false, nil
}

// Heal makes the way work again. Connections of which something was dropped are
// reset, since what comes next would make no sense.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.healed != nil {
		close(p.healed)
	}
	p.healed, p.mute, p.dropped = nil, false, nil
	for c := range p.pairs {
		if c.lossy {
			c.reset()
		}
	}
}

// Close ends all connections and waits until nothing of the proxy is left.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.closed = true
	if p.healed != nil {
		close(p.healed)
		p.healed = nil
	}
	for c := range p.pairs {
		c.reset()
	}
	p.mu.Unlock()
	p.tasks.Wait()
	if err != nil {
		return fmt.Errorf("close the proxy to %s: %w", p.target, err)
	}
	return nil
}

func (p *Proxy) accept() {
	// What a test looks for by labels is not the proxy.
	pprof.SetGoroutineLabels(context.Background())
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.tasks.Go(func() { p.serve(client) })
	}
}

// serve carries one connection. While the way is cut it does not even begin.
func (p *Proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	c := &proxied{client: client}
	if !p.add(c) {
		return
	}
	defer p.remove(c)
	if !p.pass(c, true) {
		return
	}
	server, err := net.Dial("tcp", p.target) //nolint:noctx // It is loopback: either somebody listens or nobody does.
	if err != nil {
		c.reset()
		return
	}
	defer func() { _ = server.Close() }()
	if !p.connect(c, server) {
		return
	}
	var ways sync.WaitGroup
	ways.Go(func() { p.carry(c, server, client, func([]byte) int { return 0 }, true) })
	ways.Go(func() { p.carry(c, client, server, p.inspect(), false) })
	ways.Wait()
}

// carry copies one direction until it ends, and then ends the other one too.
func (p *Proxy) carry(c *proxied, to, from net.Conn, inspect func([]byte) int, there bool) {
	defer c.close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			answers := inspect(buffer[:n])
			if p.drops(c, there, answers) {
				continue
			}
			if !p.pass(c, there) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.reset()
			}
			return
		}
	}
}

// drops reports whether what the server has sent is to be dropped.
func (p *Proxy) drops(c *proxied, there bool, answers int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if there || !p.mute && !c.lossy {
		return false
	}
	c.lossy = true
	if p.dropped != nil && answers > 0 {
		p.dropped()
	}
	return true
}

// pass waits while the way is cut, and reports whether the connection goes on.
// On the way there everything passes while only replies are dropped.
func (p *Proxy) pass(c *proxied, there bool) bool {
	for {
		p.mu.Lock()
		healed := p.healed
		if p.mute && there {
			healed = nil
		}
		goesOn := !p.closed && p.pairs[c]
		p.mu.Unlock()
		if !goesOn || healed == nil {
			return goesOn
		}
		<-healed
	}
}

func (p *Proxy) add(c *proxied) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.pairs[c] = true
	return true
}

func (p *Proxy) connect(c *proxied, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.server = server
	return !p.closed
}

func (p *Proxy) remove(c *proxied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, c)
}

// reset ends both ends at once, as if the machine between them had failed.
func (c *proxied) reset() {
	for _, conn := range []net.Conn{c.client, c.server} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	c.close()
}

func (c *proxied) close() {
	_ = c.client.Close()
	if c.server != nil {
		_ = c.server.Close()
	}
}
