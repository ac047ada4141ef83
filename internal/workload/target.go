package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Node is one server as clients reach it.
type Node struct {
	Name string
	Host string
	Port int
}

// Address returns host and port for people.
func (n Node) Address() string { return net.JoinHostPort(n.Host, strconv.Itoa(n.Port)) }

// Target is a cluster as its clients see it: the nodes, and one login for all of
// them. Zero times mean the defaults.
type Target struct {
	Nodes    []Node
	User     string
	Password string
	Database string

	ConnectTimeout   time.Duration // 300 ms
	StatementTimeout time.Duration // 1 s, kept by closing the socket
}

// Table is where all rows go. Rows of several ledgers live in it side by side.
const Table = "pghad_workload"

const (
	defaultConnectTimeout   = 300 * time.Millisecond
	defaultStatementTimeout = time.Second
)

// ErrNoPrimary says that no node took writes in the time given.
var ErrNoPrimary = errors.New("no node takes writes")

// withDefaults fills what is zero.
func (t Target) withDefaults() Target {
	if t.Database == "" {
		t.Database = "postgres"
	}
	if t.ConnectTimeout <= 0 {
		t.ConnectTimeout = defaultConnectTimeout
	}
	if t.StatementTimeout <= 0 {
		t.StatementTimeout = defaultStatementTimeout
	}
	return t
}

// check says what a caller forgot.
func (t Target) check() error {
	if len(t.Nodes) == 0 {
		return errors.New("workload: the target has no nodes")
	}
	seen := make(map[string]bool, len(t.Nodes))
	for _, node := range t.Nodes {
		if node.Name == "" || seen[node.Name] {
			return fmt.Errorf("workload: node name %q is empty or used twice", node.Name)
		}
		seen[node.Name] = true
	}
	return nil
}

// CreateTable makes the table of rows on the primary, if it is absent. It waits
// for a primary until ctx ends.
func CreateTable(ctx context.Context, target Target) error {
	target = target.withDefaults()
	s, err := openPrimary(ctx, target, "setup")
	if err != nil {
		return fmt.Errorf("create table %s: %w", Table, err)
	}
	defer s.close()
	_, err = s.query(ctx, `CREATE TABLE IF NOT EXISTS `+Table+` (
		run text NOT NULL,
		id bigint NOT NULL,
		writer text NOT NULL,
		node text NOT NULL,
		timeline bigint NOT NULL,
		backend integer NOT NULL DEFAULT pg_backend_pid(),
		at timestamptz NOT NULL DEFAULT clock_timestamp(),
		PRIMARY KEY (run, id))`)
	if err != nil {
		return fmt.Errorf("create table %s on %s: %w", Table, s.node.Name, err)
	}
	return nil
}

// openPrimary opens a session to the node that takes writes now.
func openPrimary(ctx context.Context, target Target, application string) (*session, error) {
	find := newLocator(target)
	defer find.stop()
	for {
		node, err := find.primary(ctx)
		if err != nil {
			return nil, err
		}
		s, err := target.open(ctx, node, application)
		if err == nil {
			if s.writable() {
				return s, nil
			}
			s.close()
		}
		if err := pause(ctx, pollEvery); err != nil {
			return nil, err
		}
	}
}

// pause waits for d, or until ctx ends, and then returns its cause.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
