package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// errNoCancel is what pgx gets when it wants a second connection for a cancel
// request, which it does on its own whenever a connection breaks mid-statement.
var errNoCancel = errors.New("this client never sends cancel requests")

// session is one connection to one node. It has one user at a time.
type session struct {
	node    Node
	conn    *pgconn.PgConn
	socket  *socket
	timeout time.Duration

	timeline uint32 // of the server's WAL when it was last found writable; 0: it is a standby
	backend  int    // process id of the server's side
	warned   bool   // a warning came with the last statement
}

// socket is the one network connection of a session, closed by cut.
type socket struct {
	mu   sync.Mutex
	conn net.Conn
}

// dial makes the one connection. Further ones are refused: they could only be
// cancel requests.
func (s *socket) dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	taken := s.conn != nil
	s.mu.Unlock()
	if taken {
		return nil, errNoCancel
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	return conn, nil
}

// cut closes the connection under whatever uses it.
func (s *socket) cut() {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // the session ends with an error of its own
	}
}

// open connects to node within the connect timeout and asks for its role.
func (t Target) open(ctx context.Context, node Node, application string) (*session, error) {
	config, err := pgconn.ParseConfig("sslmode=disable target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("connect to %s: settings from the environment: %w", node.Name, err)
	}
	s := &session{node: node, socket: &socket{}, timeout: t.StatementTimeout}
	config.Host, config.Port = node.Host, uint16(node.Port) //nolint:gosec // a port
	config.User, config.Password, config.Database = t.User, t.Password, t.Database
	config.Fallbacks = nil
	config.RuntimeParams = map[string]string{"application_name": application}
	config.DialFunc = s.socket.dial
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		s.warned = s.warned || notice.SeverityUnlocalized == "WARNING"
	}
	ctx, cancel := context.WithTimeout(ctx, t.ConnectTimeout)
	defer cancel()
	if s.conn, err = pgconn.ConnectConfig(ctx, config); err != nil {
		s.socket.cut()
		return nil, fmt.Errorf("connect to %s at %s: %w", node.Name, node.Address(), err)
	}
	s.backend = int(s.conn.PID())
	err = s.look(ctx)
	if err == nil {
		err = context.Cause(ctx) // it ended in the last moment, and the socket may be closed
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// look asks whether the server takes writes, and on which timeline. The timeline
// names the reign: a server that stops being the primary restarts, which ends
// this session, and every promotion makes a new one.
func (s *session) look(ctx context.Context) error {
	rows, err := s.query(ctx, `SELECT CASE WHEN pg_is_in_recovery() OR current_setting('transaction_read_only')::bool THEN ''
		ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END`)
	if err != nil {
		return fmt.Errorf("ask %s for its role: %w", s.node.Name, err)
	}
	s.timeline = 0
	if len(rows) != 1 || rows[0][0] == "" {
		return nil
	}
	timeline, err := strconv.ParseUint(rows[0][0], 16, 32)
	if err != nil {
		return fmt.Errorf("timeline of %s: %w", s.node.Name, err)
	}
	s.timeline = uint32(timeline)
	return nil
}

// writable reports whether the server took writes when it was last looked at.
func (s *session) writable() bool { return s.timeline != 0 }

// query runs one statement as a transaction of its own and returns its rows as
// text. When the statement timeout passes or ctx ends, the socket is closed.
func (s *session) query(ctx context.Context, sql string, params ...string) ([][]string, error) {
	var rows [][]string
	err := s.each(ctx, func(row []string) error {
		rows = append(rows, row)
		return nil
	}, sql, params...)
	return rows, err
}

// each is query for many rows.
func (s *session) each(ctx context.Context, row func([]string) error, sql string, params ...string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	timer := time.AfterFunc(s.timeout, s.socket.cut)
	defer timer.Stop()
	unwatch := context.AfterFunc(ctx, s.socket.cut)
	defer unwatch()

	s.warned = false
	values := make([][]byte, len(params))
	for i, param := range params {
		values[i] = []byte(param)
	}
	// The background context is deliberate: pgx answers the end of any other by
	// deadlines of its own, cut is ours.
	reader := s.conn.ExecParams(context.Background(), sql, values, nil, nil, nil)
	var rowErr error
	for reader.NextRow() {
		if rowErr == nil {
			rowErr = row(texts(reader.Values()))
		}
	}
	if _, err := reader.Close(); err != nil {
		return err
	}
	return rowErr
}

// texts copies a row out of pgx's buffer.
func texts(values [][]byte) []string {
	row := make([]string, len(values))
	for i, value := range values {
		row[i] = string(value)
	}
	return row
}

// close says goodbye within the statement timeout.
func (s *session) close() {
	timer := time.AfterFunc(s.timeout, s.socket.cut)
	defer timer.Stop()
	_ = s.conn.Close(context.Background()) // nothing depends on it
	s.socket.cut()
}
