package testbed

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
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

	"github.com/goccy/go-yaml"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghad/pghad/internal/workload"
)

// clusterPatience bounds the end of a node's processes.
const clusterPatience = 30 * time.Second

// ClusterConfig configures a Cluster.
type ClusterConfig struct {
	// Binary is the program pghad.
	Binary string
	// Dir is where everything goes: a folder a node with configuration, data and
	// logs. It must exist, and the servers' user must be able to search it.
	Dir string
	// Names of the nodes. Default: a, b, c. The first one creates the cluster.
	Names []string
	// Store is the kind of the store that holds the records, as dcs.type in each
	// configuration file. Default: etcd.
	Store string
	// Endpoints of that store. They are not for the kind embedded, of which each
	// node has a member.
	Endpoints []string
	// BinDir holds PostgreSQL's programs. Default: the newest of this machine.
	BinDir string
	// Timing is the section of that name in each configuration file.
	Timing map[string]string
	// Mode, as mode in each configuration file. Default: the daemon's.
	Mode string
	// Parameters are PostgreSQL's settings on each node.
	Parameters map[string]string
	// LogLevel of the agents. Default: info.
	LogLevel string
	// Env are variables of all agents and commands, beside those of this process that
	// are not pghad's: "NAME=value".
	Env []string
}

// Cluster is a cluster of real nodes on this machine: an agent (`pghad run`) and
// its PostgreSQL each. What ends a node here ends it as a fault does. Its
// methods may be called from several goroutines at once.
//
// Whoever uses one should have started an internal/reaper first: the processes
// of a killed node become this process's, or else those of process 1, which may
// not reap them for seconds.
type Cluster struct {
	cfg         ClusterConfig
	account     Account
	nodes       []*clusterNode
	password    string // of the role for clients
	replication string // password of the role for replication
}

// clusterNode is one node.
type clusterNode struct {
	name string
	dir  string
	port int // of PostgreSQL
	api  int // port of the agent, for other nodes
	// Ports of the member of an embedded store, for its clients and for the others.
	client, peer int

	mu      sync.Mutex // guards process, and is held while starting and killing
	process *process
	silent  *os.File // what a hung agent reads; nil if it does not hang
}

func (n *clusterNode) config() string { return filepath.Join(n.dir, "pghad.yaml") }
func (n *clusterNode) data() string   { return filepath.Join(n.dir, "data") }
func (n *clusterNode) socket() string { return filepath.Join(n.dir, "run") }
func (n *clusterNode) log() string    { return filepath.Join(n.dir, "pghad.log") }
func (n *clusterNode) server() string { return filepath.Join(n.dir, "postgres.log") }

const (
	clusterName     = "demo"
	clusterHost     = "127.0.0.1"
	clientRole      = "client"
	replicationRole = "replicator"
)

// NewCluster makes the folders and configuration files of a cluster. Nothing
// runs yet.
func NewCluster(cfg ClusterConfig) (*Cluster, error) {
	if len(cfg.Names) == 0 {
		cfg.Names = []string{"a", "b", "c"}
	}
	if cfg.Store == "" {
		cfg.Store = "etcd"
	}
	if cfg.LogLevel == "" {
		cfg.LogLevel = "info"
	}
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
	ports, err := FreePorts(4 * len(cfg.Names))
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, account: account, password: rand.Text(), replication: rand.Text()}
	for i, name := range cfg.Names {
		own := ports[4*i:]
		c.nodes = append(c.nodes, &clusterNode{
			name: name, dir: filepath.Join(cfg.Dir, name), port: own[0], api: own[1], client: own[2], peer: own[3],
		})
	}
	for i, node := range c.nodes {
		if err := c.prepare(node, i == 0); err != nil {
			return nil, fmt.Errorf("prepare node %s: %w", node.name, err)
		}
	}
	return c, nil
}

// prepare makes a node's folder and configuration file.
func (c *Cluster) prepare(node *clusterNode, first bool) error {
	if err := c.account.MakeDir(node.dir); err != nil {
		return err
	}
	if err := c.account.MakeDir(node.socket()); err != nil {
		return err
	}
	text, err := yaml.Marshal(c.settings(node, first))
	if err != nil {
		return err
	}
	return os.WriteFile(node.config(), text, 0o600)
}

// settings are a node's configuration, in the order in which a person would
// write them.
func (c *Cluster) settings(node *clusterNode, first bool) yaml.MapSlice {
	settings := yaml.MapSlice{
		{Key: "cluster", Value: clusterName},
		{Key: "node", Value: node.name},
		{Key: "bootstrap", Value: first},
		{Key: "dcs", Value: c.store(node)},
		{Key: "postgres", Value: yaml.MapSlice{
			{Key: "bin_dir", Value: c.cfg.BinDir},
			{Key: "data_dir", Value: node.data()},
			{Key: "state_dir", Value: filepath.Join(node.dir, "state")},
			{Key: "socket_dir", Value: node.socket()},
			{Key: "listen", Value: clusterHost},
			{Key: "port", Value: node.port},
			{Key: "log", Value: node.server()},
			{Key: "replication", Value: yaml.MapSlice{
				{Key: "user", Value: replicationRole},
				{Key: "password", Value: c.replication},
			}},
			{Key: "parameters", Value: c.cfg.Parameters},
			{Key: "hba", Value: []string{"host all " + clientRole + " 127.0.0.1/32 scram-sha-256"}},
		}},
		{Key: "api", Value: yaml.MapSlice{{Key: "listen", Value: net.JoinHostPort(clusterHost, strconv.Itoa(node.api))}}},
		{Key: "log", Value: yaml.MapSlice{{Key: "level", Value: c.cfg.LogLevel}}},
	}
	if c.cfg.Mode != "" {
		settings = append(settings, yaml.MapItem{Key: "mode", Value: c.cfg.Mode})
	}
	if len(c.cfg.Timing) > 0 {
		settings = append(settings, yaml.MapItem{Key: "timing", Value: c.cfg.Timing})
	}
	return settings
}

// store is the section dcs of a node.
func (c *Cluster) store(node *clusterNode) yaml.MapSlice {
	if c.cfg.Store != "embedded" {
		return yaml.MapSlice{{Key: "type", Value: c.cfg.Store}, {Key: "endpoints", Value: c.cfg.Endpoints}}
	}
	var endpoints []string
	members := yaml.MapSlice{}
	for _, n := range c.nodes {
		endpoints = append(endpoints, plainURL(n.client))
		members = append(members, yaml.MapItem{Key: n.name, Value: plainURL(n.peer)})
	}
	return yaml.MapSlice{
		{Key: "type", Value: c.cfg.Store},
		{Key: "endpoints", Value: endpoints},
		{Key: "embedded", Value: yaml.MapSlice{
			{Key: "listen", Value: plainURL(node.client)},
			{Key: "members", Value: members},
			{Key: "data_dir", Value: filepath.Join(node.dir, "etcd")},
		}},
	}
}

// Names of the nodes.
func (c *Cluster) Names() []string { return slices.Clone(c.cfg.Names) }

// Name of the cluster, as its records have it.
func (c *Cluster) Name() string { return clusterName }

// ConfigFile of a node.
func (c *Cluster) ConfigFile(name string) (string, error) {
	node, err := c.node(name)
	if err != nil {
		return "", err
	}
	return node.config(), nil
}

// Target is the cluster as clients reach it, once CreateClientRole has returned.
func (c *Cluster) Target() workload.Target {
	target := workload.Target{User: clientRole, Password: c.password, Database: "postgres"}
	for _, node := range c.nodes {
		target.Nodes = append(target.Nodes, workload.Node{Name: node.name, Host: clusterHost, Port: node.port})
	}
	return target
}

func (c *Cluster) node(name string) (*clusterNode, error) {
	at := slices.IndexFunc(c.nodes, func(n *clusterNode) bool { return n.name == name })
	if at < 0 {
		return nil, fmt.Errorf("the cluster has no node %q", name)
	}
	return c.nodes[at], nil
}

// Start starts every node that does not run.
func (c *Cluster) Start() error {
	for _, node := range c.nodes {
		if err := c.StartNode(node.name); err != nil {
			return err
		}
	}
	return nil
}

// StartNode starts the agent of a node, which sees to the rest: it starts
// PostgreSQL, or takes over the one that an agent which was killed (KillAgent)
// has left. It does nothing when the agent runs.
func (c *Cluster) StartNode(name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if node.runs() {
		return nil
	}
	log, err := os.OpenFile(node.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of node %s: %w", name, err)
	}
	defer func() { _ = log.Close() }()                            // the child has its own descriptor
	cmd := exec.Command(c.cfg.Binary, "run", "-c", node.config()) //nolint:gosec // the caller's program
	cmd.Env, cmd.Dir = append(agentEnv(), c.cfg.Env...), "/"
	cmd.Stdout, cmd.Stderr = log, log
	// An agent that is asked to end stops its server; one that is killed cannot.
	if node.process, err = launchBound(cmd, syscall.SIGTERM); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	return nil
}

// agentEnv is the environment without what would override a configuration file.
func agentEnv() []string {
	return slices.DeleteFunc(serverEnv(), func(v string) bool { return strings.HasPrefix(v, "PGHAD_") })
}

// runs reports whether the agent runs. The lock must be held.
func (n *clusterNode) runs() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.process.done:
		return false
	default:
		return true
	}
}

// AgentRuns reports whether the agent of a node runs.
func (c *Cluster) AgentRuns(name string) bool {
	node, err := c.node(name)
	if err != nil {
		return false
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	return node.runs()
}

// Agent is the process id of a node's agent.
func (c *Cluster) Agent(name string) (int, error) {
	node, err := c.node(name)
	if err != nil {
		return 0, err
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if !node.runs() {
		return 0, fmt.Errorf("the agent of node %s does not run", name)
	}
	return node.process.cmd.Process.Pid, nil
}

// AgentDone is closed when the agent of a node, as it was last started, has
// ended; nil if it was never started.
func (c *Cluster) AgentDone(name string) <-chan struct{} {
	node, err := c.node(name)
	if err != nil {
		return nil
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if node.process == nil {
		return nil
	}
	return node.process.done
}

// KillNode ends a whole node as a power failure does: its agent, its PostgreSQL
// and whatever they had started. It returns when nothing of the node is left.
func (c *Cluster) KillNode(name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterPatience)
	defer cancel()
	node.mu.Lock()
	defer node.mu.Unlock()
	if err := node.kill(ctx); err != nil {
		return fmt.Errorf("kill node %s: %w", name, err)
	}
	return nil
}

// kill ends all of the node's processes. The agent is frozen first, so that it
// can neither react nor start anything while the others are found and killed.
func (n *clusterNode) kill(ctx context.Context) error {
	var victims []proc
	if n.runs() {
		agent := n.process.cmd.Process.Pid
		if err := n.process.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		victims = descendants(agent)
		if err := n.process.kill(); err != nil {
			return err
		}
	}
	if err := n.unmute(); err != nil {
		return err
	}
	victims = append(victims, serverProcesses(n.data())...)
	for len(victims) > 0 {
		if err := killAndWait(ctx, victims); err != nil {
			return err
		}
		victims = processesIn(n.dir) // what was forked in between
	}
	return nil
}

// KillAgent ends the agent of a node with SIGKILL and leaves its PostgreSQL
// alone, an orphan. From then on its postmaster is a child of whoever adopts
// orphans here: of this process if it runs an internal/reaper, else of process 1;
// and it stays so when an agent that was started anew has taken it over.
func (c *Cluster) KillAgent(name string) error {
	return c.onAgent(name, func(n *clusterNode) error { return n.process.kill() })
}

// onAgent does something to the agent of a node, which must run.
func (c *Cluster) onAgent(name string, do func(*clusterNode) error) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	if !node.runs() {
		return fmt.Errorf("the agent of node %s does not run", name)
	}
	return do(node)
}

// FreezeAgent stops the agent of a node as SIGSTOP does, and nothing else.
func (c *Cluster) FreezeAgent(name string) error { return c.signalAgent(name, syscall.SIGSTOP) }

// ThawAgent lets a frozen agent go on.
func (c *Cluster) ThawAgent(name string) error { return c.signalAgent(name, syscall.SIGCONT) }

func (c *Cluster) signalAgent(name string, sig syscall.Signal) error {
	return c.onAgent(name, func(n *clusterNode) error { return n.process.signal(sig) })
}

// FreezeNode stops every process of a node: its agent, its guard and its PostgreSQL.
// The machine, and so its clocks, goes on.
func (c *Cluster) FreezeNode(name string) error {
	if err := c.FreezeAgent(name); err != nil {
		return err
	}
	node, err := c.node(name)
	if err != nil {
		return err
	}
	// Whoever was started while the others were found is found next.
	for frozen := 0; ; {
		found := node.processes()
		if len(found) == frozen {
			return nil
		}
		frozen = len(found)
		if err := signalAll(found, syscall.SIGSTOP); err != nil {
			return fmt.Errorf("freeze node %s: %w", name, err)
		}
	}
}

// ThawNode lets a frozen node go on: in the worst order, a server before its guard and
// a guard before its agent.
func (c *Cluster) ThawNode(name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	frozen := node.processes()
	slices.Reverse(frozen) // children before their parents
	if err := signalAll(frozen, syscall.SIGCONT); err != nil {
		return fmt.Errorf("thaw node %s: %w", name, err)
	}
	return c.ThawAgent(name)
}

// processes are those of a node but its agent.
func (n *clusterNode) processes() []proc {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []proc
	if n.runs() {
		found = descendants(n.process.cmd.Process.Pid)
	}
	for _, others := range [][]proc{serverProcesses(n.data()), processesIn(n.dir)} {
		for _, other := range others {
			if !slices.Contains(found, other) && (n.process == nil || other.pid != n.process.cmd.Process.Pid) {
				found = append(found, other)
			}
		}
	}
	return found
}

// KillPostmaster ends the postmaster of a node with SIGKILL, and nothing else:
// its backends notice by themselves.
func (c *Cluster) KillPostmaster(name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	postmaster, err := node.postmaster()
	if err != nil {
		return err
	}
	if err := signalAll([]proc{postmaster}, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the postmaster of node %s: %w", name, err)
	}
	return nil
}

// Postmaster is the process id of a node's postmaster, as whose child ever it
// runs.
func (c *Cluster) Postmaster(name string) (int, error) {
	node, err := c.node(name)
	if err != nil {
		return 0, err
	}
	postmaster, err := node.postmaster()
	return postmaster.pid, err
}

func (n *clusterNode) postmaster() (proc, error) {
	found := serverProcesses(n.data())
	if len(found) == 0 {
		return proc{}, fmt.Errorf("node %s has no running postmaster", n.name)
	}
	return found[0], nil
}

// Stop asks all agents to end, which stops their servers, and kills what is left
// when ctx ends. It returns when nothing is left; the error says so if something
// is, or had to be killed.
func (c *Cluster) Stop(ctx context.Context) error {
	errs := make([]error, len(c.nodes))
	var stops sync.WaitGroup
	for i, node := range c.nodes {
		stops.Go(func() {
			node.mu.Lock()
			defer node.mu.Unlock()
			if node.runs() {
				errs[i] = node.process.stop(ctx)
			}
		})
	}
	stops.Wait()
	return errors.Join(errors.Join(errs...), c.Kill())
}

// Kill kills every node and returns when nothing is left.
func (c *Cluster) Kill() error {
	var errs []error
	for _, node := range c.nodes {
		errs = append(errs, c.KillNode(node.name))
	}
	errs = append(errs, c.leftovers())
	return errors.Join(errs...)
}

// leftovers is an error if a process of the cluster still runs.
func (c *Cluster) leftovers() error {
	for _, node := range c.nodes {
		if left := processesIn(node.dir); len(left) > 0 {
			return fmt.Errorf("node %s has left process %d behind, %s", node.name, left[0].pid, left[0].commandLine())
		}
	}
	return nil
}

// LogTail returns the last lines of what a node's agent and PostgreSQL have
// written.
func (c *Cluster) LogTail(name string) string {
	node, err := c.node(name)
	if err != nil {
		return err.Error()
	}
	text := "agent of " + name + ":\n" + tail(node.log())
	if _, err := os.Stat(node.server()); err == nil {
		text += "PostgreSQL of " + name + ":\n" + tail(node.server())
	}
	return text
}

// List is what `pghad list -o json` says, as far as it is used here.
type List struct {
	Leader string      `json:"leader"`
	Term   uint64      `json:"term"`
	Gate   string      `json:"gate"`
	Why    string      `json:"why"`
	Quorum *ListQuorum `json:"quorum"`
	Nodes  []ListNode  `json:"nodes"`
}

// ListQuorum is the recorded quorum.
type ListQuorum struct {
	K       int        `json:"k"`
	Members []ListLife `json:"members"`
}

// ListLife is one life of a node's data.
type ListLife struct {
	Node string `json:"node"`
}

// ListNode is one node.
type ListNode struct {
	Name   string `json:"name"`
	Role   string `json:"role"`
	State  string `json:"state"`
	Sync   string `json:"sync_state"`
	Quorum string `json:"quorum"`
	Why    string `json:"why"`
}

// Whole reports whether a leader is in office, admits clients, and all others of
// n nodes stream from it as counted members of a quorum with the given k.
func (l List) Whole(n, k int) bool {
	if l.Leader == "" || l.Term == 0 || l.Gate != "open" || l.Quorum == nil ||
		l.Quorum.K != k || len(l.Quorum.Members) != n-1 || len(l.Nodes) != n {
		return false
	}
	for _, node := range l.Nodes {
		if node.Name != l.Leader && (node.Quorum != "member" || node.Sync != "quorum" || node.State != "streaming") {
			return false
		}
	}
	return true
}

// List asks pghad for the state of the cluster.
func (c *Cluster) List(ctx context.Context) (List, error) {
	out, err := c.Command(ctx, "list", "-o", "json")
	if err != nil {
		return List{}, err
	}
	var list List
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return List{}, fmt.Errorf("pghad list: %w", err)
	}
	return list, nil
}

// WaitFor waits until the list satisfies good, which what describes.
func (c *Cluster) WaitFor(ctx context.Context, what string, good func(List) bool) (List, error) {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		list, err := c.List(ctx)
		if err == nil && good(list) {
			return list, nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("the last list was %+v", list)
			}
			return list, fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}

// CreateClientRole makes the role of Target on the primary, over the socket that
// only the node's own user may use. It waits for a primary until ctx ends.
func (c *Cluster) CreateClientRole(ctx context.Context) error {
	sql := fmt.Sprintf(`CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s' IN ROLE pg_monitor; GRANT CREATE ON SCHEMA public TO %[1]s`, clientRole, c.password)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		var last error
		for _, node := range c.nodes {
			err := c.superuser(ctx, node, sql)
			var refused *pgconn.PgError
			if err == nil || (errors.As(err, &refused) && refused.Code == "42710") { // duplicate_object: it is there
				return nil
			}
			if last == nil || !errors.As(err, &refused) || refused.Code != "25006" {
				last = err
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("create the role for clients: %w: %w", context.Cause(ctx), last)
		}
	}
}

// EndSessions ends every session of clients on a node, as an operator's
// pg_terminate_backend does.
func (c *Cluster) EndSessions(ctx context.Context, name string) error {
	node, err := c.node(name)
	if err != nil {
		return err
	}
	err = c.superuser(ctx, node, fmt.Sprintf(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%s'`, clientRole))
	if err != nil {
		return fmt.Errorf("end the sessions of clients on %s: %w", name, err)
	}
	return nil
}

// superuser runs SQL on a node over its socket.
func (c *Cluster) superuser(ctx context.Context, node *clusterNode, sql string) error {
	config, err := pgconn.ParseConfig("sslmode=disable connect_timeout=2")
	if err != nil {
		return err
	}
	config.Host, config.Port, config.Fallbacks = node.socket(), uint16(node.port), nil //nolint:gosec // a port
	config.User, config.Database = "postgres", "postgres"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing depends on it
	_, err = conn.Exec(ctx, sql).ReadAll()
	return err
}

// Twin makes a server that is a copy of the primary's data and takes writes of
// its own: what the cluster exists to prevent. It runs outside the cluster; the
// caller kills it.
func (c *Cluster) Twin(ctx context.Context, primary string) (*PostgresServer, error) {
	node, err := c.node(primary)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.cfg.Dir, "twin")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // searched by the server's user
		return nil, fmt.Errorf("make a twin: %w", err)
	}
	twin, err := NewPostgres(PostgresConfig{BinDir: c.cfg.BinDir, Dir: dir, Parameters: map[string]string{
		"synchronous_standby_names": "", "primary_conninfo": "", "primary_slot_name": "", "restore_command": "",
		"archive_mode": "off", "cluster_name": "twin",
	}})
	if err != nil {
		return nil, fmt.Errorf("make a twin: %w", err)
	}
	if err := twin.CopyFrom(ctx, clusterHost, node.port, replicationRole, c.replication); err != nil {
		return nil, fmt.Errorf("make a twin of %s: %w", primary, err)
	}
	if err := twin.Start(ctx); err != nil {
		return nil, fmt.Errorf("make a twin of %s: %w", primary, err)
	}
	return twin, nil
}
