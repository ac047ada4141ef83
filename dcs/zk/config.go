package zk

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
)

// DefaultDialTimeout is how long one attempt to connect to one member may take.
// A member that takes a connection and does not speak is passed over after it,
// which should leave time for another in one renewal.
const DefaultDialTimeout = time.Second

// Config configures a Store.
type Config struct {
	// Servers are the members of the ensemble as host:port; without a port it is
	// 2181. Names are looked up again for every round of attempts to connect, and
	// may have several addresses.
	Servers []string
	// Chroot is the node below which all keys are, such as /pghad; empty or "/"
	// means the root. It is created when it does not exist.
	Chroot string
	// TLS secures the connections; nil means plain ones. Without a ServerName
	// the certificate must be for the name that stands in Servers.
	TLS *tls.Config
	// CurrentRoots, if not nil, is asked for the authorities of servers before each
	// connection, in place of TLS.RootCAs. It must be safe for use by several goroutines
	// at once. Connections that are open stay. It needs TLS.
	CurrentRoots func() (*x509.CertPool, error)
	// Username and Password authenticate by ZooKeeper's digest scheme.
	Username, Password string
	// CurrentPassword, if not nil, is asked for each connection and when an ACL has
	// refused a call, in place of Password. It must be safe for use by several goroutines
	// at once. A password that is new is presented beside those before it, on the same
	// connection and session. After an error the last one counts.
	//
	// ZooKeeper keeps no users: to change a password means to give the nodes ACLs for the
	// digest of the new one before those for the old one are taken away. Set ACL to both
	// for that time.
	CurrentPassword func() (string, error)
	// ACL is given to every node that is created. Nil means that only the user
	// may do anything where one is configured, and everybody otherwise.
	ACL []zk.ACL
	// DialTimeout bounds one attempt to connect to one member, including the
	// handshakes of TLS and of ZooKeeper; zero means DefaultDialTimeout.
	DialTimeout time.Duration
	// Lookup finds the addresses of a host; nil asks the system's resolver.
	Lookup func(ctx context.Context, host string) ([]string, error)
	// Clock times sessions, and the attempts to come back; nil means the real
	// one.
	Clock clock.Clock
	// Logger is told when a watch loses and regains contact and when a session
	// ends without having been closed; nil is silence.
	Logger *slog.Logger
}

// complete checks the configuration and fills in the defaults.
func (c *Config) complete() error {
	if len(c.Servers) == 0 {
		return fmt.Errorf("ZooKeeper needs at least one server: %w", dcs.ErrInvalid)
	}
	servers := make([]string, len(c.Servers))
	for i, server := range c.Servers {
		address, err := withPort(server)
		if err != nil {
			return err
		}
		servers[i] = address
	}
	c.Servers = servers
	if c.Chroot == "/" {
		c.Chroot = ""
	}
	if err := validateChroot(c.Chroot); err != nil {
		return err
	}
	if c.CurrentRoots != nil && c.TLS == nil {
		return fmt.Errorf("authorities of servers are for TLS, which is not configured: %w", dcs.ErrInvalid)
	}
	if (c.Username == "") != (c.Password == "" && c.CurrentPassword == nil) {
		return fmt.Errorf("user name and password of ZooKeeper are given both or not at all: %w", dcs.ErrInvalid)
	}
	if strings.Contains(c.Username, ":") {
		return fmt.Errorf("user name %q of ZooKeeper has a colon, which would begin the password: %w", c.Username, dcs.ErrInvalid)
	}
	if c.DialTimeout < 0 {
		return fmt.Errorf("dial timeout of %s is negative: %w", c.DialTimeout, dcs.ErrInvalid)
	}
	c.defaults()
	return nil
}

func (c *Config) defaults() {
	c.CurrentPassword = c.lastPassword()
	if c.ACL == nil {
		c.ACL = zk.WorldACL(zk.PermAll)
		if c.Username != "" {
			c.ACL = zk.AuthACL(zk.PermAll)
		}
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	if c.Lookup == nil {
		c.Lookup = net.DefaultResolver.LookupHost
	}
	if c.Clock == nil {
		c.Clock = clock.New()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// lastPassword asks for the password, and answers with the last one while there is no
// answer.
func (c *Config) lastPassword() func() (string, error) {
	ask, password := c.CurrentPassword, c.Password
	if ask == nil {
		return func() (string, error) { return password, nil }
	}
	var last atomic.Pointer[string]
	return func() (string, error) {
		password, err := ask()
		if err == nil {
			last.Store(&password)
		}
		if known := last.Load(); known != nil {
			return *known, nil
		}
		return "", err
	}
}

// withPort completes an address by ZooKeeper's port if it has none.
func withPort(server string) (string, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = strings.Trim(server, "[]"), strconv.Itoa(zk.DefaultPort)
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", fmt.Errorf("server %q of ZooKeeper is not host:port: %w", server, dcs.ErrInvalid)
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" {
		return "", fmt.Errorf("server %q of ZooKeeper is not host:port: %w", server, dcs.ErrInvalid)
	}
	return net.JoinHostPort(host, port), nil
}

// validateChroot accepts a path that ZooKeeper can have, other than its own.
func validateChroot(chroot string) error {
	if chroot == "" {
		return nil
	}
	if err := dcs.ValidateKey(chroot); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if chroot == "/zookeeper" || strings.HasPrefix(chroot, "/zookeeper/") {
		return fmt.Errorf("chroot %q is ZooKeeper's own: %w", chroot, dcs.ErrInvalid)
	}
	if i := strings.IndexFunc(chroot, unfit); i >= 0 {
		return fmt.Errorf("chroot %q has a character at byte %d that ZooKeeper cannot have in a path: %w", chroot, i, dcs.ErrInvalid)
	}
	return nil
}
