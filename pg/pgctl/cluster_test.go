package pgctl_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// The controller is what ha needs of a server.
var (
	_ ha.PostgresController = (*pgctl.Controller)(nil)
	_ ha.DeadlineSetter     = (*pgctl.Controller)(nil)
)

// patience bounds every wait of these tests; it is reached only by a failure.
const patience = 90 * time.Second

// needPostgres skips a test where PostgreSQL is missing, loudly; in CI that is
// a failure.
func needPostgres(tb testing.TB) string {
	tb.Helper()
	dir, err := pgctl.FindBinDir()
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("these tests need PostgreSQL: %v", err)
		}
		testbed.Skipf(tb, "these tests need PostgreSQL: %v", err)
	}
	if _, err := user.Lookup("postgres"); os.Geteuid() == 0 && err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("as root these tests need the user postgres: %v", err)
		}
		testbed.Skipf(tb, "as root these tests need the user postgres: %v", err)
	}
	return dir
}

// node is one server of a test and its controller.
type node struct {
	*pgctl.Controller
	tb   testing.TB
	cfg  pgctl.Config
	name string
}

// newNode makes a controller with directories and a port of its own; the server
// is stopped and everything removed at the end of the test.
func newNode(tb testing.TB, name string, edit ...func(*pgctl.Config)) *node {
	tb.Helper()
	bin := needPostgres(tb)
	root, err := os.MkdirTemp("", "pgctl") //nolint:usetesting // the server's user must get through, and its socket's path is short
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(root)) })
	require.NoError(tb, os.Chmod(root, 0o755))
	cfg := pgctl.Config{
		BinDir:              bin,
		DataDir:             filepath.Join(root, "data"),
		StateDir:            filepath.Join(root, "state"),
		ListenHost:          "127.0.0.1",
		Port:                freePort(tb),
		Name:                name,
		ReplicationPassword: `s:e\cr'et"`,
		Parameters:          map[string]string{"shared_buffers": "16MB", "max_connections": "30", "autovacuum": "off"},
		HBA:                 []string{"local all client trust"},
		Logger:              slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelError + 1})),
	}
	for _, change := range edit {
		change(&cfg)
	}
	n := &node{tb: tb, cfg: cfg, name: name}
	n.open()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(tb, n.Stop(ctx, pg.StopImmediate))
		require.NoError(tb, n.Close())
		if tb.Failed() {
			tb.Logf("log of %s:\n%s", name, n.log())
		}
	})
	return n
}

// open makes a (new) controller, as a restarted agent does.
func (n *node) open() {
	n.tb.Helper()
	controller, err := pgctl.New(n.cfg)
	require.NoError(n.tb, err)
	n.Controller = controller
}

// freePort finds a port below those that the system gives to clients, so that
// no connection of a test running beside takes it before the server listens.
func freePort(tb testing.TB) int {
	tb.Helper()
	ports, err := testbed.FreePorts(1)
	require.NoError(tb, err)
	return ports[0]
}

func (n *node) log() string {
	text, err := os.ReadFile(filepath.Join(n.cfg.StateDir, "postgresql.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.tb.Cleanup(cancel)
	return ctx
}

// up is this node as an upstream, for a standby of that name.
func (n *node) up(standby string) pg.Upstream {
	return pg.Upstream{Host: "127.0.0.1", Port: n.cfg.Port, Name: standby}
}

// connect opens a session of a client.
func (n *node) connect(user string) (*pgconn.PgConn, error) {
	return pgconn.Connect(n.ctx(), fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", n.cfg.StateDir, n.cfg.Port, user))
}

// sql runs a statement as the superuser and returns the first value.
func (n *node) sql(statement string) string {
	n.tb.Helper()
	value, err := n.trySQL(statement)
	require.NoError(n.tb, err, statement)
	return value
}

func (n *node) trySQL(statement string) (string, error) {
	conn, err := n.connect("postgres")
	if err != nil {
		return "", err
	}
	defer conn.Close(n.ctx()) //nolint:errcheck // nothing is lost
	results, err := conn.Exec(n.ctx(), statement).ReadAll()
	if err != nil {
		return "", err
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return "", nil
	}
	return string(last.Rows[0][0]), nil
}

func (n *node) status() pg.Status {
	n.tb.Helper()
	status, err := n.Status(n.ctx())
	require.NoError(n.tb, err)
	return status
}

// await polls until ok; the wait is for an event that only the server knows.
func (n *node) await(what string, ok func() bool) {
	n.tb.Helper()
	require.Eventually(n.tb, ok, patience, 5*time.Millisecond, what)
}

// awaitStreaming waits until the standby has flushed what the primary has.
func (n *node) awaitStreaming(primary *node) {
	n.tb.Helper()
	target, err := pg.ParseLSN(primary.sql("SELECT pg_current_wal_flush_lsn()"))
	require.NoError(n.tb, err)
	n.await("standby "+n.name+" streams up to "+target.String(), func() bool {
		status := n.status()
		return status.Streams() && status.Held().LSN >= target && status.Replayed >= target
	})
}

// kill9 kills the postmaster as a crash does.
func (n *node) kill9() int {
	n.tb.Helper()
	pid := n.status().Postgres
	require.NotZero(n.tb, pid)
	require.NoError(n.tb, syscall.Kill(pid, syscall.SIGKILL))
	return pid
}

// crash is kill9, noticed.
func (n *node) crash() {
	n.tb.Helper()
	seen := n.status().Generation
	n.kill9()
	_, err := n.WaitChange(n.ctx(), seen)
	require.NoError(n.tb, err)
}

// warrant is in force while err is nil.
type warrant struct{ err error }

func (w warrant) Check() error     { return w.err }
func (w warrant) Until() time.Time { return time.Now().Add(time.Hour) }

// newPrimary makes a running primary with a table t and the role client.
func newPrimary(tb testing.TB, name string, edit ...func(*pgctl.Config)) *node {
	tb.Helper()
	n := newNode(tb, name, edit...)
	require.NoError(tb, n.Init(n.ctx()))
	require.NoError(tb, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
	require.NoError(tb, n.OpenGate(n.ctx()))
	n.sql("CREATE ROLE client LOGIN; CREATE TABLE t(i int); GRANT ALL ON t TO client")
	return n
}

// newStandby makes a standby that streams from a primary, as name.
func newStandby(tb testing.TB, name string, primary *node, edit ...func(*pgctl.Config)) *node {
	tb.Helper()
	n := newNode(tb, name, edit...)
	_, err := n.Clone(n.ctx(), primary.up(name))
	require.NoError(tb, err)
	require.NoError(tb, n.SetSync(n.ctx(), anyOf(1, "nobody")))
	require.NoError(tb, n.StartStandby(n.ctx(), primary.up(name)))
	n.awaitStreaming(primary)
	return n
}

func anyOf(k int, names ...string) pg.SyncSetting {
	return pg.SyncSetting{Method: pg.SyncAny, K: k, Names: names}
}

func atoi(tb testing.TB, text string) int {
	tb.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	require.NoError(tb, err)
	return n
}
