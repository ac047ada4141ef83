package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
)

// freshRoots secures connections by TLS, each by the authorities of its moment.
type freshRoots struct {
	credentials.TransportCredentials // of the configuration that both begin with
	tls                              *tls.Config
	roots                            func() (*x509.CertPool, error)
}

func newFreshRoots(config *tls.Config, roots func() (*x509.CertPool, error)) credentials.TransportCredentials {
	return freshRoots{TransportCredentials: credentials.NewTLS(config), tls: config, roots: roots}
}

// ClientHandshake implements credentials.TransportCredentials.
func (f freshRoots) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	roots, err := f.roots()
	if err != nil {
		return nil, nil, fmt.Errorf("authorities of servers: %w", err)
	}
	config := f.tls.Clone()
	config.RootCAs = roots
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn) //nolint:wrapcheck // as without
}

// Clone implements credentials.TransportCredentials.
func (f freshRoots) Clone() credentials.TransportCredentials { return newFreshRoots(f.tls, f.roots) }
