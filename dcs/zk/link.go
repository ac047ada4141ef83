package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// politePatience is how long the end of a session waits for calls whose callers
// have gone already.
const politePatience = time.Second

// link is one client of the library. Its life is one connection, or, for a
// session that is to be kept, one session over several. It ends by itself when
// that is over, and must be ended otherwise.
type link struct {
	cfg   *Config
	keep  bool // the session over several connections
	hosts hosts
	conn  *zk.Conn
	// mirror is what is known of the tree through watches.
	mirror *mirror
	// renamed is told that the credentials were found to be others; set before calls.
	renamed func()

	ctx    context.Context // ends when the link is over; its lifetime is the link's
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing of the link is left

	mu      sync.Mutex
	over    error         // why the link is over, nil while it is not
	polite  bool          // the server is told
	calls   int           // of the client that are under way
	wires   int           // how many there have been
	wire    *wire         // the latest
	retired []*wire       // cut, and not ended yet
	ready   int           // the wire that calls can be sent through, 0 if none
	shown   string        // the password that was presented last; the client presents it on later wires itself
	session int64         // 0 before the first answer
	timeout time.Duration // of the session, as it was granted
	changed chan struct{} // closed and made anew when something above changes
}

// newLink starts to connect. The session timeout is what is asked for.
func newLink(cfg *Config, timeout time.Duration, keep bool) (*link, error) {
	l := &link{
		cfg:     cfg,
		keep:    keep,
		hosts:   hosts{cfg: cfg},
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	l.mirror = &mirror{link: l}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	started := make(chan struct{})
	conn, events, err := zk.Connect(cfg.Servers, timeout,
		zk.WithHostProvider(rota{l}),
		zk.WithDialer(func(string, string, time.Duration) (net.Conn, error) {
			<-started
			return l.dial()
		}),
		zk.WithEventCallback(l.event),
		zk.WithLogger(clientLog{cfg.Logger}),
		zk.WithLogInfo(false),
	)
	if err != nil {
		return nil, fmt.Errorf("set up the client of ZooKeeper: %w", err)
	}
	l.conn = conn
	close(started)
	go l.reap(events)
	return l, nil
}

// rota stands between the client and hosts: the client would keep a mutex
// locked while it waits for an address, so it gets one when it dials.
type rota struct{ link *link }

func (rota) Init([]string) error { return nil }
func (rota) Len() int            { return 1 }
func (r rota) Connected()        { r.link.hosts.connected() }

// Next reports the end of a round when the link is over: then the client looks
// whether it has been closed.
func (r rota) Next() (server string, retryStart bool) { return "", r.link.ctx.Err() != nil }

// clientLog takes what the client logs.
type clientLog struct{ logger *slog.Logger }

func (c clientLog) Printf(format string, args ...any) {
	c.logger.Debug("ZooKeeper's client", "says", fmt.Sprintf(format, args...))
}

// dial makes the next wire.
func (l *link) dial() (net.Conn, error) {
	to, err := l.hosts.next(l.ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.DialTimeout)
	defer cancel()
	w, err := l.connect(ctx, to)
	if err != nil {
		l.hosts.failed(err)
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		w.end()
		return nil, l.over
	}
	l.wires++
	w.n, l.wire = l.wires, w
	return w, nil
}

func (l *link) connect(ctx context.Context, to target) (*wire, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", to.address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to.host, err)
	}
	conn := raw
	if l.cfg.TLS != nil {
		cfg := l.cfg.TLS.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName = to.host
		}
		if l.cfg.CurrentRoots != nil {
			if cfg.RootCAs, err = l.cfg.CurrentRoots(); err != nil {
				_ = raw.Close()
				return nil, fmt.Errorf("connect to %s by TLS: authorities of servers: %w", to.host, err)
			}
		}
		secure := tls.Client(raw, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("connect to %s at %s by TLS: %w", to.host, to.address, err)
		}
		conn = secure
	}
	w, err := newWire(raw, conn, l.cfg.DialTimeout, l.opened)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", to.host, err)
	}
	return w, nil
}

// opened looks at the server's answer to the request for the session. A member
// that grants less than others did has shortened the session already.
func (l *link) opened(w *wire) {
	if w.session == 0 {
		return // expired; the client will say so
	}
	l.mu.Lock()
	first, granted := l.session == 0, l.timeout
	if first {
		l.session, l.timeout = w.session, w.timeout
	}
	l.mu.Unlock()
	if !first && w.timeout < granted {
		l.end(fmt.Errorf("%w: %s where another member granted %s; give all members the same limits", errShortened, w.timeout, granted), false)
	}
}

// event is called by the client, which must not be kept waiting.
func (l *link) event(e zk.Event) {
	switch {
	case e.Type == zk.EventSession && e.State == zk.StateHasSession:
		l.connected()
	case e.Type == zk.EventSession && e.State == zk.StateDisconnected:
		l.disconnected()
	case e.Type == zk.EventSession && e.State == zk.StateExpired:
		l.end(zk.ErrSessionExpired, false)
	case e.Type > 0:
		l.mirror.event(e)
	}
}

func (l *link) connected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.retired {
		w.end()
	}
	l.retired = nil
	if l.wire.is(cut) || l.over != nil {
		return
	}
	if l.cfg.Username == "" {
		l.ready = l.wires
		l.broadcast()
		return
	}
	l.calls++
	go l.authenticate(l.wires)
}

// authenticate presents the credentials on the n-th wire.
func (l *link) authenticate(n int) {
	defer l.leave()
	anew, err := l.present()
	if anew {
		l.renamed()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		if l.wires == n && l.wire.is(open) {
			l.ready = n
			l.broadcast()
		}
	case l.wires == n && l.over == nil:
		l.hosts.failed(fmt.Errorf("authenticate %s: %w", l.cfg.Username, err))
		l.wire.end()
	}
}

// present presents the credentials if they are not those that the client knows. It
// reports whether they are others than before. The caller counts as a call that is under way.
func (l *link) present() (anew bool, err error) {
	password, err := l.cfg.CurrentPassword()
	if err != nil {
		return false, fmt.Errorf("password: %w", err)
	}
	l.mu.Lock()
	same := l.shown == password
	l.mu.Unlock()
	if same {
		return false, nil
	}
	if err := l.conn.AddAuth("digest", []byte(l.cfg.Username+":"+password)); err != nil {
		return false, err //nolint:wrapcheck // the callers say of what
	}
	l.mu.Lock()
	first := l.shown == ""
	l.shown = password
	l.mu.Unlock()
	if !first {
		l.mirror.forget()
	}
	return !first, nil
}

// presentAnew is present for a link on which nothing may be refused for long: what its
// watches would tell is kept from it.
func (l *link) presentAnew() {
	if l.begin() != nil {
		return
	}
	defer l.leave()
	if _, err := l.present(); err != nil {
		l.cfg.Logger.Warn("another password is not presented to ZooKeeper yet", "error", err)
	}
}

func (l *link) disconnected() {
	l.mu.Lock()
	l.ready = 0
	ended := !l.keep && l.session != 0
	l.broadcast()
	l.mu.Unlock()
	if ended {
		l.end(zk.ErrConnectionClosed, false)
	}
}

// broadcast wakes who waits for a change. The caller holds mu.
func (l *link) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// end ends the link, once. If polite the server is told that the session is
// over, and otherwise finds out. It does not wait: see done.
func (l *link) end(why error, polite bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return
	}
	l.over, l.polite = why, polite
	l.broadcast()
	l.cancel()
}

// why says why the link is over, or nil.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// reap takes the client down when the link is over. The client must not be
// closed while calls are under way: it may then answer one of them twice, and
// stand still for ever if nobody takes the second answer. Calls end with the
// wire, or when the client next looks for another one.
func (l *link) reap(events <-chan zk.Event) {
	defer close(l.done)
	<-l.ctx.Done()
	l.mu.Lock()
	polite, ready := l.polite, l.ready != 0
	l.mu.Unlock()
	if polite && ready {
		l.awaitCalls(politePatience)
	}
	l.mu.Lock()
	w, usable := l.wire, l.ready != 0 && l.ready == l.wires && l.calls == 0
	l.mu.Unlock()
	switch {
	case w == nil:
	case !usable:
		w.end()
	case !polite:
		w.mute()
	}
	l.awaitCalls(0)
	l.conn.Close() // sends the end of the session, and waits a second at most
	l.endWires()
	for range events { // until the client's last goroutine ends
	}
}

// endWires ends what may still be open.
func (l *link) endWires() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != nil {
		l.wire.end()
	}
	for _, w := range l.retired {
		w.end()
	}
	l.retired = nil
}

// awaitCalls returns when no call is under way any more, or when patience, if
// it is not zero, has passed. None begins when the link is over.
func (l *link) awaitCalls(patience time.Duration) {
	var enough <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	for {
		l.mu.Lock()
		calls, changed := l.calls, l.changed
		l.mu.Unlock()
		if calls == 0 {
			return
		}
		select {
		case <-changed:
		case <-enough:
			return
		}
	}
}

// await returns nil when calls can be sent, through a wire later than the given
// one; or why not, when the link is over or ctx ends.
func (l *link) await(ctx context.Context, after int) error {
	for {
		l.mu.Lock()
		ready, over, changed := l.ready, l.over, l.changed
		l.mu.Unlock()
		switch {
		case over != nil:
			return over
		case ready > after:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l.hosts.why()
		}
	}
}

// reopen has the client open its session on a new connection. When it returns
// nil the ensemble's leader has been told that the session is alive, after
// reopen was called.
func (l *link) reopen(ctx context.Context) error {
	l.mu.Lock()
	after := l.wires
	l.ready = 0
	if w := l.wire; w != nil && w.cut() {
		l.retired = append(l.retired, w)
	}
	l.mu.Unlock()
	return l.await(ctx, after)
}

// begin counts a call in, unless the link is over.
func (l *link) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return fmt.Errorf("%w: %w", errLinkEnded, l.over)
	}
	l.calls++
	return nil
}

// leave counts a call out.
func (l *link) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls--
	if l.over != nil && l.calls == 0 {
		l.broadcast()
	}
}

// do runs a call of the client, none of which takes a context. When ctx ends
// first the answer goes to nobody: it comes, or the connection's end instead.
func do[T any](ctx context.Context, l *link, f func(*zk.Conn) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := l.begin(); err != nil {
		return none, err
	}
	answered := make(chan result, 1)
	go func() {
		defer l.leave()
		value, err := f(l.conn)
		if errors.Is(err, zk.ErrNoAuth) && l.cfg.Username != "" {
			// Surely not done: perhaps the ACLs are for another password by now.
			if anew, problem := l.present(); anew && problem == nil {
				l.renamed()
				value, err = f(l.conn)
			}
		}
		answered <- result{value, err}
	}()
	select {
	case r := <-answered:
		return r.value, r.err
	case <-ctx.Done():
		return none, errNoAnswer
	}
}
