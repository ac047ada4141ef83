package pgctl

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pghad/pghad/pg"
)

// A parameter is managed in one of these ways.
type management int

const (
	userOwned management = iota
	fixed                // the controller's value, refused in Config.Parameters
	bounded              // the user may choose among safe values
)

// fixedParameters are written by the controller and refused from the user:
// replication, lineage and access depend on them.
var fixedParameters = []string{
	"archive_command", "archive_library", "archive_mode", "archive_recovery", "cluster_name", "config_file", "data_directory", "hba_file", "hot_standby", "ident_file", "include", "include_dir", "include_if_exists",
	"listen_addresses", "port", "primary_conninfo", "primary_slot_name", "promote_trigger_file", "recovery_target",
	"recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
	"recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "restart_after_crash", "restore_command",
	"synchronous_standby_names", "unix_socket_directories", "wal_log_hints", "wal_receiver_status_interval",
	"wal_retrieve_retry_interval", revisionParameter,
}

// revisionParameter is a setting of ours that numbers the written
// configurations: a new session that shows it proves that the postmaster has
// read that configuration and, after it, pg_hba.conf.
const revisionParameter = "pghad.revision"

// boundedParameters have a default and a check for the user's value, which
// returns what is wrong with it.
var boundedParameters = map[string]struct {
	standard string
	check    func(value string) string
}{
	"synchronous_commit": {"on", func(value string) string {
		if slices.Contains([]string{"on", "true", "yes", "1", "remote_apply"}, strings.ToLower(value)) {
			return ""
		}
		return "a commit must be durable on standbys before it is acknowledged: use on or remote_apply, and lower it in single sessions"
	}},
	"wal_level": {"replica", func(value string) string {
		if slices.Contains([]string{"replica", "logical"}, strings.ToLower(value)) {
			return ""
		}
		return "standbys need replica or logical"
	}},
	"max_wal_senders":       {"16", atLeast(5)},
	"max_replication_slots": {"16", atLeast(5)},
	"fsync":                 {"on", mustBeOn("a crash would lose acknowledged commits")},
	"full_page_writes":      {"on", mustBeOn("pg_rewind and crash recovery need it")},
}

// defaultParameters are set only where the user has not set them.
var defaultParameters = map[string]string{
	"wal_keep_size":     "128MB",
	"logging_collector": "off",
}

// syncMethod is a default from PostgreSQL 14 on: crash recovery first makes the
// data directory durable, with one call for the file system rather than with
// two for each file, which takes most of the time of a restart in place.
const (
	syncMethod        = "recovery_init_sync_method"
	syncMethodValue   = "syncfs"
	syncMethodVersion = 140000
)

// fileParameters are the user's, but not by ALTER SYSTEM, over which the
// controller could not put its own value while it fences.
var fileParameters = []string{"recovery_min_apply_delay"}

// Managed reports whether a parameter of PostgreSQL is the controller's alone
// and is refused in Config.Parameters.
func Managed(name string) bool { return managementOf(name) == fixed }

func managementOf(name string) management {
	name = strings.ToLower(name)
	if slices.Contains(fixedParameters, name) {
		return fixed
	}
	if _, ok := boundedParameters[name]; ok {
		return bounded
	}
	return userOwned
}

func atLeast(least int) func(string) string {
	return func(value string) string {
		if n, err := strconv.Atoi(value); err == nil && n >= least {
			return ""
		}
		return fmt.Sprintf("replicas, backups and their slots need at least %d", least)
	}
}

func mustBeOn(why string) func(string) string {
	return func(value string) string {
		if slices.Contains([]string{"on", "true", "yes", "1"}, strings.ToLower(value)) {
			return ""
		}
		return "it must stay on: " + why
	}
}

func (cfg *Config) checkParameters() error {
	seen := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(cfg.Parameters)) {
		value := cfg.Parameters[name]
		lower := strings.ToLower(name)
		if !parameterName.MatchString(name) {
			return fmt.Errorf("parameter %q: that is not the name of a setting of PostgreSQL", name)
		}
		if other, ok := seen[lower]; ok {
			return fmt.Errorf("parameters %q and %q are the same setting: keep one", other, name)
		}
		seen[lower] = name
		if strings.ContainsRune(value, 0) {
			return fmt.Errorf("parameter %s: a value cannot hold a zero byte", name)
		}
		switch managementOf(name) {
		case fixed:
			if strings.HasPrefix(lower, "archive_") {
				return fmt.Errorf("parameter %s is managed by this software, so that a primary which has lost its right archives nothing: set Archive instead", name)
			}
			return fmt.Errorf("parameter %s is managed by this software: remove it from the parameters", name)
		case bounded:
			if wrong := boundedParameters[lower].check(value); wrong != "" {
				return fmt.Errorf("parameter %s = %s: %s", name, value, wrong)
			}
		case userOwned:
		}
	}
	return nil
}

// tryParameters has PostgreSQL read the user's parameters, names and values: one
// that it does not take would keep every later change from coming into force, and
// the server from starting.
func (c *Controller) tryParameters(parameters map[string]string) error {
	if len(parameters) == 0 {
		return nil
	}
	err := c.readParameters(c.statePath("try"), parameters)
	if err == nil || errors.Is(err, pg.ErrParameter) {
		return err
	}
	// A full disk, for example, is no reason not to look after a running server.
	c.log.Warn("the parameters have not been tried", "error", err.Error())
	return nil
}

// readParameters has PostgreSQL read them in a directory that is made and removed.
func (c *Controller) readParameters(dir string, parameters map[string]string) error {
	if err := c.cfg.account.makeDir(dir, 0o700); err != nil {
		return err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		b.WriteString(setting{name, parameters[name]}.String())
	}
	if err := c.cfg.account.writeFile(filepath.Join(dir, mainFile), []byte(b.String())); err != nil {
		return err
	}
	_, err := c.run(c.lifetime, "", "postgres", "-D", dir, "-C", "server_version")
	if failed := (*toolError)(nil); errors.As(err, &failed) {
		seen := err
		if line := complaint(failed.output); line != "" {
			seen = errors.New(line)
		}
		err = &pg.FaultError{Kind: pg.ErrParameter, Path: c.cfg.BinDir, Err: seen, Remedy: "correct Parameters"}
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// setting is one line of postgresql.conf.
type setting struct{ name, value string }

func (s setting) String() string { return s.name + " = " + quoteSetting(s.value) + "\n" }

// quoteSetting quotes a value as guc-file.l of PostgreSQL reads it.
func quoteSetting(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`).Replace(value) + "'"
}

// quoteConninfo quotes a value of a connection string as libpq reads it.
func quoteConninfo(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// quoteIdentifier quotes a name in SQL, pg_hba.conf and pg_ident.conf.
func quoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteLiteral quotes a string in SQL, whatever standard_conforming_strings is.
func quoteLiteral(value string) string {
	return ` E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + `'`
}
