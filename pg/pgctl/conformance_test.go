package pgctl_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
	"github.com/pghad/pghad/pg/pgtest"
)

var (
	record   = flag.String("record", "", "directory into which the conformance suite writes what real servers do")
	fullSize = flag.Bool("full", false, "play the conformance suite at full size")
	atOnce   = flag.Int("at-once", 8, "how many recipes of the conformance suite are played at a time")
	scripts  = flag.Int("scripts", 0, "how many random scripts are played in place of the recipes")
	first    = flag.Uint64("first", 1, "seed of the first random script")
)

// Real servers do what the recipes say, and nothing that the model does not allow.
// The documentation of pgtest has the commands.
func TestConformance(t *testing.T) {
	t.Parallel()
	template := newTemplate(t)
	pgtest.Run(t, template.servers, pgtest.RecordTo(*record), pgtest.FullSize(*fullSize),
		pgtest.AtOnce(*atOnce), pgtest.Scripts(*first, *scripts))
}

// template is the data of a new cluster that has been shut down. All servers of
// the suite begin with copies of it: a stopped server's copy is its base backup.
type template struct{ *node }

func newTemplate(t *testing.T) template {
	t.Helper()
	n := newNode(t, "template", conforming)
	require.NoError(t, n.Init(n.ctx()))
	require.NoError(t, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
	n.sql(`CREATE ROLE client LOGIN; CREATE TABLE rows(id text COLLATE "C"); GRANT ALL ON rows TO client; CREATE TABLE held(i int)`)
	// The less there is, the less is copied.
	n.sql("ALTER DATABASE template0 IS_TEMPLATE false")
	n.sql("ALTER DATABASE template1 IS_TEMPLATE false")
	n.sql("DROP DATABASE template0")
	n.sql("DROP DATABASE template1")
	require.NoError(t, n.Stop(n.ctx(), pg.StopFast))
	return template{n}
}

// conforming configures a server as the model of the suite is: small segments, no
// checkpoint but on request, WAL held by slots only, queries that hold up replay.
func conforming(cfg *pgctl.Config) {
	cfg.InitArgs = []string{"--encoding=UTF8", "--locale=C", "--data-checksums", "--wal-segsize=1", "--no-sync"}
	maps.Copy(cfg.Parameters, map[string]string{
		"checkpoint_timeout": "1h", "max_wal_size": "8GB", "min_wal_size": "2MB", "wal_keep_size": "0",
		"max_standby_streaming_delay": "-1", "max_standby_archive_delay": "-1",
	})
	cfg.SourceTimeout = 2 * time.Second
}

// servers is the Factory of real servers.
func (source template) servers(t *testing.T, names []string) pgtest.Servers {
	t.Helper()
	s := &realServers{t: t, names: names, nodes: map[string]*node{}, links: map[string]*link{}, clients: map[string]*client{}, outcomes: map[string]pgtest.Outcome{}}
	t.Cleanup(s.close) // after the nodes' cleanups, as they were asked for later
	for _, name := range names {
		n := newNode(t, name, conforming)
		out, err := exec.CommandContext(t.Context(), "cp", "-a", source.cfg.DataDir, n.cfg.DataDir).CombinedOutput()
		require.NoError(t, err, string(out))
		s.nodes[name] = n
	}
	for _, from := range names {
		for _, to := range names {
			if from != to {
				s.links[from+">"+to] = newLink(t, s.nodes[to].cfg.Port)
			}
		}
	}
	t.Cleanup(s.thawAll) // before them: what is frozen cannot be stopped gently
	return s
}

// realServers are PostgreSQL servers on this machine, connected by links that can
// be cut.
type realServers struct {
	t     *testing.T
	names []string
	nodes map[string]*node
	links map[string]*link // "from>to": connections that a node opens to another one

	frozen  map[string]int // process ids by node and process
	holders map[string]*client
	clients map[string]*client

	mu       sync.Mutex
	outcomes map[string]pgtest.Outcome // by row
}

func (s *realServers) close() {
	for _, l := range s.links {
		l.close()
	}
	for _, c := range s.clients {
		c.close()
	}
	for _, c := range s.holders {
		c.close()
	}
}

// Prepare implements pgtest.Servers.
func (s *realServers) Prepare(ctx context.Context) error {
	a := s.nodes[s.names[0]]
	if err := errors.Join(a.StartPrimary(ctx, warrant{}, pg.SyncSetting{}), a.OpenGate(ctx)); err != nil {
		return err
	}
	results := make(chan error, len(s.names))
	for _, name := range s.names[1:] {
		go func() {
			up := s.Route(name, s.names[0])
			up.Name = name
			results <- s.nodes[name].StartStandby(ctx, up)
		}()
	}
	var err error
	for range s.names[1:] {
		err = errors.Join(err, <-results)
	}
	if err != nil {
		return err
	}
	stream := func() bool {
		streaming := 0
		for _, sender := range a.status().Senders {
			if sender.State == "streaming" && sender.Replay >= a.status().Flushed {
				streaming++
			}
		}
		return streaming == len(s.names)-1
	}
	if !s.Await(stream) {
		return errors.New("the standbys do not stream")
	}
	return nil
}

// Control implements pgtest.Servers.
func (s *realServers) Control(node string) pgtest.Control { return s.nodes[node] }

// Route implements pgtest.Servers.
func (s *realServers) Route(from, to string) pg.Upstream {
	port := s.nodes[to].cfg.Port
	if l := s.links[from+">"+to]; l != nil {
		port = l.port
	}
	return pg.Upstream{Host: "127.0.0.1", Port: port}
}

// recipePatience is how long something that must be seen may take.
const recipePatience = 30 * time.Second

// Await implements pgtest.Time.
func (s *realServers) Await(done func() bool) bool {
	// A look costs a server a process: the longer it takes, the less often.
	pause := 2 * time.Millisecond
	for end := time.Now().Add(recipePatience); time.Now().Before(end); time.Sleep(pause) {
		if done() {
			return true
		}
		pause = min(pause*3/2, 100*time.Millisecond)
	}
	return false
}

// Pass implements pgtest.Time.
func (s *realServers) Pass(d time.Duration, look func() bool) {
	for end := time.Now().Add(d); look(); {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		time.Sleep(min(left, 50*time.Millisecond))
	}
}

// operation is a goroutine; its owner is the recipe that waits for it.
type operation struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Begin implements pgtest.Time.
func (s *realServers) Begin(work func(ctx context.Context) error) pgtest.Operation {
	o := &operation{done: make(chan struct{})}
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(o.done)
		o.err = work(ctx)
	}()
	s.t.Cleanup(func() {
		o.cancel()
		<-o.done
	})
	return o
}

func (o *operation) Done() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

func (o *operation) Err() error { return o.err }

func (o *operation) Abort() { o.cancel() }

// query asks the superuser's question in a new session.
func (s *realServers) query(node, statement string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Second)
	defer cancel()
	n := s.nodes[node]
	c, err := dial(ctx, n, "postgres", map[string]string{"synchronous_commit": "local"})
	if err != nil {
		return nil, refusal(err)
	}
	defer c.close()
	results, err := c.conn.Exec(ctx, statement).ReadAll()
	if err != nil {
		return nil, refusal(err)
	}
	var rows [][]string
	for _, values := range results[len(results)-1].Rows {
		var row []string
		for _, value := range values {
			row = append(row, string(value))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// refusal says whether a server has refused or not answered.
func refusal(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", pgtest.ErrNoAnswer, err)
	}
	return fmt.Errorf("%w: %w", pgtest.ErrRefused, err)
}

// one asks for one value.
func (s *realServers) one(node, statement string) (string, error) {
	rows, err := s.query(node, statement)
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0][0], nil
}

// Rows implements pgtest.Witness.
func (s *realServers) Rows(node string) ([]string, error) {
	rows, err := s.query(node, "SELECT id FROM rows ORDER BY 1")
	ids := make([]string, len(rows))
	for i, row := range rows {
		ids[i] = row[0]
	}
	return ids, err
}

// Receivers implements pgtest.Witness.
func (s *realServers) Receivers(node string) (int, error) {
	n, err := s.one(node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(n)
}

// Copies implements pgtest.Witness.
func (s *realServers) Copies(node string) (int, error) {
	n, err := s.one(node, "SELECT count(*) FROM pg_stat_progress_basebackup")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(n)
}

// HasHistory implements pgtest.Witness.
func (s *realServers) HasHistory(node string, t pg.Timeline) (bool, error) {
	_, err := os.Stat(s.historyPath(node, t))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *realServers) historyPath(node string, t pg.Timeline) string {
	return s.nodes[node].walFile(t.Hex() + ".history")
}

// Slot implements pgtest.Witness.
func (s *realServers) Slot(node, slot string) (string, error) {
	state, err := s.one(node, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	switch {
	case err != nil:
		return "", err
	case state == "":
		return "absent", nil
	case state == "lost":
		return "lost", nil
	}
	return "held", nil
}

// walDir is where a server's WAL is.
func (s *realServers) walDir(node string) string {
	return filepath.Join(s.nodes[node].cfg.DataDir, "pg_wal")
}
