package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/timectx"
)

const (
	askTimeout        = 5 * time.Second
	clientIdleTimeout = 30 * time.Second
)

// ClientConfig is what a Client needs. The zero value will do where nodes
// demand nothing.
type ClientConfig struct {
	// Credentials are shown to those who are asked, and verify them.
	Credentials *Credentials
	// Timeout bounds a question whose context does not end sooner. Default 5 s.
	Timeout time.Duration

	Clock clock.Clock // nil: the real one
}

// Client asks other nodes. It keeps connections for half a minute. All methods
// may be called from several goroutines at once.
type Client struct {
	cfg  ClientConfig
	http *http.Client

	mu   sync.Mutex // guards used; never held over anything that waits
	used *material  // what the connections that are kept were made with
}

var _ ha.Peers = (*Client)(nil)

// NewClient makes a client. It connects to nothing.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = askTimeout
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	c := &Client{cfg: cfg, used: cfg.Credentials.version()}
	transport := &http.Transport{
		Proxy:                  nil, // the direct line is direct, whatever the environment says
		DialContext:            c.dialer().DialContext,
		DialTLSContext:         c.dialTLS,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    2,
		MaxConnsPerHost:        8,
		IdleConnTimeout:        clientIdleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(true)
	c.http = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// dialer bounds each attempt to connect: it may go on after its question.
func (c *Client) dialer() *net.Dialer {
	return &net.Dialer{Timeout: c.cfg.Timeout, KeepAlive: keepAlive}
}

// dialTLS connects with the credentials of this moment.
func (c *Client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := &tls.Dialer{NetDialer: c.dialer(), Config: c.cfg.Credentials.clientTLS(host)}
	return dialer.DialContext(ctx, network, address)
}

// AskPromise implements ha.Peers. Of the peer's APIURL only scheme and address
// count. Its error says who was asked, where, and what happened instead of an
// answer.
func (c *Client) AskPromise(ctx context.Context, peer ha.Peer, ask ha.PromiseRequest) (ha.Promise, error) {
	promise, err := c.askPromise(ctx, peer, ask)
	if err != nil {
		return ha.Promise{}, fmt.Errorf("ask %s for a promise: %w", peer.Name, err)
	}
	return promise, nil
}

func (c *Client) askPromise(ctx context.Context, peer ha.Peer, ask ha.PromiseRequest) (ha.Promise, error) {
	where, err := c.address(peer.APIURL)
	if err != nil {
		return ha.Promise{}, err
	}
	q := question{Format: format, ID: rand.Text(), PromiseRequest: ask}
	ctx, cancel := timectx.With(ctx, c.cfg.Clock, c.cfg.Timeout, "the answer")
	defer cancel()
	body, err := c.post(ctx, where+promisePath, q)
	if err != nil {
		return ha.Promise{}, fmt.Errorf("%s: %w", where, err)
	}
	promise, err := readAnswer(body, q)
	if err != nil {
		return ha.Promise{}, fmt.Errorf("%s: %w", where, err)
	}
	return promise, nil
}

// address is where a node can be asked, from what it has published. What this
// node must not say in the clear, it says to nobody who would have it so.
func (c *Client) address(published string) (string, error) {
	if published == "" {
		return "", errors.New("it has not published where it can be asked")
	}
	u, err := url.Parse(published)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil:
		return "", errors.New("it has published no address of the form http://host:port or https://host:port")
	case u.Scheme == "http" && c.cfg.Credentials.Encrypted():
		return "", fmt.Errorf("%s://%s is not encrypted, but this node's line is: give all nodes certificates", u.Scheme, u.Host)
	}
	return u.Scheme + "://" + u.Host, nil
}

// post sends a question and returns the body that came with status 200.
func (c *Client) post(ctx context.Context, where string, q question) ([]byte, error) {
	c.renew()
	text, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, where, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "pghad")
	// A question may arrive twice. So it is sent anew where a kept connection
	// turns out to be closed. The entry itself is not sent.
	request.Header["Idempotency-Key"] = nil
	c.cfg.Credentials.sign(request)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	body, err := readBody(response.Body)
	switch {
	case err != nil:
		return nil, cause(ctx, err)
	case response.StatusCode != http.StatusOK:
		return nil, refusal(response, body)
	case !isJSON(response.Header.Get("Content-Type")):
		return nil, fmt.Errorf("not an answer: Content-Type is %q", response.Header.Get("Content-Type"))
	}
	return body, nil
}

// renew gives up connections that were made with other credentials.
func (c *Client) renew() {
	now := c.cfg.Credentials.version()
	c.mu.Lock()
	changed := c.used != now
	c.used = now
	c.mu.Unlock()
	if changed {
		c.http.CloseIdleConnections()
	}
}

// refusal is the error that a status means.
func refusal(response *http.Response, body []byte) error {
	status := fmt.Sprintf("status %d", response.StatusCode)
	var said failure
	if err := json.Unmarshal(body, &said); err != nil || said.Error == "" {
		return fmt.Errorf("not an answer: %s (%s)", status, cmp.Or(http.StatusText(response.StatusCode), "unknown"))
	}
	return fmt.Errorf("not an answer: %s: %q", status, said.Error)
}

// cause is what made an exchange fail: the reason for which ctx has ended, if
// it has, and else the error without the method and address, which the caller
// adds.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
	if detailed, ok := errors.AsType[*url.Error](err); ok {
		err = detailed.Err
	}
	if detailed, ok := errors.AsType[*net.OpError](err); ok && detailed.Op == "remote error" { // what the other side says of a handshake
		err = detailed
	}
	return fmt.Errorf("no answer: %w", err)
}
