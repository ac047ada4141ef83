package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pghad/pghad/dcs"
)

// What DCS.Type may be.
const (
	StoreEtcd      = "etcd"
	StoreZooKeeper = "zookeeper"
	StoreEmbedded  = "embedded"
)

// zooKeeperPort is ZooKeeper's usual port.
const zooKeeperPort = 2181

// DCS says where the configuration store is.
type DCS struct {
	Type         string
	Endpoints    []string
	Chroot       string   // of ZooKeeper
	ACL          []string // of ZooKeeper; see ParseACL
	Username     string
	Password     Secret
	PasswordFile string
	TLS          TLS
	Embedded     Embedded
}

// TLS says how to encrypt and authenticate.
type TLS struct {
	CAFile     string
	CertFile   string
	KeyFile    string
	ServerName string
}

// IsZero reports whether nothing is configured.
func (t TLS) IsZero() bool { return t == TLS{} }

// Embedded describes the etcd that the nodes themselves consist of.
type Embedded struct {
	Members map[string]string // node to peer URL
	Listen  string            // client URL of this node's member
	DataDir string
}

// Addresses are host and port of each endpoint.
func (d DCS) Addresses() []string {
	addresses := make([]string, 0, len(d.Endpoints))
	for _, endpoint := range d.Endpoints {
		if d.Type != StoreZooKeeper {
			if u, err := url.Parse(endpoint); err == nil { // checked before
				addresses = append(addresses, u.Host)
			}
			continue
		}
		if host, port, err := net.SplitHostPort(endpoint); err == nil {
			addresses = append(addresses, net.JoinHostPort(host, port))
		} else {
			addresses = append(addresses, net.JoinHostPort(strings.Trim(endpoint, "[]"), strconv.Itoa(zooKeeperPort)))
		}
	}
	return addresses
}

func (l *loader) checkDCS() {
	c := l.config.DCS
	if !slices.Contains([]string{StoreEtcd, StoreZooKeeper, StoreEmbedded}, c.Type) {
		return // checkChoices says it, and nothing else is known
	}
	l.checkEndpoints()
	switch {
	case !c.Password.IsZero() && c.Username == "":
		l.at("dcs.password", "has no user; set dcs.username")
	case c.Password.IsZero() && c.Username != "":
		l.at("dcs.username", "has no password; set dcs.password_file")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		l.at("dcs.tls", "cert_file and key_file belong together; give both or none")
	}
	if c.Type == StoreZooKeeper {
		l.checkZooKeeper()
	}
	for _, key := range l.keys {
		if of, limited := onlyOf(key.Name); limited && of != c.Type && l.isSet(key.Name) {
			l.at(key.Name, fmt.Sprintf("is for dcs.type %s, and that is %s; remove it, or write dcs.type: %s", of, c.Type, of))
		}
	}
}

// onlyOf is the kind of store that a key is for, if it is for one only.
func onlyOf(key string) (kind string, limited bool) {
	switch {
	case key == "dcs.chroot" || key == "dcs.acl":
		return StoreZooKeeper, true
	case strings.HasPrefix(key, "dcs.embedded."):
		return StoreEmbedded, true
	}
	return "", false
}

func (l *loader) checkEndpoints() {
	c := l.config.DCS
	example, look := "http://10.0.0.1:2379", l.endpoint
	if c.Type == StoreZooKeeper {
		example, look = "10.0.0.1:2181", zooKeeperEndpoint
	}
	if len(c.Endpoints) == 0 {
		l.at("dcs.endpoints", "names no server; write a list, like ["+example+"]")
	}
	for _, endpoint := range c.Endpoints {
		if sentence := look(endpoint); sentence != "" {
			l.at("dcs.endpoints", sentence)
		}
	}
}

// endpoint says what is wrong with an address of etcd. It never repeats a
// password.
func (l *loader) endpoint(text string) string {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return fmt.Sprintf("%q is not an address; write it like http://10.0.0.1:2379", redactUser(text))
	}
	port, err := strconv.Atoi(u.Port())
	switch {
	case u.User != nil:
		return "an address holds a user or password; write them as dcs.username and dcs.password_file"
	case err != nil || port < 1 || port > 65535:
		return fmt.Sprintf("%q has no port; write it like http://10.0.0.1:2379", text)
	case (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "":
		return fmt.Sprintf("%q has something after the port; remove it", text)
	case u.Scheme == "http" && !l.config.DCS.TLS.IsZero():
		return fmt.Sprintf("%q is not encrypted, but dcs.tls is set; write https, or remove dcs.tls", text)
	}
	return ""
}

// zooKeeperEndpoint says what is wrong with an address of ZooKeeper, which often
// is taken from elsewhere: from a connection string, or from etcd.
func zooKeeperEndpoint(text string) string {
	host, digits, err := net.SplitHostPort(text)
	if err != nil {
		host, digits = strings.Trim(text, "[]"), strconv.Itoa(zooKeeperPort)
	}
	port, err := strconv.Atoi(digits)
	switch {
	case strings.Contains(text, "://"):
		return fmt.Sprintf("%q is not an address of ZooKeeper; write it like 10.0.0.1:2181", redactUser(text))
	case strings.Contains(text, ","):
		return fmt.Sprintf("%q holds several addresses; write each as an element of the list", redactUser(text))
	case strings.Contains(text, "/"):
		return fmt.Sprintf("%q has a path after the port; write that as dcs.chroot", redactUser(text))
	case err != nil || port < 1 || port > 65535:
		return fmt.Sprintf("%q has no port; write it like 10.0.0.1:2181", redactUser(text))
	case host == "" || (net.ParseIP(host) == nil && strings.ContainsAny(host, ":@ \t'\"\\")):
		return fmt.Sprintf("%q is not an address; write it like 10.0.0.1:2181", redactUser(text))
	}
	return ""
}

func redactUser(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return redacted + text[i:]
	}
	return text
}

func (l *loader) checkZooKeeper() {
	c := l.config.DCS
	if strings.Contains(c.Username, ":") {
		l.at("dcs.username", fmt.Sprintf("%q has a colon in it, after which ZooKeeper would read the password; write another name", c.Username))
	}
	if c.Chroot != "" && c.Chroot != "/" {
		err := dcs.ValidateKey(c.Chroot)
		switch {
		case err != nil:
			sentence := strings.TrimSuffix(strings.TrimPrefix(err.Error(), "key "), ": "+dcs.ErrInvalid.Error())
			l.at("dcs.chroot", sentence+"; write it like /pghad")
		case c.Chroot == "/zookeeper" || strings.HasPrefix(c.Chroot, "/zookeeper/"):
			l.at("dcs.chroot", fmt.Sprintf("%q is ZooKeeper's own; write another path, like /pghad", c.Chroot))
		}
	}
	l.checkACL()
}

// checkEmbedded looks at what a node needs that has a member of the store.
func (l *loader) checkEmbedded() {
	c := l.config.DCS
	if c.Type != StoreEmbedded || !l.checkMembers() {
		return
	}
	for _, address := range []struct{ key, text string }{
		{"dcs.embedded.listen", c.Embedded.Listen},
		{"dcs.embedded.members", c.Embedded.Members[l.config.Node]},
	} {
		if sentence := c.memberSentence(address.text); sentence != "" {
			l.at(address.key, sentence)
		}
	}
	if inside(c.Embedded.DataDir, l.config.Postgres.DataDir) {
		l.at("dcs.embedded.data_dir", fmt.Sprintf("%s is inside postgres.data_dir, so a copy of the data would copy it too; write a directory beside it", c.Embedded.DataDir))
	}
}

// checkMembers looks at who the members are and reports whether this node is one.
func (l *loader) checkMembers() bool {
	const members, listen = "dcs.embedded.members", "dcs.embedded.listen"
	c, node := l.config.DCS, l.config.Node
	switch n := len(c.Embedded.Members); {
	case n == 0:
		l.at(members, "is missing; write where the members reach each other, like {a: https://10.0.0.1:2380, b: https://10.0.0.2:2380, c: https://10.0.0.3:2380}")
		return false
	case n%2 == 0:
		l.at(members, fmt.Sprintf("names %d nodes, of which as few may be lost as of %d; write an odd number, three or five", n, n-1))
	case n != len(c.Endpoints):
		l.at(members, fmt.Sprintf("names %d nodes, and dcs.endpoints has %d addresses; write one for each member", n, len(c.Endpoints)))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Embedded.Members)) {
		if sentence := l.endpoint(c.Embedded.Members[name]); sentence != "" {
			l.at(members, sentence)
		}
	}
	switch _, member := c.Embedded.Members[node]; {
	case !member:
		l.at(members, fmt.Sprintf("does not name this node, %s; write dcs.type: etcd on nodes that have no member", node))
	case c.Embedded.Listen == "":
		l.at(listen, "is missing; write the one of dcs.endpoints that is this node's own")
	case !slices.Contains(c.Endpoints, c.Embedded.Listen):
		l.at(listen, fmt.Sprintf("%q is none of dcs.endpoints; write the one that is this node's own", redactUser(c.Embedded.Listen)))
	default:
		return true
	}
	return false
}

// memberSentence says what is wrong with an address at which this node's member
// listens.
func (d DCS) memberSentence(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "" // has been said
	}
	ip := net.ParseIP(u.Hostname())
	switch {
	case ip == nil || ip.IsUnspecified():
		return fmt.Sprintf("%q is where this node's member listens, and that must be one IP address; write it like https://10.0.0.1:2379", address)
	case !ip.IsLoopback() && !d.TLS.mutual():
		return fmt.Sprintf("other machines can reach %s, and whoever does could change the cluster's records; "+
			"set dcs.tls with ca_file, cert_file and key_file, by which members and nodes show who they are", address)
	}
	return ""
}

// mutual reports whether both ends can show who they are.
func (t TLS) mutual() bool { return t.CAFile != "" && t.CertFile != "" && t.KeyFile != "" }
