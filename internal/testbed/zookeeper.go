package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// zookeeperPatience bounds how long one start or stop of a member may take.
	zookeeperPatience = 60 * time.Second

	// zookeeperTick makes sessions from 200 ms on possible; ZooKeeper's own
	// default is 2 s.
	zookeeperTick = 100 * time.Millisecond

	zookeeperInstall = "apt-get install zookeeper"
)

// ZooKeeperConfig configures a ZooKeeperServer or a ZooKeeperEnsemble.
type ZooKeeperConfig struct {
	// Java is the program; empty means the java found in PATH.
	Java string
	// ClassPath is where ZooKeeper's classes are; empty means where Debian's
	// package, or a distribution whose zkServer.sh is in PATH, has them.
	ClassPath string
	// Dir is where data, configuration and log go. It must exist.
	Dir string
	// Settings are more lines for zoo.cfg, after those given by the test bed,
	// which they may override.
	Settings []string
}

func (c *ZooKeeperConfig) find() error {
	if c.Java == "" {
		path, err := exec.LookPath("java")
		if err != nil {
			return errors.New("java is not installed, without which ZooKeeper does not run; on Debian it comes with the package zookeeper: " + zookeeperInstall)
		}
		c.Java = path
	}
	if c.ClassPath == "" {
		path, err := zookeeperClassPath()
		if err != nil {
			return err
		}
		c.ClassPath = path
	}
	return nil
}

// zookeeperClassPath finds ZooKeeper's classes. Debian's archive names most of
// what it needs in its manifest, but no logger and not all that TLS takes.
func zookeeperClassPath() (string, error) {
	const debian = "/usr/share/java/"
	if _, err := os.Stat(debian + "zookeeper.jar"); err == nil {
		return strings.Join([]string{
			debian + "zookeeper.jar", debian + "netty-all.jar", debian + "netty-codec.jar", debian + "slf4j-simple.jar",
		}, string(os.PathListSeparator)), nil
	}
	for _, name := range []string{"zkServer.sh", "zkServer"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			continue
		}
		above := filepath.Dir(filepath.Dir(path))
		for _, home := range []string{above, filepath.Join(above, "libexec")} {
			if jars, err := filepath.Glob(filepath.Join(home, "lib", "zookeeper-*.jar")); err == nil && len(jars) > 0 {
				return filepath.Join(home, "lib", "*") + string(os.PathListSeparator) + filepath.Join(home, "conf"), nil
			}
		}
	}
	return "", errors.New("ZooKeeper is not installed; on Debian it is in the package zookeeper: " + zookeeperInstall)
}

// ZooKeeperServer is a ZooKeeper of its own, or a member of an ensemble. Its
// ports and its data survive Stop, Kill and Restart. Its methods may be called
// from several goroutines at once.
type ZooKeeperServer struct {
	cfg      ZooKeeperConfig
	id       int // in an ensemble from 1 on, otherwise 0
	client   int // port
	secure   int // port
	peer     int // port
	election int // port
	members  []*ZooKeeperServer

	mu      sync.Mutex // guards process, and is held while starting and stopping
	process *process
}

// NewZooKeeperServer prepares a ZooKeeper without starting it. It says when
// ZooKeeper is not installed.
func NewZooKeeperServer(cfg ZooKeeperConfig) (*ZooKeeperServer, error) {
	if err := cfg.find(); err != nil {
		return nil, err
	}
	return newZooKeeperServer(cfg, 0)
}

func newZooKeeperServer(cfg ZooKeeperConfig, id int) (*ZooKeeperServer, error) {
	ports, err := FreePorts(4)
	if err != nil {
		return nil, err
	}
	return &ZooKeeperServer{cfg: cfg, id: id, client: ports[0], secure: ports[1], peer: ports[2], election: ports[3]}, nil
}

// Address is where clients connect, the same over the whole life of the server.
func (s *ZooKeeperServer) Address() string { return loopback(s.client) }

// SecureAddress is where clients connect by TLS. Nothing listens there unless
// the settings say secureClientPort=${secure}, with the rest of what TLS takes.
func (s *ZooKeeperServer) SecureAddress() string { return loopback(s.secure) }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Start starts the server and waits until it serves, which a member of an
// ensemble does as soon as a majority runs. It does nothing when the server
// runs.
func (s *ZooKeeperServer) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return nil
	}
	p, err := s.launch()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, zookeeperPatience)
	defer cancel()
	if err := s.awaitServing(ctx, p); err != nil {
		return errors.Join(err, p.kill())
	}
	s.process = p
	return nil
}

// Stop ends the server in order. It does nothing when the server does not run.
func (s *ZooKeeperServer) Stop() error {
	return s.end(func(p *process) error {
		ctx, cancel := context.WithTimeout(context.Background(), zookeeperPatience)
		defer cancel()
		return p.stop(ctx)
	})
}

// Kill ends the server as a crash does. It does nothing when the server does
// not run.
func (s *ZooKeeperServer) Kill() error { return s.end((*process).kill) }

// Restart stops the server and starts it with the same ports and data.
func (s *ZooKeeperServer) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Pause stops the server with all its connections open, as a frozen machine
// would be. It returns when every thread stands still.
func (s *ZooKeeperServer) Pause() error { return s.running((*process).pause) }

// Resume ends a Pause.
func (s *ZooKeeperServer) Resume() error {
	return s.running(func(p *process) error { return p.signal(syscall.SIGCONT) })
}

// AwaitServing waits until a server that runs serves, which after Resume takes it
// a moment.
func (s *ZooKeeperServer) AwaitServing(ctx context.Context) error {
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	if p == nil {
		return errZooKeeperStopped
	}
	ctx, cancel := context.WithTimeout(ctx, zookeeperPatience)
	defer cancel()
	return s.awaitServing(ctx, p)
}

// LogTail returns the last lines of what the server has written.
func (s *ZooKeeperServer) LogTail() string { return tail(s.logFile()) }

// Mode is what the server says it is: standalone, leader or follower. An error
// says that it does not serve.
func (s *ZooKeeperServer) Mode(ctx context.Context) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address())
	if err != nil {
		return "", fmt.Errorf("ask ZooKeeper for its mode: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return "", fmt.Errorf("ask ZooKeeper for its mode: %w", err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("read ZooKeeper's mode: %w", err)
	}
	for line := range strings.Lines(string(answer)) {
		if mode, found := strings.CutPrefix(line, "Mode: "); found {
			return strings.TrimSpace(mode), nil
		}
	}
	return "", fmt.Errorf("ZooKeeper does not serve: %s", strings.TrimSpace(string(answer)))
}

var errZooKeeperStopped = errors.New("ZooKeeper does not run; start it first")

// running does something to a server that runs.
func (s *ZooKeeperServer) running(do func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return errZooKeeperStopped
	}
	return do(s.process)
}

func (s *ZooKeeperServer) end(how func(*process) error) error {
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

func (s *ZooKeeperServer) dir() string {
	if s.id == 0 {
		return s.cfg.Dir
	}
	return filepath.Join(s.cfg.Dir, "zookeeper-"+strconv.Itoa(s.id))
}

func (s *ZooKeeperServer) logFile() string { return filepath.Join(s.dir(), "zookeeper.log") }

// launch writes the configuration and starts the process.
func (s *ZooKeeperServer) launch() (*process, error) {
	data, file := filepath.Join(s.dir(), "data"), filepath.Join(s.dir(), "zoo.cfg")
	err := os.MkdirAll(data, 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(s.zooCfg(data)), 0o600)
	}
	if err == nil && s.id > 0 {
		err = os.WriteFile(filepath.Join(data, "myid"), []byte(strconv.Itoa(s.id)+"\n"), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("configure ZooKeeper: %w", err)
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open ZooKeeper's log: %w", err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	// A small heap and the simplest collector and compiler: it starts in half
	// the time. Its files are gone after the test, so it need not wait for disks.
	cmd := exec.Command(s.cfg.Java, //nolint:gosec // The program is the caller's choice.
		"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData",
		"-Dzookeeper.forceSync=no", "-Dzookeeper.preAllocSize=1024", "-Dzookeeper.cnxTimeout=1000",
		"-Dzookeeper.leader.closeSocketAsync=true", "-Dzookeeper.learner.closeSocketAsync=true",
		"-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Djava.net.preferIPv4Stack=true", "-Djava.io.tmpdir="+s.dir(), "-Duser.home="+s.dir(),
		"-cp", s.cfg.ClassPath, "org.apache.zookeeper.server.quorum.QuorumPeerMain", file)
	cmd.Stdout, cmd.Stderr = log, log
	return launch(cmd)
}

func (s *ZooKeeperServer) zooCfg(data string) string {
	lines := []string{
		"dataDir=" + data,
		fmt.Sprintf("tickTime=%d", zookeeperTick.Milliseconds()),
		// Long sessions are for tests; without this twenty ticks are the most.
		fmt.Sprintf("maxSessionTimeout=%d", (24 * time.Hour).Milliseconds()),
		"maxClientCnxns=0",
		"admin.enableServer=false",
		"4lw.commands.whitelist=*",
	}
	if s.id == 0 {
		lines = append(lines, "clientPortAddress=127.0.0.1", fmt.Sprintf("clientPort=%d", s.client))
	} else {
		// A loaded machine takes its time; who is missing for 2 s is gone.
		lines = append(lines, "initLimit=100", "syncLimit=20")
	}
	for _, m := range s.members {
		lines = append(lines, fmt.Sprintf("server.%d=127.0.0.1:%d:%d;127.0.0.1:%d", m.id, m.peer, m.election, m.client))
	}
	for _, setting := range s.cfg.Settings {
		lines = append(lines, strings.ReplaceAll(setting, "${secure}", strconv.Itoa(s.secure)))
	}
	return strings.Join(lines, "\n") + "\n"
}

// awaitServing returns once the server says that it serves, or why it will not.
func (s *ZooKeeperServer) awaitServing(ctx context.Context, p *process) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		// One that is asked while it starts may drop the question.
		asked, cancel := context.WithTimeout(ctx, time.Second)
		_, err := s.Mode(asked)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-p.done:
			return fmt.Errorf("ZooKeeper ended while it started: %w; its log ends:\n%s", p.err, tail(s.logFile()))
		case <-ctx.Done():
			return fmt.Errorf("ZooKeeper did not begin to serve: %w: %w; its log ends:\n%s", context.Cause(ctx), err, tail(s.logFile()))
		}
	}
}

// NeedZooKeeper skips the test when ZooKeeper is not installed, or fails it with
// CI=true.
func NeedZooKeeper(tb TB) {
	tb.Helper()
	needZooKeeper(tb, &ZooKeeperConfig{})
}

// needZooKeeper completes cfg for a test, or skips the test.
func needZooKeeper(tb TB, cfg *ZooKeeperConfig) {
	tb.Helper()
	cfg.Java = Need(tb, "java", zookeeperInstall)
	if err := cfg.find(); err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("NOT TESTED: %v", err)
		}
		Skipf(tb, "%v", err)
	}
	cfg.Dir = tb.TempDir()
}

// StartZooKeeper starts a ZooKeeper for a test and stops it at cleanup. The
// test is skipped, or fails with CI=true, when ZooKeeper is not installed.
func StartZooKeeper(tb TB, settings ...string) *ZooKeeperServer {
	tb.Helper()
	cfg := ZooKeeperConfig{Settings: settings}
	needZooKeeper(tb, &cfg)
	s, err := NewZooKeeperServer(cfg)
	if err != nil {
		tb.Fatalf("prepare ZooKeeper: %v", err)
	}
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatalf("start ZooKeeper: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			tb.Errorf("stop ZooKeeper: %v", err)
		}
	})
	return s
}
