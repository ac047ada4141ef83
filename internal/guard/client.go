package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrNoGuard says that no guard is at the socket.
var ErrNoGuard = errors.New("no guard is there")

// ErrLost says that the connection to the guard has ended: the guard has, or it
// did not understand what it was told.
var ErrLost = errors.New("the connection to the guard has ended")

// Client is an agent's connection to a guard. Its methods may be called from any
// goroutine.
//
// An error that is no *Error leaves the outcome of a request open: the guard may
// have carried it out.
type Client struct {
	conn  *net.UnixConn
	pid   int
	hello Hello

	writing chan struct{} // holds a token while a line is written
	events  chan Event
	done    chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan<- Response
}

// Dial connects to the guard at a socket. It refuses one that is neither this
// user's nor root's: ErrDenied. ErrNoGuard if nobody is there, ErrBusy if another
// agent is connected.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("connect to the guard at %s: %w", socket, ErrNoGuard)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the guard: %w", err)
	}
	c, err := greet(ctx, conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the guard at %s: %w", socket, err), conn.Close())
	}
	return c, nil
}

// greet checks who is there and hears the guard's first line.
func greet(ctx context.Context, conn net.Conn) (*Client, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%s is not a unix socket", conn.RemoteAddr())
	}
	uid, pid, err := peerOf(unix)
	if err != nil {
		return nil, fmt.Errorf("ask who is there: %w", err)
	}
	if uid != os.Geteuid() && uid != 0 {
		return nil, because(ErrDenied, fmt.Sprintf("the guard there runs as user %d and this process as %d: look who has opened the socket", uid, os.Geteuid()))
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.SetDeadline(time.Unix(1, 0)) }) // long ago
	lines := newScanner(unix)
	first, err := readMessage(lines)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	switch {
	case err != nil:
		return nil, err
	case first.Error != nil:
		return nil, first.Error
	case first.Hello == nil:
		return nil, errors.New("what is there does not greet as a guard does")
	case first.Hello.Version != Version:
		return nil, fmt.Errorf("the guard speaks version %d of the protocol and this agent version %d: restart the server under a guard of this version", first.Hello.Version, Version)
	}
	c := &Client{
		conn:    unix,
		pid:     pid,
		hello:   *first.Hello,
		writing: make(chan struct{}, 1),
		events:  make(chan Event, 8), // more than a guard has to tell
		done:    make(chan struct{}),
		waiting: make(map[uint64]chan<- Response),
	}
	go c.read(lines) // its owner is the connection: Close ends it
	return c, nil
}

func newScanner(conn net.Conn) *bufio.Scanner {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 1024), maxLine)
	return lines
}

func readMessage(lines *bufio.Scanner) (message, error) {
	var m message
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return m, fmt.Errorf("%w: %w", ErrLost, err)
		}
		return m, ErrLost
	}
	if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
		return m, fmt.Errorf("the guard says what is no message: %w", err)
	}
	return m, nil
}

// read hears the guard until the connection ends.
func (c *Client) read(lines *bufio.Scanner) {
	defer close(c.done)
	defer close(c.events)
	for {
		m, err := readMessage(lines)
		if err != nil {
			_ = c.conn.Close() // what follows would be no better
			return
		}
		if m.Event != nil {
			select {
			case c.events <- *m.Event:
			default: // nobody listens, and the guard says more than it can
			}
			continue
		}
		c.mu.Lock()
		answer := c.waiting[m.ID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if answer != nil {
			answer <- m.Response
		}
	}
}

// Pid is the guard's process id, as the kernel has it.
func (c *Client) Pid() int { return c.pid }

// Hello is what the guard said first.
func (c *Client) Hello() Hello { return c.hello }

// Events are what happens, from the connection on. The channel is closed with the
// connection.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection has ended. It does when the guard does.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection. Guard, server and deadline stay; a guard without a
// server ends.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Start starts the server and returns its process id.
func (c *Client) Start(ctx context.Context, start Start) (pid int, err error) {
	status, err := c.call(ctx, Request{Start: &start})
	if err != nil {
		return 0, fmt.Errorf("start the server under its guard: %w", err)
	}
	return status.Pid, nil
}

// SetDeadline declares the server writable until a deadline, or moves that. See
// Deadline.
func (c *Client) SetDeadline(ctx context.Context, deadline Deadline) (Status, error) {
	status, err := c.call(ctx, Request{Deadline: &deadline})
	if err != nil {
		return status, fmt.Errorf("tell the guard the deadline: %w", err)
	}
	return status, nil
}

// Stop begins to stop the server: EventGone tells the end.
func (c *Client) Stop(ctx context.Context, mode StopMode) error {
	if _, err := c.call(ctx, Request{Stop: &Stop{Mode: mode}}); err != nil {
		return fmt.Errorf("have the guard stop the server: %w", err)
	}
	return nil
}

// Status asks how guard and server are.
func (c *Client) Status(ctx context.Context) (Status, error) {
	status, err := c.call(ctx, Request{Status: &struct{}{}})
	if err != nil {
		return status, fmt.Errorf("ask the guard for its status: %w", err)
	}
	return status, nil
}

// call sends a request and waits for its answer.
func (c *Client) call(ctx context.Context, request Request) (Status, error) {
	answer := make(chan Response, 1)
	c.mu.Lock()
	c.last++
	request.ID = c.last
	c.waiting[request.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, request.ID)
		c.mu.Unlock()
	}()
	if err := c.write(ctx, request); err != nil {
		return Status{}, err
	}
	select {
	case response := <-answer:
		return response.result()
	case <-c.done:
	case <-ctx.Done():
		return Status{}, fmt.Errorf("wait for its answer: %w", context.Cause(ctx))
	}
	select {
	case response := <-answer: // its last words
		return response.result()
	default:
		return Status{}, ErrLost
	}
}

func (r Response) result() (Status, error) {
	switch {
	case r.Error != nil:
		return Status{}, r.Error
	case r.Status == nil:
		return Status{}, errors.New("its answer has neither a status nor an error")
	}
	return *r.Status, nil
}

// write sends one line. A guard that does not read (it is frozen, and the buffer
// full) holds it up until ctx ends; the connection is of no use then.
func (c *Client) write(ctx context.Context, request Request) error {
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if len(line) > maxLine {
		return fmt.Errorf("a request of %d bytes is longer than a line may be", len(line))
	}
	select {
	case c.writing <- struct{}{}:
	case <-c.done:
		return ErrLost
	case <-ctx.Done():
		return fmt.Errorf("wait until it reads: %w", context.Cause(ctx))
	}
	defer func() { <-c.writing }()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() }) // half a line must not be followed by another
	_, err = c.conn.Write(line)
	if !stop() && err != nil {
		return fmt.Errorf("wait until it reads: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}
