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
	security, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	var store dcs.Store
	if cfg.DCS.Type == config.StoreZooKeeper {
		store, err = openZooKeeper(ctx, cfg, security, logger)
	} else {
		store, err = etcd.Open(ctx, etcd.Config{
			Endpoints: cfg.DCS.Endpoints,
			TLS:       security,
			Username:  cfg.DCS.Username,
			Password:  cfg.DCS.Password.Reveal(),
			Logger:    logger,
		})
	}
	if err != nil {
		return nil, cfg.Problem("dcs", strings.TrimSuffix(err.Error(), ": "+dcs.ErrInvalid.Error()))
	}
	return store, nil
}

func openZooKeeper(ctx context.Context, cfg *config.Config, security *tls.Config, logger *slog.Logger) (dcs.Store, error) {
	var acl []zkclient.ACL // nil: what package zk does without
	for _, text := range cfg.DCS.ACL {
		entry, err := config.ParseACL(text)
		if err != nil {
			return nil, fmt.Errorf("acl %w", err) // has been checked
		}
		acl = append(acl, zkclient.ACL{Scheme: entry.Scheme, ID: entry.ID, Perms: permissions(entry.Permissions)})
	}
	return zk.Open(ctx, zk.Config{
		Servers:  cfg.DCS.Addresses(),
		Chroot:   cfg.DCS.Chroot,
		TLS:      security,
		Username: cfg.DCS.Username,
		Password: cfg.DCS.Password.Reveal(),
		ACL:      acl,
		Logger:   logger,
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

// tlsConfig is nil where nothing is configured; etcd then verifies https
// endpoints against the authorities of the system, and ZooKeeper is reached
// without TLS.
func tlsConfig(cfg *config.Config) (*tls.Config, error) {
	files := cfg.DCS.TLS
	if files.IsZero() {
		return nil, nil //nolint:nilnil // no configuration is a valid one
	}
	security := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files.ServerName}
	if files.CAFile != "" {
		data, err := os.ReadFile(files.CAFile)
		if err != nil {
			return nil, cfg.Problem("dcs.tls.ca_file", fmt.Sprintf("%v; write the path of a readable file", err))
		}
		security.RootCAs = x509.NewCertPool()
		if !security.RootCAs.AppendCertsFromPEM(data) {
			return nil, cfg.Problem("dcs.tls.ca_file", files.CAFile+" holds no certificate in PEM form; write the path of one that does")
		}
	}
	if files.CertFile != "" {
		pair := &certificate{files: files}
		if _, err := pair.read(nil); err != nil {
			return nil, cfg.Problem("dcs.tls.cert_file", fmt.Sprintf("%v; cert_file and key_file must hold a certificate and its key in PEM form", err))
		}
		security.GetClientCertificate = pair.read
	}
	return security, nil
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
