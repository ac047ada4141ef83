package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
)

// ErrUnprotected means that other machines could reach a server that demands
// nothing of whoever asks.
var ErrUnprotected = errors.New("other machines can reach this server, and nothing says who may ask: demand client certificates or a password")

// Times and sizes of a Server. They bound what a connection can hold.
const (
	headerTimeout = 5 * time.Second // also of the TLS handshake
	readTimeout   = 10 * time.Second
	writeTimeout  = 10 * time.Second
	idleTimeout   = 90 * time.Second // longer than the Client's, so that the Client closes first
	keepAlive     = 15 * time.Second // between probes of a silent connection
	maxHeader     = 16 << 10
)

// ServerConfig is what a Server needs. Address is required.
type ServerConfig struct {
	// Address is host:port to listen at. Port 0 is any that is free.
	Address string
	// Credentials encrypt the line and say who may ask. nil: not encrypted and
	// open to everybody, which needs an address that only this machine reaches.
	Credentials *Credentials
	// MaxConnections is how many connections are open at once, a quarter of them
	// at most from one address. Default 256.
	MaxConnections int

	Clock  clock.Clock  // nil: the real one
	Logger *slog.Logger // nil: silent
}

// Server serves a Handler. It is for HTTP/1.1, keeps connections, and closes
// those that are slow or too many.
type Server struct {
	credentials *Credentials
	listener    *listener
	http        *http.Server
}

// Listen takes the address, so that others can connect; they are answered from
// Serve on. Its error wraps what the operating system said (syscall.EADDRINUSE,
// for example), or is ErrUnprotected. The Server must be closed.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = 256
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	socket, err := (&net.ListenConfig{KeepAlive: keepAlive}).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", cfg.Address, err)
	}
	if !cfg.Credentials.Protected() && !isLoopback(socket.Addr()) { // nobody has been accepted yet
		_ = socket.Close()
		return nil, fmt.Errorf("listen at %s: %w", cfg.Address, ErrUnprotected)
	}
	refused := &seldom{clock: cfg.Clock, logger: cfg.Logger, message: "a connection was refused"}
	life, end := context.WithCancel(context.Background())
	s := &Server{
		credentials: cfg.Credentials,
		listener: &listener{
			Listener: socket, most: cfg.MaxConnections, mostOfOne: max(1, cfg.MaxConnections/4),
			limiter: newLimiter(cfg.Clock, connectionsOfOne, connectionsOfAll),
			refused: refused,
			failed:  &seldom{clock: cfg.Clock, logger: cfg.Logger, message: "a connection could not be accepted; trying again"},
			life:    life, end: end, close: sync.OnceValue(socket.Close), open: make(map[netip.Addr]int),
		},
		http: &http.Server{
			ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
			MaxHeaderBytes: maxHeader,
			ErrorLog:       log.New(refused, "", 0),
			Protocols:      new(http.Protocols),
		},
	}
	s.http.Protocols.SetHTTP1(true)
	return s, nil
}

// Addr is where the server listens, with the port that it was given.
func (s *Server) Addr() *net.TCPAddr {
	address, _ := s.listener.Addr().(*net.TCPAddr) // it listens on tcp
	return address
}

// Serve answers until Close, and then returns nil. It must be called once at
// most.
func (s *Server) Serve(handler *Handler) error {
	if handler.cfg.Credentials != s.credentials {
		return errors.New("serve: Handler and Server must have the same Credentials")
	}
	s.http.Handler = handler
	var accepting net.Listener = s.listener
	if security := s.credentials.ServerTLS(); security != nil {
		accepting = tls.NewListener(accepting, security)
	}
	if err := s.http.Serve(accepting); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve at %s: %w", s.Addr(), err)
	}
	return nil
}

// Close gives up the address, lets the answers under way be finished until ctx
// ends, and closes all connections.
func (s *Server) Close(ctx context.Context) error {
	err := s.listener.Close() // which nobody else does if Serve was never called
	if unfinished := s.http.Shutdown(ctx); unfinished != nil {
		err = errors.Join(err, unfinished, s.http.Close())
	}
	if err != nil {
		return fmt.Errorf("close the server at %s: %w", s.Addr(), err)
	}
	return nil
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// URL is what a node publishes of itself (ha.NodeConfig.APIURL): the scheme and
// address is host:port, as others reach it.
func URL(address string, encrypted bool) string {
	base := url.URL{Scheme: "http", Host: address}
	if encrypted {
		base.Scheme = "https"
	}
	return base.String()
}
