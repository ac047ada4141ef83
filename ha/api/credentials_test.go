package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
	"github.com/pghad/pghad/internal/testlog"
)

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	good := open(t, newNode(t, ours, ours).mutual())
	elsewhere := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	clientOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }

	tests := []struct {
		name           string
		client, server *api.Credentials
		asked          string // what the client hears, "" for an answer
		served         string // what the server logs, if that says more
	}{
		{"both are ours", open(t, newNode(t, ours, ours).mutual()), good, "", ""},
		{"client of another authority", open(t, newNode(t, theirs, ours).mutual()), good, "", "x509: certificate signed by unknown authority"},
		{"client with an expired certificate", open(t, newNode(t, ours, ours, expired).mutual()), good, "", "x509: certificate has expired or is not yet valid"},
		{"client with a certificate for servers", open(t, newNode(t, ours, ours, serverOnly).mutual()), good, "", "x509: certificate specifies an incompatible key usage"},
		{"server of another authority", good, open(t, newNode(t, theirs, ours).mutual()), "x509: certificate signed by unknown authority", ""},
		{"server with an expired certificate", good, open(t, newNode(t, ours, ours, expired).mutual()), "x509: certificate has expired or is not yet valid", ""},
		{"server for another host", good, open(t, newNode(t, ours, ours, elsewhere).mutual()), "x509: certificate is valid for 10.0.0.1, not 127.0.0.1", ""},
		{"server with a certificate for clients", good, open(t, newNode(t, ours, ours, clientOnly).mutual()), "x509: certificate specifies an incompatible key usage", ""},
		{"client that trusts the system's authorities", nil, good, "x509: certificate signed by unknown authority", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			book := newLogbook()
			peer := serve(t, willing, tt.server, book.logger())
			promise, err := newClient(t, tt.client).AskPromise(within(t, patience), peer, ask())
			switch {
			case tt.asked != "":
				require.ErrorContains(t, err, "ask b for a promise: "+peer.APIURL+": no answer: tls: failed to verify certificate: "+tt.asked)
			case tt.served != "":
				// The reason is told to the client too, but may be lost with the connection.
				require.ErrorContains(t, err, "ask b for a promise: "+peer.APIURL+": no answer: ")
				book.await(t, "tls: failed to verify certificate: "+tt.served)
			default:
				require.NoError(t, err)
				require.True(t, promise.Given)
			}
		})
	}
}

// TestClientWithoutCertificate: a password alone is not enough where a
// certificate is demanded.
func TestClientWithoutCertificate(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	book := newLogbook()
	peer := serve(t, willing, open(t, newNode(t, ours, ours).mutual()), book.logger())
	roots := x509.NewCertPool()
	roots.AddCert(ours.certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Post(peer.APIURL+"/peer/promise", "application/json", strings.NewReader(goodBody))
	if err == nil {
		require.NoError(t, response.Body.Close())
	}
	require.Error(t, err)
	book.await(t, "tls: client didn't provide a certificate")
}

// TestOldTLS: nothing older than 1.2 is spoken.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	cfg := newNode(t, ours, ours).CredentialsConfig
	cfg.Username, cfg.Password = "pghad", "x"
	peer := serve(t, willing, open(t, cfg), nil)
	dial := func(newest uint16) error {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(peer.APIURL, "https://"),
			&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: newest})
		if err == nil {
			require.NoError(t, conn.Close())
		}
		return err
	}
	require.ErrorContains(t, dial(tls.VersionTLS11), "protocol version not supported")
	require.NoError(t, dial(tls.VersionTLS12))
	require.NoError(t, dial(tls.VersionTLS13))
}

// TestEncryptionIsNotGivenUp: a node with a certificate says nothing in the
// clear, and a server with one hears nothing of it.
func TestEncryptionIsNotGivenUp(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	secure := open(t, newNode(t, ours, ours).mutual())
	plain := serve(t, willing, nil, nil)
	_, err := newClient(t, secure).AskPromise(within(t, patience), plain, ask())
	require.EqualError(t, err, "ask b for a promise: "+plain.APIURL+" is not encrypted, but this node's line is: give all nodes certificates")

	encrypted := serve(t, willing, secure, nil)
	_, err = newClient(t, nil).AskPromise(within(t, patience), ha.Peer{Name: "b", APIURL: "http" + encrypted.APIURL[len("https"):]}, ask())
	require.ErrorContains(t, err, "not an answer: status 400")
}

// TestPasswordOverTLS: without client certificates the password is what counts.
func TestPasswordOverTLS(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	with := func(password string) *api.Credentials {
		cfg := newNode(t, ours, ours).CredentialsConfig
		if password != "" {
			cfg.Username, cfg.Password = "pghad", password
		}
		return open(t, cfg)
	}
	peer := serve(t, willing, with("right"), nil)
	_, err := newClient(t, with("right")).AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)
	for password, want := range map[string]string{
		"wrong": `not an answer: status 401: "user or password is wrong"`,
		"":      `not an answer: status 401: "user and password are required"`,
	} {
		_, err := newClient(t, with(password)).AskPromise(within(t, patience), peer, ask())
		require.EqualError(t, err, "ask b for a promise: "+peer.APIURL+": "+want)
	}
}

// TestPasswordRotates on both sides, without a restart.
func TestPasswordRotates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	with := func(name string) (*api.Credentials, string) {
		file := filepath.Join(dir, name)
		write(t, file, []byte("first\n"))
		return open(t, api.CredentialsConfig{Username: "pghad", PasswordFile: file}), file
	}
	a, fileA := with("a")
	b, fileB := with("b")
	peer, client := serve(t, willing, b, nil), newClient(t, a)
	_, err := client.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)

	write(t, fileB, []byte("second"))
	require.NoError(t, b.Refresh())
	_, err = client.AskPromise(within(t, patience), peer, ask())
	require.ErrorContains(t, err, "status 401")
	write(t, fileA, []byte("second\r\n"))
	require.NoError(t, a.Refresh())
	_, err = client.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)

	for _, broken := range []string{"", "\n", "two\nlines"} {
		write(t, fileB, []byte(broken))
		require.EqualError(t, b.Refresh(), "credentials: PasswordFile: "+fileB+" does not hold exactly one line: write the password into it and nothing else")
		_, err = client.AskPromise(within(t, patience), peer, ask())
		require.NoError(t, err, "the old one stays in use")
	}
}

// TestCertificatesRotate: certificates and authorities are replaced under
// connections that are kept, without a restart.
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	nodeA, nodeB := newNode(t, first, first), newNode(t, first, first)
	a, b := open(t, nodeA.mutual()), open(t, nodeB.mutual())
	peer, client := serve(t, willing, b, nil), newClient(t, a)
	asks := func() error {
		_, err := client.AskPromise(within(t, patience), peer, ask())
		return err
	}
	require.NoError(t, asks())

	// The server trusts another authority: the connection that it has admitted
	// before is not good any more.
	write(t, nodeB.CAFile, second.pem)
	require.NoError(t, b.Refresh())
	require.ErrorContains(t, asks(), `not an answer: status 403: "client certificate: x509: certificate signed by unknown authority`)

	// The client gets a certificate of that authority.
	nodeA.certify(t, second)
	require.NoError(t, a.Refresh())
	require.NoError(t, asks())

	// The server too, which the client does not know yet. What is connected
	// stays so.
	nodeB.certify(t, second)
	require.NoError(t, b.Refresh())
	require.NoError(t, asks())
	client.Close()
	require.ErrorContains(t, asks(), "no answer: tls: failed to verify certificate: x509: certificate signed by unknown authority")
	write(t, nodeA.CAFile, append(append([]byte{}, first.pem...), second.pem...))
	require.NoError(t, a.Refresh())
	require.NoError(t, asks())

	// A certificate without its key changes nothing until the key is there.
	cert, key := first.sign(t, "late")
	write(t, nodeA.CertFile, cert)
	require.ErrorContains(t, a.Refresh(), "credentials: CertFile: "+nodeA.CertFile+" and "+nodeA.KeyFile+": tls: private key does not match public key")
	require.NoError(t, asks())
	write(t, nodeA.KeyFile, key)
	require.NoError(t, a.Refresh())
	require.ErrorContains(t, asks(), "no answer: ", "the new one is in use, which the server does not trust any more")
}

// TestCertificateEndsUnderConnection: a connection does not outlive what it
// began with.
func TestCertificateEndsUnderConnection(t *testing.T) {
	t.Parallel()
	mock := clock.NewMock()
	mock.Set(time.Now())
	ours := newAuthority(t, "ours")
	server := newNode(t, ours, ours).mutual()
	server.Clock = mock
	book := newLogbook()
	server.Logger = book.logger()
	credentials := open(t, server)
	peer := serve(t, willing, credentials, nil)
	client := newClient(t, open(t, newNode(t, ours, ours).mutual()))
	_, err := client.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)
	mock.Add(60 * 24 * time.Hour)
	_, err = client.AskPromise(within(t, patience), peer, ask())
	require.ErrorContains(t, err, `not an answer: status 403: "client certificate: x509: certificate has expired`)
	require.NoError(t, credentials.Refresh())
	book.await(t, "the certificate in "+server.CertFile+" ended at ")
}

// TestCredentialsFollowTheirFiles: nobody has to say that they have changed.
func TestCredentialsFollowTheirFiles(t *testing.T) {
	t.Parallel()
	book := newLogbook()
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, []byte("first"))
	credentials := open(t, api.CredentialsConfig{
		Username: "pghad", PasswordFile: file, LookEvery: time.Millisecond, Logger: book.logger(),
	})
	peer := serve(t, willing, credentials, nil)
	old := newClient(t, open(t, api.CredentialsConfig{Username: "pghad", Password: "first"}))
	_, err := old.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)

	require.NoError(t, os.Remove(file))
	book.await(t, "the old ones stay in use: PasswordFile: open "+file+": no such file or directory")
	_, err = old.AskPromise(within(t, patience), peer, ask())
	require.NoError(t, err)

	// Replaced as a whole, as a careful tool does it.
	write(t, file+".new", []byte("second"))
	require.NoError(t, os.Rename(file+".new", file))
	book.await(t, "credentials have changed")
	_, err = old.AskPromise(within(t, patience), peer, ask())
	require.ErrorContains(t, err, "status 401")
	require.Len(t, book.lines(), 2, "said once")
	require.NotContains(t, book.lines(), "second")
}

func TestCredentialsWarn(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	ends := func(in time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(in) }
	}
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	tests := []struct {
		name   string
		node   node
		mutual bool
		want   string // "" for silence
	}{
		{"good", newNode(t, ours, ours), true, ""},
		{"ended", newNode(t, ours, ours, ends(-time.Hour)), true, "the certificate in CERT ended at "},
		{"ends soon", newNode(t, ours, ours, ends(time.Hour)), true, "the certificate in CERT ends at "},
		{"another authority", newNode(t, theirs, ours), true, "a node with the same authorities would refuse the certificate in CERT: x509: certificate signed by unknown authority"},
		{"another host", newNode(t, ours, ours, func(c *x509.Certificate) { c.IPAddresses = nil; c.DNSNames = []string{"b"} }), true, "a node with the same authorities would refuse the certificate in CERT: x509: "},
		{"for servers", newNode(t, ours, ours, serverOnly), true, "would refuse the certificate in CERT: x509: certificate specifies an incompatible key usage"},
		{"for servers, which is enough", newNode(t, ours, ours, serverOnly), false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			book := newLogbook()
			cfg := tt.node.CredentialsConfig
			cfg.RequireClientCertificates, cfg.Host, cfg.Logger = tt.mutual, "127.0.0.1", book.logger()
			open(t, cfg)
			got := book.lines()
			require.Len(t, got, 1)
			if tt.want == "" {
				require.Empty(t, got[0])
				return
			}
			require.Contains(t, got[0], "level=WARN msg=credentials problem=")
			require.Contains(t, got[0], strings.Replace(tt.want, "CERT", cfg.CertFile, 1))
		})
	}
}

func TestOpenCredentialsRefuses(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	n := newNode(t, ours, ours)
	junk := filepath.Join(n.dir, "junk")
	write(t, junk, []byte("junk"))
	long := filepath.Join(n.dir, "long")
	write(t, long, make([]byte, 1<<20+1))
	tests := []struct {
		name  string
		cfg   api.CredentialsConfig
		field string // of a *FileError
		want  string
	}{
		{"half a pair", api.CredentialsConfig{CertFile: n.CertFile}, "", "CertFile and KeyFile belong together: give both or none"},
		{"authority alone", api.CredentialsConfig{CAFile: n.CAFile}, "", "CAFile without CertFile has no use: give both"},
		{"nobody's clients", api.CredentialsConfig{CertFile: n.CertFile, KeyFile: n.KeyFile, RequireClientCertificates: true}, "", "RequireClientCertificates needs CAFile: else nothing says whose certificates are good"},
		{"user alone", api.CredentialsConfig{Username: "pghad"}, "", "a password without Username, or Username without a password: give both or none"},
		{"password alone", api.CredentialsConfig{Password: "x"}, "", "a password without Username, or Username without a password: give both or none"},
		{"two passwords", api.CredentialsConfig{Username: "pghad", Password: "x", PasswordFile: junk}, "", "two passwords, Password and PasswordFile: give one of them"},
		{"colon", api.CredentialsConfig{Username: "a:b", Password: "x"}, "", "a colon in Username, which ends a name in HTTP: choose another one"},
		{"no file", api.CredentialsConfig{Username: "pghad", PasswordFile: "/nowhere"}, "PasswordFile", "PasswordFile: open /nowhere: no such file or directory"},
		{"long file", api.CredentialsConfig{Username: "pghad", PasswordFile: long}, "PasswordFile", "PasswordFile: " + long + " is longer than 1048576 bytes"},
		{"directory", api.CredentialsConfig{Username: "pghad", PasswordFile: n.dir}, "PasswordFile", "PasswordFile: read " + n.dir + ": is a directory"},
		{"no key", api.CredentialsConfig{CertFile: n.CertFile, KeyFile: "/nowhere"}, "KeyFile", "KeyFile: open /nowhere: no such file or directory"},
		{"junk", api.CredentialsConfig{CertFile: junk, KeyFile: n.KeyFile}, "CertFile", "CertFile: " + junk + " and " + n.KeyFile + ": tls: failed to find any PEM data in certificate input"},
		{"junk authority", api.CredentialsConfig{CertFile: n.CertFile, KeyFile: n.KeyFile, CAFile: junk}, "CAFile", "CAFile: " + junk + " holds no certificate in PEM form"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := api.OpenCredentials(tt.cfg)
			require.EqualError(t, err, "credentials: "+tt.want)
			var file *api.FileError
			if tt.field != "" {
				require.ErrorAs(t, err, &file)
				require.Equal(t, tt.field, file.Field)
			}
		})
	}
}

func TestNoCredentials(t *testing.T) {
	t.Parallel()
	var none *api.Credentials
	require.False(t, none.Encrypted())
	require.False(t, none.Protected())
	require.Nil(t, none.ServerTLS())
	require.NoError(t, none.Refresh())
	none.Close()
	require.Equal(t, "http://[::1]:8008", api.URL("[::1]:8008", none.Encrypted()))
}

// TestReplace: who asks and who is asked change their password without a restart;
// what cannot be used changes nothing.
func TestReplace(t *testing.T) {
	t.Parallel()
	server := open(t, api.CredentialsConfig{Username: "pghad", Password: "one"})
	client := open(t, api.CredentialsConfig{Username: "pghad", Password: "one"})
	peer := serve(t, willing, server, nil)
	asking := newClient(t, client)
	answered := func() error {
		_, err := asking.AskPromise(within(t, patience), peer, ask())
		return err
	}
	require.NoError(t, answered())
	require.NoError(t, server.Replace(api.CredentialsConfig{Username: "other", Password: "two"}))
	require.ErrorContains(t, answered(), "401")

	file := filepath.Join(t.TempDir(), "password")
	require.Error(t, client.Replace(api.CredentialsConfig{Username: "other", PasswordFile: file}), "there is no such file")
	require.ErrorIs(t, client.Replace(api.CredentialsConfig{CertFile: file, KeyFile: file}), api.ErrEncryption)
	require.Error(t, client.Replace(api.CredentialsConfig{Username: "a:b", Password: "two"}))
	require.ErrorContains(t, answered(), "401", "nothing has changed")

	write(t, file, []byte("two\n"))
	require.NoError(t, client.Replace(api.CredentialsConfig{Username: "other", PasswordFile: file}))
	require.NoError(t, answered())
	require.True(t, client.Protected())
	require.NoError(t, client.Replace(api.CredentialsConfig{}))
	require.False(t, client.Protected())
}

// TestAllow: who asks from elsewhere is refused, whatever it shows; the list changes
// without a restart.
func TestAllow(t *testing.T) {
	t.Parallel()
	for _, allow := range []struct {
		networks string
		admitted bool
	}{
		{"", true},
		{"127.0.0.1/32", true},
		{"10.0.0.0/8 127.0.0.0/24", true},
		{"10.0.0.0/8 127.0.0.2/32 ::1/128", false},
	} {
		cfg := api.CredentialsConfig{Username: "pghad", Password: "one"}
		for network := range strings.FieldsSeq(allow.networks) {
			cfg.Allow = append(cfg.Allow, netip.MustParsePrefix(network))
		}
		log := &testlog.Buffer{}
		server := open(t, api.CredentialsConfig{Username: "pghad", Password: "one"})
		require.NoError(t, server.Replace(cfg))
		peer := serve(t, willing, server, slog.New(slog.NewTextHandler(log, nil)))
		asking := newClient(t, open(t, api.CredentialsConfig{Username: "pghad", Password: "one"}))
		_, err := asking.AskPromise(within(t, patience), peer, ask())
		if allow.admitted {
			require.NoError(t, err, allow.networks)
			continue
		}
		require.ErrorContains(t, err, "403", allow.networks)
		require.ErrorContains(t, err, "not one from which others may ask")
		require.Contains(t, log.String(), "from=127.0.0.1:")
	}
}
