package testbed_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
)

// echo is a server that says again each line that it has heard, and tells of it.
func echo(t *testing.T) (address string, heard <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	lines := make(chan string, 10)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer func() { _ = conn.Close() }()
				for input := bufio.NewScanner(conn); input.Scan(); {
					lines <- input.Text()
					_, _ = io.WriteString(conn, input.Text()+"\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		tasks.Wait()
	})
	return listener.Addr().String(), lines
}

// line is a connection through the proxy.
type line struct {
	net.Conn
	input *bufio.Reader
}

func dial(t *testing.T, p *testbed.Proxy) line {
	t.Helper()
	conn, err := net.Dial("tcp", p.Address())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return line{Conn: conn, input: bufio.NewReader(conn)}
}

func (l line) say(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(l, text+"\n")
	require.NoError(t, err)
}

func (l line) hear(t *testing.T) string {
	t.Helper()
	text, err := l.input.ReadString('\n')
	require.NoError(t, err)
	return text
}

// hearsNothing waits for a moment in which a line would have come.
func (l line) hearsNothing(t *testing.T) {
	t.Helper()
	require.NoError(t, l.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := l.input.ReadString('\n')
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, l.SetReadDeadline(time.Time{}))
}

func TestProxy(t *testing.T) {
	t.Parallel()
	server, heard := echo(t)
	p, err := testbed.NewProxy(server, nil)
	require.NoError(t, err)
	a, b := dial(t, p), dial(t, p)
	a.say(t, "1")
	require.Equal(t, "1\n", a.hear(t))
	require.Equal(t, "1", <-heard)

	p.Cut()
	a.say(t, "2")
	late := dial(t, p)
	late.say(t, "late")
	a.hearsNothing(t)
	require.Empty(t, heard)
	p.Heal()
	require.Equal(t, "2\n", a.hear(t), "nothing of it was lost")
	require.Equal(t, "late\n", late.hear(t))
	require.ElementsMatch(t, []string{"2", "late"}, []string{<-heard, <-heard})

	dropped := make(chan struct{}, 10)
	p.DropReplies(func() { dropped <- struct{}{} })
	a.say(t, "3")
	require.Equal(t, "3", <-heard)
	<-dropped
	a.hearsNothing(t)
	p.Heal()
	_, err = a.input.ReadString('\n')
	require.Error(t, err, "what comes next would make no sense")
	b.say(t, "4")
	require.Equal(t, "4\n", b.hear(t), "from the others nothing was kept")

	p.Cut()
	b.say(t, "5")
	require.NoError(t, p.Close())
	_, err = b.input.ReadString('\n')
	require.Error(t, err)
	_, err = net.Dial("tcp", p.Address())
	require.Error(t, err)
}

func TestProxyToNobody(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	p, err := testbed.NewProxy(listener.Addr().String(), nil)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", p.Address()) // may be reset at once
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, conn.Close())
	}
	require.Error(t, err)
	require.NoError(t, p.Close())
}
