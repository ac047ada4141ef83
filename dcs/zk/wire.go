package zk

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// wire is one network connection as the client sees it. It learns what the
// client does not tell, the session timeout that was granted, and can be taken
// away from the client in ways of which a server does not complain.
type wire struct {
	net.Conn // to the peer, by TLS or not

	raw net.Conn // under it
	n   int      // counts the wires of a link, from 1 on
	// opened is told of the server's answer to the client's request for a
	// session, before the client is.
	opened func(*wire)

	mu    sync.Mutex
	state wireState
	asked bool // the request for a session has been written

	answer  []byte        // what has been read of the answer, until it is complete
	session int64         // set when it is
	timeout time.Duration // set when it is
}

type wireState int

const (
	shaking wireState = iota // the answer is not complete
	open
	mute // nothing more goes out; the client gets errors for what it writes
	cut  // taken away from the client, which thinks it has failed
)

// newWire bounds the handshake, for which the client would wait for several
// times the session timeout.
func newWire(raw, conn net.Conn, handshake time.Duration, opened func(*wire)) (*wire, error) {
	w := &wire{Conn: conn, raw: raw, opened: opened}
	return w, conn.SetDeadline(time.Now().Add(handshake))
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if w.is(cut) {
		return 0, net.ErrClosed
	}
	n, err := w.Conn.Read(b)
	if w.is(shaking) && w.learn(b[:n]) {
		w.opened(w)
	}
	return n, err
}

// learn collects the answer and reports whether it is complete now. It is a
// frame: length, protocol, timeout in milliseconds, session, and more.
func (w *wire) learn(b []byte) bool {
	const upToSession = 4 + 4 + 4 + 8
	w.answer = append(w.answer, b...)
	if len(w.answer) < upToSession || len(w.answer) < 4+int(binary.BigEndian.Uint32(w.answer)) {
		return false
	}
	w.timeout = time.Duration(binary.BigEndian.Uint32(w.answer[8:])) * time.Millisecond
	w.session = int64(binary.BigEndian.Uint64(w.answer[12:])) //nolint:gosec // the bits of a session's id
	w.answer = nil
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == shaking {
		w.state = open
		_ = w.Conn.SetDeadline(time.Time{}) // a connection that has failed will say so
	}
	return true
}

// Write implements net.Conn. The client's request for a session lacks the flag
// that says whether a member without a majority would do, which by now has been
// part of it for ten years; servers complain. We add it: no.
func (w *wire) Write(b []byte) (int, error) {
	if w.is(mute) || w.is(cut) {
		return 0, net.ErrClosed
	}
	if w.asked || len(b) < 4 {
		return w.Conn.Write(b)
	}
	w.asked = true
	request := append(make([]byte, 0, len(b)+1), b...)
	binary.BigEndian.PutUint32(request, uint32(len(b)-4+1)) //nolint:gosec // a few bytes
	if _, err := w.Conn.Write(append(request, 0)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadDeadline implements net.Conn, for the client as long as it may.
func (w *wire) SetReadDeadline(t time.Time) error {
	return w.deadline(func() error { return w.Conn.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn, for the client as long as it may.
func (w *wire) SetWriteDeadline(t time.Time) error {
	return w.deadline(func() error { return w.Conn.SetWriteDeadline(t) })
}

func (w *wire) deadline(set func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == shaking || w.state == cut {
		return nil
	}
	return set()
}

// Close implements net.Conn, for the client. A wire that was cut stays open.
func (w *wire) Close() error {
	if w.is(cut) {
		return nil
	}
	return w.raw.Close()
}

// cut takes an open wire away from the client and reports true: the server does
// not notice. It then has to be ended. Any other wire is ended at once.
func (w *wire) cut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		_ = w.raw.Close() // nobody wants to know
		return false
	}
	w.state = cut
	_ = w.Conn.SetDeadline(time.Unix(1, 0)) // wakes who reads or writes
	return true
}

// mute lets nothing more out.
func (w *wire) mute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == open {
		w.state = mute
	}
}

// end closes the connection whatever state the wire is in.
func (w *wire) end() { _ = w.raw.Close() }

func (w *wire) is(s wireState) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state == s
}
