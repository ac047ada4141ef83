package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// etcdPatience bounds how long one start or stop of an etcd may take.
const etcdPatience = 30 * time.Second

// EtcdConfig configures an EtcdServer.
type EtcdConfig struct {
	// Binary is the program; empty means the etcd found in PATH.
	Binary string
	// Dir is where data and log go. It must exist.
	Dir string
	// Args are more arguments, after those given by the test bed, which they
	// may override.
	Args []string
	// TLS makes clients connect by TLS; nil means without.
	TLS *EtcdTLS
}

// EtcdTLS are the files by which an etcd secures what clients send.
type EtcdTLS struct {
	Cert, Key string
	// ClientCA makes clients prove who they are by a certificate that this
	// authority has signed; empty means that anybody may come.
	ClientCA string
}

// EtcdServer is an etcd, alone or a member of an EtcdCluster. It calls for an
// election after half a second and grants sessions from one second on, which is
// quicker than etcd's own defaults. Its ports and its data survive Stop, Kill and
// Restart. Its methods may be called from several goroutines at once.
type EtcdServer struct {
	cfg    EtcdConfig
	name   string
	log    string
	client int // port
	peer   int // port
	health int // port, without TLS

	members []*EtcdServer // of the cluster, this one included

	mu      sync.Mutex // guards process, and is held while starting and stopping
	process *process
}

// NewEtcdServer prepares a server without starting it. It says when etcd is not
// installed.
func NewEtcdServer(cfg EtcdConfig) (*EtcdServer, error) {
	s, err := newEtcdServer(cfg, "etcd")
	if err != nil {
		return nil, err
	}
	s.members = []*EtcdServer{s}
	return s, nil
}

func newEtcdServer(cfg EtcdConfig, name string) (*EtcdServer, error) {
	if cfg.Binary == "" {
		path, err := exec.LookPath("etcd")
		if err != nil {
			return nil, errors.New("etcd is not installed; on Debian it is in the package etcd-server: " + etcdInstall)
		}
		cfg.Binary = path
	}
	ports, err := FreePorts(3)
	if err != nil {
		return nil, err
	}
	return &EtcdServer{
		cfg: cfg, name: name, log: filepath.Join(cfg.Dir, name+".log"),
		client: ports[0], peer: ports[1], health: ports[2],
	}, nil
}

// Endpoints are the client URLs, the same over the whole life of the server.
func (s *EtcdServer) Endpoints() []string { return []string{s.clientURL()} }

// Address is the host and port where clients connect.
func (s *EtcdServer) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.client) }

// Start starts the server and waits until it serves. It does nothing when the
// server runs.
func (s *EtcdServer) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return nil
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open etcd's log: %w", err)
	}
	defer func() { _ = log.Close() }()             // the child has its own descriptor
	cmd := exec.Command(s.cfg.Binary, s.args()...) //nolint:gosec // The program is the caller's choice.
	cmd.Env = etcdEnv()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := launch(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	if err := s.awaitHealth(ctx, p); err != nil {
		return errors.Join(err, p.kill())
	}
	s.process = p
	return nil
}

// Stop ends the server in order. It does nothing when the server does not run.
func (s *EtcdServer) Stop() error {
	return s.end(func(p *process) error {
		ctx, cancel := context.WithTimeout(context.Background(), etcdPatience)
		defer cancel()
		return p.stop(ctx)
	})
}

// Kill ends the server as a crash does. It does nothing when the server does
// not run.
func (s *EtcdServer) Kill() error { return s.end((*process).kill) }

// Restart stops the server and starts it with the same ports and data.
func (s *EtcdServer) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Pause stops the server with all its connections open, as a frozen machine
// would be. It returns when every thread stands still.
func (s *EtcdServer) Pause() error { return s.running((*process).pause) }

// Resume ends a Pause.
func (s *EtcdServer) Resume() error {
	return s.running(func(p *process) error { return p.signal(syscall.SIGCONT) })
}

// AwaitServing waits until a server that runs serves, which after Resume takes it
// a moment.
func (s *EtcdServer) AwaitServing(ctx context.Context) error {
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	if p == nil {
		return errEtcdStopped
	}
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	return s.awaitHealth(ctx, p)
}

// LogTail returns the last lines of what the server has written.
func (s *EtcdServer) LogTail() string { return tail(s.log) }

var errEtcdStopped = errors.New("etcd does not run; start it first")

// running does something to a server that runs.
func (s *EtcdServer) running(do func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return errEtcdStopped
	}
	return do(s.process)
}

func (s *EtcdServer) end(how func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	// A frozen server would not see the request to end.
	err := errors.Join(s.process.signal(syscall.SIGCONT), how(s.process))
	s.process = nil
	return err
}

func (s *EtcdServer) args() []string {
	var all []string
	for _, member := range s.members {
		all = append(all, member.name+"="+plainURL(member.peer))
	}
	args := []string{
		"--name=" + s.name,
		"--data-dir=" + filepath.Join(s.cfg.Dir, s.name+".data"),
		"--listen-client-urls=" + s.clientURL(),
		"--advertise-client-urls=" + s.clientURL(),
		"--listen-peer-urls=" + plainURL(s.peer),
		"--initial-advertise-peer-urls=" + plainURL(s.peer),
		"--initial-cluster=" + strings.Join(all, ","),
		"--listen-metrics-urls=" + plainURL(s.health),
		"--heartbeat-interval=50",
		"--election-timeout=500",
	}
	if tls := s.cfg.TLS; tls != nil {
		args = append(args, "--cert-file="+tls.Cert, "--key-file="+tls.Key)
		if tls.ClientCA != "" {
			args = append(args, "--client-cert-auth", "--trusted-ca-file="+tls.ClientCA)
		}
	}
	return append(args, s.cfg.Args...)
}

func (s *EtcdServer) clientURL() string {
	if s.cfg.TLS != nil {
		return "https://" + s.Address()
	}
	return "http://" + s.Address()
}

func plainURL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// etcdEnv is this process's environment without what would configure etcd
// behind the arguments' back. Old versions run on anything but amd64 only when
// told so.
func etcdEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCD_") })
	return append(env, "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
}

// awaitHealth returns once the server says that it can serve, or why it will
// not.
func (s *EtcdServer) awaitHealth(ctx context.Context, p *process) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		err := EtcdHealth(ctx, plainURL(s.health))
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-p.done:
			return fmt.Errorf("etcd ended while it started: %w; its log ends:\n%s", p.err, tail(s.log))
		case <-ctx.Done():
			return fmt.Errorf("etcd did not become healthy: %w: %w; its log ends:\n%s", context.Cause(ctx), err, tail(s.log))
		}
	}
}

// EtcdHealth asks the etcd at a client URL whether it can serve, and says why
// not.
func EtcdHealth(ctx context.Context, clientURL string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, clientURL+"/health", http.NoBody)
	if err != nil {
		return fmt.Errorf("make a health request: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("ask etcd for its health: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Health string `json:"health"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return fmt.Errorf("read etcd's health: %w", err)
	}
	if answer.Health != "true" {
		return fmt.Errorf("etcd says that its health is %q", answer.Health)
	}
	return nil
}

// etcdInstall is how to get it.
const etcdInstall = "apt-get install etcd-server"

// NeedEtcd returns the path of etcd. The test is skipped, or fails with CI=true,
// when it is not installed.
func NeedEtcd(tb TB) string {
	tb.Helper()
	return Need(tb, "etcd", etcdInstall)
}

// StartEtcd starts an etcd for a test and stops it at cleanup. The test is
// skipped, or fails with CI=true, when etcd is not installed.
func StartEtcd(tb TB, args ...string) *EtcdServer {
	tb.Helper()
	binary := NeedEtcd(tb)
	s, err := NewEtcdServer(EtcdConfig{Binary: binary, Dir: tb.TempDir(), Args: args})
	if err != nil {
		tb.Fatalf("prepare etcd: %v", err)
	}
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatalf("start etcd: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			tb.Errorf("stop etcd: %v", err)
		}
	})
	return s
}
