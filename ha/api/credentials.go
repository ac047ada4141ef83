package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/internal/timectx"
)

const (
	lookEvery = 5 * time.Second
	soon      = 7 * 24 * time.Hour // before the end of a certificate it is warned of
)

// CredentialsConfig says what a node shows to the others and what it demands of
// them. The zero value is nothing of either, which is enough only where no
// other machine can reach the Server.
type CredentialsConfig struct {
	// CertFile and KeyFile hold this node's certificate, the intermediate ones
	// after it, and its private key, in PEM form. With them the line is
	// encrypted: the Server serves https, and the Client asks nobody over http.
	CertFile string
	KeyFile  string
	// CAFile holds, in PEM form, the authorities that must have signed the
	// certificates of others. Default for servers: those of the system.
	CAFile string
	// RequireClientCertificates admits only who shows a certificate that is
	// signed by CAFile.
	RequireClientCertificates bool

	// Username and a password, if given, are what the Client sends and what the
	// Handler demands (HTTP basic authentication).
	Username string
	// Password is fixed; PasswordFile holds it in its only line.
	Password     string
	PasswordFile string

	// Allow are the addresses from which others may ask, whatever they show besides;
	// empty: all. It is no replacement for a certificate or a password: an address is
	// what the network says it is.
	Allow []netip.Prefix

	// Host is what others reach this node by. With it a certificate that they
	// would refuse is warned of. May be empty.
	Host string
	// LookEvery is how often the files are read. Default 5 s.
	LookEvery time.Duration

	Clock  clock.Clock  // nil: the real one
	Logger *slog.Logger // nil: silent
}

// Credentials are what a node shows and demands at present. They follow their
// files: what has changed there is used for every connection and every request
// from then on, without a restart. Files that cannot be used, such as a new
// certificate whose key has not been written yet, change nothing; that is
// logged, and looked at again.
//
// A nil *Credentials shows and demands nothing. All methods may be called from
// several goroutines at once.
type Credentials struct {
	clock   clock.Clock
	logger  *slog.Logger
	every   time.Duration
	current atomic.Pointer[material]

	refresh sync.Mutex // one look at a time; guards what follows
	fault   string     // what was last warned of

	stop    context.CancelFunc
	watcher sync.WaitGroup
}

// FileError says which file of a CredentialsConfig cannot be used.
type FileError struct {
	Field string // CertFile, CAFile or PasswordFile
	Err   error  // names the file
}

// Error returns the field and what is wrong.
func (e *FileError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns the error without the field.
func (e *FileError) Unwrap() error { return e.Err }

// OpenCredentials reads the files and goes on reading them until Close. Its
// error says which field is wrong, for files as a *FileError.
func OpenCredentials(cfg CredentialsConfig) (*Credentials, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if cfg.LookEvery <= 0 {
		cfg.LookEvery = lookEvery
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Credentials{clock: cfg.Clock, logger: cfg.Logger, every: cfg.LookEvery}
	m, err := c.read(cfg)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	c.current.Store(m)
	c.warn(c.faultOf(m))
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.watcher.Go(func() { c.watch(ctx) })
	return c, nil
}

// validate holds the fields against each other.
func (cfg CredentialsConfig) validate() error {
	secret := cfg.Password != "" || cfg.PasswordFile != ""
	switch {
	case (cfg.CertFile == "") != (cfg.KeyFile == ""):
		return errors.New("CertFile and KeyFile belong together: give both or none")
	case cfg.CAFile != "" && cfg.CertFile == "":
		return errors.New("CAFile without CertFile has no use: give both")
	case cfg.RequireClientCertificates && cfg.CAFile == "":
		return errors.New("RequireClientCertificates needs CAFile: else nothing says whose certificates are good")
	case cfg.Password != "" && cfg.PasswordFile != "":
		return errors.New("two passwords, Password and PasswordFile: give one of them")
	case secret != (cfg.Username != ""):
		return errors.New("a password without Username, or Username without a password: give both or none")
	case strings.Contains(cfg.Username, ":"):
		return errors.New("a colon in Username, which ends a name in HTTP: choose another one")
	}
	return nil
}

// Close ends the reading of the files. The credentials stay as they are.
func (c *Credentials) Close() {
	if c != nil {
		c.stop()
		c.watcher.Wait()
	}
}

// Encrypted reports whether the line is encrypted.
func (c *Credentials) Encrypted() bool { return c != nil && c.current.Load().cfg.encrypted() }

// Protected reports whether anything is demanded of whoever asks.
func (c *Credentials) Protected() bool {
	if c == nil {
		return false
	}
	cfg := c.current.Load().cfg
	return cfg.Username != "" || cfg.RequireClientCertificates
}

// ServerTLS is the configuration of a listener (tls.NewListener), nil where the
// line is not encrypted. It follows the files.
func (c *Credentials) ServerTLS() *tls.Config {
	if !c.Encrypted() {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.current.Load().server, nil
		},
	}
}

// clientTLS is the configuration of one connection to host.
func (c *Credentials) clientTLS(host string) *tls.Config {
	security := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, NextProtos: []string{"http/1.1"}}
	if c == nil {
		return security
	}
	m := c.current.Load()
	security.RootCAs, security.Time = m.authorities, c.clock.Now
	if m.certificate != nil {
		// Shown whatever authorities the server names, so that it is the server
		// who says what is wrong with it.
		security.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.certificate, nil }
	}
	return security
}

// sign puts user and password on a request.
func (c *Credentials) sign(r *http.Request) {
	if c == nil {
		return
	}
	if m := c.current.Load(); m.cfg.Username != "" {
		r.SetBasicAuth(m.cfg.Username, m.password)
	}
}

// version is another value after every change of the files.
func (c *Credentials) version() *material {
	if c == nil {
		return nil
	}
	return c.current.Load()
}

// denial is why somebody may not ask.
type denial struct {
	status   int
	sentence string
}

// admit says why a request is not to be answered, nil if it is. A connection
// may be older than the authorities and the certificate that it began with, so
// that is looked at again.
func (c *Credentials) admit(r *http.Request) *denial {
	if c == nil {
		return nil
	}
	m := c.current.Load()
	if !m.cfg.allows(r.RemoteAddr) {
		return &denial{http.StatusForbidden, "this address is not one from which others may ask"}
	}
	if m.cfg.RequireClientCertificates {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return &denial{http.StatusForbidden, "a client certificate is required"}
		}
		chain := r.TLS.PeerCertificates
		if err := verify(chain[0], chain[1:], m.authorities, c.clock.Now(), "", x509.ExtKeyUsageClientAuth); err != nil {
			return &denial{http.StatusForbidden, "client certificate: " + err.Error()}
		}
	}
	if m.cfg.Username != "" {
		user, password, given := r.BasicAuth()
		switch {
		case !given:
			return &denial{http.StatusUnauthorized, "user and password are required"}
		case !same(user, m.cfg.Username) || !same(password, m.password): // one sentence for both
			return &denial{http.StatusUnauthorized, "user or password is wrong"}
		}
	}
	return nil
}

// allows reports whether host:port is an address from which others may ask.
func (cfg CredentialsConfig) allows(remote string) bool {
	if len(cfg.Allow) == 0 {
		return true
	}
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	address := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(cfg.Allow, func(network netip.Prefix) bool { return network.Contains(address) })
}

// same compares in a time that tells nothing about the texts, not even whether
// they are equally long.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// verify holds a certificate against authorities.
func verify(leaf *x509.Certificate, between []*x509.Certificate, roots *x509.CertPool, now time.Time, host string, usage x509.ExtKeyUsage) error {
	options := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage},
	}
	for _, certificate := range between {
		options.Intermediates.AddCert(certificate)
	}
	_, err := leaf.Verify(options)
	return err
}

// watch looks at the files again and again.
func (c *Credentials) watch(ctx context.Context) {
	for timectx.Sleep(ctx, c.clock, c.every) == nil {
		_ = c.Refresh() // has been logged
	}
}

// Refresh reads the files now. Its error says why what they hold cannot be
// used; the credentials are then what they were. It need not be called.
func (c *Credentials) Refresh() error {
	if c == nil {
		return nil
	}
	c.refresh.Lock() // held while files are read: whoever waits for this wants just that
	defer c.refresh.Unlock()
	before := c.current.Load()
	m, err := c.read(before.cfg)
	if err != nil {
		c.warn("the old ones stay in use: " + err.Error())
		return fmt.Errorf("credentials: %w", err)
	}
	if !m.files.equal(before.files) {
		c.current.Store(m)
		c.logger.Info("credentials have changed")
	}
	c.warn(c.faultOf(c.current.Load()))
	return nil
}

// ErrEncryption says that a line which is in use cannot begin, or cease, to be
// encrypted: others know it by its URL.
var ErrEncryption = errors.New("the line is encrypted or not for as long as it is open")

// Replace shows and demands what cfg says from now on, for every new connection and
// every request; LookEvery, Clock and Logger stay. Its error is that of
// OpenCredentials, or ErrEncryption; the credentials are then what they were.
func (c *Credentials) Replace(cfg CredentialsConfig) error {
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	c.refresh.Lock()
	defer c.refresh.Unlock()
	if cfg.encrypted() != c.current.Load().cfg.encrypted() {
		return fmt.Errorf("credentials: %w", ErrEncryption)
	}
	m, err := c.read(cfg)
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	c.current.Store(m)
	c.logger.Info("credentials have been replaced")
	c.warn(c.faultOf(m))
	return nil
}

func (cfg CredentialsConfig) encrypted() bool { return cfg.CertFile != "" }

// warn logs what is wrong, once.
func (c *Credentials) warn(fault string) {
	if fault != "" && fault != c.fault {
		c.logger.Warn("credentials", "problem", fault)
	}
	c.fault = fault
}

// faultOf says for which reason others will not accept this node's certificate,
// now or soon; "" if there is none.
func (c *Credentials) faultOf(m *material) string {
	if m.certificate == nil {
		return ""
	}
	now, leaf, name := c.clock.Now(), m.certificate.Leaf, m.cfg.CertFile
	switch end := leaf.NotAfter.UTC().Format(time.RFC3339); {
	case now.After(leaf.NotAfter):
		return fmt.Sprintf("the certificate in %s ended at %s: put a new one there", name, end)
	case now.Add(soon).After(leaf.NotAfter):
		return fmt.Sprintf("the certificate in %s ends at %s: put a new one there", name, end)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if m.cfg.RequireClientCertificates {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	for _, usage := range usages {
		host := ""
		if usage == x509.ExtKeyUsageServerAuth {
			host = m.cfg.Host
		}
		if err := verify(leaf, parsed(m.certificate.Certificate[1:]), m.authorities, now, host, usage); err != nil {
			return fmt.Sprintf("a node with the same authorities would refuse the certificate in %s: %v", name, err)
		}
	}
	return ""
}

// parsed are the certificates of a chain that can be read.
func parsed(chain [][]byte) []*x509.Certificate {
	var certificates []*x509.Certificate
	for _, der := range chain {
		if certificate, err := x509.ParseCertificate(der); err == nil {
			certificates = append(certificates, certificate)
		}
	}
	return certificates
}
