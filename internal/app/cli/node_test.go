package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/app/cli"
	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds the wait for events; a healthy run needs seconds.
const patience = time.Minute

func openStore(t *testing.T, server *testbed.EtcdServer) dcs.Store {
	t.Helper()
	store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: server.Endpoints()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// node is the configuration of one node in a directory of its own.
type node struct {
	dir    string
	file   string
	port   int
	config string
}

func newNode(t *testing.T, endpoint, extra string) node {
	t.Helper()
	ports, err := testbed.FreePorts(1)
	require.NoError(t, err)
	n := node{dir: testbed.Dir(t), port: ports[0]}
	n.file = filepath.Join(t.TempDir(), "pghad.yaml")
	n.config = fmt.Sprintf(`cluster: orders
node: a
bootstrap: true
dcs: {type: etcd, endpoints: ["%s"]}
postgres:
  data_dir: %s/data
  listen: 127.0.0.1
  port: %d
  replication: {password: secret}
%s`, endpoint, n.dir, n.port, extra)
	n.write(t, n.config)
	return n
}

func (n node) write(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(n.file, []byte(text), 0o600))
}

// tree lists what is in the node's directory.
func (n node) tree(t *testing.T) []string {
	t.Helper()
	var paths []string
	require.NoError(t, filepath.WalkDir(n.dir, func(path string, entry fs.DirEntry, err error) error {
		paths = append(paths, path+" "+entry.Type().String())
		return err
	}))
	return paths
}

// refused runs the node and expects that it ends with code 2, the sentence, and
// nothing changed on disk.
func (n node) refused(t *testing.T, sentence string) {
	t.Helper()
	before := n.tree(t)
	got := pghad(t.Context(), "run", "-c", n.file)
	require.Equal(t, 2, got.code, got.err)
	require.Equal(t, sentence, strings.ReplaceAll(lastLine(got.err), n.file, "FILE"))
	require.Equal(t, before, n.tree(t), "nothing may change on disk")
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// program writes a script that pretends to be a program of PostgreSQL.
func program(t *testing.T, dir, name, version string) {
	t.Helper()
	script := "#!/bin/sh\necho \"" + name + " (PostgreSQL) " + version + "\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
}

func TestRunRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	const unreachable = "http://127.0.0.1:1" // refused before the store matters

	t.Run("old PostgreSQL", func(t *testing.T) {
		t.Parallel()
		bin := t.TempDir()
		for _, name := range []string{"postgres", "initdb", "pg_controldata", "pg_rewind", "pg_basebackup"} {
			program(t, bin, name, "12.22")
		}
		n := newNode(t, unreachable, "  bin_dir: "+bin+"\n")
		n.refused(t, "postgres: "+bin+": not supported by this server: its programs are of PostgreSQL 12: version 13 or later is needed, set postgres.bin_dir to its programs")
	})
	t.Run("no PostgreSQL", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "  bin_dir: /nowhere\n")
		n.refused(t, "postgres: PostgreSQL's programs cannot be used: stat /nowhere/postgres: no such file or directory: set postgres.bin_dir to the directory of PostgreSQL's programs, server and client")
	})
	t.Run("managed parameter", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "  parameters: {fsync: off}\n")
		before := n.tree(t)
		got := pghad(t.Context(), "run", "-c", n.file)
		require.Equal(t, 2, got.code)
		require.Contains(t, lastLine(got.err), "fsync")
		require.Equal(t, before, n.tree(t))
	})
	t.Run("port in use", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "")
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(n.port))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, listener.Close()) })
		n.refused(t, fmt.Sprintf("FILE:8:9: postgres.port: 127.0.0.1:%d is used by another program; stop that one, or write another port", n.port))
	})
	t.Run("address of another machine", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "")
		n.write(t, strings.Replace(n.config, "listen: 127.0.0.1", "listen: 192.0.2.1", 1))
		n.refused(t, "FILE:7:11: postgres.listen: 192.0.2.1 is not an address of this machine; write one that is")
	})
	t.Run("data directory is a file", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "")
		require.NoError(t, os.WriteFile(filepath.Join(n.dir, "data"), nil, 0o600))
		n.refused(t, "FILE:6:13: postgres.data_dir: "+n.dir+"/data is not a directory; write the path of one, or of one that can be made")
	})
	t.Run("nowhere to make it", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "")
		n.write(t, strings.Replace(n.config, n.dir+"/data", n.dir+"/not/there", 1))
		n.refused(t, "FILE:6:13: postgres.data_dir: "+n.dir+"/not does not exist; make it, or write another path")
	})
	t.Run("data directory full of something else", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "")
		require.NoError(t, os.MkdirAll(filepath.Join(n.dir, "data", "photos"), 0o700))
		n.refused(t, "FILE:6:13: postgres.data_dir: "+n.dir+"/data is not empty and holds no PostgreSQL data; empty it, or write another path")
	})
	t.Run("nowhere for the log", func(t *testing.T) {
		t.Parallel()
		n := newNode(t, unreachable, "  log: /nowhere/postgres.log\n")
		n.refused(t, "FILE:10:8: postgres.log: /nowhere is not a directory; make it, or write another path")
	})
}

func TestRunRefusesDataOfAnotherCluster(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	server := testbed.StartEtcd(t)
	store := openStore(t, server)
	_, err := dcs.Put(t.Context(), store, "/service/orders/initialize", []byte("7301234567890123456"))
	require.NoError(t, err)
	n := newNode(t, server.Endpoints()[0], "")
	control := filepath.Join(n.dir, "data", "global", "pg_control")
	require.NoError(t, os.MkdirAll(filepath.Dir(control), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "data", "PG_VERSION"), []byte("15\n"), 0o600))
	require.NoError(t, os.WriteFile(control, []byte{42, 0, 0, 0, 0, 0, 0, 0}, 0o600))
	n.refused(t, "FILE:6:13: postgres.data_dir: "+n.dir+"/data holds data of another cluster "+
		"(system identifier 42, cluster orders has 7301234567890123456); write another directory, or the right cluster")
	kvs, err := store.List(t.Context(), "/service/orders/")
	require.NoError(t, err)
	require.Len(t, kvs, 1, "nothing was written to the store")
}

func TestList(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	store := openStore(t, server)
	for key, value := range map[string]string{
		"initialize":     "7301234567890123456",
		"leader":         "a",
		"history":        `[[0,0,"same timeline","","a",{"term":1,"timeline":1}]]`,
		"quorum":         `{"format":1,"version":2,"nonce":"n","mode":"quorum","primary":"a.1","members":["b.2"],"k":1}`,
		"failover_state": `{"format":1,"id":1,"nonce":"n","phase":"taken","winner":"a.1"}`,
		"members/b":      `{"format":1,"role":"replica","state":"streaming","timeline":1,"received_lsn":"0/100","replayed_lsn":"0/F0","pledge":1,"incarnation":"2"}`,
	} {
		_, err := dcs.Put(t.Context(), store, "/service/orders/"+key, []byte(value))
		require.NoError(t, err)
	}
	address := server.Endpoints()[0]
	got := pghad(t.Context(), "list", "--cluster", "orders", "--dcs-endpoints", address)
	require.Equal(t, result{0, `cluster      orders
leader       a, term 1, timeline 1
quorum       each commit is on a and any 1 of b (mode quorum, version 2)
election     1, taken by a

NODE  ROLE     STATE      TIMELINE  WAL    REPLAYED  LAG  SYNC  QUORUM   PLEDGE  WHY
a     leader   absent     -         -      -         -    -     primary  -
b     replica  streaming  1         0/100  0/F0      -    -     member   1
`, ""}, got)

	got = pghadEnv(t.Context(), []string{"PGHAD_DCS_ENDPOINTS=" + address, "PGHAD_CLUSTER=orders"}, "list", "-o", "json")
	require.Equal(t, 0, got.code)
	require.Empty(t, got.err)
	text := compact(t, got.out)
	require.True(t, strings.HasPrefix(text, `{"namespace":"service","cluster":"orders",`), text)
	var view clusterview.View
	require.NoError(t, json.Unmarshal([]byte(got.out), &view))
	require.EqualValues(t, 1, view.Term)

	got = pghad(t.Context(), "list", "--cluster", "orders", "--namespace", "elsewhere", "--dcs-endpoints", address)
	require.Equal(t, result{0, `cluster      orders
leader       none in office: the cluster has not been created yet: a node with bootstrap: true does it
`, ""}, got)
}

// TestRunOneNode: a node creates its cluster, takes office, and ends in order
// when it is told to. Nothing of its server is left.
func TestRunOneNode(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	server := testbed.StartEtcd(t)
	store := openStore(t, server)
	n := newNode(t, server.Endpoints()[0], "")
	log := filepath.Join(n.dir, "server.log")
	n.write(t, n.config+"  log: "+log+"\n")

	running, stop := context.WithCancel(t.Context())
	ended := make(chan result, 1)
	go func() { ended <- pghad(running, "run", "-c", n.file) }()
	awaitView(t, store, ended, func(v clusterview.View) bool { return v.Term == 1 && v.Gate == "open" })

	second := pghad(t.Context(), "run", "-c", n.file)
	require.Equal(t, 2, second.code, second.err)
	require.Equal(t, "postgres: state directory "+n.dir+"/data.pghad: another controller uses it: "+
		"give each server a directory of its own, or stop the other program", lastLine(second.err))

	stop()
	got := <-ended
	require.Equal(t, 0, got.code, got.err)
	require.Empty(t, serverProcesses(t, filepath.Join(n.dir, "data")))
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Contains(t, string(text), "database system is shut down")
	_, err = store.Get(t.Context(), "/service/orders/leader")
	require.ErrorIs(t, err, dcs.ErrNotFound, "the lock was released")
}

// TestRunWithoutStore: a node whose store cannot be reached says so, keeps
// trying, touches no data, and ends when it is told to.
func TestRunWithoutStore(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	n := newNode(t, "http://127.0.0.1:1", "timing: {request: 200ms}\n")
	running, stop := context.WithCancel(t.Context())
	defer stop()
	log := &lineWriter{wanted: "store cannot be reached; trying again", seen: make(chan struct{})}
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(running, []string{"run", "-c", n.file}, cli.Streams{In: strings.NewReader(""), Out: io.Discard, Err: log})
	}()
	select {
	case <-log.seen:
	case <-ended:
		require.FailNow(t, "the node has ended", log.text())
	}
	stop()
	require.Equal(t, 0, <-ended, log.text())
	require.NoDirExists(t, filepath.Join(n.dir, "data"))
}

// lineWriter is a log that tells when it has got a text.
type lineWriter struct {
	wanted string
	seen   chan struct{} // closed then

	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.buf.String(), w.wanted)
	n, err := w.buf.Write(p)
	if !before && strings.Contains(w.buf.String(), w.wanted) {
		close(w.seen)
	}
	return n, err
}

func (w *lineWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// awaitView waits until the records show what is wanted, or the node has ended.
func awaitView(t *testing.T, store dcs.Store, ended <-chan result, good func(clusterview.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	news := store.Watch(ctx, "/service/orders/")
	for {
		select {
		case _, open := <-news:
			view, err := clusterview.Read(ctx, store, "service", "orders")
			if err == nil && good(view) {
				return
			}
			require.True(t, open, "in vain until the end of patience: %+v", view)
		case got := <-ended:
			require.FailNow(t, "the node has ended", got.err)
		}
	}
}

// serverProcesses are the processes that work in a data directory.
func serverProcesses(t *testing.T, dir string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	return slices.DeleteFunc(links, func(link string) bool {
		cwd, err := os.Readlink(link)
		return err != nil || !strings.HasPrefix(cwd, dir)
	})
}
