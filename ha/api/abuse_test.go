package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testlog"
)

// protected runs a server that demands a password, and its log. Its clock stands, so
// that nothing is forgiven.
func protected(t *testing.T, password string) (*Server, *testlog.Buffer) {
	t.Helper()
	log := new(testlog.Buffer)
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	credentials, err := OpenCredentials(CredentialsConfig{Username: "pghad", Password: password, Logger: logger})
	require.NoError(t, err)
	mock := clock.NewMock()
	server := listen(t, ServerConfig{Credentials: credentials, Logger: logger, Clock: mock})
	handler, err := NewHandler(HandlerConfig{Promiser: member(willing), Credentials: credentials, Logger: logger, Clock: mock})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(handler) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close(context.Background()))
		require.NoError(t, <-served)
		credentials.Close()
	})
	return server, log
}

// with is a request with a password.
func with(password, body string, length int) string {
	request, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://b/", nil)
	request.SetBasicAuth("pghad", password)
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s",
		promisePath, request.Header.Get("Authorization"), length, body)
}

// TestWrongPasswordOften: who guesses is refused, soon without a look at the guess, and
// is one line of the log and not one for each; the line has no password.
func TestWrongPasswordOften(t *testing.T) {
	t.Parallel()
	const password = "sEcReTmArK"
	server, log := protected(t, password)
	conn := dial(t, server)
	reader := bufio.NewReader(conn)
	refused := map[int]int{}
	for n := range 2 * int(requestsOfOne.burst) {
		if _, err := io.WriteString(conn, with(fmt.Sprintf("guess-%d", n), wireBody, len(wireBody))); err != nil {
			break
		}
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			break // it has been cut off
		}
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.NotContains(t, string(body), "guess-")
		refused[response.StatusCode]++
	}
	require.Equal(t, map[int]int{http.StatusUnauthorized: int(requestsOfOne.burst), http.StatusTooManyRequests: 1}, refused)
	require.LessOrEqual(t, strings.Count(log.String(), "\n"), 3)
	require.NotContains(t, log.String(), "guess-")
	require.NotContains(t, log.String(), password)
}

// TestHugeBody: of a body without end no more is read than one may have, with and
// without a password; the connection is closed then.
func TestHugeBody(t *testing.T) {
	t.Parallel()
	const password, huge = "sEcReTmArK", 1 << 30
	server, _ := protected(t, password)
	for _, given := range []string{password, "wrong"} {
		conn := dial(t, server)
		_, err := io.WriteString(conn, with(given, "", huge))
		require.NoError(t, err)
		piece, sent := bytes.Repeat([]byte("x"), 64<<10), 0
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(time.Minute)))
		for sent < huge {
			n, err := conn.Write(piece)
			sent += n
			if err != nil {
				break
			}
		}
		require.Less(t, sent, 64<<20, "what the kernel takes is not the server's")
	}
}

// TestManySlowConnections: hundreds of connections that say half a word keep less than a
// few of them would cost, and who has talked before goes on.
func TestManySlowConnections(t *testing.T) {
	t.Parallel()
	const password = "sEcReTmArK"
	server, log := protected(t, password)
	good := dial(t, server)
	talk := func() int {
		_, err := io.WriteString(good, with(password, wireBody, len(wireBody)))
		require.NoError(t, err)
		return status(t, good)
	}
	require.Equal(t, http.StatusOK, talk())
	before := heap()
	var open []net.Conn
	for range 500 {
		conn := dial(t, server)
		_, _ = io.WriteString(conn, "POST /peer/pro") // it may be closed already
		open = append(open, conn)
	}
	require.Equal(t, http.StatusOK, talk())
	require.Less(t, heap()-before, int64(16<<20))
	require.LessOrEqual(t, strings.Count(log.String(), "\n"), 3)
	for _, conn := range open {
		_ = conn.Close()
	}
	require.Equal(t, http.StatusOK, talk())
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
