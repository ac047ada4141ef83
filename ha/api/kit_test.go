package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
	"github.com/pghad/pghad/ha/quorum"
)

// patience bounds waits for what does come.
const patience = 30 * time.Second

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// ask is a question as a primary asks it.
func ask() ha.PromiseRequest {
	return ha.PromiseRequest{
		Cluster: "/service/orders/", Term: 7, Nonce: "nonce",
		Primary: quorum.Member{Node: "a", Incarnation: "1"},
		Member:  quorum.Member{Node: "b", Incarnation: "2"},
		For:     10 * time.Second,
	}
}

// member is a node that answers.
type member func(context.Context, ha.PromiseRequest) (ha.Promise, error)

func (m member) Promise(ctx context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
	return m(ctx, ask)
}

// willing gives every promise.
func willing(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
	return ha.Promise{Given: true, Member: ask.Member}, nil
}

// serve runs a server until the test ends, and returns where it can be asked.
func serve(t *testing.T, node member, credentials *api.Credentials, logger *slog.Logger) ha.Peer {
	t.Helper()
	server, err := api.Listen(t.Context(), api.ServerConfig{Address: "127.0.0.1:0", Credentials: credentials, Logger: logger})
	require.NoError(t, err)
	handler, err := api.NewHandler(api.HandlerConfig{Promiser: node, Credentials: credentials, Logger: logger})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(handler) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, server.Close(ctx))
		require.NoError(t, <-served)
	})
	return ha.Peer{Name: "b", APIURL: api.URL(server.Addr().String(), credentials.Encrypted())}
}

func newClient(t *testing.T, credentials *api.Credentials) *api.Client {
	t.Helper()
	client := api.NewClient(api.ClientConfig{Credentials: credentials, Timeout: patience})
	t.Cleanup(client.Close)
	return client
}

func open(t *testing.T, cfg api.CredentialsConfig) *api.Credentials {
	t.Helper()
	if cfg.LookEvery == 0 {
		cfg.LookEvery = time.Hour // tests say when
	}
	credentials, err := api.OpenCredentials(cfg)
	require.NoError(t, err)
	t.Cleanup(credentials.Close)
	return credentials
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.certificate, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// template is a certificate of a node on this machine, for both purposes.
func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(50 * 24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

// expired turns a template into one that has ended.
func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

// sign returns a certificate and its key in PEM form.
func (a *authority) sign(t *testing.T, name string, change ...func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	certificate, private := template(name), newKey(t)
	for _, f := range change {
		f(certificate)
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, a.certificate, &private.PublicKey, a.key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// node is where a node has its files.
type node struct {
	dir string
	api.CredentialsConfig
}

// newNode writes the files of a node whose certificate an authority has signed.
func newNode(t *testing.T, signedBy, trusts *authority, change ...func(*x509.Certificate)) node {
	t.Helper()
	n := node{dir: t.TempDir()}
	n.CertFile, n.KeyFile, n.CAFile = filepath.Join(n.dir, "cert"), filepath.Join(n.dir, "key"), filepath.Join(n.dir, "ca")
	n.certify(t, signedBy, change...)
	write(t, n.CAFile, trusts.pem)
	return n
}

// certify gives the node a new certificate.
func (n node) certify(t *testing.T, by *authority, change ...func(*x509.Certificate)) {
	t.Helper()
	cert, key := by.sign(t, filepath.Base(n.dir), change...)
	write(t, n.CertFile, cert)
	write(t, n.KeyFile, key)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

// mutual is the configuration that demands client certificates.
func (n node) mutual() api.CredentialsConfig {
	n.RequireClientCertificates = true
	return n.CredentialsConfig
}

// logbook is a log that can be waited for.
type logbook struct {
	mu   sync.Mutex // guards what follows
	text bytes.Buffer
	news chan struct{} // closed by the next line
}

func newLogbook() *logbook { return &logbook{news: make(chan struct{})} }

func (b *logbook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func (b *logbook) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.news)
	b.news = make(chan struct{})
	return b.text.Write(line)
}

func (b *logbook) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.text.String()), "\n")
}

// await waits for a text.
func (b *logbook) await(t *testing.T, text string) {
	t.Helper()
	ctx := within(t, patience)
	for {
		b.mu.Lock()
		there, news := strings.Contains(b.text.String(), text), b.news
		b.mu.Unlock()
		if there {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			require.FailNow(t, "not logged", "%s\n%s", text, b.text.String())
		}
	}
}
