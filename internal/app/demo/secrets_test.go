package demo_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pghad/pghad/internal/testbed"
)

// secretMark is in every secret of TestSecretsAreKept.
const secretMark = "sEcReTmArK"

// A cluster whose secrets are marked: none of them is in what it writes (logs, records,
// files, answers, output of commands), in the arguments of any process, or in the
// environment of PostgreSQL. What has to hold one is the file by which PostgreSQL logs
// in at another node, for its user only.
func TestSecretsAreKept(t *testing.T) { //nolint:paralleltest // looks at all processes
	testbed.NeedPostgres(t)
	testbed.NeedEtcd(t)
	dir := testbed.Dir(t)
	program := filepath.Join(dir, "pghad")
	build(t, program)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	etcd := testbed.StartEtcd(t)
	store := login(t, etcd, "store-"+secretMark)
	secrets := []string{
		"PGHAD_DCS_USERNAME=root", "PGHAD_DCS_PASSWORD=store-" + secretMark,
		"PGHAD_API_USERNAME=pghad", "PGHAD_API_PASSWORD=api-" + secretMark,
		"PGHAD_POSTGRES_REPLICATION_PASSWORD=replication-" + secretMark,
	}
	cluster, err := testbed.NewCluster(testbed.ClusterConfig{
		Binary: program, Dir: dir, Endpoints: etcd.Endpoints(), LogLevel: "debug", Env: secrets,
		Parameters: map[string]string{"shared_buffers": "32MB"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Kill()) })
	arguments := watchArguments(t)
	require.NoError(t, cluster.Start())
	list, err := cluster.WaitFor(ctx, "the cluster to be whole", func(l testbed.List) bool { return l.Whole(3, 1) })
	require.NoError(t, err)

	var said strings.Builder
	for _, command := range [][]string{{"list"}, {"why"}, {"history"}, {"check"}, {"show-config"}, {"show-config", "--explain"}, {"nothing", "--x=" + "y"}} {
		out, err := cluster.Command(ctx, command[0], command[1:]...)
		fmt.Fprintln(&said, out, err)
	}
	require.Contains(t, said.String(), "[redacted]", "show-config says that there are secrets")
	said.WriteString(askWrongly(ctx, t, store))
	require.NoError(t, cluster.KillNode(list.Leader))
	_, err = cluster.WaitFor(ctx, "another leader", func(l testbed.List) bool { return l.Leader != "" && l.Leader != list.Leader && l.Gate == "open" })
	if list.Leader == cluster.Names()[0] || err == nil {
		require.NoError(t, err)
	}
	require.NoError(t, cluster.StartNode(list.Leader))
	_, err = cluster.WaitFor(ctx, "the cluster to be whole", func(l testbed.List) bool { return l.Whole(3, 1) })
	require.NoError(t, err)
	for _, name := range cluster.Names() {
		postmaster, err := cluster.Postmaster(name)
		require.NoError(t, err)
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", postmaster))
		require.NoError(t, err)
		require.NotContains(t, string(environment), secretMark, "PostgreSQL can show its environment to its superusers")
	}
	require.NotContains(t, said.String(), secretMark)
	require.NotContains(t, arguments(), secretMark)
	kvs, err := store.Get(ctx, "", clientv3.WithPrefix())
	require.NoError(t, err)
	require.NotEmpty(t, kvs.Kvs)
	for _, kv := range kvs.Kvs {
		require.NotContains(t, string(kv.Key)+string(kv.Value), secretMark)
	}
	require.NoError(t, cluster.Kill())
	lookThrough(t, dir)
}

// login makes etcd demand a login, and is one.
func login(t *testing.T, server *testbed.EtcdServer, password string) *clientv3.Client {
	t.Helper()
	open := func(config clientv3.Config) *clientv3.Client {
		config.Endpoints, config.DialTimeout = server.Endpoints(), time.Minute
		client, err := clientv3.New(config)
		require.NoError(t, err)
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	first := open(clientv3.Config{})
	_, err := first.UserAdd(t.Context(), "root", password)
	require.NoError(t, err)
	_, err = first.UserGrantRole(t.Context(), "root", "root")
	require.NoError(t, err)
	_, err = first.AuthEnable(t.Context())
	require.NoError(t, err)
	return open(clientv3.Config{Username: "root", Password: password})
}

// watchArguments collects the arguments of all processes until its result is called.
// Those of this test are not meant.
func watchArguments(t *testing.T) (seen func() string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var (
		wait sync.WaitGroup
		all  = make(map[string]bool)
	)
	wait.Go(func() {
		for look := time.NewTicker(20 * time.Millisecond); ; {
			paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, path := range paths {
				if text, err := os.ReadFile(path); err == nil {
					all[string(bytes.ReplaceAll(text, []byte{0}, []byte{' '}))] = true
				}
			}
			select {
			case <-look.C:
			case <-ctx.Done():
				look.Stop()
				return
			}
		}
	})
	return func() string {
		stop()
		wait.Wait()
		var text strings.Builder
		for line := range all {
			text.WriteString(line + "\n")
		}
		require.Contains(t, text.String(), "pghad run -c")
		return text.String()
	}
}

// askWrongly asks every node what it must refuse, and returns what it has said.
func askWrongly(ctx context.Context, t *testing.T, store *clientv3.Client) string {
	t.Helper()
	var said strings.Builder
	members, err := store.Get(ctx, "/service/demo/members/", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Len(t, members.Kvs, 3)
	for _, kv := range members.Kvs {
		_, rest, found := strings.Cut(string(kv.Value), `"api_url":"`)
		require.True(t, found)
		at, _, _ := strings.Cut(rest, `"`)
		said.Write(kv.Value)
		for _, password := range []string{"", "wrong", "api-" + secretMark[:5]} {
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(`{"format":1}`))
			require.NoError(t, err)
			request.SetBasicAuth("pghad", password)
			answer, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.NotEqual(t, http.StatusOK, answer.StatusCode)
			fmt.Fprintln(&said, answer.Status, answer.Header, string(body))
		}
	}
	return said.String()
}

// lookThrough looks for the mark in all files of a cluster.
func lookThrough(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		switch {
		case !bytes.Contains(data, []byte(secretMark)):
		case entry.Name() == "passfile":
			require.Zero(t, info.Mode().Perm()&0o077, "%s is for its owner only", path)
		default:
			require.Fail(t, "a secret is in "+path)
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, files, 2000, "three data directories with their logs")
}
