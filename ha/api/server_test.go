package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
)

type member func(context.Context, ha.PromiseRequest) (ha.Promise, error)

func (m member) Promise(ctx context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
	return m(ctx, ask)
}

func willing(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
	return ha.Promise{Given: true, Member: ask.Member}, nil
}

// listen makes a server of which a test may change what it likes before serve.
func listen(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	cfg.Address = "127.0.0.1:0"
	server, err := Listen(t.Context(), cfg)
	require.NoError(t, err)
	return server
}

func serve(t *testing.T, server *Server, node member) {
	t.Helper()
	handler, err := NewHandler(HandlerConfig{Promiser: node})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(handler) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close(context.Background()))
		require.NoError(t, <-served)
	})
}

func dial(t *testing.T, server *Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// question as it is on the wire.
func onWire(body string) string {
	return fmt.Sprintf("POST /peer/promise HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

const wireBody = `{"format":1,"id":"x","cluster":"/c/","term":7,"nonce":"n","primary":"a.1","member":"b.2","for":1000000000}`

func status(t *testing.T, conn net.Conn) int {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

func TestListenRefuses(t *testing.T) {
	t.Parallel()
	first := listen(t, ServerConfig{})
	t.Cleanup(func() { require.NoError(t, first.Close(context.Background())) })
	_, err := Listen(t.Context(), ServerConfig{Address: first.Addr().String()})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, "listen at "+first.Addr().String()+": ")

	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		_, err = Listen(t.Context(), ServerConfig{Address: address})
		require.ErrorIs(t, err, ErrUnprotected, address)
	}
	protected, err := OpenCredentials(CredentialsConfig{Username: "pghad", Password: "x"})
	require.NoError(t, err)
	defer protected.Close()
	server, err := Listen(t.Context(), ServerConfig{Address: "0.0.0.0:0", Credentials: protected})
	require.NoError(t, err)
	require.NoError(t, server.Close(t.Context()))

	handler, err := NewHandler(HandlerConfig{Promiser: member(willing)})
	require.NoError(t, err)
	require.EqualError(t, server.Serve(handler), "serve: Handler and Server must have the same Credentials")
}

// TestServerClosesWhatIsSlow: a header, a body or a handshake that does not
// come, and a pause that is too long, end a connection.
func TestServerClosesWhatIsSlow(t *testing.T) {
	t.Parallel()
	server := listen(t, ServerConfig{})
	server.http.ReadHeaderTimeout, server.http.ReadTimeout, server.http.IdleTimeout = 20*time.Millisecond, 40*time.Millisecond, 20*time.Millisecond
	serve(t, server, willing)
	for name, begun := range map[string]string{
		"nothing":       "",
		"half a header": "POST /peer/pro",
		"half a body":   onWire(wireBody)[:190],
		"pause":         onWire(wireBody),
	} {
		conn := dial(t, server)
		_, err := io.WriteString(conn, begun)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, conn) // until the server closes it
		require.NoError(t, err, name)
	}
}

// TestServerLimitsConnections: what is too much is closed at once, and there is
// room again when others have gone.
func TestServerLimitsConnections(t *testing.T) {
	t.Parallel()
	server := listen(t, ServerConfig{MaxConnections: 8}) // 2 from one address
	serve(t, server, willing)
	talk := func(conn net.Conn) int {
		_, err := io.WriteString(conn, onWire(wireBody))
		require.NoError(t, err)
		return status(t, conn)
	}
	first, second := dial(t, server), dial(t, server)
	require.Equal(t, 200, talk(first))
	require.Equal(t, 200, talk(second))
	n, err := dial(t, server).Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err, "one too many")
	require.Equal(t, 200, talk(first), "the others go on")

	require.NoError(t, first.Close())
	for { // the server notices in its time
		conn := dial(t, server)
		if _, err := io.WriteString(conn, onWire(wireBody)); err == nil {
			if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				require.Equal(t, 200, response.StatusCode)
				require.NoError(t, response.Body.Close())
				break
			}
		}
		require.NoError(t, conn.Close())
	}
}

// TestServerFlood: connections that come too fast are closed before anything is
// done for them.
func TestServerFlood(t *testing.T) {
	t.Parallel()
	mock := clock.NewMock()
	server := listen(t, ServerConfig{Clock: mock, MaxConnections: 1000})
	serve(t, server, willing)
	served := 0
	for range 100 {
		conn := dial(t, server)
		_, _ = io.WriteString(conn, onWire(wireBody))
		if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			served++
			require.NoError(t, response.Body.Close())
		}
		require.NoError(t, conn.Close())
	}
	require.Equal(t, int(connectionsOfOne.burst), served)
}

// TestServerClose lets an answer under way be finished, but not for ever.
func TestServerClose(t *testing.T) {
	t.Parallel()
	for name, patient := range map[string]bool{"in time": true, "too late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entered, release := make(chan struct{}), make(chan struct{})
			server := listen(t, ServerConfig{})
			handler, err := NewHandler(HandlerConfig{Promiser: member(func(ctx context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
				close(entered)
				select {
				case <-release:
				case <-ctx.Done():
				}
				return willing(ctx, ask)
			})})
			require.NoError(t, err)
			var wait sync.WaitGroup
			wait.Go(func() { require.NoError(t, server.Serve(handler)) })
			conn := dial(t, server)
			_, err = io.WriteString(conn, onWire(wireBody))
			require.NoError(t, err)
			<-entered
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if patient {
				close(release)
				require.NoError(t, server.Close(ctx))
				require.Equal(t, 200, status(t, conn))
			} else {
				cancel()
				require.ErrorIs(t, server.Close(ctx), context.Canceled)
			}
			wait.Wait()
			_, err = net.Dial("tcp", server.Addr().String())
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.NoError(t, server.Close(t.Context()), "again")
		})
	}
}

// brokenListener fails to accept some connections, as the kernel does when the
// machine is short of something or a network goes down.
type brokenListener struct {
	net.Listener
	failures int
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.ENETDOWN}
	}
	return l.Listener.Accept()
}

// TestServerOutlivesErrors: the line does not die of a connection that could
// not be accepted.
func TestServerOutlivesErrors(t *testing.T) {
	t.Parallel()
	server := listen(t, ServerConfig{Logger: slog.New(slog.DiscardHandler)})
	server.listener.Listener = &brokenListener{Listener: server.listener.Listener, failures: 2}
	serve(t, server, willing)
	conn := dial(t, server)
	_, err := io.WriteString(conn, onWire(wireBody))
	require.NoError(t, err)
	require.Equal(t, 200, status(t, conn))
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	mock := clock.NewMock()
	l := newLimiter(mock, rate{perSecond: 1, burst: 2}, rate{perSecond: 10, burst: 5000})
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range maxSources {
		require.True(t, l.allow(address(i)))
	}
	require.True(t, l.allow(address(maxSources)))
	require.True(t, l.allow(address(maxSources+1)))
	require.False(t, l.allow(address(maxSources+2)), "those that are not told apart share an allowance")
	require.True(t, l.allow(address(0)))
	require.False(t, l.allow(address(0)))
	mock.Add(2 * time.Second)
	require.True(t, l.allow(address(maxSources+2)), "the table has been swept")
	require.Len(t, l.sources, 1)

	l = newLimiter(mock, rate{perSecond: 1, burst: 2}, rate{perSecond: 1, burst: 3})
	for i, want := range []bool{true, true, true, false} {
		require.Equal(t, want, l.allow(address(i)), "all together")
	}
	mock.Add(-time.Hour) // a clock that is set back gives nothing and takes nothing
	require.False(t, l.allow(address(9)))
}

func TestSourceOf(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"10.1.2.3:4":                  "10.1.2.3",
		"[::ffff:10.1.2.3]:4":         "10.1.2.3",
		"[::1]:4":                     "::1",
		"[2001:db8:1:2:3:4:5:6]:7":    "2001:db8:1:2::",
		"[fe80::1:2:3:4%eth0]:7":      "fe80::",
		"@":                           "invalid IP",
		"name:80":                     "invalid IP",
		strings.Repeat("x", 10) + ":": "invalid IP",
	} {
		require.Equal(t, want, sourceOf(remote).String(), remote)
	}
}

func FuzzReadQuestion(f *testing.F) {
	f.Add([]byte(wireBody))
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := readQuestion(body)
		if err != nil {
			require.Zero(t, q)
			return
		}
		require.True(t, q.ID != "" && q.Cluster != "" && q.Term > 0 && q.For > 0 && q.Member.Node != "" && q.Primary.Node != "")
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"x","cluster":"/c/","term":7,"member":"b.2","given":true}`))
	f.Add([]byte(`{"format":1,"given":true}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := readQuestion([]byte(wireBody))
		require.NoError(t, err)
		promise, err := readAnswer(body, q)
		if err != nil {
			require.Zero(t, promise)
			return
		}
		require.Equal(t, q.Member, promise.Member)
	})
}

var errNever = errors.New("never")

// TestSeldomCounts: what is not logged is counted.
func TestSeldomCounts(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	mock := clock.NewMock()
	s := &seldom{clock: mock, logger: slog.New(slog.NewTextHandler(&out, nil)), message: "it happened"}
	for range 3 {
		s.warn(t.Context(), "error", errNever)
	}
	mock.Add(time.Minute)
	_, err := s.Write([]byte("http: TLS handshake error\n"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `msg="it happened" error=never others_not_logged=0`)
	require.Contains(t, lines[1], `msg="it happened" reason="http: TLS handshake error" others_not_logged=2`)
}
