package testbed

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresPatience bounds how long one start or stop of a PostgreSQL may take.
const postgresPatience = 30 * time.Second

// PostgresBinDir finds the programs of the newest PostgreSQL of this machine.
func PostgresBinDir() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", fmt.Errorf("look for PostgreSQL: %w", err)
	}
	slices.SortFunc(dirs, func(a, b string) int { return major(b) - major(a) })
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("PostgreSQL is not installed: neither /usr/lib/postgresql/*/bin nor PATH has its server")
}

// major reads the 15 of /usr/lib/postgresql/15/bin.
func major(dir string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	if err != nil {
		return 0
	}
	return n
}

// NeedPostgres returns the directory of PostgreSQL's programs. It fails or skips
// the test as Need does.
func NeedPostgres(tb TB) string {
	tb.Helper()
	dir, err := PostgresBinDir()
	if err == nil {
		return dir
	}
	const message = "%v; install it with: apt-get install postgresql"
	if os.Getenv("CI") == "true" {
		tb.Fatalf("NOT TESTED: "+message, err)
	}
	Skipf(tb, message, err)
	return ""
}

// PostgresConfig configures a PostgresServer.
type PostgresConfig struct {
	BinDir string // empty: the newest of this machine
	// Dir is where data, socket and log go. It must exist, and the server's user
	// must be able to search it (MakeDir).
	Dir        string
	Parameters map[string]string // given on the command line, so they win over the data's own
}

// PostgresServer is one PostgreSQL that nobody manages. Clients reach it on
// loopback with a password.
type PostgresServer struct {
	cfg     PostgresConfig
	account Account
	port    int

	Superuser string
	Password  string

	mu      sync.Mutex // guards process, and is held while starting and stopping
	process *process
}

// NewPostgres prepares a server. Its data comes from Init or CopyFrom.
func NewPostgres(cfg PostgresConfig) (*PostgresServer, error) {
	if cfg.BinDir == "" {
		dir, err := PostgresBinDir()
		if err != nil {
			return nil, err
		}
		cfg.BinDir = dir
	}
	account, err := ServerAccount()
	if err != nil {
		return nil, err
	}
	ports, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	return &PostgresServer{cfg: cfg, account: account, port: ports[0], Superuser: "postgres", Password: rand.Text()}, nil
}

// Host and port of the server.
func (s *PostgresServer) Host() string { return "127.0.0.1" }

// Port of the server, the same over its life.
func (s *PostgresServer) Port() int { return s.port }

// LogFile is where the server's messages go.
func (s *PostgresServer) LogFile() string { return s.path("postgres.log") }

func (s *PostgresServer) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// makeDirs makes the directories that belong to the server's user.
func (s *PostgresServer) makeDirs() error {
	for _, name := range []string{"data", "run"} {
		if err := s.account.MakeDir(s.path(name)); err != nil {
			return fmt.Errorf("prepare PostgreSQL: %w", err)
		}
	}
	return nil
}

// writeFile writes a file that only the server's user can read.
func (s *PostgresServer) writeFile(name, text string) error {
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("prepare PostgreSQL: %w", err)
	}
	if err := s.account.Own(s.path(name)); err != nil {
		return fmt.Errorf("prepare PostgreSQL: %w", err)
	}
	return nil
}

// Init makes an empty database.
func (s *PostgresServer) Init(ctx context.Context) error {
	if err := s.makeDirs(); err != nil {
		return err
	}
	if err := s.writeFile("password", s.Password); err != nil {
		return err
	}
	return s.tool(ctx, nil, "initdb", "--pgdata="+s.path("data"), "--username="+s.Superuser, "--auth=scram-sha-256",
		"--pwfile="+s.path("password"), "--no-sync", "--locale=C", "--encoding=UTF8")
}

// CopyFrom makes the database a copy of another server's, taken by the
// replication role. Started, the copy is a primary on the timeline of the
// source: a twin.
func (s *PostgresServer) CopyFrom(ctx context.Context, host string, port int, user, password string) error {
	if err := s.makeDirs(); err != nil {
		return err
	}
	err := s.tool(ctx, []string{"PGPASSWORD=" + password}, "pg_basebackup", "--pgdata="+s.path("data"), "--host="+host,
		"--port="+strconv.Itoa(port), "--username="+user, "--checkpoint=fast", "--wal-method=stream", "--no-sync")
	if err != nil {
		return err
	}
	for _, name := range []string{"standby.signal", "recovery.signal"} {
		if err := os.Remove(filepath.Join(s.path("data"), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("detach the copy: %w", err)
		}
	}
	return nil
}

// tool runs one of PostgreSQL's programs to its end as the server's user.
func (s *PostgresServer) tool(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.Command(filepath.Join(s.cfg.BinDir, name), args...) //nolint:gosec // a program of PostgreSQL
	cmd.Env = append(serverEnv(), env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = s.account.attributes()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	p, err := launch(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", name, context.Cause(ctx)), p.kill())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", name, p.err, strings.TrimSpace(output.String()))
	}
	return nil
}

// serverEnv is the environment without what configures PostgreSQL's programs.
func serverEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	return append(env, "LC_ALL=C")
}

// Start starts the server and waits until it admits clients. It does nothing
// when the server runs.
func (s *PostgresServer) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return nil
	}
	if err := s.writeFile("ident", ""); err != nil {
		return err
	}
	if err := s.writeFile("hba", "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"); err != nil {
		return err
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open PostgreSQL's log: %w", err)
	}
	defer func() { _ = log.Close() }()                                        // the child has its own descriptor
	cmd := exec.Command(filepath.Join(s.cfg.BinDir, "postgres"), s.args()...) //nolint:gosec // a program of PostgreSQL
	cmd.Env, cmd.Dir, cmd.SysProcAttr = serverEnv(), "/", s.account.attributes()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := launch(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, postgresPatience)
	defer cancel()
	if err := s.awaitClients(ctx, p); err != nil {
		return errors.Join(err, p.kill(), killAndWait(ctx, serverProcesses(s.path("data"))))
	}
	s.process = p
	return nil
}

func (s *PostgresServer) args() []string {
	parameters := map[string]string{
		"listen_addresses":        s.Host(),
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.path("run"),
		// A copy's configuration may name its source's files.
		"data_directory":    s.path("data"),
		"hba_file":          s.path("hba"),
		"ident_file":        s.path("ident"),
		"external_pid_file": "",
		"logging_collector": "off",
		"shared_buffers":    "16MB",
	}
	maps.Copy(parameters, s.cfg.Parameters)
	args := []string{"-D", s.path("data")}
	for name, value := range parameters {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

// awaitClients returns once the server says who it admits: a refused password
// is an answer too.
func (s *PostgresServer) awaitClients(ctx context.Context, p *process) error {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-p.done:
			return fmt.Errorf("PostgreSQL ended while it started: %w; its log ends:\n%s", p.err, tail(s.LogFile()))
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w: %w; its log ends:\n%s", context.Cause(ctx), err, tail(s.LogFile()))
		}
	}
}

func (s *PostgresServer) ping(ctx context.Context) error {
	config, err := pgconn.ParseConfig("sslmode=disable connect_timeout=2")
	if err != nil {
		return err
	}
	config.Host, config.Port, config.Fallbacks = s.Host(), uint16(s.port), nil //nolint:gosec // a port
	config.User, config.Password, config.Database = s.Superuser, s.Password, "postgres"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err == nil {
		return conn.Close(ctx)
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "28P01" {
		return nil // invalid_password: it is open, with passwords of the copy's source
	}
	return err
}

// Stop ends the server in order. It does nothing when the server does not run.
func (s *PostgresServer) Stop() error { return s.end(syscall.SIGINT) }

// Kill ends the server as a crash does, with all of its processes. It does
// nothing when the server does not run.
func (s *PostgresServer) Kill() error { return s.end(syscall.SIGKILL) }

func (s *PostgresServer) end(how syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), postgresPatience)
	defer cancel()
	err := s.process.signal(how)
	select {
	case <-s.process.done:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("PostgreSQL did not end when asked: %w", context.Cause(ctx)), s.process.kill())
	}
	// Backends outlive a killed postmaster by some milliseconds.
	err = errors.Join(err, killAndWait(ctx, serverProcesses(s.path("data"))))
	s.process = nil
	return err
}

// StartPostgres starts an empty server for a test and stops it at cleanup. The
// test is skipped, or fails with CI=true, when PostgreSQL is not installed.
func StartPostgres(tb TB, parameters map[string]string) *PostgresServer {
	tb.Helper()
	s, err := NewPostgres(PostgresConfig{BinDir: NeedPostgres(tb), Dir: Dir(tb), Parameters: parameters})
	if err != nil {
		tb.Fatalf("prepare PostgreSQL: %v", err)
	}
	if err := s.Init(tb.Context()); err != nil {
		tb.Fatalf("prepare PostgreSQL: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			tb.Errorf("stop PostgreSQL: %v", err)
		}
	})
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatalf("start PostgreSQL: %v", err)
	}
	return s
}

// Address of the server, for people.
func (s *PostgresServer) Address() string { return net.JoinHostPort(s.Host(), strconv.Itoa(s.port)) }
