package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/pghad/pghad/internal/testbed"
)

const (
	// etcdStart bounds the start of the embedded etcd.
	etcdStart   = 20 * time.Second
	orphanGrace = 10 * time.Second
)

// EtcdOptions configure the child process that is etcd.
type EtcdOptions struct {
	// Dir is the directory of the demo. Data and log are in its folder etcd.
	Dir string
	// ClientURL is where it listens: http://127.0.0.1:PORT.
	ClientURL string
	// Parent is open as long as the demo lives: standard input. Default: os.Stdin.
	Parent io.Reader
	// Grace is how long the nodes of a demo that died may take to stop by
	// themselves. The kernel has asked them to. Default: 10 s.
	Grace time.Duration
}

// RunEtcd is the hidden command demo-etcd: an etcd of one member, until ctx ends
// or the demo has died. In the second case it sweeps the demo's directory.
func RunEtcd(ctx context.Context, o EtcdOptions) error {
	if o.Parent == nil {
		o.Parent = os.Stdin
	}
	if o.Grace <= 0 {
		o.Grace = orphanGrace
	}
	if o.Dir == "" || o.ClientURL == "" {
		return errors.New("demo-etcd is for the demo's own use; it needs --dir and --client-url")
	}
	config, err := etcdConfig(filepath.Join(o.Dir, "etcd"), o.ClientURL)
	if err != nil {
		return err
	}
	orphaned := make(chan struct{})
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, o.Parent) // whatever ends it
		close(orphaned)
	}()
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
	case <-orphaned:
	}
	patient, cancel := context.WithTimeout(ctx, o.Grace)
	defer cancel()
	return testbed.Sweep(patient, o.Dir)
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

// etcdChild is the running child.
type etcdChild struct {
	child  *testbed.Child
	parent io.Closer // its standard input
	url    string
}

// startEtcd starts the child and returns without waiting for it to serve: the
// first calls of its clients wait.
func startEtcd(program, dir string) (*etcdChild, error) {
	ports, err := testbed.FreePorts(1)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(dir, "etcd")
	if err := os.Mkdir(folder, 0o700); err != nil { //nolint:gosec // a folder of our own directory
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	output, err := os.OpenFile(filepath.Join(folder, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the same
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	defer func() { _ = output.Close() }() // the child has its own descriptor
	e := &etcdChild{url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	cmd := exec.Command(program, "demo-etcd", "--dir", dir, "--client-url", e.url) //nolint:gosec // this program
	cmd.Stdout, cmd.Stderr, cmd.Dir = output, output, "/"
	if e.parent, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	// It is not killed at this process's death: it cleans up then.
	if e.child, err = testbed.StartChild(cmd, 0); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	return e, nil
}

// stop ends the child at once: its data is not needed any more, and it must not
// sweep.
func (e *etcdChild) stop() error { return errors.Join(e.child.Kill(), ignoreClosed(e.parent.Close())) }

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
