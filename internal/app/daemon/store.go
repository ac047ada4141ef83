package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	zkclient "github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/app/config"
)

// OpenStore makes the connection to the configuration store. It connects to
// nothing: whether the store can be reached, the first call tells. Its error is
// a *config.Error. The caller closes the store.
func OpenStore(ctx context.Context, cfg *config.Config, logger *slog.Logger) (dcs.Store, error) {
	shown, err := credentialsOf(cfg)
	if err != nil {
		return nil, err
	}
	var store dcs.Store
	if cfg.DCS.Type == config.StoreZooKeeper {
		store, err = openZooKeeper(ctx, cfg, shown, logger)
	} else {
		store, err = etcd.Open(ctx, etcd.Config{
			Endpoints:       cfg.DCS.Endpoints,
			TLS:             shown.tls,
			CurrentRoots:    shown.roots,
			Username:        cfg.DCS.Username,
			Password:        cfg.DCS.Password.Reveal(),
			CurrentPassword: shown.password,
			Logger:          logger,
		})
	}
	if err != nil {
		return nil, cfg.Problem("dcs", strings.TrimSuffix(err.Error(), ": "+dcs.ErrInvalid.Error()))
	}
	return store, nil
}

func openZooKeeper(ctx context.Context, cfg *config.Config, shown storeCredentials, logger *slog.Logger) (dcs.Store, error) {
	var acl []zkclient.ACL // nil: what package zk does without
	for _, text := range cfg.DCS.ACL {
		entry, err := config.ParseACL(text)
		if err != nil {
			return nil, fmt.Errorf("acl %w", err) // has been checked
		}
		acl = append(acl, zkclient.ACL{Scheme: entry.Scheme, ID: entry.ID, Perms: permissions(entry.Permissions)})
	}
	return zk.Open(ctx, zk.Config{
		Servers:         cfg.DCS.Addresses(),
		Chroot:          cfg.DCS.Chroot,
		TLS:             shown.tls,
		CurrentRoots:    shown.roots,
		Username:        cfg.DCS.Username,
		Password:        cfg.DCS.Password.Reveal(),
		CurrentPassword: shown.password,
		ACL:             acl,
		Logger:          logger,
	})
}

// permissions are ZooKeeper's bits for letters of "cdrwa".
func permissions(letters string) int32 {
	bits := map[rune]int32{
		'r': zkclient.PermRead, 'w': zkclient.PermWrite, 'c': zkclient.PermCreate, 'd': zkclient.PermDelete, 'a': zkclient.PermAdmin,
	}
	var all int32
	for _, letter := range letters {
		all |= bits[letter]
	}
	return all
}

// storeCredentials are what this node shows the store, and how it knows that. What
// stands in files is read when it is needed, so that it can be replaced while the node
// runs.
type storeCredentials struct {
	tls      *tls.Config
	roots    func() (*x509.CertPool, error) // nil: the authorities of the system
	password func() (string, error)         // nil: it is fixed
}

func credentialsOf(cfg *config.Config) (shown storeCredentials, err error) {
	if shown.tls, err = tlsConfig(cfg); err != nil {
		return shown, err
	}
	if path := cfg.DCS.TLS.CAFile; path != "" {
		shown.roots = (&authorities{path: path}).read
		if _, err := shown.roots(); err != nil {
			return shown, cfg.Problem("dcs.tls.ca_file", err.Error())
		}
	}
	if path := cfg.DCS.PasswordFile; path != "" && cfg.DCS.Username != "" {
		shown.password = func() (string, error) {
			secret, err := config.ReadSecretFile(path)
			return secret.Reveal(), err //nolint:wrapcheck // names the file
		}
	}
	return shown, nil
}

// tlsConfig is nil where nothing is configured; etcd then verifies https
// endpoints against the authorities of the system, and ZooKeeper is reached
// without TLS. Authorities of the configuration come in addition.
func tlsConfig(cfg *config.Config) (*tls.Config, error) {
	files := cfg.DCS.TLS
	if files.IsZero() {
		return nil, nil //nolint:nilnil // no configuration is a valid one
	}
	security := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files.ServerName}
	if files.CertFile != "" {
		pair := &certificate{files: files}
		if _, err := pair.read(nil); err != nil {
			return nil, cfg.Problem("dcs.tls.cert_file", fmt.Sprintf("%v; cert_file and key_file must hold a certificate and its key in PEM form", err))
		}
		security.GetClientCertificate = pair.read
	}
	return security, nil
}

// authorities are those of a file, read anew for each connection.
type authorities struct {
	path string
	last atomic.Pointer[x509.CertPool] // that could be read
}

// read reads the file. While it cannot be used, which it may not be for a moment when
// it is replaced, the last one serves.
func (a *authorities) read() (*x509.CertPool, error) {
	data, err := os.ReadFile(a.path)
	pool := x509.NewCertPool()
	switch {
	case err != nil:
		err = fmt.Errorf("%w; write the path of a readable file", err)
	case !pool.AppendCertsFromPEM(data):
		err = fmt.Errorf("%s holds no certificate in PEM form; write the path of one that does", a.path)
	default:
		a.last.Store(pool)
	}
	if last := a.last.Load(); last != nil {
		return last, nil
	}
	return nil, err
}

// certificate is read anew for each connection, so that it can be replaced while
// the node runs.
type certificate struct {
	files config.TLS
	last  atomic.Pointer[tls.Certificate] // that could be read
}

// read reads the files. While they do not fit each other, which they may not for a
// moment when they are replaced, the last ones serve.
func (c *certificate) read(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err == nil {
		c.last.Store(&pair)
	}
	if last := c.last.Load(); last != nil {
		return last, nil
	}
	return nil, err
}
