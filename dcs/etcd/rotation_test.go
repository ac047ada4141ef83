package etcd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// held is what must outlast a rotation: a session with a key, and a watch.
type held struct {
	t       *testing.T
	store   *etcd.Store
	session dcs.Session
	key     dcs.KV
	updates <-chan dcs.Update
}

func hold(t *testing.T, s *etcd.Store) *held {
	t.Helper()
	h := &held{t: t, store: s}
	ctx := within(t, patience)
	var err error
	h.session, err = s.NewSession(ctx, time.Minute)
	require.NoError(t, err)
	_, err = dcs.Create(ctx, s, "/ours/k", []byte("0"), h.session.ID())
	require.NoError(t, err)
	h.key, err = s.Get(ctx, "/ours/k")
	require.NoError(t, err)
	h.updates = s.Watch(t.Context(), "/ours/")
	require.Len(t, (<-h.updates).KVs, 1)
	return h
}

// stands shows that nothing was lost: the session is renewed, a write under it goes
// through, the key is the one that it was, and the watch goes on.
func (h *held) stands(value string) {
	h.t.Helper()
	ctx := within(h.t, patience)
	require.NoError(h.t, h.session.Renew(ctx))
	_, err := h.store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.Held("/ours/k", h.key.Created)},
		Then: []dcs.Op{{Key: "/ours/k", Value: []byte(value), Session: h.session.ID()}},
	})
	require.NoError(h.t, err)
	await(h.t, h.updates, func(u dcs.Update) bool { return len(u.KVs) == 1 && string(u.KVs[0].Value) == value })
}

// A password changes while a session is held, here first or there first.
func TestPasswordChanges(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t)
	protect(t, server)
	change := func(password string) {
		root := admin(t, server, clientv3.Config{Username: "root", Password: "secret"})
		_, err := root.UserChangePassword(within(t, patience), "node", password)
		require.NoError(t, err)
	}
	var present atomic.Pointer[string]
	set := func(password string) { present.Store(&password) }
	set("word")
	unreadable := errors.New("the file is not there")
	s := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "node", CurrentPassword: func() (string, error) {
		if password := *present.Load(); password != "" {
			return password, nil
		}
		return "", unreadable
	}})
	h := hold(t, s)

	set("second")
	h.stands("what was logged in goes on")
	require.NoError(t, server.Restart(t.Context())) // which has forgotten the login
	h.stands("the password before still counts at the server")
	change("second")
	h.stands("changed here first")

	change("third")
	ctx := within(t, patience)
	err := h.session.Renew(ctx)
	requireOnly(t, err, dcs.ErrUnavailable)
	require.NotContains(t, err.Error(), "second")
	set("third")
	h.stands("changed there first")

	set("")
	require.NoError(t, server.Restart(t.Context()))
	h.stands("while it cannot be read, the last one counts")
	stranger := open(t, etcd.Config{Endpoints: server.Endpoints(), Username: "node", CurrentPassword: func() (string, error) { return "", unreadable }})
	_, err = stranger.Get(ctx, "/ours/k")
	requireOnly(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "password of the user node: the file is not there")
	require.NoError(t, h.session.Close(ctx))
}

// The authority changes, and with it the certificate of the server and that of this
// client, while a session is held.
func TestAuthorityChanges(t *testing.T) {
	t.Parallel()
	before, after := newAuthority(t), newAuthority(t)
	_, cert, key := before.sign(t, "server")
	files := &testbed.EtcdTLS{Cert: cert, Key: key, ClientCA: before.file(t)}
	server, err := testbed.NewEtcdServer(testbed.EtcdConfig{Dir: t.TempDir(), TLS: files})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Kill()) })
	require.NoError(t, server.Start(t.Context()))

	var roots atomic.Pointer[x509.CertPool]
	var ours atomic.Pointer[tls.Certificate]
	roots.Store(before.pool())
	first, _, _ := before.sign(t, "client")
	ours.Store(&first)
	s := open(t, etcd.Config{
		Endpoints: server.Endpoints(),
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return ours.Load(), nil
		}},
		CurrentRoots: func() (*x509.CertPool, error) { return roots.Load(), nil },
	})
	h := hold(t, s)

	_, newCert, newKey := after.sign(t, "server")
	for to, from := range map[string]string{cert: newCert, key: newKey, files.ClientCA: after.file(t)} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, text, 0o600))
	}
	require.NoError(t, server.Restart(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.ErrorContains(t, h.session.Renew(ctx), "unknown authority", "before anything was changed here")

	second, _, _ := after.sign(t, "client")
	ours.Store(&second)
	both := before.pool()
	both.AddCert(after.cert)
	roots.Store(both)
	h.stands("under the new authority")

	_, err = etcd.Open(t.Context(), etcd.Config{Endpoints: []string{"127.0.0.1:1"}, CurrentRoots: func() (*x509.CertPool, error) { return both, nil }})
	require.ErrorIs(t, err, dcs.ErrInvalid)
}
