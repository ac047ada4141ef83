package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile is how long a file of certificates or a secret may be, in bytes.
const maxFile = 1 << 20

// material is what the files held at one time. It is never changed.
type material struct {
	cfg         CredentialsConfig // by which they were read
	files       files
	certificate *tls.Certificate // nil: not encrypted
	authorities *x509.CertPool   // nil: those of the system
	password    string
	server      *tls.Config // nil: not encrypted
}

// files are the contents of the files, nil for those that are not configured.
type files struct{ cert, key, ca, password []byte }

func (f files) equal(o files) bool {
	return bytes.Equal(f.cert, o.cert) && bytes.Equal(f.key, o.key) && bytes.Equal(f.ca, o.ca) && bytes.Equal(f.password, o.password)
}

// read reads the files and makes of them what is needed.
func (c *Credentials) read(cfg CredentialsConfig) (*material, error) {
	m := &material{cfg: cfg, password: cfg.Password}
	for _, f := range []struct {
		field, path string
		data        *[]byte
	}{
		{"CertFile", cfg.CertFile, &m.files.cert},
		{"KeyFile", cfg.KeyFile, &m.files.key},
		{"CAFile", cfg.CAFile, &m.files.ca},
		{"PasswordFile", cfg.PasswordFile, &m.files.password},
	} {
		data, err := readFile(f.path)
		if err != nil {
			return nil, &FileError{Field: f.field, Err: err}
		}
		*f.data = data
	}
	if cfg.PasswordFile != "" {
		m.password = strings.TrimRight(string(m.files.password), "\r\n")
		if m.password == "" || strings.ContainsAny(m.password, "\r\n\x00") {
			return nil, &FileError{"PasswordFile", fmt.Errorf("%s does not hold exactly one line: write the password into it and nothing else", cfg.PasswordFile)}
		}
	}
	if cfg.CAFile != "" {
		m.authorities = x509.NewCertPool()
		if !m.authorities.AppendCertsFromPEM(m.files.ca) {
			return nil, &FileError{"CAFile", fmt.Errorf("%s holds no certificate in PEM form", cfg.CAFile)}
		}
	}
	if cfg.CertFile != "" {
		certificate, err := tls.X509KeyPair(m.files.cert, m.files.key)
		if err != nil {
			return nil, &FileError{"CertFile", fmt.Errorf("%s and %s: %w", cfg.CertFile, cfg.KeyFile, err)}
		}
		m.certificate, m.server = &certificate, c.serverTLS(cfg, &certificate, m.authorities)
	}
	return m, nil
}

// serverTLS is the configuration of the next connections to the server.
func (c *Credentials) serverTLS(cfg CredentialsConfig, certificate *tls.Certificate, authorities *x509.CertPool) *tls.Config {
	security := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{*certificate},
		Time:         c.clock.Now,
		// A resumed connection would go on with what was shown before a change.
		SessionTicketsDisabled: true,
	}
	if cfg.RequireClientCertificates {
		security.ClientAuth, security.ClientCAs = tls.RequireAndVerifyClientCert, authorities
	}
	return security
}

// readFile reads a small file; "" is none.
func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return data, nil
}
