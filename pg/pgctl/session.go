package pgctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/pghad/pghad/internal/timectx"
)

// session is one connection of the controller. When a context ends in the
// middle of a query the connection is closed and nothing else: a cancel request,
// which pgx would send, makes PostgreSQL acknowledge a commit that waits for its
// standbys.
type session struct{ conn *pgconn.PgConn }

// ownSettings are those of the controller's local sessions: no wait for
// standbys, no time limits but the caller's, no names of other people's schemas,
// no noise in the log.
var ownSettings = map[string]string{
	"application_name":                    "pghad",
	"synchronous_commit":                  "local",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"default_transaction_read_only":       "off",
	"search_path":                         "pg_catalog",
	"jit":                                 "off",
	"log_statement":                       "none",
	"log_min_duration_statement":          "-1",
	"client_encoding":                     "UTF8",
}

// settingsOf are ownSettings, for another role than the superuser without those that
// it may not set.
func settingsOf(superuser bool) map[string]string {
	if superuser {
		return ownSettings
	}
	settings := maps.Clone(ownSettings)
	maps.DeleteFunc(settings, func(name, _ string) bool { return strings.HasPrefix(name, "log_") })
	return settings
}

// connect opens a new session on the local server, as superuser over the unix
// socket.
func (c *Controller) connect(ctx context.Context) (*session, error) {
	return c.connectAs(ctx, c.cfg.Superuser)
}

func (c *Controller) connectAs(ctx context.Context, user string) (*session, error) {
	ctx, cancel := timectx.With(ctx, c.clock, c.cfg.ConnectTimeout, "connection to the local PostgreSQL")
	defer cancel()
	conn, err := dial(ctx, address{
		host: c.cfg.SocketDir, port: c.cfg.Port, user: user, database: c.cfg.Database, sslMode: "disable",
	}, settingsOf(user == c.cfg.Superuser))
	if err != nil {
		return nil, c.localFault(err)
	}
	return &session{conn}, nil
}

// address is where and as whom to connect.
type address struct {
	host, user, password, database, sslMode string
	port                                    int
}

// local is what connections without TLS have in common. To parse one looks into the
// environment and at several files, and the local server is asked all the time.
var local = sync.OnceValues(func() (*pgconn.Config, error) {
	return pgconn.ParseConfig("host=localhost user=postgres dbname=postgres sslmode=disable")
})

func (to address) config() (*pgconn.Config, error) {
	if to.sslMode != "disable" {
		return pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=%s",
			quoteConninfo(to.host), to.port, quoteConninfo(to.user), quoteConninfo(to.password), quoteConninfo(to.database), to.sslMode))
	}
	known, err := local()
	if err != nil {
		return nil, err
	}
	config := known.Copy()
	config.Host, config.Port, config.User, config.Database = to.host, uint16(to.port), to.user, to.database //nolint:gosec // a port
	config.Fallbacks = nil
	return config, nil
}

// dial opens a connection that never sends a cancel request.
func dial(ctx context.Context, to address, settings map[string]string) (*pgconn.PgConn, error) {
	config, err := to.config()
	if err != nil {
		return nil, fmt.Errorf("connection to %s: %w", net.JoinHostPort(to.host, strconv.Itoa(to.port)), err)
	}
	// The environment of this process has no say.
	config.Password = to.password
	config.ValidateConnect = nil
	config.RuntimeParams = settings
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler { return closer{conn.Conn()} }
	var connected atomic.Bool
	dialNet := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() {
			return nil, errors.New("no cancel request is sent")
		}
		return dialNet(ctx, network, addr)
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	connected.Store(true)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, fmt.Errorf("%w: %w", cause, err)
		}
		return nil, err
	}
	return conn, nil
}

// closer ends a query whose context has ended by closing its connection.
type closer struct{ conn net.Conn }

func (h closer) HandleCancel(context.Context) { _ = h.conn.Close() } // the query reports it
func (h closer) HandleUnwatchAfterCancel()    {}

// rows runs one statement by the simple protocol, in one round trip.
func (s *session) rows(ctx context.Context, sql string) ([][]string, error) {
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, because(ctx, err)
	}
	return rowsOf(results), nil
}

func rowsOf(results []*pgconn.Result) [][]string {
	var rows [][]string
	for _, result := range results {
		for _, values := range result.Rows {
			row := make([]string, len(values))
			for i, value := range values {
				row[i] = string(value)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// row runs a statement that returns exactly one row; NULL is "".
func (s *session) row(ctx context.Context, sql string) ([]string, error) {
	rows, err := s.rows(ctx, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%d rows instead of one for %s", len(rows), sql)
	}
	return rows[0], nil
}

func (s *session) exec(ctx context.Context, sql string) error {
	_, err := s.rows(ctx, sql)
	return err
}

// close closes the session; it does not wait for the server.
func (s *session) close() { _ = s.conn.Conn().Close() } // nothing is lost with it

// because adds why a context has ended to an error that it caused.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// keptSession is a session that is kept from one question to the next, opened when
// needed and dropped at the first error. Status asks in one round trip on it.
type keptSession struct {
	user    string
	turn    chan struct{} // holds a token while the session is used
	session *session
	server  *postmaster // whose it is
}

func newKeptSession(user string) keptSession {
	return keptSession{user: user, turn: make(chan struct{}, 1)}
}

// withKept runs work on the superuser's kept session.
func (c *Controller) withKept(ctx context.Context, work func(*session) error) error {
	return c.with(ctx, &c.kept, work)
}

// withWatch runs work on the kept session of Config.MonitorUser. While the server
// does not admit that role, or has not granted it what Status reads, it is the
// superuser's: a server that is well must not look as if it were not.
func (c *Controller) withWatch(ctx context.Context, work func(*session) error) error {
	if c.watch.user == "" {
		return c.withKept(ctx, work)
	}
	server := c.running()
	if c.unwatched(server) {
		return c.withKept(ctx, work)
	}
	err := c.with(ctx, &c.watch, work)
	if state := sqlState(err); state != stateNotAdmitted && state != stateNotGranted {
		return err
	}
	c.mu.Lock()
	c.unwatch = server
	c.mu.Unlock()
	c.log.Warn("the monitoring role cannot be used, and the superuser asks instead: run the statements of MonitoringRole",
		"role", c.watch.user, "error", err.Error())
	return c.withKept(ctx, work)
}

// unwatched reports whether a server has turned the monitoring role down.
func (c *Controller) unwatched(server *postmaster) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return server != nil && c.unwatch == server
}

const stateNotGranted = "42501"

// with runs work on a kept session.
func (c *Controller) with(ctx context.Context, kept *keptSession, work func(*session) error) error {
	select {
	case kept.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-kept.turn }()
	if c.lifetime.Err() != nil {
		return errClosed
	}
	server := c.running()
	if kept.session != nil && (kept.server != server || kept.session.conn.IsClosed()) {
		kept.drop()
	}
	if kept.session == nil {
		session, err := c.connectAs(ctx, kept.user)
		if err != nil {
			return err
		}
		if _, err := session.conn.Prepare(ctx, statusStatement, fmt.Sprintf(statusQuery, c.overriddenQuery()), nil); err != nil {
			session.close()
			return because(ctx, err)
		}
		kept.session, kept.server = session, server
	}
	err := work(kept.session)
	if err != nil {
		kept.drop()
	}
	return err
}

// drop needs the turn.
func (k *keptSession) drop() {
	if k.session != nil {
		k.session.close()
		k.session = nil
	}
}

func (k *keptSession) close() {
	k.turn <- struct{}{}
	k.drop()
	<-k.turn
}

// sqlState returns the SQLSTATE of an error of the server, "" for another.
func sqlState(err error) string {
	if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// stateCannotConnectNow is what a server answers that starts or shuts down.
const stateCannotConnectNow = "57P03"
