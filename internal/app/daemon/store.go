package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
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
	store, err := etcd.Open(ctx, etcd.Config{
		Endpoints: cfg.DCS.Endpoints,
		TLS:       security,
		Username:  cfg.DCS.Username,
		Password:  cfg.DCS.Password.Reveal(),
		Logger:    logger,
	})
	if err != nil {
		return nil, cfg.Problem("dcs.endpoints", err.Error())
	}
	return store, nil
}

// tlsConfig is nil where nothing is configured; etcd then verifies https
// endpoints against the authorities of the system.
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
		pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
		if err != nil {
			return nil, cfg.Problem("dcs.tls.cert_file", fmt.Sprintf("%v; cert_file and key_file must hold a certificate and its key in PEM form", err))
		}
		security.Certificates = []tls.Certificate{pair}
	}
	return security, nil
}
