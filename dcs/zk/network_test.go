package zk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/pprof"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
)

// network is what lies between clients and servers: a path for each client that
// can be cut, and that looks into what is sent.
type network struct {
	servers []string

	mu        sync.Mutex
	paths     map[string]*path
	passwords map[dcs.SessionID][]byte // with which a session can be reopened
}

// path is the network as one client sees it.
type path struct {
	network *network
	proxies []string // addresses, one for each server

	ctx  context.Context // ends with the test
	work sync.WaitGroup

	mu     sync.Mutex
	healed chan struct{} // nil while the path works
	mute   *mute         // nil while answers pass
}

// mute is a time in which final answers are dropped.
type mute struct {
	once    sync.Once
	dropped chan struct{} // closed when one has been
}

func newNetwork(servers ...string) *network {
	return &network{servers: servers, paths: map[string]*path{}, passwords: map[dcs.SessionID][]byte{}}
}

// path makes the client's path, or finds it. The network must not be used after
// the end of the test that made it.
func (n *network) path(t *testing.T, client string) *path {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.paths[client]
	if p != nil {
		return p
	}
	p = &path{network: n}
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx = ctx
	for _, server := range n.servers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		p.proxies = append(p.proxies, l.Addr().String())
		p.work.Go(func() { p.serve(l, server) })
	}
	t.Cleanup(func() {
		cancel()
		p.work.Wait()
	})
	n.paths[client] = p
	return p
}

func (n *network) find(client string) *path {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.paths[client]
}

// serve passes connections on to a server.
func (p *path) serve(l net.Listener, server string) {
	pprof.SetGoroutineLabels(context.Background()) // it is not the store's
	defer context.AfterFunc(p.ctx, func() { _ = l.Close() })()
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.connect(client, server) })
	}
}

// connect passes frames of one connection in both directions until either end
// has gone.
func (p *path) connect(client net.Conn, server string) {
	defer func() { _ = client.Close() }()
	if p.wait() != nil {
		return
	}
	up, err := new(net.Dialer).DialContext(p.ctx, "tcp", server)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	defer context.AfterFunc(p.ctx, func() { _, _ = client.Close(), up.Close() })()
	c := &connection{path: p, finals: map[int32]*mute{}}
	p.work.Go(func() {
		_ = p.pump(up, client, c.answer)
		_ = client.Close()
	})
	_ = p.pump(client, up, c.request)
}

// pump passes frames on while the path works. What was sent before a connection
// ended arrives, and then that it ended.
func (p *path) pump(from, to net.Conn, see func([]byte) (drop bool)) error {
	for {
		data, err := frame(from)
		if waited := p.wait(); err != nil || waited != nil {
			return errors.Join(err, waited)
		}
		if see(data) {
			continue
		}
		if _, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)); err != nil {
			return err
		}
	}
}

// wait returns when the path works.
func (p *path) wait() error {
	for {
		p.mu.Lock()
		healed := p.healed
		p.mu.Unlock()
		if healed == nil {
			return p.ctx.Err()
		}
		select {
		case <-healed:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
}

func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.healed == nil {
		p.healed = make(chan struct{})
	}
}

func (p *path) dropReplies() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = &mute{dropped: make(chan struct{})}
	return p.mute.dropped
}

func (p *path) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.healed != nil {
		close(p.healed)
	}
	p.healed, p.mute = nil, nil
}

// connection looks into the frames of one connection.
type connection struct {
	path *path

	mu      sync.Mutex
	asked   bool // for a session
	granted bool
	finals  map[int32]*mute // by number of the request: what it was sent during
}

// request notes which answers complete a call of a store: that to a
// transaction, to the creation of a session's node, and to the look whether that
// still exists.
func (c *connection) request(data []byte) (drop bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.asked {
		c.asked = true
		return false
	}
	number, op := int32(binary.BigEndian.Uint32(data)), int32(binary.BigEndian.Uint32(data[4:]))
	own := bytes.Contains(data, []byte("/%sessions/0x"))
	if op == opMulti || own && (op == opCreate || op == opExists) {
		c.path.mu.Lock()
		c.finals[number] = c.path.mute
		c.path.mu.Unlock()
	}
	return false
}

// answer drops final answers during a silence.
func (c *connection) answer(data []byte) (drop bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.granted {
		c.granted = true
		c.path.network.remember(data)
		return false
	}
	number := int32(binary.BigEndian.Uint32(data))
	during, final := c.finals[number]
	delete(c.finals, number)
	c.path.mu.Lock()
	defer c.path.mu.Unlock()
	if !final || c.path.mute == nil {
		return false
	}
	if during == c.path.mute {
		during.once.Do(func() { close(during.dropped) })
	}
	return true
}

// remember takes the session and its password from a server's first answer.
func (n *network) remember(answer []byte) {
	const passwordAt = 4 + 4 + 8 + 4
	if len(answer) < passwordAt+16 {
		return
	}
	id := dcs.SessionID(fmt.Sprintf("%#x", binary.BigEndian.Uint64(answer[8:])))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.passwords[id] = bytes.Clone(answer[passwordAt : passwordAt+16])
}

// expire ends a session as its owner could.
func (n *network) expire(ctx context.Context, id dcs.SessionID) error {
	n.mu.Lock()
	password := n.passwords[id]
	n.mu.Unlock()
	var number int64
	if _, err := fmt.Sscanf(string(id), "0x%x", &number); err != nil || password == nil {
		return fmt.Errorf("session %s is not known", id)
	}
	for ctx.Err() == nil {
		// Its owner, whose connection ends thereby, opens it again at once, which
		// in turn ends this one: whoever is quicker.
		if err := n.closeSession(ctx, number, password); !errors.Is(err, io.EOF) {
			return err
		}
	}
	return ctx.Err()
}

func (n *network) closeSession(ctx context.Context, number int64, password []byte) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.servers[0])
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := send(conn, int32(0), int64(0), int32(10000), number, int32(16), password, byte(0)); err != nil {
		return err
	}
	if err := send(conn, int32(1), int32(opClose)); err != nil {
		return err
	}
	greeting, err := frame(conn)
	if err != nil || binary.BigEndian.Uint64(greeting[8:]) == 0 { // there is no such session any more
		return err
	}
	_, err = frame(conn)
	return err
}
