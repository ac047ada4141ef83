package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

// What Options.DCS may be.
const (
	DCSEmbedded  = "embedded"  // an etcd that is a process of this program
	DCSEtcd      = "etcd"      // as it is installed on this machine
	DCSZooKeeper = "zookeeper" // as it is installed on this machine
)

// DCSKinds are the names that Options.DCS knows.
func DCSKinds() []string { return []string{DCSEmbedded, DCSEtcd, DCSZooKeeper} }

const (
	// etcdLate is how much later than its lease says etcd may remove a key: it
	// looks every 500 ms.
	etcdLate = time.Second
	// zookeeperTick is the tick of a ZooKeeper that nobody has configured
	// otherwise. It ends sessions at its ticks, and grants two of them at least.
	zookeeperTick = 2 * time.Second
	// quickTick is for nodes with short timings.
	quickTick = 100 * time.Millisecond
)

// member is one server process of the configuration store. Its data and its
// address outlive the process.
type member interface {
	// Start starts the process and waits until it serves.
	Start(ctx context.Context) error
	// AwaitServing waits until a process that runs serves.
	AwaitServing(ctx context.Context) error
	// Kill ends the process as a crash does. It may not run.
	Kill() error
	// Pause makes the process stand still with its connections open.
	Pause() error
	// Resume ends a Pause.
	Resume() error
	// LogTail is the end of the log.
	LogTail() string
}

// servers are the configuration store of a demo. What is done is done to all its
// members at once.
type servers struct {
	kind      string // as dcs.type has it
	product   string // for people
	endpoints []string
	members   []member
	late      time.Duration // how much later than its session says a key may be removed
}

// newServers makes the folder of the store that the options ask for. Nothing runs
// yet. The error says what has to be installed if something has.
func newServers(o Options, dir string) (*servers, error) {
	switch o.DCS {
	case DCSEtcd:
		return newEtcds(dir, o.DCSMembers)
	case DCSZooKeeper:
		return newZooKeepers(dir, o.DCSMembers, o.Quick)
	}
	e, err := newEmbeddedEtcd(o.Program, dir)
	if err != nil {
		return nil, err
	}
	return &servers{kind: DCSEtcd, product: "etcd", endpoints: []string{e.url}, members: []member{e}, late: etcdLate}, nil
}

func newEtcds(dir string, n int) (*servers, error) {
	folder := filepath.Join(dir, "etcd")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, fmt.Errorf("prepare etcd: %w", err)
	}
	cluster, err := testbed.NewEtcdCluster(testbed.EtcdConfig{Dir: folder}, n)
	if err != nil {
		return nil, err
	}
	s := &servers{kind: DCSEtcd, product: "etcd", endpoints: cluster.Endpoints(), late: etcdLate}
	for _, m := range cluster.Members() {
		s.members = append(s.members, m)
	}
	return s, nil
}

func newZooKeepers(dir string, n int, quick bool) (*servers, error) {
	folder := filepath.Join(dir, "zookeeper")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, fmt.Errorf("prepare ZooKeeper: %w", err)
	}
	config, tick := testbed.ZooKeeperConfig{Dir: folder}, quickTick
	if !quick { // as ZooKeeper's own sample has it, so that what is measured is what a user gets
		tick = zookeeperTick
		config.Settings = []string{fmt.Sprintf("tickTime=%d", tick.Milliseconds()), "initLimit=10", "syncLimit=5"}
	}
	s := &servers{kind: DCSZooKeeper, product: "ZooKeeper", late: tick + etcdLate}
	if n == 1 {
		server, err := testbed.NewZooKeeperServer(config)
		if err != nil {
			return nil, err
		}
		s.endpoints, s.members = []string{server.Address()}, []member{server}
		return s, nil
	}
	ensemble, err := testbed.NewZooKeeperEnsemble(config, n)
	if err != nil {
		return nil, err
	}
	s.endpoints = ensemble.Addresses()
	for _, m := range ensemble.Members() {
		s.members = append(s.members, m)
	}
	return s, nil
}

// open makes a connection to the store.
func (s *servers) open(ctx context.Context) (dcs.Store, error) {
	if s.kind == DCSZooKeeper {
		return zk.Open(ctx, zk.Config{Servers: s.endpoints})
	}
	return etcd.Open(ctx, etcd.Config{Endpoints: s.endpoints})
}

// title is what they are called for people.
func (s *servers) title() string {
	if n := len(s.members); n > 1 {
		return fmt.Sprintf("%s (%d members)", s.product, n)
	}
	return s.product
}

// start starts the processes and waits until all serve.
func (s *servers) start(ctx context.Context) error {
	return s.each(func(m member) error { return m.Start(ctx) })
}

// awaitServing waits until all processes serve.
func (s *servers) awaitServing(ctx context.Context) error {
	return s.each(func(m member) error { return m.AwaitServing(ctx) })
}

// kill ends the processes as a crash does, also those that stand still.
func (s *servers) kill() error { return s.each(member.Kill) }

// freeze makes the processes stand still with their connections open; thaw ends
// that.
func (s *servers) freeze() error { return s.each(member.Pause) }
func (s *servers) thaw() error   { return s.each(member.Resume) }

func (s *servers) each(do func(member) error) error {
	errs := make([]error, len(s.members))
	var all sync.WaitGroup
	for i, m := range s.members {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// logs are the ends of the members' logs.
func (s *servers) logs() string {
	var text strings.Builder
	for i, m := range s.members {
		fmt.Fprintf(&text, "%s %d:\n%s", s.product, i+1, m.LogTail())
	}
	return text.String()
}
