package pgctl_test

import (
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// link carries connections to a server's port. It can lose what is sent in one
// direction, or in both: what has been sent arrives when it is healed, as TCP sends
// it again.
type link struct {
	listener net.Listener
	port     int
	target   int
	tasks    sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond
	open   map[net.Conn]bool
	closed bool
	there  flow // from who connects to the server
	back   flow // from the server
}

// flow is one direction of a link.
type flow struct {
	cut   bool
	limit int // bytes after which it is cut; 0: none
}

func newLink(t *testing.T, target int) *link {
	t.Helper()
	l := &link{target: target, open: map[net.Conn]bool{}}
	l.change = sync.NewCond(&l.mu)
	// For a moment a program that is being started still has the socket by which a
	// port was found to be free.
	for try := 1; l.listener == nil; try++ {
		l.port = freePort(t)
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(l.port))
		if err == nil {
			l.listener = listener
		} else {
			require.Less(t, try, 10, "%v", err)
		}
	}
	l.tasks.Go(func() {
		for {
			conn, err := l.listener.Accept()
			if err != nil {
				return
			}
			if l.keep(conn) {
				l.tasks.Go(func() { l.serve(conn) })
			}
		}
	})
	return l
}

// keep remembers a connection, so that it can be broken.
func (l *link) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return false
	}
	l.open[conn] = true
	return true
}

func (l *link) drop(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, conn)
	_ = conn.Close()
}

// serve connects through, once packets pass both ways.
func (l *link) serve(conn net.Conn) {
	defer l.drop(conn)
	l.mu.Lock()
	for (l.there.cut || l.back.cut) && l.open[conn] {
		l.change.Wait()
	}
	alive := l.open[conn]
	l.mu.Unlock()
	if !alive {
		return
	}
	server, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(l.target))
	if err != nil || !l.keep(server) {
		return
	}
	defer l.drop(server)
	var back sync.WaitGroup
	back.Go(func() {
		l.carry(conn, server, &l.back)
		l.drop(conn)
	})
	l.carry(server, conn, &l.there)
	l.drop(server)
	back.Wait()
}

// carry copies until one side ends.
func (l *link) carry(to, from net.Conn, f *flow) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		for sent := 0; sent < n; {
			allowed := l.await(f, from, n-sent)
			if allowed == 0 {
				return
			}
			if _, err := to.Write(buffer[sent : sent+allowed]); err != nil {
				return
			}
			sent += allowed
		}
		if err != nil {
			if !isEnd(err) {
				return
			}
			l.await(f, from, 1) // the end is lost too, as long as the flow is cut
			return
		}
	}
}

func isEnd(err error) bool { return err == io.EOF } //nolint:errorlint // Read says it so

// await waits until bytes pass, and says how many do; 0: the connection is broken.
func (l *link) await(f *flow, conn net.Conn, n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f.cut && l.open[conn] {
		l.change.Wait()
	}
	if !l.open[conn] {
		return 0
	}
	if f.limit > 0 {
		n = min(n, f.limit)
		if f.limit -= n; f.limit == 0 {
			f.cut = true
		}
	}
	return n
}

// set cuts or heals flows.
func (l *link) set(edit func(l *link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	edit(l)
	l.change.Broadcast()
}

// breakAll ends the connections that there are.
func (l *link) breakAll() {
	l.set(func(l *link) {
		for conn := range l.open {
			_ = conn.Close()
		}
		clear(l.open)
	})
}

func (l *link) close() {
	_ = l.listener.Close()
	l.set(func(l *link) { l.closed = true })
	l.breakAll()
	l.tasks.Wait()
}
