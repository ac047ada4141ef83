package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// APIPort is where the API listens if nothing else is said.
const APIPort = 8008

// Addresses returns where the API listens and where others reach it, both
// host:port, on a node whose PostgreSQL others reach at host. Port 0 means any
// that is free, for both.
func (a API) Addresses(host string) (listen, advertise string) {
	listen = cmp.Or(a.Listen, net.JoinHostPort(host, strconv.Itoa(APIPort)))
	if a.Advertise != "" {
		return listen, a.Advertise
	}
	at, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen, listen // has been checked
	}
	if ip := net.ParseIP(at); ip != nil && ip.IsUnspecified() {
		at = host
	}
	return listen, net.JoinHostPort(at, port)
}

// Allowed are the networks of api.allow, which has been checked.
func (a API) Allowed() []netip.Prefix {
	var networks []netip.Prefix
	for _, text := range a.Allow {
		if network, err := parseNetwork(text); err == nil {
			networks = append(networks, network)
		}
	}
	return networks
}

// parseNetwork reads an address or a network.
func parseNetwork(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil || network.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network; write it like 10.0.0.11 or 10.0.0.0/24", text)
	}
	return network, nil
}

func (l *loader) checkAPI() {
	a := l.config.API
	for _, text := range a.Allow {
		if _, err := parseNetwork(text); err != nil {
			l.at("api.allow", err.Error())
		}
	}
	l.checkAPIAddresses()
	switch {
	case !a.Password.IsZero() && a.Username == "":
		l.at("api.password", "has no user; set api.username")
	case a.Password.IsZero() && a.Username != "":
		l.at("api.username", "has no password; set api.password_file")
	case strings.Contains(a.Username, ":"):
		l.at("api.username", fmt.Sprintf("%q has a colon in it, which HTTP does not permit; write another name", a.Username))
	}
	switch {
	case (a.TLS.CertFile == "") != (a.TLS.KeyFile == ""):
		l.at("api.tls", "cert_file and key_file belong together; give both or none")
	case a.TLS.CAFile != "" && a.TLS.CertFile == "":
		l.at("api.tls.ca_file", "has no use without api.tls.cert_file; set it and api.tls.key_file too")
	case a.TLS.ClientCertificates && a.TLS.CAFile == "":
		l.at("api.tls.client_certificates", "does not say whose certificates are good; set api.tls.ca_file")
	}
}

// checkAPIAddresses looks at what can be known without asking for names. What
// it cannot know, the API finds when it listens.
func (l *loader) checkAPIAddresses() {
	a, pg := l.config.API, l.config.Postgres
	if a.Advertise != "" {
		host, port, sentence := address(a.Advertise)
		switch {
		case sentence != "":
			l.at("api.advertise", sentence)
		case port == 0:
			l.at("api.advertise", fmt.Sprintf("%q has no port that others could reach; write it like 10.0.0.11:8008", a.Advertise))
		case listenSentence(host) != "":
			l.at("api.advertise", listenSentence(host))
		}
	}
	if a.IsZero() || (a.Listen == "" && pg.Listen == "") {
		return
	}
	listen, _ := a.Addresses(pg.Listen)
	host, port, sentence := address(listen)
	ip := net.ParseIP(host)
	switch {
	case sentence != "":
		l.at("api.listen", sentence)
	case ip != nil && !ip.IsLoopback() && !a.Protected():
		l.at("api.listen", OpenAPISentence(listen))
	case port == pg.Port && (host == pg.Listen || pg.Listen == "" || (ip != nil && ip.IsUnspecified())):
		l.at("api.listen", fmt.Sprintf("%d is PostgreSQL's port (postgres.port); write another one", port))
	}
}

// OpenAPISentence says what is wrong with an API at an address that other
// machines reach if nothing is demanded of whoever asks.
func OpenAPISentence(listen string) string {
	return fmt.Sprintf("other machines can reach %s, and nothing says who may ask; "+
		"set api.username and api.password_file, or api.tls with client_certificates: true, or write an address inside this machine", listen)
}

// address reads host:port. Its sentence says what is wrong with it, "" if
// nothing is.
func address(text string) (host string, port int, sentence string) {
	host, digits, err := net.SplitHostPort(text)
	if err != nil || host == "" || host == "*" {
		return "", 0, fmt.Sprintf("%q is not host:port; write it like 10.0.0.11:8008, or like 0.0.0.0:8008 for all addresses of this machine", text)
	}
	port, err = strconv.Atoi(digits)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Sprintf("%q has no port; write it like 10.0.0.11:8008", text)
	}
	if net.ParseIP(host) == nil && strings.ContainsAny(host, ":/, \t'\"\\") {
		return "", 0, fmt.Sprintf("%q is not one name or IP address; write it like 10.0.0.11:8008", host)
	}
	return host, port, ""
}
