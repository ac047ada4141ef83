package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/internal/testbed"
)

// The password of the store and its authority change in the files of a configuration
// while a session is held; nobody reloads anything.
func TestStoreSecretsChangeInTheirFiles(t *testing.T) {
	t.Parallel()
	before, err := testbed.NewCertificate(t.TempDir())
	require.NoError(t, err)
	dir := t.TempDir()
	put := func(name, from string) string {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	server, err := testbed.NewEtcdServer(testbed.EtcdConfig{Dir: t.TempDir(), TLS: &testbed.EtcdTLS{
		Cert: put("server.pem", before.Cert), Key: put("server.key", before.Key), ClientCA: put("clients.pem", before.CA),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Kill()) })
	require.NoError(t, server.Start(t.Context()))

	password := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	cfg := load(t, t.TempDir(),
		"PGHAD_DCS_ENDPOINTS="+server.Endpoints()[0], "PGHAD_DCS_USERNAME=root", "PGHAD_DCS_PASSWORD_FILE="+password,
		"PGHAD_DCS_TLS_CA_FILE="+put("ca.pem", before.CA), "PGHAD_DCS_TLS_CERT_FILE="+put("cert.pem", before.Cert), "PGHAD_DCS_TLS_KEY_FILE="+put("key.pem", before.Key),
	)
	shown, err := credentialsOf(cfg)
	require.NoError(t, err)
	secure := func() clientv3.Config {
		config := shown.tls.Clone()
		config.RootCAs, err = shown.roots()
		require.NoError(t, err)
		return clientv3.Config{Endpoints: server.Endpoints(), DialTimeout: time.Minute, TLS: config}
	}
	users, err := clientv3.New(secure())
	require.NoError(t, err)
	t.Cleanup(func() { _ = users.Close() })
	_, err = users.UserAdd(t.Context(), "root", "secret")
	require.NoError(t, err)
	_, err = users.UserGrantRole(t.Context(), "root", "root")
	require.NoError(t, err)
	_, err = users.AuthEnable(t.Context())
	require.NoError(t, err)

	store := openStore(t, cfg)
	session, err := store.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	_, err = dcs.Create(t.Context(), store, "/k", nil, session.ID())
	require.NoError(t, err)

	after, err := testbed.NewCertificate(t.TempDir())
	require.NoError(t, err)
	put("server.pem", after.Cert)
	put("server.key", after.Key)
	put("clients.pem", after.CA)
	put("ca.pem", after.CA)
	put("cert.pem", after.Cert)
	put("key.pem", after.Key)
	require.NoError(t, os.WriteFile(password, []byte("another\n"), 0o600))
	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, session.Renew(t.Context()), "the new authority, and the password that the server still has")

	own := secure()
	own.Username, own.Password = "root", "secret"
	root, err := clientv3.New(own)
	require.NoError(t, err)
	t.Cleanup(func() { _ = root.Close() })
	_, err = root.UserChangePassword(t.Context(), "root", "another")
	require.NoError(t, err)
	require.NoError(t, session.Renew(t.Context()), "the new password")
	kv, err := store.Get(t.Context(), "/k")
	require.NoError(t, err)
	require.Equal(t, session.ID(), kv.Session)
}
