package config

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// ACL is one element of dcs.acl: who may do what with a node in ZooKeeper.
type ACL struct {
	Scheme, ID  string
	Permissions string // letters of "cdrwa": create, delete, read, write, admin
}

const (
	allPermissions = "cdrwa"
	// neededPermissions are those without which pghad cannot work.
	neededPermissions = "cdrw"
)

// ParseACL reads scheme:id:permissions, as ZooKeeper's shell has it; the id may
// contain colons. The error is the rest of a sentence that begins with the key.
func ParseACL(text string) (ACL, error) {
	scheme, rest, _ := strings.Cut(text, ":")
	at := strings.LastIndexByte(rest, ':')
	if scheme == "" || at < 0 {
		return ACL{}, fmt.Errorf("%q is not scheme:id:permissions; write it like auth::cdrwa or world:anyone:r", text)
	}
	acl := ACL{Scheme: scheme, ID: rest[:at], Permissions: rest[at+1:]}
	for _, letter := range acl.Permissions {
		if !strings.ContainsRune(allPermissions, letter) {
			return ACL{}, fmt.Errorf("%q permits %q, which is none of c (create), d (delete), r (read), w (write) and a (admin)", text, string(letter))
		}
	}
	if acl.Permissions == "" {
		return ACL{}, fmt.Errorf("%q permits nothing; write letters of cdrwa after the last colon", text)
	}
	return acl, acl.check(text)
}

// check looks at ids of the schemes that every ZooKeeper has.
func (a ACL) check(text string) error {
	switch a.Scheme {
	case "world":
		if a.ID != "anyone" {
			return fmt.Errorf("%q: the scheme world has one id only; write world:anyone:%s", text, a.Permissions)
		}
	case "auth":
		if a.ID != "" {
			return fmt.Errorf("%q: the scheme auth is whoever is logged in, and has no id; write auth::%s", text, a.Permissions)
		}
	case "digest":
		user, hash, _ := strings.Cut(a.ID, ":")
		raw, err := base64.StdEncoding.DecodeString(hash)
		if err != nil || len(raw) != 20 || user == "" {
			return fmt.Errorf("the scheme digest needs the user and the hash of user:password, never the password itself; write digest:user:hash:permissions, or auth::%s for dcs.username",
				a.Permissions) // it may hold a password: not repeated
		}
	}
	return nil
}

// own reports whether it certainly is about who logs in as user, or certainly
// not. About other schemes only the server knows.
func (a ACL) own(user string) (ours, known bool) {
	switch a.Scheme {
	case "world":
		return true, true
	case "auth":
		return user != "", true
	case "digest":
		return user != "" && strings.HasPrefix(a.ID, user+":"), true
	}
	return false, false
}

func (l *loader) checkACL() {
	c := l.config.DCS
	if len(c.ACL) == 0 {
		if l.isSet("dcs.acl") {
			l.at("dcs.acl", "permits nobody anything; write a list, like [auth::cdrwa], or remove the key")
		}
		return
	}
	var permitted strings.Builder
	certain := true
	for _, text := range c.ACL {
		acl, err := ParseACL(text)
		if err != nil {
			l.at("dcs.acl", err.Error())
			return
		}
		if acl.Scheme == "auth" && c.Username == "" {
			l.at("dcs.acl", fmt.Sprintf("%q is for whoever is logged in, and pghad has no user; set dcs.username and dcs.password_file, or write another scheme", text))
			return
		}
		ours, known := acl.own(c.Username)
		if ours {
			permitted.WriteString(acl.Permissions)
		}
		certain = certain && known
	}
	missing := strings.Map(func(letter rune) rune {
		if strings.ContainsRune(permitted.String(), letter) {
			return -1
		}
		return letter
	}, neededPermissions)
	if !certain || missing == "" {
		return
	}
	add := "world:anyone:cdrwa"
	if c.Username != "" {
		add = "auth::cdrwa"
	}
	l.at("dcs.acl", fmt.Sprintf("does not permit pghad itself to create, delete, read and write (%s is missing); add %s", missing, add))
}
