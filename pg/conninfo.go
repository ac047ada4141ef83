package pg

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Conninfo is a connection string of PostgreSQL: keywords of libpq and their
// values, in the order in which they were given. Nothing is known of what the
// keywords mean.
type Conninfo []ConninfoItem

// ConninfoItem is one keyword and its value.
type ConninfoItem struct {
	Keyword string
	Value   string
}

// ParseConninfo reads both forms that libpq takes: keyword = value, with values
// quoted by ', and \ before ' or \; and URIs, "postgresql://user@host:5432/db?a=b".
// A keyword that is given twice has its last value, in its first place.
func ParseConninfo(text string) (Conninfo, error) {
	for _, scheme := range []string{"postgresql://", "postgres://"} {
		if rest, ok := strings.CutPrefix(text, scheme); ok {
			return parseConninfoURI(rest)
		}
	}
	var items Conninfo
	rest := strings.TrimLeft(text, conninfoSpace)
	for rest != "" {
		var item ConninfoItem
		var err error
		if item, rest, err = nextConninfoItem(rest); err != nil {
			return nil, err
		}
		items = items.With(item.Keyword, item.Value)
		rest = strings.TrimLeft(rest, conninfoSpace)
	}
	return items, nil
}

const conninfoSpace = " \t\n\r\f\v"

// nextConninfoItem reads one keyword and its value as conninfo_parse of libpq does.
// No error repeats the text: it may hold a password.
func nextConninfoItem(text string) (item ConninfoItem, rest string, err error) {
	end := strings.IndexAny(text, "="+conninfoSpace)
	if end < 0 {
		end = len(text)
	}
	item.Keyword = text[:end]
	rest, ok := strings.CutPrefix(strings.TrimLeft(text[end:], conninfoSpace), "=")
	if !ok {
		return item, "", fmt.Errorf("connection string: no = after keyword %q", item.Keyword)
	}
	if !isConninfoKeyword(item.Keyword) {
		return item, "", fmt.Errorf("connection string: %q is not a keyword", item.Keyword)
	}
	rest = strings.TrimLeft(rest, conninfoSpace)
	quoted := strings.HasPrefix(rest, "'")
	if quoted {
		rest = rest[1:]
	}
	var value strings.Builder
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\':
			if i++; i < len(rest) {
				value.WriteByte(rest[i])
			}
		case quoted && c == '\'', !quoted && strings.IndexByte(conninfoSpace, c) >= 0:
			item.Value = value.String()
			return item, rest[i+1:], nil
		default:
			value.WriteByte(c)
		}
	}
	if quoted {
		return item, "", fmt.Errorf("connection string: the quote of keyword %q is not closed", item.Keyword)
	}
	item.Value = value.String()
	return item, "", nil
}

// isConninfoKeyword: all of libpq's are lower-case words.
func isConninfoKeyword(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// parseConninfoURI reads what follows the scheme of a URI. Several hosts are
// separated by commas, as are their ports.
func parseConninfoURI(text string) (Conninfo, error) {
	text, query, _ := strings.Cut(text, "?")
	authority, database, _ := strings.Cut(text, "/")
	var items Conninfo
	add := func(keyword, escaped string) error {
		value, err := url.PathUnescape(escaped)
		if err != nil || strings.ContainsRune(value, 0) {
			return fmt.Errorf("connection URI: the value of %s is not escaped correctly", keyword)
		}
		if value != "" {
			items = items.With(keyword, value)
		}
		return nil
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		authority = authority[at+1:]
		if err := add("user", user); err != nil {
			return nil, err
		}
		if err := add("password", password); err != nil {
			return nil, err
		}
	}
	hosts, ports, err := splitHosts(authority)
	if err != nil {
		return nil, err
	}
	for _, part := range []ConninfoItem{{"host", hosts}, {"port", ports}, {"dbname", database}} {
		if err := add(part.Keyword, part.Value); err != nil {
			return nil, err
		}
	}
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		keyword, value, ok := strings.Cut(pair, "=")
		if !ok || !isConninfoKeyword(keyword) || strings.Contains(value, "=") {
			return nil, fmt.Errorf("connection URI: want keyword=value after the question mark, with %%3D for =")
		}
		if value, err = url.PathUnescape(value); err != nil || strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("connection URI: the value of %s is not escaped correctly", keyword)
		}
		items = items.With(keyword, value)
	}
	return items, nil
}

// splitHosts separates "a:1,[::1]:2,c" into hosts and ports.
func splitHosts(authority string) (hosts, ports string, err error) {
	var hostList, portList []string
	for part := range strings.SplitSeq(authority, ",") {
		host, port := part, ""
		if rest, ok := strings.CutPrefix(part, "["); ok {
			if host, port, ok = strings.Cut(rest, "]"); !ok || port != "" && port[0] != ':' {
				return "", "", fmt.Errorf("connection URI: an address in brackets ends with ], then : and the port")
			}
			port = strings.TrimPrefix(port, ":")
		} else if at := strings.LastIndexByte(part, ':'); at >= 0 {
			host, port = part[:at], part[at+1:]
		}
		hostList, portList = append(hostList, host), append(portList, port)
	}
	hosts, ports = strings.Join(hostList, ","), strings.Join(portList, ",")
	if strings.Trim(ports, ",") == "" {
		ports = ""
	}
	return hosts, ports, nil
}

// Get returns the value of a keyword, "" if it is not given.
func (c Conninfo) Get(keyword string) string {
	for _, item := range c {
		if item.Keyword == keyword {
			return item.Value
		}
	}
	return ""
}

// With returns c with a keyword set to a value, in its place or at the end.
func (c Conninfo) With(keyword, value string) Conninfo {
	i := slices.IndexFunc(c, func(item ConninfoItem) bool { return item.Keyword == keyword })
	if i < 0 {
		return append(slices.Clone(c), ConninfoItem{keyword, value})
	}
	changed := slices.Clone(c)
	changed[i].Value = value
	return changed
}

// secretKeywords are those whose values nobody else is to see.
var secretKeywords = []string{"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}

// Public returns c without passwords and keys, for logs and people.
func (c Conninfo) Public() Conninfo {
	return slices.DeleteFunc(slices.Clone(c), func(item ConninfoItem) bool { return slices.Contains(secretKeywords, item.Keyword) })
}

// Address returns host and port for people, of the first host if there are several.
func (c Conninfo) Address() string {
	first := func(list string) string {
		value, _, _ := strings.Cut(list, ",")
		return value
	}
	host, port := first(c.Get("host")), first(c.Get("port"))
	if host == "" {
		host = first(c.Get("hostaddr"))
	}
	if port == "" {
		port = "5432"
	}
	return net.JoinHostPort(host, port)
}

// String returns the form keyword='value', separated by spaces, as libpq reads it.
// It holds the passwords: see Public.
func (c Conninfo) String() string {
	parts := make([]string, len(c))
	for i, item := range c {
		parts[i] = item.Keyword + "=" + QuoteConninfo(item.Value)
	}
	return strings.Join(parts, " ")
}

// QuoteConninfo quotes a value for the keyword form of a connection string.
func QuoteConninfo(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}
