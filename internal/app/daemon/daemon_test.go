package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/config"
)

// load reads a configuration of which env says what it is about, instead of or
// besides what a node needs.
func load(t *testing.T, dir string, env ...string) *config.Config {
	t.Helper()
	values := map[string]string{}
	for _, entry := range append([]string{
		"PGHAD_CLUSTER=orders", "PGHAD_NODE=a", "PGHAD_DCS_ENDPOINTS=http://127.0.0.1:1",
		"PGHAD_POSTGRES_DATA_DIR=" + dir + "/data", "PGHAD_POSTGRES_REPLICATION_PASSWORD=secret",
	}, env...) {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = value
	}
	var all []string
	for name, value := range values {
		all = append(all, name+"="+value)
	}
	cfg, err := config.Load(config.Options{Env: all})
	require.NoError(t, err)
	return cfg
}

// TestStoreWatch: said at first and once a minute, and when it is over.
func TestStoreWatch(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	watch := &storeWatch{logger: slog.New(handler)}
	start := time.Unix(1000, 0)
	at := func(seconds int, problem string) {
		watch.look(context.Background(), start.Add(time.Duration(seconds)*time.Second), problem)
	}
	at(0, "")
	for second := 1; second <= 130; second++ {
		at(second, "no route")
	}
	at(131, "")
	at(132, "")
	at(133, "again")
	require.Equal(t, []string{
		`level=ERROR msg="store cannot be reached; trying again" error="no route"`,
		`level=ERROR msg="store still cannot be reached; trying again" since=1m0s error="no route"`,
		`level=ERROR msg="store still cannot be reached; trying again" since=2m0s error="no route"`,
		`level=INFO msg="store is reached again" after=2m10s`,
		`level=ERROR msg="store cannot be reached; trying again" error=again`,
	}, strings.Split(strings.TrimSpace(out.String()), "\n"))
}

// TestOwnServerRuns: a server counts as our own if it works in our directory,
// not because its number stands in a file that was left over.
func TestOwnServerRuns(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.False(t, ownServerRuns(dir), "no postmaster.pid")
	pidFile := filepath.Join(dir, "postmaster.pid")
	write := func(pid int) {
		require.NoError(t, os.WriteFile(pidFile, []byte(fmt.Sprintf("%d\n%s\n", pid, dir)), 0o600))
	}
	write(os.Getpid())
	require.False(t, ownServerRuns(dir), "another program has the number now")
	server := exec.Command("cat") // waits for the end of its input
	server.Dir = dir
	input, err := server.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	write(server.Process.Pid)
	require.True(t, ownServerRuns(dir))
	require.NoError(t, input.Close())
	require.NoError(t, server.Wait())
	require.False(t, ownServerRuns(dir), "it has ended")
	require.NoError(t, os.WriteFile(pidFile, []byte("junk"), 0o600))
	require.False(t, ownServerRuns(dir))
}

func TestListenAddress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	host, err := listenAddress(t.Context(), load(t, dir), quiet)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", host, "the way to the store is inside this machine")
	host, err = listenAddress(t.Context(), load(t, dir, "PGHAD_POSTGRES_LISTEN=10.1.2.3"), quiet)
	require.NoError(t, err)
	require.Equal(t, "10.1.2.3", host)

	var out bytes.Buffer
	cfg := load(t, dir, "PGHAD_POSTGRES_LISTEN=127.0.0.1", "PGHAD_DCS_ENDPOINTS=http://192.0.2.1:2379")
	_, err = listenAddress(t.Context(), cfg, slog.New(slog.NewTextHandler(&out, nil)))
	require.NoError(t, err)
	require.Contains(t, out.String(), "postgres.listen leads to this machine only")
}

func TestLinkLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, first, second := dir+"/data.pghad", dir+"/first.log", dir+"/second.log"
	require.NoError(t, os.Mkdir(state, 0o700))
	link := filepath.Join(state, serverLog)
	require.NoError(t, os.WriteFile(link, []byte("old"), 0o600))

	require.NoError(t, linkLog(load(t, dir)))
	require.FileExists(t, link)
	for range 2 { // the second time there is nothing to do
		require.NoError(t, linkLog(load(t, dir, "PGHAD_POSTGRES_LOG="+first)))
		target, err := os.Readlink(link)
		require.NoError(t, err)
		require.Equal(t, first, target)
	}
	text, err := os.ReadFile(link + ".old")
	require.NoError(t, err)
	require.Equal(t, "old", string(text), "what was logged stays")

	require.NoError(t, linkLog(load(t, dir, "PGHAD_POSTGRES_LOG="+second)))
	target, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, second, target)
	require.NoError(t, linkLog(load(t, dir, "PGHAD_POSTGRES_LOG="+link)))
	require.NoFileExists(t, link, "no link to itself")
	require.NoError(t, linkLog(load(t, dir)))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	security, err := tlsConfig(load(t, dir))
	require.NoError(t, err)
	require.Nil(t, security)
	broken := filepath.Join(dir, "broken.pem")
	require.NoError(t, os.WriteFile(broken, []byte("x"), 0o600))
	for _, tt := range []struct{ env, want string }{
		{"PGHAD_DCS_TLS_CA_FILE=/nowhere", "PGHAD_DCS_TLS_CA_FILE: dcs.tls.ca_file: open /nowhere: no such file or directory; write the path of a readable file"},
		{"PGHAD_DCS_TLS_CA_FILE=" + broken, "PGHAD_DCS_TLS_CA_FILE: dcs.tls.ca_file: " + broken + " holds no certificate in PEM form; write the path of one that does"},
	} {
		_, err := credentialsOf(load(t, dir, "PGHAD_DCS_ENDPOINTS=https://127.0.0.1:1", tt.env))
		require.EqualError(t, err, tt.want)
	}
	security, err = tlsConfig(load(t, dir, "PGHAD_DCS_ENDPOINTS=https://127.0.0.1:1", "PGHAD_DCS_TLS_SERVER_NAME=etcd"))
	require.NoError(t, err)
	require.Equal(t, "etcd", security.ServerName)
}
