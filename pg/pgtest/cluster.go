package pgtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pghad/pghad/pg"
)

// Node is one machine with one server.
type Node struct {
	Name string // unique; also what Config.Reachable is asked about
	Host string // default Name
	Port int    // default 5432
}

// Config configures a Cluster. Nodes is required.
type Config struct {
	Nodes []Node

	// Reachable reports whether packets from one node (or client) arrive at
	// another one now. Nil means always. It is asked with the cluster's lock
	// held, must answer at once, and must not call back into the cluster.
	Reachable func(from, to string) bool

	// Now is the time of the world, for pg.Status.StartedAt; nil leaves it zero.
	Now func() time.Time

	// OnStep is told of every event, sub-effect and fault, after it, without the
	// cluster's lock: this is where oracles look. Steps are numbered from 1.
	OnStep func(step uint64, what string)

	// Without switches rules of the model off, for tests of what rests on them.
	Without []Rule

	Level       Level  // synchronous_commit of new sessions, default LevelOn
	Version     int    // server_version_num, default 150018
	SegmentSize pg.LSN // of WAL files, default 16 MiB
	WALKeep     pg.LSN // wal_keep_size, default 128 MiB
	SlotWALKeep pg.LSN // max_slot_wal_keep_size, default no limit
	// CheckpointEvery is after how many bytes of WAL a checkpoint by time or
	// size may begin by itself; default 64 KiB.
	CheckpointEvery pg.LSN
	// Batch is how many records one event ships or replays at most; default 64.
	Batch int
}

func (cfg Config) complete() (Config, error) {
	if len(cfg.Nodes) == 0 {
		return cfg, errors.New("pgtest: Nodes is required: name at least one node")
	}
	cfg.Nodes = slices.Clone(cfg.Nodes)
	for i := range cfg.Nodes {
		n := &cfg.Nodes[i]
		if n.Name == "" {
			return cfg, errors.New("pgtest: a node has no name")
		}
		setDefault(&n.Host, n.Name)
		setDefault(&n.Port, 5432)
	}
	slices.SortFunc(cfg.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(cfg.Nodes); i++ {
		if cfg.Nodes[i].Name == cfg.Nodes[i-1].Name {
			return cfg, fmt.Errorf("pgtest: two nodes are called %q", cfg.Nodes[i].Name)
		}
	}
	if cfg.Reachable == nil {
		cfg.Reachable = func(_, _ string) bool { return true }
	}
	setDefault(&cfg.Level, LevelOn)
	setDefault(&cfg.Version, 150018)
	setDefault(&cfg.SegmentSize, 16<<20)
	setDefault(&cfg.WALKeep, 128<<20)
	setDefault(&cfg.CheckpointEvery, 64<<10)
	setDefault(&cfg.Batch, 64)
	return cfg, nil
}

func setDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

// Cluster is the world of PostgreSQL servers. It is passive: nothing happens
// but by its methods, and none of them waits. They may be called from several
// goroutines at once.
type Cluster struct {
	cfg Config
	off map[Rule]bool // rules that are switched off; read by key only

	mu      sync.Mutex
	servers []*server // sorted by name
	records RecordID  // made so far
	systems int       // initdb runs so far
	steps   uint64
	ledger  []*Commit
	clients int // sessions ever opened
}

// New makes a world of machines without data.
func New(config Config) (*Cluster, error) {
	cfg, err := config.complete()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, off: make(map[Rule]bool, len(cfg.Without))}
	for _, r := range cfg.Without {
		c.off[r] = true
	}
	for _, n := range cfg.Nodes {
		s := &server{c: c, Node: n, ended: pg.ProcessStopped, generation: 1, counts: map[string]int{}}
		c.servers = append(c.servers, s)
	}
	return c, nil
}

// Nodes are the names of the nodes, sorted.
func (c *Cluster) Nodes() []string {
	names := make([]string, len(c.servers))
	for i, s := range c.servers {
		names[i] = s.Name
	}
	return names
}

// without reports whether a rule is switched off.
func (c *Cluster) without(r Rule) bool { return len(c.off) > 0 && c.off[r] }

// server finds a node; nil if there is none of that name.
func (c *Cluster) server(name string) *server {
	for _, s := range c.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// at finds the server at an address; nil if nobody has it.
func (c *Cluster) at(up pg.Upstream) *server {
	for _, s := range c.servers {
		if s.Host == up.Host && s.Port == up.Port {
			return s
		}
	}
	return nil
}

// reachable reports whether packets pass both ways.
func (c *Cluster) reachable(a, b string) bool {
	return a == b || c.cfg.Reachable(a, b) && c.cfg.Reachable(b, a)
}

// passes reports whether packets pass one way.
func (c *Cluster) passes(from, to string) bool {
	return from == to || c.cfg.Reachable(from, to)
}

// do changes the world under its lock, and tells the observer afterwards.
func (c *Cluster) do(what string, change func() error) error {
	c.mu.Lock()
	err := change()
	c.steps++
	step := c.steps
	c.mu.Unlock()
	if c.cfg.OnStep != nil {
		c.cfg.OnStep(step, what)
	}
	return err
}

// look reads the world under its lock.
func look[T any](c *Cluster, read func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return read()
}

// newRecord makes a record that stands behind prev.
func (c *Cluster) newRecord(prev *Record, t pg.Timeline, kind Kind, commits []string) *Record {
	c.records++
	r := &Record{ID: c.records, Kind: kind, Timeline: t, Start: firstLSN, Commits: commits}
	if prev != nil {
		r.Start, r.Prev = prev.End, prev.Start
	}
	switch kind {
	case KindSwitch: // the rest of the segment is empty
		r.End = r.Start - r.Start%c.cfg.SegmentSize + c.cfg.SegmentSize
	default:
		r.End = r.Start + length(kind, commits)
	}
	return r
}

// newSystem is a system identifier that was never given before.
func (c *Cluster) newSystem() string {
	c.systems++
	return strconv.Itoa(7_100_000_000 + c.systems)
}
