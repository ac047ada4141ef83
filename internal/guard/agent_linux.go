package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"syscall"
)

// agent is a connected agent.
type agent struct {
	conn   *net.UnixConn
	asked  chan ask
	closed chan struct{}
}

func newAgent(conn *net.UnixConn) *agent {
	return &agent{conn: conn, asked: make(chan ask), closed: make(chan struct{})}
}

// ask is what an agent has said: a request, or an error, which is the last.
type ask struct {
	request Request
	err     error // io.EOF: it has gone
}

// listen reads the agent's requests until the connection ends.
func (a *agent) listen() {
	lines := bufio.NewScanner(a.conn)
	lines.Buffer(make([]byte, 0, 1024), maxLine)
	for {
		said := ask{err: io.EOF}
		switch {
		case lines.Scan():
			said.request, said.err = decodeRequest(lines.Bytes())
		case errors.Is(lines.Err(), bufio.ErrTooLong):
			said.err = lines.Err()
		}
		select {
		case a.asked <- said:
		case <-a.closed:
			return
		}
		if said.err != nil {
			return
		}
	}
}

// send writes one line without ever waiting: the guard has more important things
// to do than to wait for an agent that does not read. It reports whether the line
// was taken.
func (a *agent) send(m message) bool {
	line, err := json.Marshal(m)
	if err != nil {
		return false
	}
	line = append(line, '\n')
	raw, err := a.conn.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	if ctrl := raw.Write(func(fd uintptr) bool {
		n, err = syscall.Write(int(fd), line)
		return true
	}); ctrl != nil {
		return false
	}
	return err == nil && n == len(line)
}

// close ends the connection, once.
func (a *agent) close() {
	close(a.closed)
	_ = a.conn.Close() // nothing is buffered
}
