package config

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg/pgctl"
)

// maxSocketPath is the longest path of a Unix socket on Linux, in bytes.
const maxSocketPath = 107

// derive fills the defaults that depend on other keys.
func (l *loader) derive() {
	pg := &l.config.Postgres
	if pg.DataDir == "" {
		return
	}
	pg.DataDir = filepath.Clean(pg.DataDir)
	pg.StateDir = filepath.Clean(cmp.Or(pg.StateDir, pg.DataDir+".pghad"))
	pg.SocketDir = filepath.Clean(cmp.Or(pg.SocketDir, filepath.Join(pg.StateDir, "socket")))
	if l.config.DCS.Type == StoreEmbedded {
		member := &l.config.DCS.Embedded
		member.DataDir = filepath.Clean(cmp.Or(member.DataDir, pg.DataDir+".etcd"))
	}
}

// check looks at values that have the right type.
func (l *loader) check() {
	l.checkNames()
	l.checkDCS()
	l.checkChoices()
	l.checkTiming()
	l.checkPaths()
	l.checkSettings()
	l.checkDuties()
	if !l.opts.Client {
		l.checkDirectories()
		l.checkPostgres()
		l.checkOrigin()
		l.checkAPI()
		l.checkEmbedded()
	}
}

func (l *loader) checkNames() {
	c := l.config
	for _, name := range []struct{ key, value string }{{"namespace", c.Namespace}, {"cluster", c.Cluster}, {"node", c.Node}} {
		if name.value == "" && l.opts.Client {
			continue
		}
		if err := record.ValidName(name.key, name.value); err != nil {
			l.at(name.key, strings.TrimPrefix(err.Error(), name.key+" name "))
		}
	}
}

func (l *loader) checkChoices() {
	for _, key := range l.keys {
		if text, ok := key.field(l.config).(*string); ok && len(key.OneOf) > 0 && !slices.Contains(key.OneOf, *text) {
			l.at(key.Name, fmt.Sprintf("%q is unknown; write one of %s", *text, strings.Join(key.OneOf, ", ")))
		}
	}
	if n := l.config.MaximumLagOnFailover; n < 1 {
		l.at("maximum_lag_on_failover", fmt.Sprintf("%d is no bound; write a number of bytes above zero", n))
	}
	if l.config.OnExit == string(ha.ExitKeep) && l.config.Guard.Use == GuardNever {
		l.at("on_exit", "keep leaves PostgreSQL to its guard, and guard.use is never; write guard.use: always, or on_exit: stop")
	}
	if d := l.config.Guard.WatchdogTimeout; d < time.Second || d%time.Second != 0 {
		l.at("guard.watchdog_timeout", fmt.Sprintf("%s is not what a device can be told; write whole seconds, at least 1s", d))
	}
	if p := l.config.Tags.FailoverPriority; p < 0 {
		l.at("tags.failover_priority", fmt.Sprintf("%d is below zero; write 0 for never, or a number above it", p))
	}
}

func (l *loader) checkPaths() {
	pg, tls, line := l.config.Postgres, l.config.DCS.TLS, l.config.API
	for _, p := range []struct{ key, path string }{
		{"dcs.password_file", l.config.DCS.PasswordFile},
		{"dcs.tls.ca_file", tls.CAFile},
		{"dcs.tls.cert_file", tls.CertFile},
		{"dcs.tls.key_file", tls.KeyFile},
		{"dcs.embedded.data_dir", l.config.DCS.Embedded.DataDir},
		{"postgres.bin_dir", pg.BinDir},
		{"postgres.data_dir", pg.DataDir},
		{"postgres.state_dir", pg.StateDir},
		{"postgres.socket_dir", pg.SocketDir},
		{"postgres.log", pg.Log},
		{"existing.config_file", l.config.Existing.ConfigFile},
		{"guard.program", l.config.Guard.Program},
		{"guard.watchdog", l.config.Guard.Watchdog},
		{"postgres.replication.password_file", pg.Replication.PasswordFile},
		{"api.tls.cert_file", line.TLS.CertFile},
		{"api.tls.key_file", line.TLS.KeyFile},
		{"api.tls.ca_file", line.TLS.CAFile},
		{"api.password_file", line.PasswordFile},
	} {
		if p.path != "" && l.isSet(p.key) && !filepath.IsAbs(p.path) {
			l.at(p.key, fmt.Sprintf("%q depends on where pghad is started; write the path from the root, with / at the front", p.path))
		}
	}
}

func (l *loader) checkDirectories() {
	pg := l.config.Postgres
	if inside(pg.StateDir, pg.DataDir) {
		l.at("postgres.state_dir", fmt.Sprintf("%s is inside data_dir, so a copy of the data would copy it too; write a directory beside it", pg.StateDir))
	}
	if inside(pg.DataDir, pg.StateDir) {
		l.at("postgres.data_dir", fmt.Sprintf("%s is inside state_dir; write a directory beside it", pg.DataDir))
	}
	if pg.Log != "" && inside(pg.Log, pg.DataDir) {
		l.at("postgres.log", fmt.Sprintf("%s is inside data_dir, so a copy of the data would remove it; write a path outside", pg.Log))
	}
	if n := len(pg.SocketDir) + len(fmt.Sprintf("/.s.PGSQL.%d", pg.Port)); n > maxSocketPath {
		l.at("postgres.socket_dir", fmt.Sprintf("the path of the socket would have %d bytes, and %d are possible; set a shorter directory", n, maxSocketPath))
	}
}

// inside reports whether path is dir or below it.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func (l *loader) checkPostgres() {
	pg := l.config.Postgres
	if pg.Port < 1 || pg.Port > 65535 {
		l.at("postgres.port", fmt.Sprintf("%d is not a port; write a number from 1 to 65535", pg.Port))
	}
	if sentence := listenSentence(pg.Listen); sentence != "" {
		l.at("postgres.listen", sentence)
	}
	if pg.Replication.Password.IsZero() {
		l.at("postgres.replication.password_file",
			"is missing (nodes copy from each other with this password, the same on all of them); set it in the file or by PGHAD_POSTGRES_REPLICATION_PASSWORD")
	}
	if pg.Replication.User == pg.Superuser {
		l.at("postgres.replication.user", fmt.Sprintf("%q is the superuser too; write another name", pg.Superuser))
	}
}

// checkSettings looks at what PostgreSQL is to be told.
func (l *loader) checkSettings() {
	pg := l.config.Postgres
	if err := pgctl.CheckSettings(pgctl.Settings{Parameters: pg.Parameters}); err != nil {
		l.at("postgres.parameters", strings.TrimPrefix(err.Error(), "parameter "))
	}
	for _, lines := range []struct {
		key  string
		text []string
	}{{"postgres.hba", pg.HBA}, {"postgres.ident", pg.Ident}} {
		if slices.ContainsFunc(lines.text, func(line string) bool { return strings.ContainsAny(line, "\r\n\x00") }) {
			l.at(lines.key, "an element has several lines; write one element for each line")
		}
	}
}

func (l *loader) checkDuties() {
	pg := l.config.Postgres
	if n := pg.Rejoin.Attempts; n < 1 {
		l.at("postgres.rejoin.attempts", fmt.Sprintf("%d permits no copy at all; write a number above zero", n))
	}
	if n := pg.Archive.Resend; n < 1 {
		l.at("postgres.archive.resend", fmt.Sprintf("%d is not a number of bytes above zero; write one, at least as much as the former primary may not have archived yet", n))
	}
	for _, command := range []struct {
		key  string
		argv []string
	}{{"postgres.clone_command", pg.CloneCommand}, {"backup.command", l.config.Backup.Command}} {
		switch {
		case l.isSet(command.key) && len(command.argv) == 0:
			l.at(command.key, "names no program; write a list of it and its arguments, or remove the key")
		case len(command.argv) > 0 && !filepath.IsAbs(command.argv[0]):
			l.at(command.key, fmt.Sprintf("%q depends on where pghad is started; write the program's path from the root, with / at the front", command.argv[0]))
		case len(command.argv) > 0 && !slices.ContainsFunc(command.argv, func(a string) bool { return strings.Contains(a, "{dir}") }):
			l.at(command.key, "does not say where to; write {dir} in the argument that is the directory to be filled")
		}
	}
}

// targets are the values of backup.target that have a value of their own.
var targets = []string{"time", "lsn", "name", "xid"}

func (l *loader) checkOrigin() {
	b := l.config.Backup
	if l.config.BootstrapFrom != FromBackup {
		for _, key := range l.keys {
			if shown, isSet := l.config.show(key); isSet && shown != key.Default && strings.HasPrefix(key.Name, "backup.") {
				l.at(key.Name, fmt.Sprintf("is for bootstrap_from backup, and that is %s; remove it, or write bootstrap_from: backup", l.config.BootstrapFrom))
				return
			}
		}
		return
	}
	if len(b.Command) == 0 && !l.complained("backup.command") {
		l.at("backup.command", "is missing; write the program and its arguments that fill {dir} from the backup")
	}
	switch named := slices.Contains(targets, b.Target); {
	case !named && b.Target != "" && b.Target != "immediate":
		l.at("backup.target", fmt.Sprintf("%q is unknown; write time, lsn, name, xid or immediate", b.Target))
	case named && b.Value == "":
		l.at("backup.target", fmt.Sprintf("%s needs a value; set backup.value", b.Target))
	case !named && b.Value != "":
		l.at("backup.value", "has no target that needs it; write backup.target: time, lsn, name or xid")
	}
}

// listenSentence says what is wrong with the address that others reach the
// server at: it must be one that can be told to them.
func listenSentence(address string) string {
	ip := net.ParseIP(address)
	switch {
	case address == "":
		return ""
	case address == "*" || (ip != nil && ip.IsUnspecified()):
		return fmt.Sprintf("%q is no address that other nodes could reach; write this node's own", address)
	case ip == nil && strings.ContainsAny(address, ":/, \t'\"\\"):
		return fmt.Sprintf("%q is not one address; write one name or IP address, without a port", address)
	}
	return ""
}
