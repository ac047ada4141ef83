package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
	"github.com/pghad/pghad/internal/app/config"
)

// lineTimeout bounds how long answers under way may take when the node has ended.
const lineTimeout = 5 * time.Second

// line is the direct line between this node and the others. nil: there is none,
// and the node neither asks nor is asked.
type line struct {
	credentials *api.Credentials
	server      *api.Server
	client      *api.Client
	url         string // that others reach this node at
	host        string // of it
	logger      *slog.Logger
	serving     sync.WaitGroup
}

// openLine reads the credentials and takes the address, so that what is wrong
// with them is found before anything is changed. host is where others reach
// PostgreSQL. Its error is a *config.Error.
//
// Without any word about it in the configuration there is a line where no other
// machine could use it, on a free port that the others learn from the store; and
// none where it would need a secret, or else everybody could keep this node from
// taking part in elections.
func openLine(ctx context.Context, cfg *config.Config, host string, logger *slog.Logger) (*line, error) {
	listen, advertise := cfg.API.Addresses(host)
	if cfg.API.IsZero() {
		if !loopback(ctx, host) {
			return nil, nil //nolint:nilnil // see line
		}
		listen, advertise = net.JoinHostPort(host, "0"), net.JoinHostPort(host, "0")
	}
	credentials, err := openCredentials(cfg, advertise, logger)
	if err != nil {
		return nil, err
	}
	server, err := api.Listen(ctx, api.ServerConfig{Address: listen, Credentials: credentials, Logger: logger})
	if err != nil {
		credentials.Close()
		return nil, listenProblem(cfg, listen, err)
	}
	if at, port, err := net.SplitHostPort(advertise); err == nil && port == "0" {
		advertise = net.JoinHostPort(at, strconv.Itoa(server.Addr().Port))
	}
	return &line{
		credentials: credentials,
		server:      server,
		client:      api.NewClient(api.ClientConfig{Credentials: credentials, Timeout: cfg.Timing.Request}),
		host:        hostOf(advertise),
		url:         api.URL(advertise, credentials.Encrypted()),
		logger:      logger,
	}, nil
}

// hostOf is the host of host:port, which has been checked.
func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

func openCredentials(cfg *config.Config, advertise string, logger *slog.Logger) (*api.Credentials, error) {
	opened, err := api.OpenCredentials(credentialsConfig(cfg, hostOf(advertise), logger))
	if err != nil {
		return nil, credentialsProblem(cfg, err)
	}
	return opened, nil
}

// credentialsConfig is what a line at host shows and demands.
func credentialsConfig(cfg *config.Config, host string, logger *slog.Logger) api.CredentialsConfig {
	a := cfg.API
	credentials := api.CredentialsConfig{
		CertFile: a.TLS.CertFile, KeyFile: a.TLS.KeyFile, CAFile: a.TLS.CAFile,
		RequireClientCertificates: a.TLS.ClientCertificates,
		Username:                  a.Username, PasswordFile: a.PasswordFile,
		Host: host, Allow: a.Allowed(), Logger: logger,
	}
	if a.PasswordFile == "" {
		credentials.Password = a.Password.Reveal()
	}
	return credentials
}

// credentialsProblem words an error about credentials in keys.
func credentialsProblem(cfg *config.Config, err error) error {
	if file, ok := errors.AsType[*api.FileError](err); ok {
		key, advice := credentialKey(file.Field)
		return cfg.Problem(key, file.Err.Error()+"; "+advice)
	}
	return cfg.Problem("api", err.Error())
}

// credentialKey is the key that sets a file of api.CredentialsConfig, and what to
// do about the file.
func credentialKey(field string) (key, advice string) {
	const pair = "cert_file and key_file must hold a certificate and its key in PEM form, readable for the user that pghad runs as"
	switch field {
	case "CertFile":
		return "api.tls.cert_file", pair
	case "KeyFile":
		return "api.tls.key_file", pair
	case "CAFile":
		return "api.tls.ca_file", "write the path of a readable file of certificates in PEM form"
	}
	return "api.password_file", "write the path of a readable file"
}

// listenProblem says in the words of the configuration why the API cannot
// listen.
func listenProblem(cfg *config.Config, listen string, err error) error {
	const key = "api.listen"
	switch {
	case errors.Is(err, api.ErrUnprotected):
		return cfg.Problem(key, config.OpenAPISentence(listen))
	case errors.Is(err, unix.EADDRINUSE):
		return cfg.Problem(key, listen+" is used by another program; stop that one, or write another port")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return cfg.Problem(key, listen+" is not an address of this machine; write one that is")
	}
	return cfg.Problem(key, fmt.Sprintf("%v; write an address of this machine, and a port that is free", err))
}

// lineRemarks says what is risky about the line that openLine would open.
func lineRemarks(ctx context.Context, cfg *config.Config, host string) []config.Problem {
	a := cfg.API
	if loopback(ctx, host) {
		return nil // everything is on one machine, or warnLoopback says so
	}
	if a.IsZero() {
		return []config.Problem{cfg.Remark("api", "is not set, so the nodes cannot reach each other while the store is away, and a primary stops writing "+
			"once that lasts longer than timing.ttl; set api.username and api.password_file, or api.tls, the same on all nodes")}
	}
	var remarks []config.Problem
	_, advertise := a.Addresses(host)
	if at, _, err := net.SplitHostPort(advertise); err == nil && loopback(ctx, at) {
		remarks = append(remarks, cfg.Remark("api.advertise", advertise+" leads to this machine only, so other nodes cannot ask this one; "+
			"write an address that they reach, here or in api.listen"))
	}
	if a.Username != "" && a.TLS.CertFile == "" {
		remarks = append(remarks, cfg.Remark("api.tls", "is not set, so whoever can listen on the network learns api.password; set cert_file, key_file and ca_file"))
	}
	return remarks
}

// address is what the node publishes, "" if it cannot be asked.
func (l *line) address() string {
	if l == nil {
		return ""
	}
	return l.url
}

// peers is nil if the node cannot ask.
func (l *line) peers() ha.Peers {
	if l == nil {
		return nil
	}
	return l.client
}

// serve begins to answer for a node. close ends it.
func (l *line) serve(ctx context.Context, node api.Promiser) error {
	if l == nil {
		return nil
	}
	handler, err := api.NewHandler(api.HandlerConfig{Promiser: node, Credentials: l.credentials, Logger: l.logger})
	if err != nil {
		return fmt.Errorf("API: %w", err)
	}
	l.serving.Go(func() {
		if err := l.server.Serve(handler); err != nil {
			l.logger.ErrorContext(ctx, "API has ended, this node cannot be asked any more", "error", err)
		}
	})
	return nil
}

// close ends the line.
func (l *line) close() {
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lineTimeout)
	defer cancel()
	if err := l.server.Close(ctx); err != nil {
		l.logger.Warn("API was ended while it answered", "error", err)
	}
	l.serving.Wait()
	l.client.Close()
	l.credentials.Close()
}
