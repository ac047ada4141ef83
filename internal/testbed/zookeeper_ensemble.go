package testbed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ZooKeeperEnsemble is several ZooKeepers that agree. A majority of them serves.
type ZooKeeperEnsemble struct{ members []*ZooKeeperServer }

// NewZooKeeperEnsemble prepares an ensemble of n members without starting them.
// It says when ZooKeeper is not installed.
func NewZooKeeperEnsemble(cfg ZooKeeperConfig, n int) (*ZooKeeperEnsemble, error) {
	if err := cfg.find(); err != nil {
		return nil, err
	}
	e := &ZooKeeperEnsemble{}
	for id := 1; id <= n; id++ {
		s, err := newZooKeeperServer(cfg, id)
		if err != nil {
			return nil, err
		}
		e.members = append(e.members, s)
	}
	for _, s := range e.members {
		s.members = e.members
	}
	return e, nil
}

// Members are the servers, in the order of their ids.
func (e *ZooKeeperEnsemble) Members() []*ZooKeeperServer { return e.members }

// Addresses are where clients connect.
func (e *ZooKeeperEnsemble) Addresses() []string {
	var addresses []string
	for _, s := range e.members {
		addresses = append(addresses, s.Address())
	}
	return addresses
}

// Start starts all members and waits until each serves.
func (e *ZooKeeperEnsemble) Start(ctx context.Context) error {
	return e.each(func(s *ZooKeeperServer) error { return s.Start(ctx) })
}

// Stop ends all members in order.
func (e *ZooKeeperEnsemble) Stop() error { return e.each((*ZooKeeperServer).Stop) }

// Kill ends all members as a crash does.
func (e *ZooKeeperEnsemble) Kill() error { return e.each((*ZooKeeperServer).Kill) }

func (e *ZooKeeperEnsemble) each(do func(*ZooKeeperServer) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(e.members))
	for i, s := range e.members {
		wg.Go(func() { errs[i] = do(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Leader is the member that says that it leads, and the others. It waits until
// there is one.
func (e *ZooKeeperEnsemble) Leader(ctx context.Context) (leader *ZooKeeperServer, others []*ZooKeeperServer, err error) {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		leader, others = nil, nil
		for _, s := range e.members {
			asked, cancel := context.WithTimeout(ctx, time.Second) // a frozen member does not answer
			mode, err := s.Mode(asked)
			cancel()
			if err == nil && mode == "leader" {
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
			return nil, nil, fmt.Errorf("no member of the ensemble leads: %w", context.Cause(ctx))
		}
	}
}

// StartZooKeeperEnsemble starts an ensemble for a test and stops it at cleanup.
// The test is skipped, or fails with CI=true, when ZooKeeper is not installed.
func StartZooKeeperEnsemble(tb TB, n int, settings ...string) *ZooKeeperEnsemble {
	tb.Helper()
	cfg := ZooKeeperConfig{Settings: settings}
	needZooKeeper(tb, &cfg)
	e, err := NewZooKeeperEnsemble(cfg, n)
	if err != nil {
		tb.Fatalf("prepare an ensemble of ZooKeepers: %v", err)
	}
	tb.Cleanup(func() {
		if err := e.Kill(); err != nil {
			tb.Errorf("stop the ensemble of ZooKeepers: %v", err)
		}
	})
	if err := e.Start(tb.Context()); err != nil {
		tb.Fatalf("start an ensemble of ZooKeepers: %v", err)
	}
	return e
}
