package demo

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/pghad/pghad/internal/testbed"
)

// etcdStart bounds the start of the embedded etcd.
const etcdStart = 20 * time.Second

// EtcdOptions configure the child process that is etcd.
type EtcdOptions struct {
	// Dir is the directory of the demo. Data and log are in its folder etcd.
	Dir string
	// ClientURL is where it listens: http://127.0.0.1:PORT.
	ClientURL string
}

// RunEtcd is the hidden command demo-etcd: an etcd of one member, on whatever
// data is there, until ctx ends.
func RunEtcd(ctx context.Context, o EtcdOptions) error {
	if o.Dir == "" || o.ClientURL == "" {
		return errors.New("demo-etcd is for the demo's own use; it needs --dir and --client-url")
	}
	config, err := etcdConfig(filepath.Join(o.Dir, "etcd"), o.ClientURL)
	if err != nil {
		return err
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer server.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.Err():
		return fmt.Errorf("etcd: %w", err)
	}
}

// etcdConfig is an etcd that elects itself at once and grants short leases.
func etcdConfig(dir, client string) (*embed.Config, error) {
	clientURL, err := url.Parse(client)
	if err != nil {
		return nil, fmt.Errorf("client URL: %w", err)
	}
	// Nobody is to come there: the member is alone.
	peerURL := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	config := embed.NewConfig()
	config.Name = "demo"
	config.Dir = filepath.Join(dir, "data")
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peerURL}, []url.URL{peerURL}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.TickMs, config.ElectionMs = 50, 500
	config.LogLevel = "warn"
	config.LogOutputs = []string{filepath.Join(dir, "etcd.log")}
	return config, nil
}

// embeddedEtcd is an etcd in a process of this program. Its data and its address
// outlive the process.
type embeddedEtcd struct {
	program string
	dir     string // of the demo
	url     string
	child   *testbed.Child // nil before the first start
}

var _ member = (*embeddedEtcd)(nil)

// newEmbeddedEtcd makes the folder of an etcd. Nothing runs yet.
func newEmbeddedEtcd(program, dir string) (*embeddedEtcd, error) {
	ports, err := testbed.FreePorts(1)
	if err != nil {
		return nil, err
	}
	e := &embeddedEtcd{program: program, dir: dir, url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	if err := os.Mkdir(e.folder(), 0o700); err != nil {
		return nil, fmt.Errorf("prepare etcd: %w", err)
	}
	return e, nil
}

func (e *embeddedEtcd) folder() string { return filepath.Join(e.dir, "etcd") }
func (e *embeddedEtcd) output() string { return filepath.Join(e.folder(), "output.log") }

// Start implements member.
func (e *embeddedEtcd) Start(ctx context.Context) error {
	output, err := os.OpenFile(e.output(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a folder of our own directory
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer func() { _ = output.Close() }()                                              // the child has its own descriptor
	cmd := exec.Command(e.program, "demo-etcd", "--dir", e.dir, "--client-url", e.url) //nolint:gosec // this program
	cmd.Stdout, cmd.Stderr, cmd.Dir = output, output, "/"
	if e.child, err = testbed.StartChild(cmd, syscall.SIGKILL); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	return e.AwaitServing(ctx)
}

// AwaitServing implements member.
func (e *embeddedEtcd) AwaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcdStart)
	defer cancel()
	return until(ctx, 10*time.Millisecond, "etcd to serve", func(ctx context.Context) error {
		select {
		case <-e.child.Done():
			return fatal{fmt.Errorf("etcd ended while it started: %w: %s", e.child.Err(), tailOf(e.output()))}
		default:
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return testbed.EtcdHealth(ctx, e.url)
	})
}

// Kill implements member. It also ends a process that stands still.
func (e *embeddedEtcd) Kill() error {
	if e.child == nil {
		return nil
	}
	return e.child.Kill()
}

// Pause implements member.
func (e *embeddedEtcd) Pause() error { return e.child.Pause() }

// Resume implements member.
func (e *embeddedEtcd) Resume() error { return e.child.Resume() }

// LogTail implements member.
func (e *embeddedEtcd) LogTail() string { return tailOf(filepath.Join(e.folder(), "etcd.log")) }
