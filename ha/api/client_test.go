package api_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
	"github.com/pghad/pghad/ha/quorum"
)

// TestClientAsks: what is asked arrives, and what is answered comes back.
func TestClientAsks(t *testing.T) {
	t.Parallel()
	asked := make(chan ha.PromiseRequest, 1)
	answers := make(chan ha.Promise, 1)
	peer := serve(t, func(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
		asked <- ask
		return <-answers, nil
	}, nil, nil)
	client := newClient(t, nil)
	for _, want := range []ha.Promise{
		{Given: true, Member: ask().Member},
		{Given: false, Member: ask().Member, Why: "this node sees election 8 (fencing)"},
	} {
		answers <- want
		got, err := client.AskPromise(t.Context(), peer, ask())
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, ask(), <-asked)
	}
	for want, given := range map[string]ha.Promise{
		`this is the answer of member "b.3", not "b.2": "another life"`: {Given: true, Member: quorum.Member{Node: "b", Incarnation: "3"}, Why: "another life"},
		`it does not say which member it is: "nothing here"`:            {Why: "nothing here"},
		`this is the answer of member "", not "b.2": ""`:                {Given: true},
	} {
		answers <- given
		_, err := client.AskPromise(t.Context(), peer, ask())
		require.EqualError(t, err, "ask b for a promise: "+peer.APIURL+": "+want)
		<-asked
	}
}

// impostor answers with what a test says.
func impostor(t *testing.T, answer http.HandlerFunc) ha.Peer {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return ha.Peer{Name: "b", APIURL: server.URL}
}

// reply is a whole answer with some fields changed.
func reply(change map[string]any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q map[string]any
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			panic(err)
		}
		answer := map[string]any{"given": true}
		for _, key := range []string{"format", "id", "cluster", "term", "member"} {
			answer[key] = q[key]
		}
		for key, value := range change {
			if answer[key] = value; value == nil {
				delete(answer, key)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			panic(err)
		}
	}
}

func text(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestClientTakesNothingElseForAnAnswer: whatever else comes is an error that
// says what it was.
func TestClientTakesNothingElseForAnAnswer(t *testing.T) {
	t.Parallel()
	const kind = "application/json"
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"another member", reply(map[string]any{"member": "c.9"}), `this is the answer of member "c.9", not "b.2": ""`},
		{"another life", reply(map[string]any{"member": "b.3"}), `this is the answer of member "b.3", not "b.2": ""`},
		{"no member", reply(map[string]any{"member": nil}), `this is the answer of member "", not "b.2": ""`},
		{"another term", reply(map[string]any{"term": 8}), "this is an answer about term 8, not 7"},
		{"no term", reply(map[string]any{"term": nil}), "this is an answer about term 0, not 7"},
		{"another cluster", reply(map[string]any{"cluster": "/service/x/"}), `this is the answer of cluster "/service/x/"`},
		{"another question", reply(map[string]any{"id": "old"}), "this is the answer to another question"},
		{"no word", reply(map[string]any{"given": nil}), "not an answer: given: is missing"},
		{"null", reply(map[string]any{"given": json.RawMessage("null")}), "not an answer: given: is missing"},
		{"not a truth", reply(map[string]any{"given": "yes"}), "not an answer: invalid JSON: json: cannot unmarshal string into Go struct field answer.given of type bool"},
		{"unknown field", reply(map[string]any{"unless": "it rains"}), `not an answer: invalid JSON: json: unknown field "unless"`},
		{"later format", reply(map[string]any{"format": 2}), "not an answer: format: 2 is not known here, only 1"},
		{"empty", text(200, kind, ""), "not an answer: invalid JSON: unexpected end of JSON input"},
		{"nothing in it", text(200, kind, "{}"), "not an answer: format: 0 is not known here, only 1"},
		{"page", text(200, "text/html", "<html>welcome"), `not an answer: Content-Type is "text/html"`},
		{"no JSON", text(200, kind, "<html>welcome"), "not an answer: invalid JSON: invalid character '<' looking for beginning of value"},
		{"no content", text(204, kind, ""), "not an answer: status 204 (No Content)"},
		{"accepted", text(202, kind, "{}"), "not an answer: status 202 (Accepted)"},
		{"refused", text(503, kind, `{"error":"too\nmany"}`), `not an answer: status 503: "too\nmany"`},
		{"gateway", text(502, "text/html", "<html>bad gateway"), "not an answer: status 502 (Bad Gateway)"},
		{"unknown status", text(599, kind, "null"), "not an answer: status 599 (unknown)"},
		{"too long", text(200, kind, "{"+strings.Repeat(" ", 17000)+"}"), "no answer: the body is longer than 16384 bytes"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 4096))
			}
		}, "no answer: the body is longer than 16384 bytes"},
		{"packed", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(gzip.NewWriter(w), "{}")
		}, `not an answer: invalid JSON: invalid character '\x1f' looking for beginning of value`},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "not an answer: status 307 (Temporary Redirect)"},
		{"gone", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "no answer: EOF"},
		{"half", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "no answer: unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			peer := impostor(t, tt.answer)
			_, err := newClient(t, nil).AskPromise(within(t, patience), peer, ask())
			require.EqualError(t, err, "ask b for a promise: "+peer.APIURL+": "+tt.want)
		})
	}
	t.Run("the whole answer", func(t *testing.T) {
		t.Parallel()
		promise, err := newClient(t, nil).AskPromise(within(t, patience), impostor(t, reply(nil)), ask())
		require.NoError(t, err)
		require.True(t, promise.Given)
	})
}

// TestClientAgainstOtherProtocols: who speaks something else has no answer.
func TestClientAgainstOtherProtocols(t *testing.T) {
	t.Parallel()
	for name, greeting := range map[string]string{
		"not HTTP":        "SSH-2.0-OpenSSH\r\n",
		"endless header":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20),
		"endless interim": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var wait sync.WaitGroup
			wait.Go(func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = bufio.NewReader(conn).ReadString('\n')
					_, _ = io.WriteString(conn, greeting)
					_ = conn.Close()
				}
			})
			t.Cleanup(func() { require.NoError(t, listener.Close()); wait.Wait() })
			_, err = newClient(t, nil).AskPromise(within(t, patience), ha.Peer{Name: "b", APIURL: "http://" + listener.Addr().String()}, ask())
			require.ErrorContains(t, err, "no answer: ")
		})
	}
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	client := newClient(t, nil)
	const bad = "it has published no address of the form http://host:port or https://host:port"
	for url, want := range map[string]string{
		"":                       "it has not published where it can be asked",
		"10.0.0.1:8008":          bad,
		"ftp://10.0.0.1:8008":    bad,
		"http://":                bad,
		"http://:8008":           bad,
		"http://u:hunter2@b:1/":  bad,
		"unix:///tmp/x":          bad,
		"http://127.0.0.1:70000": "http://127.0.0.1:70000: no answer: dial tcp: address 70000: invalid port",
	} {
		_, err := client.AskPromise(within(t, patience), ha.Peer{Name: "b", APIURL: url}, ask())
		require.EqualError(t, err, "ask b for a promise: "+want, url)
	}
	peer := serve(t, willing, nil, nil)
	for _, rest := range []string{"", "/", "/patroni", "/x?y#z"} {
		_, err := client.AskPromise(within(t, patience), ha.Peer{Name: "b", APIURL: peer.APIURL + rest}, ask())
		require.NoError(t, err, "only scheme and address count")
	}
	client.Close()
	_, err := client.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err, "a closed client has only let go of its connections")
}

// TestClientWaitsNoLonger: a member that is silent keeps nobody waiting, and
// another question to it is asked on a new connection.
func TestClientWaitsNoLonger(t *testing.T) {
	t.Parallel()
	mock := clock.NewMock()
	arrived, release := make(chan struct{}), make(chan struct{})
	peer := serve(t, func(ctx context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
		select {
		case arrived <- struct{}{}:
			<-ctx.Done() // whoever has asked is gone
			close(release)
			return ha.Promise{}, ctx.Err()
		case <-release:
			return willing(ctx, ask)
		}
	}, nil, nil)
	client := api.NewClient(api.ClientConfig{Clock: mock, Timeout: time.Second})
	t.Cleanup(client.Close)
	failed := make(chan error, 1)
	go func() {
		_, err := client.AskPromise(t.Context(), peer, ask())
		failed <- err
	}()
	<-arrived
	mock.Add(time.Second)
	err := <-failed
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualError(t, err, "ask b for a promise: "+peer.APIURL+": no answer: the answer took longer than 1s: context deadline exceeded")
	<-release
	_, err = client.AskPromise(t.Context(), peer, ask())
	require.NoError(t, err)

	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the term has ended"))
	_, err = client.AskPromise(ended, peer, ask())
	require.EqualError(t, err, "ask b for a promise: "+peer.APIURL+": no answer: the term has ended")
}

// TestClientKeepsConnections: one connection serves many questions, and a node
// that was restarted is asked on a new one without an error.
func TestClientKeepsConnections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	connections := 0
	server := httptest.NewUnstartedServer(reply(nil))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			connections++
			mu.Unlock()
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t, nil)
	peer := ha.Peer{Name: "b", APIURL: server.URL}
	for range 5 {
		_, err := client.AskPromise(within(t, patience), peer, ask())
		require.NoError(t, err)
	}
	server.CloseClientConnections()
	_, err := client.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 2, connections)
}

// TestClientUsesNoProxy: the direct line is direct.
func TestClientUsesNoProxy(t *testing.T) {
	proxied := make(chan string, 10)
	proxy := impostor(t, func(w http.ResponseWriter, r *http.Request) {
		proxied <- r.Host
		w.WriteHeader(http.StatusTeapot)
	})
	t.Setenv("HTTP_PROXY", proxy.APIURL)
	t.Setenv("http_proxy", proxy.APIURL)
	// A name that does not exist: a proxy would be asked for it.
	_, err := newClient(t, nil).AskPromise(within(t, patience), ha.Peer{Name: "b", APIURL: "http://pghad.invalid:8008"}, ask())
	require.Error(t, err)
	require.NotContains(t, err.Error(), fmt.Sprint(http.StatusTeapot))
	require.Empty(t, proxied)
}
