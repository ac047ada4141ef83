package etcd_test

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
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return authority{cert: cert, key: key}
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// file writes the authority's own certificate.
func (a authority) file(t *testing.T) string {
	t.Helper()
	return writePEM(t, "CERTIFICATE", a.cert.Raw)
}

// sign makes a certificate for 127.0.0.1, and the files of it and its key.
func (a authority) sign(t *testing.T, name string) (pair tls.Certificate, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	require.NoError(t, err)
	encoded, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	cert, key = writePEM(t, "CERTIFICATE", der), writePEM(t, "EC PRIVATE KEY", encoded)
	pair, err = tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	return pair, cert, key
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return file
}

// TestTLS connects to a server that proves who it is, and to one that demands
// the same of clients.
func TestTLS(t *testing.T) {
	t.Parallel()
	for name, binary := range versions {
		for _, mutual := range []bool{false, true} {
			t.Run(name+map[bool]string{false: " server only", true: " mutual"}[mutual], func(t *testing.T) {
				t.Parallel()
				ca, other := newAuthority(t), newAuthority(t)
				_, cert, key := ca.sign(t, "server")
				files := &testbed.EtcdTLS{Cert: cert, Key: key}
				if mutual {
					files.ClientCA = ca.file(t)
				}
				server, err := testbed.NewEtcdServer(testbed.EtcdConfig{Binary: binary(t), Dir: t.TempDir(), TLS: files})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, server.Kill()) })
				require.NoError(t, server.Start(t.Context()))

				ours, _, _ := ca.sign(t, "client")
				theirs, _, _ := other.sign(t, "client")
				try := func(secure *tls.Config, within time.Duration) error {
					ctx, cancel := context.WithTimeout(t.Context(), within)
					defer cancel()
					_, err := dcs.Put(ctx, open(t, etcd.Config{Endpoints: server.Endpoints(), TLS: secure}), "/k", nil)
					return err
				}
				good := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), Certificates: []tls.Certificate{ours}}
				require.NoError(t, try(good, patience))
				s := open(t, etcd.Config{Endpoints: server.Endpoints(), TLS: good})
				session, err := s.NewSession(t.Context(), time.Minute)
				require.NoError(t, err)
				require.NoError(t, session.Renew(t.Context()))
				require.Len(t, (<-s.Watch(t.Context(), "/")).KVs, 1)

				err = try(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: other.pool()}, time.Second)
				requireOnly(t, err, dcs.ErrUnavailable)
				require.ErrorContains(t, err, "unknown authority", "why it could not connect")
				requireOnly(t, try(nil, time.Second), dcs.ErrUnavailable)

				stranger := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), Certificates: []tls.Certificate{theirs}}
				if mutual {
					requireOnly(t, try(stranger, time.Second), dcs.ErrUnavailable)
				} else {
					require.NoError(t, try(stranger, patience), "nobody asks who the client is")
				}
			})
		}
	}
}
