package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// EtcdCluster is several etcds that agree. A majority of them serves.
type EtcdCluster struct{ members []*EtcdServer }

// NewEtcdCluster prepares a cluster of n members without starting them. It says
// when etcd is not installed. TLS is for servers that are alone.
func NewEtcdCluster(cfg EtcdConfig, n int) (*EtcdCluster, error) {
	if cfg.TLS != nil {
		return nil, errors.New("a cluster of etcds is started without TLS only")
	}
	c := &EtcdCluster{}
	for i := range n {
		s, err := newEtcdServer(cfg, fmt.Sprintf("etcd%d", i+1))
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, s)
	}
	for _, s := range c.members {
		s.members = c.members
	}
	return c, nil
}

// Members are the servers.
func (c *EtcdCluster) Members() []*EtcdServer { return c.members }

// Endpoints are the client URLs of all members.
func (c *EtcdCluster) Endpoints() []string {
	var urls []string
	for _, s := range c.members {
		urls = append(urls, s.Endpoints()...)
	}
	return urls
}

// Start starts all members that do not run and waits until each serves.
func (c *EtcdCluster) Start(ctx context.Context) error {
	return c.each(func(s *EtcdServer) error { return s.Start(ctx) })
}

// Kill ends all members as a crash does.
func (c *EtcdCluster) Kill() error { return c.each((*EtcdServer).Kill) }

// Pause stops all members that run with all their connections open.
func (c *EtcdCluster) Pause() error { return c.each((*EtcdServer).Pause) }

// Resume ends a Pause.
func (c *EtcdCluster) Resume() error { return c.each((*EtcdServer).Resume) }

func (c *EtcdCluster) each(do func(*EtcdServer) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(c.members))
	for i, s := range c.members {
		wg.Go(func() { errs[i] = do(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Leader is the member that says that it leads, and the others. It waits until
// there is one.
func (c *EtcdCluster) Leader(ctx context.Context) (leader *EtcdServer, others []*EtcdServer, err error) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		leader, others = nil, nil
		for _, s := range c.members {
			asked, cancel := context.WithTimeout(ctx, time.Second) // a frozen member does not answer
			leads, err := s.Leads(asked)
			cancel()
			if err == nil && leads {
				leader = s
			} else {
				others = append(others, s)
			}
		}
		if leader != nil {
			return leader, others, nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("no member of etcd leads: %w", context.Cause(ctx))
		}
	}
}

// Leads asks the server whether it leads.
func (s *EtcdServer) Leads(ctx context.Context) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, plainURL(s.client)+"/v3/maintenance/status", bytes.NewBufferString("{}"))
	if err != nil {
		return false, fmt.Errorf("make a request for etcd's status: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return false, fmt.Errorf("ask etcd for its status: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	var status struct {
		Header struct {
			MemberID string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
		return false, fmt.Errorf("read etcd's status: %w", err)
	}
	return status.Leader != "" && status.Leader == status.Header.MemberID, nil
}

// StartEtcdCluster starts a cluster for a test and stops it at cleanup. The test
// is skipped, or fails with CI=true, when etcd is not installed. Without cfg.Dir
// the files go to the test's directory.
func StartEtcdCluster(tb TB, cfg EtcdConfig, n int) *EtcdCluster {
	tb.Helper()
	if cfg.Binary == "" {
		cfg.Binary = NeedEtcd(tb)
	}
	if cfg.Dir == "" {
		cfg.Dir = tb.TempDir()
	}
	c, err := NewEtcdCluster(cfg, n)
	if err != nil {
		tb.Fatalf("prepare a cluster of etcds: %v", err)
	}
	tb.Cleanup(func() {
		if err := c.Kill(); err != nil {
			tb.Errorf("stop the cluster of etcds: %v", err)
		}
	})
	if err := c.Start(tb.Context()); err != nil {
		tb.Fatalf("start a cluster of etcds: %v", err)
	}
	return c
}

// BuildEtcd builds the etcd that the module is written for, with the go command,
// and returns the path of the program in dir. It is much newer than that of some
// distributions.
func BuildEtcd(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "etcd")
	// Built like pghad, which contains most of it, it mostly comes from the cache.
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "go.etcd.io/etcd/server/v3") //nolint:gosec // The directory is the caller's.
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd: %w: %s", err, bytes.TrimSpace(output))
	}
	return program, nil
}
