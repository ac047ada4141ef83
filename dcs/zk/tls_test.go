package zk_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

// authority issues certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

func (a *authority) issue(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert, key
}

// leaf is a certificate for a name, as one of a server and as one of a client.
func (a *authority) leaf(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// stores writes what a ZooKeeper needs: its key with its certificate, and whom
// it trusts.
func (a *authority) stores(t *testing.T, server tls.Certificate) (keys, trust string) {
	t.Helper()
	dir := t.TempDir()
	keys, trust = filepath.Join(dir, "keys.pem"), filepath.Join(dir, "trust.pem")
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	require.NoError(t, err)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	require.NoError(t, os.WriteFile(keys, append(block("PRIVATE KEY", key), block("CERTIFICATE", server.Certificate[0])...), 0o600))
	require.NoError(t, os.WriteFile(trust, block("CERTIFICATE", a.cert.Raw), 0o600))
	return keys, trust
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	keys, trust := ca.stores(t, ca.leaf(t, "zk.test"))
	server := testbed.StartZooKeeper(t,
		"secureClientPort=${secure}",
		"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
		"ssl.keyStore.location="+keys, "ssl.trustStore.location="+trust,
		"ssl.clientAuth=need",
	)
	cfg := zk.Config{
		Servers:     []string{server.SecureAddress()},
		DialTimeout: patience, // the first handshake of a server on a loaded machine
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), ServerName: "zk.test",
			Certificates: []tls.Certificate{ca.leaf(t, "client")},
		},
	}
	s := open(t, cfg)
	session, err := s.NewSession(t.Context(), time.Minute)
	require.NoError(t, err)
	_, err = dcs.Create(t.Context(), s, "/k", []byte("secret"), session.ID())
	require.NoError(t, err)
	updates := s.Watch(t.Context(), "/")
	require.Len(t, (<-updates).KVs, 1)
	for range 3 {
		require.NoError(t, session.Renew(t.Context()))
	}
	require.NoError(t, session.Close(t.Context()))
	await(t, updates, func(u dcs.Update) bool { return u.Err == nil && len(u.KVs) == 0 })

	strange := newAuthority(t)
	for says, change := range map[string]func(*zk.Config){
		"certificate signed by unknown authority": func(c *zk.Config) { c.TLS.RootCAs = strange.pool() },
		"valid for zk.test, not other.test":       func(c *zk.Config) { c.TLS.ServerName = "other.test" },
		"no connection to ZooKeeper so far": func(c *zk.Config) {
			c.TLS.Certificates = []tls.Certificate{strange.leaf(t, "client")}
		},
		"no connection to ZooKeeper so": func(c *zk.Config) { c.TLS = nil },
	} {
		wrong := cfg
		wrong.TLS = cfg.TLS.Clone()
		change(&wrong)
		refused := open(t, wrong)
		require.Eventually(t, func() bool {
			_, err := refused.Get(within(t, time.Second), "/k")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return strings.Contains(err.Error(), says)
		}, patience, time.Millisecond, says)
	}
}
