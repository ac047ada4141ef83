package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
)

const goodBody = `{"format":1,"id":"x","cluster":"/service/orders/","term":7,"nonce":"n","primary":"a.1","member":"b.2","for":10000000000}`

// local is an address that a server on this machine only has.
func local(ip string) context.Context {
	return context.WithValue(context.Background(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(ip), Port: 8008})
}

func request(method, path, body string) *http.Request {
	r := httptest.NewRequestWithContext(local("127.0.0.1"), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.RemoteAddr = "127.0.0.1:4711"
	return r
}

func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// sentence reads the error of a response, which must be JSON of nothing else.
func sentence(t *testing.T, response *httptest.ResponseRecorder) string {
	t.Helper()
	require.Equal(t, "application/json", response.Header().Get("Content-Type"))
	require.Equal(t, "no-store", response.Header().Get("Cache-Control"))
	var said map[string]string
	require.NoError(t, json.NewDecoder(response.Body).Decode(&said))
	require.Len(t, said, 1)
	return said["error"]
}

func newHandler(t *testing.T, cfg api.HandlerConfig) *api.Handler {
	t.Helper()
	h, err := api.NewHandler(cfg)
	require.NoError(t, err)
	return h
}

func TestHandlerAnswers(t *testing.T) {
	t.Parallel()
	asked := make(chan ha.PromiseRequest, 2)
	h := newHandler(t, api.HandlerConfig{Promiser: member(func(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
		asked <- ask
		return ha.Promise{Given: ask.Nonce == "n", Member: ask.Member, Why: "<why>"}, nil
	})})
	response := do(h, request(http.MethodPost, "/peer/promise", goodBody))
	require.Equal(t, http.StatusOK, response.Code)
	require.JSONEq(t, `{"format":1,"id":"x","cluster":"/service/orders/","term":7,"member":"b.2","given":true,"why":"<why>"}`, response.Body.String())
	want := ask()
	want.Nonce = "n"
	require.Equal(t, want, <-asked)

	response = do(h, request(http.MethodPost, "/peer/promise", strings.Replace(goodBody, `"n"`, `"m"`, 1)))
	require.Equal(t, http.StatusOK, response.Code, "a refusal is an answer")
	require.Contains(t, response.Body.String(), `"given":false`)
}

func TestHandlerRefuses(t *testing.T) {
	t.Parallel()
	h := newHandler(t, api.HandlerConfig{Promiser: member(func(context.Context, ha.PromiseRequest) (ha.Promise, error) {
		return ha.Promise{}, errors.New("no idea")
	})})
	body := func(old, now string) *http.Request {
		return request(http.MethodPost, "/peer/promise", strings.Replace(goodBody, old, now, 1))
	}
	kind := func(contentType string) *http.Request {
		r := body("", "")
		r.Header.Set("Content-Type", contentType)
		return r
	}
	tests := []struct {
		name   string
		r      *http.Request
		status int
		want   string
	}{
		{"no answer", body("", ""), 503, "no answer: no idea"},
		{"charset", kind("Application/JSON; charset=UTF-8"), 503, "no answer: no idea"},
		{"unknown path", request(http.MethodPost, "/", goodBody), 404, `there is no "/" here`},
		{"path with an end", request(http.MethodPost, "/peer/promise/", goodBody), 404, `there is no "/peer/promise/" here`},
		{"path with dots", request(http.MethodPost, "/x/../peer/promise", goodBody), 404, `there is no "/x/../peer/promise" here`},
		{"part of a path", request(http.MethodGet, "/peer", ""), 404, `there is no "/peer" here`},
		{"method", request(http.MethodGet, "/peer/promise", ""), 405, `"GET" is not possible here`},
		{"a form", kind("application/x-www-form-urlencoded"), 415, "the body must be application/json"},
		{"no kind", kind(""), 415, "the body must be application/json"},
		{"another charset", kind("application/json; charset=latin1"), 415, "the body must be application/json"},
		{"nothing", request(http.MethodPost, "/peer/promise", ""), 400, "invalid JSON: unexpected end of JSON input"},
		{"null", request(http.MethodPost, "/peer/promise", "null"), 400, "format: 0 is not known here, only 1"},
		{"something after it", request(http.MethodPost, "/peer/promise", goodBody+"{}"), 400, "invalid JSON: invalid character '{' after top-level value"},
		{"unknown field", body(`"id"`, `"size":1,"id"`), 400, `invalid JSON: json: unknown field "size"`},
		{"later format", body(`"format":1`, `"format":2,"size":1`), 400, "format: 2 is not known here, only 1"},
		{"no format", body(`"format":1,`, ``), 400, "format: 0 is not known here, only 1"},
		{"no id", body(`"x"`, `""`), 400, "id: want 1 to 64 characters"},
		{"long id", body(`"x"`, `"`+strings.Repeat("x", 65)+`"`), 400, "id: want 1 to 64 characters"},
		{"no cluster", body(`"cluster":"/service/orders/",`, ``), 400, "cluster: is missing"},
		{"no term", body(`"term":7,`, ``), 400, "term: is missing"},
		{"term below zero", body(`7`, `-7`), 400, "invalid JSON: json: cannot unmarshal number -7 into Go struct field question.PromiseRequest.term of type uint64"},
		{"no primary", body(`"a.1"`, `""`), 400, "primary: is missing"},
		{"no member", body(`"b.2"`, `""`), 400, "member: is missing"},
		{"half a member", body(`"b.2"`, `"b"`), 400, `invalid JSON: member "b": want node.incarnation`},
		{"no time", body(`,"for":10000000000`, ``), 400, "for: 0 is not a time in nanoseconds above zero and up to 1h0m0s"},
		{"time below zero", body(`:10000000000`, `:-1`), 400, "for: -1 is not a time in nanoseconds above zero and up to 1h0m0s"},
		{"long time", body(`:10000000000`, `:3600000000001`), 400, "for: 3600000000001 is not a time in nanoseconds above zero and up to 1h0m0s"},
		{"long body", body(`"n"`, `"`+strings.Repeat("n", 20000)+`"`), 413, "the body is longer than 16384 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			response := do(h, tt.r)
			require.Equal(t, tt.status, response.Code)
			require.Equal(t, tt.want, sentence(t, response))
			if tt.status == http.StatusMethodNotAllowed {
				require.Equal(t, "POST", response.Header().Get("Allow"))
			}
		})
	}
}

// TestHandlerWithoutCredentials: nobody is answered where others can connect.
func TestHandlerWithoutCredentials(t *testing.T) {
	t.Parallel()
	h := newHandler(t, api.HandlerConfig{Promiser: member(willing)})
	for ip, want := range map[string]int{"127.0.0.1": 200, "::1": 200, "10.0.0.1": 403, "0.0.0.0": 403} {
		response := do(h, request(http.MethodPost, "/peer/promise", goodBody).WithContext(local(ip)))
		require.Equal(t, want, response.Code, ip)
	}
	r := request(http.MethodPost, "/peer/promise", goodBody).WithContext(context.Background())
	response := do(h, r)
	require.Equal(t, 403, response.Code, "where it is not known where one is")
	require.Equal(t, api.ErrUnprotected.Error(), sentence(t, response))
}

func TestHandlerPassword(t *testing.T) {
	t.Parallel()
	book := newLogbook()
	mock := clock.NewMock()
	h := newHandler(t, api.HandlerConfig{
		Promiser: member(willing), Credentials: open(t, api.CredentialsConfig{Username: "pghad", Password: "hunter2"}),
		Clock: mock, Logger: book.logger(),
	})
	tests := []struct{ user, password, want string }{
		{"pghad", "hunter2", ""},
		{"pghad", "hunter3", "user or password is wrong"},
		{"pghad", "", "user or password is wrong"},
		{"Pghad", "hunter2", "user or password is wrong"},
		{"", "", "user and password are required"},
	}
	for _, tt := range tests {
		r := request(http.MethodPost, "/peer/promise", goodBody).WithContext(local("10.0.0.1"))
		if tt.user != "" {
			r.SetBasicAuth(tt.user, tt.password)
		}
		response := do(h, r)
		if tt.want == "" {
			require.Equal(t, http.StatusOK, response.Code)
			continue
		}
		require.Equal(t, http.StatusUnauthorized, response.Code)
		require.Equal(t, `Basic realm="pghad", charset="UTF-8"`, response.Header().Get("WWW-Authenticate"))
		require.Equal(t, tt.want, sentence(t, response))
	}
	require.Equal(t, http.StatusUnauthorized, do(h, request(http.MethodGet, "/peer/promise", "")).Code, "who may not ask learns nothing")

	// One line at once, and one a minute.
	mock.Add(time.Minute)
	do(h, request(http.MethodPost, "/peer/promise", goodBody))
	require.Equal(t, []string{
		`level=WARN msg="a request was refused" path=/peer/promise from=127.0.0.1:4711 reason="user or password is wrong" others_not_logged=0`,
		`level=WARN msg="a request was refused" path=/peer/promise from=127.0.0.1:4711 reason="user and password are required" others_not_logged=4`,
	}, book.lines())
}

func TestHandlerSurvivesPanic(t *testing.T) {
	t.Parallel()
	book := newLogbook()
	h := newHandler(t, api.HandlerConfig{Logger: book.logger(), Promiser: member(func(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
		if ask.Nonce == "n" {
			panic("oh")
		}
		return willing(t.Context(), ask)
	})})
	for range 20 { // more than are answered at once
		response := do(h, request(http.MethodPost, "/peer/promise", goodBody))
		require.Equal(t, 500, response.Code)
		require.Equal(t, "a fault of this program; its log says more", sentence(t, response))
	}
	require.Contains(t, book.lines()[0], "panic=oh")
	response := do(h, request(http.MethodPost, "/peer/promise", strings.Replace(goodBody, `"n"`, `"m"`, 1)))
	require.Equal(t, http.StatusOK, response.Code)
}

// TestHandlerLimits: a flood is turned away, another address is not, and it is
// over when the flood is.
func TestHandlerLimits(t *testing.T) {
	t.Parallel()
	mock := clock.NewMock()
	h := newHandler(t, api.HandlerConfig{Promiser: member(willing), Clock: mock})
	status := func(remote string) int {
		r := request(http.MethodPost, "/peer/promise", goodBody)
		r.RemoteAddr = remote
		return do(h, r).Code
	}
	for range 100 {
		require.Equal(t, 200, status("10.0.0.9:1"))
	}
	require.Equal(t, 429, status("10.0.0.9:2"), "the port does not matter")
	require.Equal(t, 200, status("10.0.0.8:1"))
	mock.Add(20 * time.Millisecond)
	require.Equal(t, 200, status("10.0.0.9:1"))
	require.Equal(t, 429, status("10.0.0.9:1"))
	mock.Add(time.Minute)
	require.Equal(t, 200, status("10.0.0.9:1"))
}

// TestHandlerAnswersSoManyAtOnce: who is too much is told so, not kept waiting.
func TestHandlerAnswersSoManyAtOnce(t *testing.T) {
	t.Parallel()
	const most = 16
	entered, release := make(chan struct{}, most), make(chan struct{})
	h := newHandler(t, api.HandlerConfig{Promiser: member(func(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
		entered <- struct{}{}
		<-release
		return willing(context.Background(), ask)
	})})
	statuses := make(chan int, most)
	for range most {
		go func() { statuses <- do(h, request(http.MethodPost, "/peer/promise", goodBody)).Code }()
	}
	for range most {
		<-entered
	}
	response := do(h, request(http.MethodPost, "/peer/promise", goodBody))
	require.Equal(t, 503, response.Code)
	require.Equal(t, "1", response.Header().Get("Retry-After"))
	require.Equal(t, "too many questions at once; ask again", sentence(t, response))
	close(release)
	for range most {
		require.Equal(t, 200, <-statuses)
	}
	require.Equal(t, 200, do(h, request(http.MethodPost, "/peer/promise", goodBody)).Code)
}

func TestHandlerNeedsNode(t *testing.T) {
	t.Parallel()
	_, err := api.NewHandler(api.HandlerConfig{})
	require.EqualError(t, err, "handler: Promiser is required")
}
