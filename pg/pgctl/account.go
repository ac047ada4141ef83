package pgctl

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
)

// account is the operating-system user that the server runs as.
type account struct {
	name   string
	uid    uint32
	gid    uint32
	home   string
	change bool // the controller is root and has to become this user

	effects Effects // of the files that are written for it
}

// defaultServerUser is whom root runs the server as, as packages name it.
const defaultServerUser = "postgres"

// lookupAccount finds the server's user. PostgreSQL refuses root, and only root
// can become somebody else.
func lookupAccount(name string) (account, error) {
	self, err := user.Current()
	if err != nil {
		return account{}, fmt.Errorf("look up this process's user: %w", err)
	}
	root := os.Geteuid() == 0
	if name == "" {
		name = self.Username
		if root {
			name = defaultServerUser
		}
	}
	found := self
	if name != self.Username {
		if !root {
			return account{}, fmt.Errorf("user %q: only root can run the server as another user: leave User empty or run as %s", name, name)
		}
		if found, err = user.Lookup(name); err != nil {
			return account{}, fmt.Errorf("the server's user %q: %w: create it or set User", name, err)
		}
	}
	uid, errUID := strconv.ParseUint(found.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(found.Gid, 10, 32)
	if err := errors.Join(errUID, errGID); err != nil {
		return account{}, fmt.Errorf("the server's user %q: %w", name, err)
	}
	if uid == 0 {
		return account{}, errors.New("PostgreSQL does not run as root: set User to an ordinary user such as postgres")
	}
	return account{name: found.Username, uid: uint32(uid), gid: uint32(gid), home: found.HomeDir, change: root}, nil
}

// attributes makes a child the leader of its own session, so that a signal to
// the controller's terminal or group does not reach it, under this account.
func (a account) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setsid: true}
	if a.change {
		attributes.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups()}
	}
	return attributes
}

// groups returns the supplementary groups (Debian's certificates are readable
// through one), none if they cannot be looked up.
func (a account) groups() []uint32 {
	found, err := user.LookupId(strconv.FormatUint(uint64(a.uid), 10))
	if err != nil {
		return nil
	}
	ids, err := found.GroupIds()
	if err != nil {
		return nil
	}
	var groups []uint32
	for _, id := range ids {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(gid))
		}
	}
	slices.Sort(groups)
	return groups
}

// own gives a file to this account.
func (a account) own(path string) error {
	if !a.change {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}
