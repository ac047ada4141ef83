package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Account is the operating-system user that PostgreSQL runs as here. PostgreSQL
// refuses root.
type Account struct {
	Name     string
	uid, gid int
	change   bool // this process is root and becomes it
}

// ServerAccount is the user postgres for root, and oneself otherwise.
func ServerAccount() (Account, error) {
	found, err := user.Current()
	root := os.Geteuid() == 0
	if root {
		found, err = user.Lookup("postgres")
		if err != nil {
			return Account{}, fmt.Errorf("PostgreSQL does not run as root, and the user postgres is missing; packages of PostgreSQL create it: %w", err)
		}
	}
	if err != nil {
		return Account{}, fmt.Errorf("own user: %w", err)
	}
	uid, errUID := strconv.Atoi(found.Uid)
	gid, errGID := strconv.Atoi(found.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return Account{}, fmt.Errorf("user %s: %w", found.Username, err)
	}
	return Account{Name: found.Username, uid: uid, gid: gid, change: root}, nil
}

// attributes are those of a process of this account.
func (a Account) attributes() *syscall.SysProcAttr {
	if !a.change {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}} //nolint:gosec // ids of the system
}

// Own gives a file to the account.
func (a Account) Own(path string) error {
	if !a.change {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// MakeDir makes a directory of the account, for nobody else.
func (a Account) MakeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return a.Own(path)
}
