package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/reaper"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/internal/workload"
)

// namespace of the records; the default of the configuration.
const namespace = "service"

// quickTiming is shorter than the defaults, which are for machines that are
// apart. A dead node is noticed after ttl at the latest, plus the time that the
// store takes to look for expired sessions (servers.late).
var quickTiming = ha.Timing{
	TTL: 3 * time.Second, RenewEvery: 700 * time.Millisecond, Margin: time.Second, Observe: 500 * time.Millisecond,
	Request: 700 * time.Millisecond, RemovalDelay: 2 * time.Second, ElectionTimeout: 5 * time.Second,
}

// timingOf is the timing of the nodes, and what their configuration files say of
// it: nothing where it is the daemon's own.
func timingOf(o Options) (ha.Timing, map[string]string) {
	if !o.Quick {
		return ha.Timing{}.Defaults(), nil
	}
	t := quickTiming.Defaults()
	return t, map[string]string{
		"ttl": t.TTL.String(), "renew": t.RenewEvery.String(), "margin": t.Margin.String(), "observe": t.Observe.String(),
		"request": t.Request.String(), "removal_delay": t.RemovalDelay.String(), "election_timeout": t.ElectionTimeout.String(),
	}
}

// stage is everything that a demo consists of.
type stage struct {
	dir     string
	began   time.Time
	err     io.Writer // progress and logs
	events  *events   // of the live picture; nil: progress goes to err
	timing  ha.Timing // of the nodes
	reaper  *reaper.Reaper
	sweeper *sweeper
	servers *servers
	store   dcs.Store
	cluster *testbed.Cluster
	looker  *workload.Looker
	twin    *testbed.PostgresServer
	ledger  *workload.Ledger
	writers *workload.Writers
	pinned  *workload.PinnedWriters
}

// setUp makes a stage with all processes started, and waits for nothing. On an
// error nothing is left.
func setUp(ctx context.Context, o Options) (*stage, error) {
	s := &stage{began: time.Now(), err: o.Stderr}
	if err := s.build(ctx, o); err != nil {
		return nil, errors.Join(err, s.tearDown(false))
	}
	return s, nil
}

func (s *stage) build(ctx context.Context, o Options) error {
	var err error
	if s.reaper, err = reaper.Start(reaper.Config{}); err != nil {
		s.sayf("%v: a killed node may be noticed late", err)
	}
	if s.dir, err = testbed.MakeDir("pghad-demo-"); err != nil {
		return err
	}
	if s.sweeper, err = startSweeper(o.Program, s.dir); err != nil {
		return err
	}
	if s.servers, err = newServers(o, s.dir); err != nil {
		return err
	}
	if s.store, err = s.servers.open(ctx); err != nil {
		return err
	}
	// Before ports for the nodes are chosen: it takes a while, in which somebody
	// else could take them.
	if err := s.servers.start(ctx); err != nil {
		return err
	}
	timing, written := timingOf(o)
	s.timing = timing
	s.cluster, err = testbed.NewCluster(testbed.ClusterConfig{
		Binary: o.Program, Dir: s.dir, Store: s.servers.kind, Endpoints: s.servers.endpoints, BinDir: o.BinDir, Timing: written, Mode: o.Mode,
		Parameters: map[string]string{"shared_buffers": "32MB"},
	})
	if err != nil {
		return err
	}
	if s.ledger, err = workload.OpenLedger(s.ledgerPath()); err != nil {
		return err
	}
	if s.looker, err = workload.NewLooker(s.cluster.Target()); err != nil {
		return err
	}
	return s.cluster.Start()
}

func (s *stage) ledgerPath() string { return filepath.Join(s.dir, "ledger") }

// view reads the records of the cluster.
func (s *stage) view(ctx context.Context) (clusterview.View, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return clusterview.Read(ctx, s.store, namespace, s.cluster.Name())
}

// awaitCluster waits for the cluster to be made and whole. The role of clients
// comes first: the servers are asked as that role.
func (s *stage) awaitCluster(ctx context.Context) (clusterview.View, error) {
	s.sayf("three nodes and %s are started: the first makes a database, the others copy it", s.servers.title())
	ctx, release := s.withAgents(ctx)
	defer release()
	if err := s.cluster.CreateClientRole(ctx); err != nil {
		return clusterview.View{}, err
	}
	return s.awaitWhole(ctx)
}

// withAgents returns a context that ends when an agent does: then there is
// nothing to wait for.
func (s *stage) withAgents(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watches sync.WaitGroup
	for _, name := range s.cluster.Names() {
		watches.Go(func() {
			select {
			case <-s.cluster.AgentDone(name):
				cancel(fmt.Errorf("the agent of %s has ended", name))
			case <-ctx.Done():
			}
		})
	}
	return ctx, func() {
		cancel(context.Canceled)
		watches.Wait()
	}
}

// awaitWhole waits until all nodes stream and are counted, as the records say
// and as the servers say themselves.
func (s *stage) awaitWhole(ctx context.Context) (clusterview.View, error) {
	var view clusterview.View
	err := until(ctx, 50*time.Millisecond, "the cluster to be whole", func(ctx context.Context) error {
		var err error
		if view, err = s.view(ctx); err != nil {
			return err
		}
		if missing := missing(view, len(s.cluster.Names())); missing != "" {
			return errors.New(missing)
		}
		agree := workload.Whole
		if view.Quorum.Mode == ModeAsync {
			agree = workload.WholeAsync
		}
		if looks := s.looker.Look(ctx); !agree(looks) {
			return fmt.Errorf("the servers do not agree: %+v", looks)
		}
		return nil
	})
	return view, err
}

// acknowledgements are those that a commit waits for in a mode, with three nodes.
var acknowledgements = map[string]int{ModeQuorum: 1, ModeAsync: 0}

// missing says what a cluster of n nodes lacks to be whole, "" if nothing.
func missing(view clusterview.View, n int) string {
	switch {
	case view.Leader == "" || view.Term == 0:
		return "no leader is in office: " + view.Why
	case view.Gate != "open":
		return "the leader does not admit clients: " + view.Gate
	case view.Quorum == nil || view.Quorum.K != acknowledgements[view.Quorum.Mode] || len(view.Quorum.Members) != n-1:
		return fmt.Sprintf("the quorum is %+v", view.Quorum)
	}
	for _, node := range view.Nodes {
		switch {
		case node.Name == view.Leader:
		case node.Quorum != clusterview.InQuorumMember:
			return fmt.Sprintf("node %s does not count: it is %s, %s; %s", node.Name, node.Role, node.State, node.Why)
		case node.Sync != view.Quorum.Mode: // sync_state has the same words
			// The leader's opinion, which is what a switchover goes by, is some moments old.
			return fmt.Sprintf("%s does not say yet that %s streams from it: %q", view.Leader, node.Name, node.Sync)
		}
	}
	return ""
}

// startClients makes the table of clients and starts writers.
func (s *stage) startClients(ctx context.Context) error {
	target := s.cluster.Target()
	if err := workload.CreateTable(ctx, target); err != nil {
		return err
	}
	var err error
	if s.writers, err = workload.StartWriters(workload.WritersConfig{Target: target, Ledger: s.ledger}); err != nil {
		return err
	}
	s.pinned, err = workload.StartPinnedWriters(workload.PinnedConfig{Target: target, Ledger: s.ledger})
	return err
}

// stopClients stops writing.
func (s *stage) stopClients() error {
	var errs []error
	if s.writers != nil {
		errs = append(errs, s.writers.Stop())
	}
	if s.pinned != nil {
		errs = append(errs, s.pinned.Stop())
	}
	return errors.Join(errs...)
}

// tearDown ends every process and, unless keep, removes every file. It works on
// a stage that is only half built, too.
func (s *stage) tearDown(keep bool) error {
	var errs []error
	errs = append(errs, s.stopClients())
	if s.looker != nil {
		s.looker.Close()
	}
	if s.ledger != nil {
		errs = append(errs, s.ledger.Close())
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Kill())
	}
	if s.twin != nil {
		errs = append(errs, s.twin.Kill())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.servers != nil {
		errs = append(errs, s.servers.kill()) // their data is not needed any more
	}
	if s.sweeper != nil {
		errs = append(errs, s.sweeper.stop())
	}
	if s.dir != "" && !keep {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	if s.reaper != nil {
		s.reaper.Stop()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// sayf tells a line of progress.
func (s *stage) sayf(format string, args ...any) {
	line := fmt.Sprintf("%6.2fs  %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
	if s.events != nil {
		s.events.add(line)
		return
	}
	_, _ = io.WriteString(s.err, line+"\n") // nobody to tell
}

// logs prints the ends of all logs.
func (s *stage) logs() {
	var text strings.Builder
	for _, name := range s.cluster.Names() {
		text.WriteString(s.cluster.LogTail(name))
	}
	text.WriteString(s.servers.logs())
	_, _ = io.WriteString(s.err, text.String()) // nobody to tell
}

// tailOf returns the end of a small log file.
func tailOf(path string) string {
	data, err := os.ReadFile(path) //nolint:gosec // our own log file
	if err != nil {
		return err.Error() + "\n"
	}
	const most = 2000
	return string(data[max(0, len(data)-most):])
}

// fatal ends until at once.
type fatal struct{ error }

// Unwrap returns the error proper.
func (f fatal) Unwrap() error { return f.error }

// until calls try every so often until it returns nil or ctx ends.
func until(ctx context.Context, every time.Duration, what string, try func(context.Context) error) error {
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[fatal](err); ok {
			return final.error
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}
