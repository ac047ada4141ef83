package pgctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/pghad/pghad/pg"
)

// fileFault says what is wrong with a file system, if that is what an error is
// about.
func fileFault(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &pg.FaultError{Kind: pg.ErrDiskFull, Path: path, Err: err, Remedy: "make room on its file system"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &pg.FaultError{Kind: pg.ErrPermission, Path: path, Err: err, Remedy: "let the user that this process runs as read and write it"}
	}
	return err
}

// sign is a piece of a message of PostgreSQL and what it means.
type sign struct {
	text   string
	kind   error
	remedy string
}

// diskSigns are found in messages of the server and of its programs.
var diskSigns = []sign{
	{"No space left on device", pg.ErrDiskFull, "make room on its file system"},
	{"Disk quota exceeded", pg.ErrDiskFull, "raise the quota of its user, or make room"},
	{"Permission denied", pg.ErrPermission, "give the files to the server's user"},
	{"Read-only file system", pg.ErrPermission, "mount its file system writable; the kernel's log says why it is not"},
}

// connectionSigns are found in messages of programs that connect elsewhere.
var connectionSigns = []sign{
	{"password authentication failed", pg.ErrPassword, passwordRemedy},
	{"no password supplied", pg.ErrPassword, passwordRemedy},
	{"pg_hba.conf", pg.ErrRefused, hbaRemedy},
	{"Connection refused", pg.ErrUnreachable, reachRemedy},
	{"No route to host", pg.ErrUnreachable, reachRemedy},
	{"timeout expired", pg.ErrUnreachable, reachRemedy},
	{"could not translate host name", pg.ErrUnreachable, reachRemedy},
}

const (
	passwordRemedy = "set ReplicationPassword to that of the role on all servers, or ALTER ROLE there" //nolint:gosec // advice, no password
	hbaRemedy      = "admit the replication role from this machine in the pg_hba.conf there: to replication, and to the controller's database"
	reachRemedy    = "see whether PostgreSQL runs there, listens at this address, and no firewall is between"
	historyRemedy  = "copy the file from pg_wal of another server or from the archive, or make a new copy of the data"
)

// startSigns are found in the last words of a server that did not come up.
var startSigns = []sign{
	{"could not create any TCP/IP sockets", pg.ErrPortInUse, "stop who listens there, or set ListenHost to addresses of this machine and Port to one that nobody uses"},
	{`.lock" already exists`, pg.ErrPortInUse, "stop the server that uses this socket, or set SocketDir or Port"},
	{"incorrect checksum in control file", pg.ErrCorrupt, cloneRemedy},
	{"control file contains invalid", pg.ErrCorrupt, cloneRemedy},
	{"global/pg_control", pg.ErrCorrupt, cloneRemedy},
	{"database files are incompatible with server", pg.ErrUnsupported, "set BinDir to the programs of the version and build that made the data"},
	{"could not locate a valid checkpoint record", pg.ErrCorrupt, cloneRemedy},
	{"could not locate required checkpoint record", pg.ErrCorrupt, cloneRemedy},
	{"invalid checkpoint record", pg.ErrCorrupt, cloneRemedy},
	{"insufficient parameter settings", pg.ErrParameter, "raise the setting to that of the primary"},
	{"could not load pg_hba.conf", pg.ErrParameter, "correct HBA"},
	{"could not load pg_ident.conf", pg.ErrParameter, "correct Ident"},
	{"could not load ", pg.ErrParameter, "correct HBA and Ident"},
	{"contains errors", pg.ErrParameter, "correct Parameters"},
	{"unrecognized configuration parameter", pg.ErrParameter, "correct Parameters"},
	{"invalid value for parameter", pg.ErrParameter, "correct Parameters"},
}

const cloneRemedy = "keep the directory for a look at it, and make a new copy of the data from another server or a backup"

// sessionSigns are fatal for a session only.
var sessionSigns = []sign{
	{text: "the database system is "},
	{text: "terminating connection due to"},
	{text: "archive command failed"},
	{text: "authentication failed"},
	{text: "no pg_hba.conf entry"},
	{text: "pg_hba.conf rejects"},
}

// find returns the first of signs that occurs in a text.
func find(text string, lists ...[]sign) (sign, bool) {
	for _, signs := range lists {
		for _, s := range signs {
			if strings.Contains(text, s.text) {
				return s, true
			}
		}
	}
	return sign{}, false
}

// toolFault says what is wrong, if a program of PostgreSQL has failed for something
// that a person can put right: with a directory of ours, or a server elsewhere.
func toolFault(path, address string, err error) error {
	failed := (*toolError)(nil)
	if !errors.As(err, &failed) {
		return err
	}
	if strings.Contains(failed.output, ".history\"") && strings.Contains(failed.output, "could not open file") {
		return &pg.FaultError{Kind: pg.ErrNoHistory, Path: path, Err: err, Remedy: historyRemedy}
	}
	if s, ok := find(failed.output, connectionSigns); ok && address != "" {
		return &pg.FaultError{Kind: s.kind, Address: address, Err: err, Remedy: s.remedy}
	}
	if s, ok := find(failed.output, diskSigns); ok {
		return &pg.FaultError{Kind: s.kind, Path: path, Err: err, Remedy: s.remedy}
	}
	return err
}

// dialFault says why a server elsewhere cannot be talked to.
func dialFault(address string, err error) error {
	fault := &pg.FaultError{Address: address, Err: err}
	var operation *net.OpError
	switch state := sqlState(err); {
	case err == nil:
		return nil
	case state == stateInvalidPassword:
		fault.Kind, fault.Remedy = pg.ErrPassword, passwordRemedy
	case state == stateNotAdmitted:
		fault.Kind, fault.Remedy = pg.ErrRefused, hbaRemedy
	case state == "" && (errors.As(err, &operation) || errors.Is(err, context.DeadlineExceeded)):
		fault.Kind, fault.Remedy = pg.ErrUnreachable, reachRemedy
	default:
		return err
	}
	return fault
}

// localFault says why the local server does not admit the controller.
func (c *Controller) localFault(err error) error {
	if sqlState(err) != stateNotAdmitted {
		return err
	}
	return &pg.FaultError{
		Kind: pg.ErrRefused, Path: c.dataPath(hbaFile), Err: err,
		Remedy: "it runs with other files than the controller writes: stop it and have the controller start it",
	}
}

const (
	stateInvalidPassword = "28P01"
	stateNotAdmitted     = "28000"
)

// exitError says why a server has ended that was to run.
func (c *Controller) exitError(server *postmaster) error {
	message := c.lastMessage(server)
	if message == "" {
		return fmt.Errorf("it has exited without a word: see %s", c.logPlace())
	}
	err := fmt.Errorf("it has exited: %s", message)
	s, ok := find(message, startSigns, diskSigns)
	if !ok {
		s, ok = find(c.messages(server), diskSigns) // in the details
	}
	if !ok {
		return err
	}
	if errors.Is(s.kind, pg.ErrParameter) {
		if line := complaint(c.messages(server)); line != "" {
			err = fmt.Errorf("%w (%s)", err, line)
		}
	}
	fault := &pg.FaultError{Kind: s.kind, Path: c.cfg.DataDir, Err: err, Remedy: s.remedy}
	if errors.Is(s.kind, pg.ErrPortInUse) {
		fault.Path, fault.Address = "", net.JoinHostPort(c.cfg.ListenHost, strconv.Itoa(c.cfg.Port))
	}
	return fault
}

// harmlessSigns are what a server says before it reads its configuration.
var harmlessSigns = []sign{{text: "starting PostgreSQL"}, {text: "listening on"}, {text: "skipping missing configuration file"}}

// complaint is the first line of a log that says what is wrong with a
// configuration.
func complaint(log string) string {
	for line := range strings.Lines(log) {
		_, text, ok := strings.Cut(line, "LOG:  ")
		if _, harmless := find(text, harmlessSigns); ok && !harmless {
			return strings.TrimSpace(text)
		}
	}
	return ""
}
