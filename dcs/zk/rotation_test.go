package zk_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

// A password changes while a session is held: ACLs are given for both, this side takes
// the new one, and those for the old one are taken away.
func TestDigestChanges(t *testing.T) {
	t.Parallel()
	server := testbed.StartZooKeeper(t)
	first, second := client.DigestACL(client.PermAll, "ha", "first"), client.DigestACL(client.PermAll, "ha", "second")
	var present atomic.Pointer[string]
	set := func(password string) { present.Store(&password) }
	set("first")
	s := open(t, zk.Config{
		Servers: []string{server.Address()}, Chroot: "/pghad", Username: "ha", ACL: append(first, second...),
		CurrentPassword: func() (string, error) {
			if password := *present.Load(); password != "" {
				return password, nil
			}
			return "", errors.New("the file is not there")
		},
	})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	_, err = dcs.Create(t.Context(), s, "/a/k", []byte("0"), session.ID())
	require.NoError(t, err)
	key, err := s.Get(t.Context(), "/a/k")
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/a/")
	stands := func(value string) {
		t.Helper()
		require.NoError(t, session.Renew(within(t, patience)))
		_, err := s.Commit(within(t, patience), dcs.Txn{
			If: []dcs.Guard{dcs.Held("/a/k", key.Created)}, Then: []dcs.Op{{Key: "/a/k", Value: []byte(value), Session: session.ID()}},
		})
		require.NoError(t, err)
		await(t, updates, func(u dcs.Update) bool { return len(u.KVs) == 1 && string(u.KVs[0].Value) == value })
	}
	stands("under the first")
	set("second")
	stands("nothing asks yet")

	conn := admin(t, server.Address())
	require.NoError(t, conn.AddAuth("digest", []byte("ha:second")))
	var forbid func(at string)
	forbid = func(at string) {
		_, err := conn.SetACL(at, second, -1)
		require.NoError(t, err)
		children, _, err := conn.Children(at)
		require.NoError(t, err)
		for _, child := range children {
			forbid(at + "/" + child)
		}
	}
	forbid("/pghad")
	stands("under the second, in the same session")
	set("")
	stands("what is known goes on")

	other := open(t, zk.Config{Servers: []string{server.Address()}, Chroot: "/pghad", Username: "ha", Password: "first"})
	_, err = other.Get(within(t, patience), "/a/k")
	requireOnly(t, err, dcs.ErrUnavailable)
	require.NotContains(t, err.Error(), "first")
	require.NoError(t, session.Close(within(t, patience)))
}

// The authority of the server changes while a session is held.
func TestAuthorityChanges(t *testing.T) {
	t.Parallel()
	before, after := newAuthority(t), newAuthority(t)
	keys, trust := before.stores(t, before.leaf(t, "zk.test"))
	server := testbed.StartZooKeeper(t,
		"secureClientPort=${secure}",
		"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
		"ssl.keyStore.location="+keys, "ssl.trustStore.location="+trust,
	)
	var roots atomic.Pointer[x509.CertPool]
	roots.Store(before.pool())
	var ours atomic.Pointer[tls.Certificate]
	change := func(a *authority) {
		pair := a.leaf(t, "client")
		ours.Store(&pair)
	}
	change(before)
	s := open(t, zk.Config{
		Servers: []string{server.SecureAddress()}, DialTimeout: patience,
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: "zk.test",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return ours.Load(), nil },
		},
		CurrentRoots: func() (*x509.CertPool, error) { return roots.Load(), nil },
	})
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	_, err = dcs.Create(t.Context(), s, "/k", nil, session.ID())
	require.NoError(t, err)

	newKeys, newTrust := after.stores(t, after.leaf(t, "zk.test"))
	for to, from := range map[string]string{keys: newKeys, trust: newTrust} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, text, 0o600))
	}
	change(after)
	both := before.pool()
	both.AddCert(after.cert)
	roots.Store(both)
	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, session.Renew(within(t, patience)))
	kv, err := s.Get(within(t, patience), "/k")
	require.NoError(t, err)
	require.Equal(t, session.ID(), kv.Session, "the key and its session are those from before")
}
