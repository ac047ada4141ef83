package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds the wait for events; a healthy run needs seconds.
const patience = time.Minute

var quiet = slog.New(slog.DiscardHandler)

func openTestLine(t *testing.T, host string, env ...string) *line {
	t.Helper()
	l, err := openLine(t.Context(), load(t, t.TempDir(), env...), host, quiet)
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

// follower promises whatever it is asked.
type follower struct{}

func (follower) Promise(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
	return ha.Promise{Given: true, Member: ask.Member}, nil
}

func question() ha.PromiseRequest {
	return ha.PromiseRequest{
		Cluster: "/service/orders/", Term: 1, Nonce: "n", For: time.Second,
		Primary: quorum.Member{Node: "b", Incarnation: "1"}, Member: quorum.Member{Node: "a", Incarnation: "1"},
	}
}

// TestLineWithoutConfiguration: on one machine it just works, for any number of
// nodes; between machines there is none.
func TestLineWithoutConfiguration(t *testing.T) {
	t.Parallel()
	a, b := openTestLine(t, "127.0.0.1"), openTestLine(t, "127.0.0.1")
	require.Regexp(t, `^http://127\.0\.0\.1:[1-9]\d*$`, a.address())
	require.NotEqual(t, a.address(), b.address())
	require.NoError(t, a.serve(t.Context(), follower{}))
	promise, err := b.peers().AskPromise(t.Context(), ha.Peer{Name: "a", APIURL: a.address()}, question())
	require.NoError(t, err)
	require.True(t, promise.Given)

	none := openTestLine(t, "10.0.0.11")
	require.Nil(t, none)
	require.Empty(t, none.address())
	require.Nil(t, none.peers(), "no interface that holds nothing")
	require.NoError(t, none.serve(t.Context(), follower{}))
}

// TestLineWithPassword: nodes of one password understand each other.
func TestLineWithPassword(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("hunter2\n"), 0o600))
	a := openTestLine(t, "127.0.0.1", "PGHAD_API_LISTEN=0.0.0.0:0", "PGHAD_API_USERNAME=pghad", "PGHAD_API_PASSWORD_FILE="+file)
	require.Regexp(t, `^http://127\.0\.0\.1:[1-9]\d*$`, a.address(), "not the address of everything")
	require.NoError(t, a.serve(t.Context(), follower{}))
	ask := func(password string) error {
		b := openTestLine(t, "127.0.0.1", "PGHAD_API_LISTEN=127.0.0.1:0", "PGHAD_API_USERNAME=pghad", "PGHAD_API_PASSWORD="+password)
		_, err := b.peers().AskPromise(t.Context(), ha.Peer{Name: "a", APIURL: a.address()}, question())
		return err
	}
	require.NoError(t, ask("hunter2"))
	require.ErrorContains(t, ask("hunter3"), "status 401")
}

func TestLineRefused(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o600))
	tests := []struct {
		name, host string
		env        []string
		want       string
	}{
		{
			"port in use", "127.0.0.1",
			[]string{"PGHAD_API_LISTEN=" + taken.Addr().String()},
			"PGHAD_API_LISTEN: api.listen: " + taken.Addr().String() + " is used by another program; stop that one, or write another port",
		},
		{
			"address of another machine", "127.0.0.1",
			[]string{"PGHAD_API_LISTEN=192.0.2.1:8008", "PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD=x"},
			"PGHAD_API_LISTEN: api.listen: 192.0.2.1:8008 is not an address of this machine; write one that is",
		},
		{
			"open to everybody", "0.0.0.0", // found out only here, because postgres.listen was not set
			[]string{"PGHAD_API_ADVERTISE=db1:1"},
			"api.listen: " + config.OpenAPISentence("0.0.0.0:8008"),
		},
		{
			"no certificate", "127.0.0.1",
			[]string{"PGHAD_API_TLS_CERT_FILE=/nowhere", "PGHAD_API_TLS_KEY_FILE=/nowhere"},
			"PGHAD_API_TLS_CERT_FILE: api.tls.cert_file: open /nowhere: no such file or directory; " +
				"cert_file and key_file must hold a certificate and its key in PEM form, readable for the user that pghad runs as",
		},
		{
			"junk", "127.0.0.1",
			[]string{"PGHAD_API_TLS_CERT_FILE=" + junk, "PGHAD_API_TLS_KEY_FILE=" + junk},
			"PGHAD_API_TLS_CERT_FILE: api.tls.cert_file: " + junk + " and " + junk + ": tls: failed to find any PEM data in certificate input; " +
				"cert_file and key_file must hold a certificate and its key in PEM form, readable for the user that pghad runs as",
		},
		{
			"no key", "127.0.0.1",
			[]string{"PGHAD_API_TLS_CERT_FILE=" + junk, "PGHAD_API_TLS_KEY_FILE=/nowhere"},
			"PGHAD_API_TLS_KEY_FILE: api.tls.key_file: open /nowhere: no such file or directory; " +
				"cert_file and key_file must hold a certificate and its key in PEM form, readable for the user that pghad runs as",
		},
		{
			"no authority", "127.0.0.1",
			[]string{"PGHAD_API_TLS_CERT_FILE=" + junk, "PGHAD_API_TLS_KEY_FILE=" + junk, "PGHAD_API_TLS_CA_FILE=/nowhere"},
			"PGHAD_API_TLS_CA_FILE: api.tls.ca_file: open /nowhere: no such file or directory; write the path of a readable file of certificates in PEM form",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := openLine(t.Context(), load(t, dir, tt.env...), tt.host, quiet)
			require.EqualError(t, err, tt.want)
			var problem *config.Error
			require.ErrorAs(t, err, &problem)
		})
	}
}

func TestLineRemarks(t *testing.T) {
	t.Parallel()
	secret := []string{"PGHAD_API_USERNAME=u", "PGHAD_API_PASSWORD=x"}
	certified := []string{"PGHAD_API_TLS_CERT_FILE=/c", "PGHAD_API_TLS_KEY_FILE=/k"}
	tests := []struct {
		name, host string
		env        []string
		want       []string
	}{
		{"one machine", "127.0.0.1", nil, nil},
		{"none", "10.0.0.11", nil, []string{"api: is not set, so the nodes cannot reach each other while the store is away, and a primary stops writing " +
			"once that lasts longer than timing.ttl; set api.username and api.password_file, or api.tls, the same on all nodes"}},
		{"good", "10.0.0.11", append(certified, secret...), nil},
		{"in the clear", "10.0.0.11", secret, []string{
			"api.tls: is not set, so whoever can listen on the network learns api.password; set cert_file, key_file and ca_file",
		}},
		{"inside", "10.0.0.11", []string{"PGHAD_API_LISTEN=127.0.0.1:8008"}, []string{
			"api.advertise: 127.0.0.1:8008 leads to this machine only, so other nodes cannot ask this one; write an address that they reach, here or in api.listen",
		}},
		{"behind something", "10.0.0.11", []string{"PGHAD_API_LISTEN=127.0.0.1:8008", "PGHAD_API_ADVERTISE=10.0.0.11:443"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, remark := range lineRemarks(t.Context(), load(t, t.TempDir(), tt.env...), tt.host) {
				got = append(got, remark.String())
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// nodeConfig is a node with a directory of its own.
func nodeConfig(t *testing.T, endpoint string, env ...string) (cfg *config.Config, dir string) {
	t.Helper()
	ports, err := testbed.FreePorts(1)
	require.NoError(t, err)
	dir = testbed.Dir(t)
	return load(t, dir, append([]string{
		"PGHAD_DCS_ENDPOINTS=" + endpoint, "PGHAD_BOOTSTRAP=true",
		"PGHAD_POSTGRES_LISTEN=127.0.0.1", fmt.Sprintf("PGHAD_POSTGRES_PORT=%d", ports[0]),
	}, env...)...), dir
}

// tree lists what is in a directory.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	return paths
}

// TestPortOfTheAPIInUse is found before anything is changed, by Run and by
// Check.
func TestPortOfTheAPIInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	cfg, dir := nodeConfig(t, "http://127.0.0.1:1", "PGHAD_API_LISTEN="+taken.Addr().String(), "PGHAD_TIMING_REQUEST=200ms")
	before := tree(t, dir)
	for _, run := range []func() error{
		func() error { return Run(t.Context(), cfg, Options{Logger: quiet, Version: "test"}) },
		func() error { _, err := Check(t.Context(), cfg, quiet); return err },
	} {
		err := run()
		require.EqualError(t, err, "PGHAD_API_LISTEN: api.listen: "+taken.Addr().String()+" is used by another program; stop that one, or write another port")
		var problem *config.Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, before, tree(t, dir))
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	cfg, dir := nodeConfig(t, "http://127.0.0.1:1", "PGHAD_TIMING_REQUEST=200ms")
	before := tree(t, dir)
	remarks, err := Check(t.Context(), cfg, quiet)
	require.NoError(t, err)
	require.Len(t, remarks, 2)
	require.Contains(t, remarks[0].String(), "guard.use: PostgreSQL runs without a guard")
	require.Contains(t, remarks[1].String(), "PGHAD_DCS_ENDPOINTS: dcs.endpoints: cannot be reached now: ")
	require.Equal(t, before, tree(t, dir))
}

// TestNodeIsAsked: a node that runs publishes where it can be asked, answers
// there, and lets go of the address when it ends.
func TestNodeIsAsked(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	server := testbed.StartEtcd(t)
	store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: server.Endpoints()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	cfg, _ := nodeConfig(t, server.Endpoints()[0], "PGHAD_API_LISTEN=127.0.0.1:0", "PGHAD_API_USERNAME=pghad", "PGHAD_API_PASSWORD=hunter2")

	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(running, cfg, Options{Logger: quiet, Version: "test"}) }()
	member := awaitPublished(t, store, ended)
	require.Regexp(t, `^http://127\.0\.0\.1:[1-9]\d*$`, member.APIURL)

	credentials, err := api.OpenCredentials(api.CredentialsConfig{Username: "pghad", Password: "hunter2"})
	require.NoError(t, err)
	t.Cleanup(credentials.Close)
	client := api.NewClient(api.ClientConfig{Credentials: credentials})
	t.Cleanup(client.Close)
	peer := ha.Peer{Name: "a", APIURL: member.APIURL}
	ask := question()
	promise, err := client.AskPromise(t.Context(), peer, ask)
	require.False(t, err == nil && promise.Given, "it follows nobody")
	require.NotContains(t, fmt.Sprint(err), "no answer", "it has been asked")
	ask.Cluster = "/service/invoices/"
	_, err = client.AskPromise(t.Context(), peer, ask)
	require.ErrorContains(t, err, `status 503: "no answer: promise: this node belongs to /service/orders/`)

	stop()
	require.NoError(t, <-ended)
	_, err = net.Dial("tcp", strings.TrimPrefix(member.APIURL, "http://"))
	require.Error(t, err)
}

// awaitPublished waits for the record that the node writes of itself.
func awaitPublished(t *testing.T, store dcs.Store, ended <-chan error) record.Member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	news := store.Watch(ctx, "/service/orders/members/")
	for {
		kv, err := store.Get(ctx, "/service/orders/members/a")
		if err == nil {
			var member record.Member
			require.NoError(t, json.Unmarshal(kv.Value, &member))
			return member
		}
		require.ErrorIs(t, err, dcs.ErrNotFound)
		select {
		case _, open := <-news:
			require.True(t, open, "in vain until the end of patience")
		case err := <-ended:
			require.FailNow(t, "the node has ended", "%v", err)
		}
	}
}
