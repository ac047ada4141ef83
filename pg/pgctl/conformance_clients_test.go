package pgctl_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghad/pghad/pg/pgtest"
)

// client is one session. Only GiveUp lets it ask for a cancel.
type client struct {
	conn   *pgconn.PgConn
	node   string
	warned atomic.Bool
	mute   atomic.Bool        // it asks for no cancel any more
	stop   context.CancelFunc // of its statement
	done   chan struct{}      // closed when its statement has ended; nil before the first one
}

func dial(ctx context.Context, n *node, user string, settings map[string]string) (*client, error) {
	c := &client{node: n.name}
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", n.cfg.StateDir, n.cfg.Port, user))
	if err != nil {
		return nil, err
	}
	config.RuntimeParams = settings
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if strings.Contains(notice.Message, "canceling wait for synchronous replication") {
			c.warned.Store(true)
		}
	}
	open := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if c.mute.Load() {
			return nil, errors.New("it asks for no cancel")
		}
		return open(ctx, network, address)
	}
	c.conn, err = pgconn.ConnectConfig(ctx, config)
	return c, err
}

// close ends the connection without a word.
func (c *client) close() {
	c.mute.Store(true)
	_ = c.conn.Conn().Close()
	if c.done != nil {
		<-c.done
	}
}

// Connect implements pgtest.Clients.
func (s *realServers) Connect(session, node string, o pgtest.SessionOptions) error {
	settings := map[string]string{"application_name": session}
	if o.Level != "" {
		settings["synchronous_commit"] = string(o.Level)
	}
	if o.Timeout > 0 {
		settings["statement_timeout"] = strconv.FormatInt(o.Timeout.Milliseconds(), 10)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Second)
	defer cancel()
	c, err := dial(ctx, s.nodes[node], "client", settings)
	if err != nil {
		return refusal(err)
	}
	s.clients[session] = c
	return nil
}

func (s *realServers) client(session string) (*client, error) {
	if c := s.clients[session]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no session %q", session)
}

// Commit implements pgtest.Clients.
func (s *realServers) Commit(session, row string) error {
	return s.execute(session, row, "INSERT INTO rows VALUES ('"+row+"')")
}

// execute begins a statement whose outcome is a row's.
func (s *realServers) execute(session, row, statement string) error {
	c, err := s.client(session)
	if err != nil {
		return err
	}
	if c.done != nil {
		<-c.done
	}
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.done = make(chan struct{})
	s.tell(row, pgtest.Waiting)
	c.warned.Store(false)
	go func() { // its owner is the client, whose end it waits for
		defer close(c.done)
		_, err := c.conn.Exec(ctx, statement).ReadAll()
		s.tell(row, c.outcome(err))
	}()
	return nil
}

func (s *realServers) tell(row string, o pgtest.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[row] = o
}

// outcome is what a client knows after its statement.
func (c *client) outcome(err error) pgtest.Outcome {
	if err == nil {
		if c.warned.Load() {
			return pgtest.Cancelled
		}
		return pgtest.Acked
	}
	var said *pgconn.PgError
	if errors.As(err, &said) && !strings.HasPrefix(said.Code, "57P") && said.Severity == "ERROR" {
		return "refused" // no transaction was left to commit
	}
	return pgtest.Unknown
}

// Outcome implements pgtest.Clients.
func (s *realServers) Outcome(row string) pgtest.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.outcomes[row]; ok {
		return o
	}
	return "none"
}

// Cancel implements pgtest.Clients.
func (s *realServers) Cancel(session string) error { return s.signal(session, "pg_cancel_backend") }

// Terminate implements pgtest.Clients.
func (s *realServers) Terminate(session string) error {
	return s.signal(session, "pg_terminate_backend")
}

func (s *realServers) signal(session, function string) error {
	c, err := s.client(session)
	if err == nil {
		_, err = s.query(c.node, fmt.Sprintf("SELECT %s(%d)", function, c.conn.PID()))
	}
	return err
}

// Disconnect implements pgtest.Clients.
func (s *realServers) Disconnect(session string) error {
	c, err := s.client(session)
	if err == nil {
		c.close()
	}
	return err
}

// GiveUp implements pgtest.Clients.
func (s *realServers) GiveUp(session string) error {
	c, err := s.client(session)
	if err == nil {
		c.stop()
	}
	return err
}

// Admits implements pgtest.Witness.
func (s *realServers) Admits(node string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	c, err := dial(ctx, s.nodes[node], "client", nil)
	if err != nil {
		return refusal(err)
	}
	c.close()
	return nil
}
