package daemon

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/pg/pgctl"
)

var (
	_ ha.PostgresController = founder{}
	_ ha.DeadlineSetter     = founder{}
)

// TestInKeys: the controller's fields are worded as keys of the configuration.
func TestInKeys(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"set BinDir to its programs":                         "set postgres.bin_dir to its programs",
		"set User to its owner, or chown -R it":              "set postgres.os_user to its owner, or chown -R it",
		"leave User empty":                                   "leave postgres.os_user empty",
		`ReplicationUser "x" is the superuser`:               `postgres.replication.user "x" is the superuser`,
		"port 5432":                                          "port 5432",
		"set Archive instead":                                "set postgres.archive.command instead",
		"Archive.Command: a command has":                     "postgres.archive.command: a command has",
		"Rejoin.Then \"x\": want":                            "postgres.rejoin.then \"x\": want",
		"correct HBA and Ident":                              "correct postgres.hba and postgres.ident",
		"or set SocketDir or Port":                           "or set postgres.socket_dir or postgres.port",
		"set ListenHost to addresses and Port to one":        "set postgres.listen to addresses and postgres.port to one",
		"Guard.Program: there is no pghad-guard":             "guard.program: there is no pghad-guard",
		"no identifier, no Identity, no /Port and no \"Port": "no identifier, no Identity, no /Port and no \"Port",
	} {
		require.Equal(t, want, inKeys(text))
	}
}

// TestEveryFieldHasAKey: each field of the controller's configuration is set by a
// key, or has none for a reason.
func TestEveryFieldHasAKey(t *testing.T) {
	t.Parallel()
	without := []string{
		"Name",    // the node's
		"SSLMode", // libpq's default
		"InitArgs",
		"ConnectTimeout", "StatementTimeout", "ReloadTimeout", "KillAfter", "FencePatience", "YieldPatience", "PromoteTimeout", "SourceTimeout", "Poll",
		"Commands", // the daemon is the parent, or the guard
		"Guard.WatchdogMargin",
		"Effects", "Clock", "Logger", // of this process
	}
	var names []string
	for _, key := range config.Keys() {
		names = append(names, key.Name)
	}
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for f := range typ.Fields() {
			if !f.IsExported() || slices.Contains(without, path+f.Name) {
				continue
			}
			switch f.Type {
			case reflect.TypeFor[pgctl.Archive](), reflect.TypeFor[pgctl.RejoinPolicy]():
				walk(path+f.Name+".", f.Type)
				continue
			case reflect.TypeFor[*pgctl.Guard]():
				walk(path+f.Name+".", f.Type.Elem())
				continue
			}
			require.Contains(t, names, fieldKeys[path+f.Name], path+f.Name)
		}
	}
	walk("", reflect.TypeFor[pgctl.Config]())
}

// TestControllerConfig: what the keys say reaches the controller.
func TestControllerConfig(t *testing.T) {
	t.Parallel()
	cfg := load(t, t.TempDir(), "PGHAD_POSTGRES_ARCHIVE_COMMAND=push %p", "PGHAD_POSTGRES_ARCHIVE_RESEND=7",
		"PGHAD_POSTGRES_CLONE_COMMAND=/copy,{dir}", "PGHAD_POSTGRES_REJOIN_ATTEMPTS=3", "PGHAD_POSTGRES_REJOIN_WITHIN=5m",
		"PGHAD_POSTGRES_REJOIN_THEN=hold", "PGHAD_POSTGRES_MEMBER_SLOTS_TTL=24h", "PGHAD_POSTGRES_MONITOR_USER=watcher",
		"PGHAD_POSTGRES_SELF_CHECK_TIMEOUT=3s", "PGHAD_POSTGRES_IDENT=m a b")
	got := controllerConfig(cfg, "10.0.0.1", quiet)
	require.Equal(t, pgctl.Archive{Command: "push %p", Resend: 7}, got.Archive)
	require.Equal(t, []string{"/copy", "{dir}"}, got.CloneCommand)
	require.Equal(t, pgctl.RejoinPolicy{Attempts: 3, Within: 5 * time.Minute, Then: pgctl.RejoinHold}, got.Rejoin)
	require.Equal(t, 24*time.Hour, got.MemberSlotsTTL)
	require.Equal(t, 3*time.Second, got.SelfCheckTimeout)
	require.Equal(t, "watcher", got.MonitorUser)
	require.Equal(t, []string{"m a b"}, got.Ident)
}
