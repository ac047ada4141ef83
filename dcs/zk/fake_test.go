package zk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Operations of ZooKeeper's protocol.
const (
	opCreate = 1
	opExists = 3
	opList   = 12
	opMulti  = 14
	opClose  = -11
	opAuth   = 100
)

// hangUp is an answer that ends the connection instead.
const hangUp = 1

// silence is no answer.
const silence = 2

const (
	noNode         = -101
	sessionExpired = -112
)

// fakeServer speaks ZooKeeper's protocol to as many clients as want to: it has
// the folders that it is asked for and no keys, until it is told otherwise.
type fakeServer struct {
	listener net.Listener
	// answer is the code for a request, zero for success; nil is success.
	answer func(op int32, body []byte) int32
	// greet returns what a request for a session, 0 for a new one, gets; nil
	// grants what is asked.
	greet func(session int64, timeout int32) (int64, int32)

	ended func() // is told of each connection that the client ends; may be nil

	multis   atomic.Int64
	closes   atomic.Int64
	sessions atomic.Int64
	opened   atomic.Int64 // connections
	hello    atomic.Value // the last request for a session, []byte

	mu    sync.Mutex
	conns []net.Conn
	log   []int32 // operations, in the order of arrival
	work  sync.WaitGroup
}

func startFake(t *testing.T, f *fakeServer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.listener = l
	f.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			f.opened.Add(1)
			f.work.Go(func() {
				defer func() { _ = conn.Close() }()
				if err := f.serve(conn); errors.Is(err, io.EOF) && f.ended != nil {
					f.ended()
				}
			})
		}
	})
	t.Cleanup(f.stop)
	return l.Addr().String()
}

// stop ends everything; it may be called twice.
func (f *fakeServer) stop() {
	_ = f.listener.Close()
	f.mu.Lock()
	for _, conn := range f.conns {
		_ = conn.Close()
	}
	f.mu.Unlock()
	f.work.Wait()
}

func (f *fakeServer) ops() []int32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int32{}, f.log...)
}

func (f *fakeServer) serve(conn net.Conn) error {
	hello, err := frame(conn)
	if err != nil {
		return err
	}
	f.hello.Store(hello)
	timeout := int32(binary.BigEndian.Uint32(hello[12:]))
	session := int64(binary.BigEndian.Uint64(hello[16:]))
	switch {
	case f.greet != nil:
		session, timeout = f.greet(session, timeout)
	case session == 0:
		session = 0x100 + f.sessions.Add(1)
	}
	if err := send(conn, int32(0), timeout, session, int32(16), make([]byte, 16), byte(0)); err != nil {
		return err
	}
	for {
		request, err := frame(conn)
		if err != nil {
			return err
		}
		xid, op := int32(binary.BigEndian.Uint32(request)), int32(binary.BigEndian.Uint32(request[4:]))
		if err := f.handle(conn, xid, op, request[8:]); err != nil {
			return err
		}
	}
}

func (f *fakeServer) handle(conn net.Conn, xid, op int32, body []byte) error {
	const ping = 11
	if op == ping {
		return send(conn, xid, int64(1), int32(0))
	}
	f.mu.Lock()
	f.log = append(f.log, op)
	f.mu.Unlock()
	switch op {
	case opMulti:
		f.multis.Add(1)
	case opClose:
		f.closes.Add(1)
	}
	code := int32(0)
	switch {
	case f.answer != nil:
		code = f.answer(op, body)
	case op == opExists && bytes.Contains(body, []byte("/:")),
		op == opExists && bytes.Contains(body, []byte("/%sessions/0x")) && f.closes.Load() > 0:
		code = noNode
	}
	switch {
	case code == hangUp:
		return errors.New("hung up")
	case code == silence:
		return nil
	case code != 0:
		return send(conn, xid, int64(2), code)
	case op == opMulti:
		return send(conn, xid, int64(2), code, int32(-1), byte(1), int32(-1)) // no results
	case op == opList:
		return send(conn, xid, int64(2), code, int32(0), make([]byte, 68)) // of nothing
	case op == opCreate:
		return send(conn, xid, int64(2), code, int32(1), []byte("/"))
	default:
		return send(conn, xid, int64(2), code, make([]byte, 68)) // a stat of zeros
	}
}

// only answers operations of one kind with a code, and looks as usual.
func only(op, code int32) func(int32, []byte) int32 {
	return func(asked int32, body []byte) int32 {
		switch {
		case asked == op:
			return code
		case asked == opExists && bytes.Contains(body, []byte("/:")):
			return noNode
		default:
			return 0
		}
	}
}

func frame(conn net.Conn) ([]byte, error) {
	var length uint32
	if err := binary.Read(conn, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	body := make([]byte, length)
	_, err := io.ReadFull(conn, body)
	return body, err
}

// send sends fields as one frame.
func send(conn net.Conn, fields ...any) error {
	var body bytes.Buffer
	for _, field := range fields {
		if err := binary.Write(&body, binary.BigEndian, field); err != nil {
			return err
		}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(body.Len())), body.Bytes()...))
	return err
}
