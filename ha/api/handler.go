package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/ha"
)

// What a Handler lets pass. A member is asked about once a second.
var (
	requestsOfOne = rate{perSecond: 50, burst: 100}
	requestsOfAll = rate{perSecond: 500, burst: 1000}
)

// maxAtOnce is how many questions a Handler passes on at the same time.
const maxAtOnce = 16

// Promiser gives promises for a node. *ha.Node is one.
type Promiser interface {
	// Promise gives or refuses a promise. An error means that there is no
	// answer. It is called from several goroutines at once and should not wait
	// for anything; ctx ends when nobody waits for the answer any more.
	Promise(ctx context.Context, ask ha.PromiseRequest) (ha.Promise, error)
}

// HandlerConfig is what a Handler needs. Promiser is required.
type HandlerConfig struct {
	Promiser Promiser
	// Credentials say who may ask. nil: everybody, on this machine.
	Credentials *Credentials

	Clock  clock.Clock  // nil: the real one
	Logger *slog.Logger // nil: silent
}

// Handler answers other nodes. It may be served by a Server, or by an
// http.Server of one's own whose TLSConfig is Credentials.ServerTLS.
type Handler struct {
	cfg     HandlerConfig
	routes  map[string]route // by path, which is compared as a whole
	limiter *limiter
	places  chan struct{} // taken while a question is with the node
	denied  *seldom
}

// route is an endpoint.
type route struct {
	// open is for everybody who can connect; otherwise Credentials decide.
	open    bool
	methods map[string]http.HandlerFunc
}

// NewHandler checks the configuration.
func NewHandler(cfg HandlerConfig) (*Handler, error) {
	if cfg.Promiser == nil {
		return nil, errors.New("handler: Promiser is required")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{
		cfg:     cfg,
		limiter: newLimiter(cfg.Clock, requestsOfOne, requestsOfAll),
		places:  make(chan struct{}, maxAtOnce),
		denied:  &seldom{clock: cfg.Clock, logger: cfg.Logger, message: "a request was refused"},
	}
	h.routes = map[string]route{
		promisePath: {methods: map[string]http.HandlerFunc{http.MethodPost: h.promise}},
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer h.survive(w, r)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !h.limiter.allow(sourceOf(r.RemoteAddr)) {
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close")
		fail(w, http.StatusTooManyRequests, "too many requests; ask less often")
		return
	}
	found, known := h.routes[r.URL.Path]
	if !known {
		fail(w, http.StatusNotFound, fmt.Sprintf("there is no %q here", r.URL.Path))
		return
	}
	if !found.open {
		if d := h.admit(r); d != nil {
			h.deny(w, r, d)
			return
		}
	}
	serve, known := found.methods[r.Method]
	if !known {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(found.methods)), ", "))
		fail(w, http.StatusMethodNotAllowed, fmt.Sprintf("%q is not possible here", r.Method))
		return
	}
	serve(w, r)
}

// admit says why a request is not to be answered. Where other machines can
// connect and nothing is demanded, nobody is answered: that is a mistake of
// whoever runs this.
func (h *Handler) admit(r *http.Request) *denial {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !h.cfg.Credentials.Protected() && !isLoopback(local) {
		return &denial{http.StatusForbidden, ErrUnprotected.Error()}
	}
	return h.cfg.Credentials.admit(r)
}

func (h *Handler) deny(w http.ResponseWriter, r *http.Request, d *denial) {
	h.denied.warn(r.Context(), "path", r.URL.Path, "from", r.RemoteAddr, "reason", d.sentence)
	if d.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="pghad", charset="UTF-8"`)
	}
	fail(w, d.status, d.sentence)
}

// survive answers for a handler that panicked. The node goes on.
func (h *Handler) survive(w http.ResponseWriter, r *http.Request) {
	reason := recover()
	if reason == nil {
		return
	}
	if reason == http.ErrAbortHandler { //nolint:errorlint // it is panicked with as it is
		panic(reason)
	}
	h.cfg.Logger.ErrorContext(r.Context(), "panic while a request was answered", "path", r.URL.Path, "panic", reason, "stack", string(debug.Stack()))
	fail(w, http.StatusInternalServerError, "a fault of this program; its log says more")
}

// promise asks the node for a promise.
func (h *Handler) promise(w http.ResponseWriter, r *http.Request) {
	if !isJSON(r.Header.Get("Content-Type")) {
		fail(w, http.StatusUnsupportedMediaType, "the body must be application/json")
		return
	}
	body, err := readBody(r.Body)
	if errors.Is(err, errTooLong) {
		w.Header().Set("Connection", "close")
		fail(w, http.StatusRequestEntityTooLarge, err.Error())
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "the body did not arrive: "+err.Error())
		return
	}
	q, err := readQuestion(body)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "too many questions at once; ask again")
		return
	}
	promise, err := h.cfg.Promiser.Promise(r.Context(), q.PromiseRequest)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "no answer: "+err.Error())
		return
	}
	reply(w, http.StatusOK, answerTo(q, promise))
}

func fail(w http.ResponseWriter, status int, sentence string) {
	reply(w, status, failure{Error: sentence})
}

func reply(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // our own types
		panic(fmt.Sprintf("api: encode %T: %v", body, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // whoever has asked is gone
}
