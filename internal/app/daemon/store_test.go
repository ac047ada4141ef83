package daemon

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/testbed"
)

// openStore opens the store that a configuration names.
func openStore(t *testing.T, cfg *config.Config) dcs.Store {
	t.Helper()
	store, err := OpenStore(t.Context(), cfg, quiet)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// look looks at the store as a node does that starts.
func look(t *testing.T, cfg *config.Config) (remarks []config.Problem, storeErr string, err error) {
	t.Helper()
	return checkStore(t.Context(), cfg, openStore(t, cfg))
}

// patient are requests that outlast a loaded machine.
const patient = "PGHAD_TIMING_REQUEST=3s"

// TestStoreThatCannotBeUsed: one sentence says what is wrong, of a kind that a
// person can act on.
func TestStoreThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	zookeeper := testbed.StartZooKeeper(t)
	etcd := testbed.StartEtcd(t)
	protect(t, etcd)
	at := func(s *testbed.ZooKeeperServer) []string {
		return []string{"PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS=" + s.Address()}
	}
	user := func(name, password string) []string {
		return []string{"PGHAD_DCS_USERNAME=" + name, "PGHAD_DCS_PASSWORD=" + password}
	}
	right := load(t, t.TempDir(), append(append(at(zookeeper), user("pghad", "secret")...), "PGHAD_DCS_CHROOT=/ours", patient)...)
	remarks, storeErr, err := look(t, right)
	require.NoError(t, err)
	require.Empty(t, storeErr)
	require.Empty(t, remarks)

	tests := []struct {
		name string
		env  []string
		want string
	}{
		{"etcd that nobody runs", nil, "connect: connection refused"},
		{"etcd with a wrong password", append(user("root", "wrong"), "PGHAD_DCS_ENDPOINTS="+etcd.Endpoints()[0]), "check the user name and the password"},
		{"etcd without a user", []string{"PGHAD_DCS_ENDPOINTS=" + etcd.Endpoints()[0]}, "configure a user name and a password"},
		{"ZooKeeper that nobody runs", []string{"PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS=127.0.0.1:1"}, "connect: connection refused"},
		{
			"ZooKeeper with a wrong password", append(append(at(zookeeper), user("pghad", "wrong")...), "PGHAD_DCS_CHROOT=/ours"),
			"check the user name and the password, and to whom the ACLs of the nodes permit what",
		},
		{"ZooKeeper without a user", append(at(zookeeper), "PGHAD_DCS_CHROOT=/ours"), "check the user name and the password"},
		{"etcd in place of ZooKeeper", []string{"PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS=" + etcd.Address()}, "no connection to ZooKeeper so far"},
		{"ZooKeeper in place of etcd", []string{"PGHAD_DCS_ENDPOINTS=http://" + zookeeper.Address()}, "error reading server preface"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, storeErr, err := look(t, load(t, t.TempDir(), append(tt.env, patient)...))
			require.NoError(t, err, "it is tried again")
			require.Contains(t, storeErr, tt.want)
			require.NotContains(t, storeErr, "\n")
			require.NotContains(t, storeErr, "wrong", "the password")
		})
	}
}

// protect makes etcd demand a login.
func protect(t *testing.T, server *testbed.EtcdServer) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: server.Endpoints(), DialTimeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	_, err = client.UserAdd(t.Context(), "root", "secret")
	require.NoError(t, err)
	_, err = client.UserGrantRole(t.Context(), "root", "root")
	require.NoError(t, err)
	_, err = client.AuthEnable(t.Context())
	require.NoError(t, err)
}

// TestSessionThatTheStoreDoesNotGrant: ZooKeeper's limits are compared with the
// configured time while nothing has been written.
func TestSessionThatTheStoreDoesNotGrant(t *testing.T) {
	t.Parallel()
	short := testbed.StartZooKeeper(t, "maxSessionTimeout=8000")
	long := testbed.StartZooKeeper(t, "minSessionTimeout=20000")
	env := func(s *testbed.ZooKeeperServer) []string {
		return []string{"PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS=" + s.Address(), "PGHAD_TIMING_TTL=10s", patient}
	}
	_, _, err := look(t, load(t, t.TempDir(), env(short)...))
	require.EqualError(t, err, "PGHAD_TIMING_TTL: timing.ttl: the store refuses it: session with a ttl of 10s, of which the ensemble grants at most 8s "+
		"(its maxSessionTimeout); lower it, or raise the limit on every server")
	remarks, storeErr, err := look(t, load(t, t.TempDir(), env(long)...))
	require.NoError(t, err)
	require.Empty(t, storeErr)
	require.Len(t, remarks, 1)
	require.Equal(t, "PGHAD_TIMING_TTL: timing.ttl: 10s is less than the store grants at least, 20s: "+
		"the locks of a silent node end after that; write that, or lower the store's limit", remarks[0].String())
}

// TestZooKeeperAsConfigured: TLS with certificates on both sides, user, chroot and
// ACL all take the way from the configuration to the servers.
func TestZooKeeperAsConfigured(t *testing.T) {
	t.Parallel()
	files, err := testbed.NewCertificate(t.TempDir())
	require.NoError(t, err)
	server := testbed.StartZooKeeper(t,
		"secureClientPort=${secure}",
		"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
		"ssl.keyStore.location="+files.Both, "ssl.trustStore.location="+files.CA,
		"ssl.clientAuth=need",
	)
	env := []string{
		"PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS=" + server.SecureAddress(), "PGHAD_DCS_CHROOT=/ours",
		"PGHAD_DCS_USERNAME=pghad", "PGHAD_DCS_PASSWORD=secret", "PGHAD_DCS_ACL=auth::cdrwa,world:anyone:r",
		"PGHAD_DCS_TLS_CA_FILE=" + files.CA, "PGHAD_DCS_TLS_CERT_FILE=" + files.Cert, "PGHAD_DCS_TLS_KEY_FILE=" + files.Key,
		patient,
	}
	cfg := load(t, t.TempDir(), env...)
	store := openStore(t, cfg)
	_, err = dcs.Put(t.Context(), store, "/service/orders/leader", []byte("a"))
	require.NoError(t, err)

	stranger := openStore(t, load(t, t.TempDir(), "PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS="+server.Address(), "PGHAD_DCS_CHROOT=/ours"))
	kv, err := stranger.Get(t.Context(), "/service/orders/leader")
	require.NoError(t, err, "anyone may read")
	require.Equal(t, "a", string(kv.Value))
	_, err = dcs.Put(t.Context(), stranger, "/service/orders/leader", []byte("b"))
	require.ErrorIs(t, err, dcs.ErrUnavailable)

	_, storeErr, err := look(t, load(t, t.TempDir(), append(env, "PGHAD_DCS_TLS_SERVER_NAME=other.test")...))
	require.NoError(t, err)
	require.Contains(t, storeErr, "other.test")
	require.Equal(t, 0, strings.Count(storeErr, "\n"))
}

// TestCertificateIsReadAnew: for each connection; and the last one serves while the
// files do not fit each other.
func TestCertificateIsReadAnew(t *testing.T) {
	t.Parallel()
	files, err := testbed.NewCertificate(t.TempDir())
	require.NoError(t, err)
	security, err := tlsConfig(load(t, t.TempDir(), "PGHAD_DCS_ENDPOINTS=https://127.0.0.1:1",
		"PGHAD_DCS_TLS_CERT_FILE="+files.Cert, "PGHAD_DCS_TLS_KEY_FILE="+files.Key))
	require.NoError(t, err)
	shown := func() []byte {
		pair, err := security.GetClientCertificate(nil)
		require.NoError(t, err)
		return pair.Certificate[0]
	}
	first := shown()
	others, err := testbed.NewCertificate(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Rename(others.Cert, files.Cert))
	require.Equal(t, first, shown(), "the key is still the old one")
	require.NoError(t, os.Rename(others.Key, files.Key))
	require.NotEqual(t, first, shown())

	_, err = tlsConfig(load(t, t.TempDir(), "PGHAD_DCS_ENDPOINTS=https://127.0.0.1:1",
		"PGHAD_DCS_TLS_CERT_FILE="+files.Cert, "PGHAD_DCS_TLS_KEY_FILE="+files.CA))
	require.ErrorContains(t, err, "PGHAD_DCS_TLS_CERT_FILE: dcs.tls.cert_file: tls: ")
	require.ErrorContains(t, err, "must hold a certificate and its key in PEM form")
}

// TestStoreOfAConfigurationThatIsRefused: what only the client of the store finds.
func TestStoreOfAConfigurationThatIsRefused(t *testing.T) {
	t.Parallel()
	cfg := load(t, t.TempDir(), "PGHAD_DCS_TYPE=zookeeper", "PGHAD_DCS_ENDPOINTS=127.0.0.1:1", "PGHAD_DCS_CHROOT=/\U0001f600")
	_, err := OpenStore(t.Context(), cfg, quiet)
	require.EqualError(t, err, "dcs: chroot \"/\U0001f600\" has a character at byte 1 that ZooKeeper cannot have in a path")
}
