package daemon

import (
	"context"
	"regexp"
	"strings"

	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/pg/pgctl"
)

// founder is the controller of a node whose Init begins a cluster with what
// bootstrap_from says.
type founder struct {
	*pgctl.Controller
	cfg *config.Config
}

// Init implements ha.Starter.
func (f founder) Init(ctx context.Context) error {
	switch f.cfg.BootstrapFrom {
	case config.FromBackup:
		b := f.cfg.Backup
		return f.Restore(ctx, pgctl.Backup{
			Command: b.Command, RestoreCommand: b.RestoreCommand,
			Target: b.Target, Value: b.Value, Exclusive: b.Exclusive, Timeline: b.Timeline,
		})
	case config.FromExisting:
		return f.Adopt(ctx, pgctl.Existing{ConfigFile: f.cfg.Existing.ConfigFile})
	}
	return f.Controller.Init(ctx)
}

// fieldKeys are the keys that set the fields of pgctl.Config, which its errors speak
// of.
var fieldKeys = map[string]string{
	"Archive":               "postgres.archive.command",
	"Archive.Command":       "postgres.archive.command",
	"Archive.Resend":        "postgres.archive.resend",
	"BinDir":                "postgres.bin_dir",
	"CloneCommand":          "postgres.clone_command",
	"DataDir":               "postgres.data_dir",
	"Database":              "postgres.database",
	"Guard.Program":         "guard.program",
	"Guard.Watchdog":        "guard.watchdog",
	"Guard.WatchdogTimeout": "guard.watchdog_timeout",
	"HBA":                   "postgres.hba",
	"Ident":                 "postgres.ident",
	"ListenHost":            "postgres.listen",
	"MemberSlotsTTL":        "postgres.member_slots_ttl",
	"MonitorUser":           "postgres.monitor_user",
	"Parameters":            "postgres.parameters",
	"Port":                  "postgres.port",
	"Rejoin.Attempts":       "postgres.rejoin.attempts",
	"Rejoin.Then":           "postgres.rejoin.then",
	"Rejoin.Within":         "postgres.rejoin.within",
	"ReplicationPassword":   "postgres.replication.password",
	"ReplicationUser":       "postgres.replication.user",
	"SelfCheckTimeout":      "postgres.self_check_timeout",
	"SocketDir":             "postgres.socket_dir",
	"StateDir":              "postgres.state_dir",
	"Superuser":             "postgres.superuser",
	"User":                  "postgres.os_user",
}

// fieldWord is a word that may be a field: with a capital, and not in a path or in
// quotes, where it is the user's or PostgreSQL's.
var fieldWord = regexp.MustCompile(`(^|[\s(])([A-Z][A-Za-z]+(\.[A-Z][A-Za-z]+)?)`)

// inKeys words an error of pgctl, which speaks of the fields of its Config, in
// the keys of the configuration.
func inKeys(text string) string {
	return fieldWord.ReplaceAllStringFunc(text, func(found string) string {
		word := strings.TrimLeft(found, " \t\n(")
		key, ok := fieldKeys[word]
		if !ok {
			return found
		}
		return strings.TrimSuffix(found, word) + key
	})
}
