package pgctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pghad/pghad/pg"
)

// rewindFunctions are what pg_rewind calls on its source, as its documentation
// lists them, and what Identify calls.
var rewindFunctions = []string{
	"pg_ls_dir(text, boolean, boolean)",
	"pg_stat_file(text, boolean)",
	"pg_read_binary_file(text)",
	"pg_read_binary_file(text, bigint, bigint, boolean)", //nolint:dupword // offset and length
	"pg_control_checkpoint()",
}

// Init implements ha.Starter. An initdb that was interrupted is begun anew.
func (c *Controller) Init(ctx context.Context) error {
	ctx, done, err := c.begin(ctx, "make a new data directory")
	if err != nil {
		return err
	}
	defer done()
	if err := c.init(ctx); err != nil {
		return fmt.Errorf("make a new data directory in %s: %w", c.cfg.DataDir, err)
	}
	return nil
}

func (c *Controller) init(ctx context.Context) error {
	if err := c.beginInit(ctx, unfinishedInit); err != nil {
		return err
	}
	if err := c.initdb(ctx); err != nil {
		return err
	}
	return c.unfinishedNote().remove()
}

func (c *Controller) initdb(ctx context.Context) error {
	args := append([]string{"-D", c.cfg.DataDir, "-U", c.cfg.Superuser, "--auth=reject"}, c.cfg.InitArgs...)
	if _, err := c.run(ctx, "", "initdb", args...); err != nil {
		return toolFault(c.cfg.DataDir, "", err)
	}
	// The managed settings come before the first start already, so that the
	// control file has the sizes that a standby is checked against.
	if _, err := c.prepare(func(s *settings) { s.Upstream, s.GateOpen = pg.Upstream{}, false }); err != nil {
		return err
	}
	if err := c.createRole(ctx, true); err != nil {
		return fmt.Errorf("create the replication role: %w", err)
	}
	control, err := c.readControlFile()
	if err != nil {
		return err
	}
	if control.state != stateShutDown {
		return errors.New("the standalone server that creates the replication role was not shut down cleanly")
	}
	return c.belong(control.systemID())
}

// createRole lets a standalone server make the replication role: no socket, no
// postmaster, a clean shutdown at the end of its input. Functions are granted
// per database; one that is made here, in a new cluster, is a copy of template1.
func (c *Controller) createRole(ctx context.Context, fresh bool) error {
	statements, database := c.roleStatements(), c.cfg.Database
	if fresh && database != "postgres" {
		statements = append(statements, "CREATE DATABASE "+quoteIdentifier(c.cfg.Database))
		database = "template1"
	}
	args := []string{"--single", "-j", "-D", c.cfg.DataDir}
	for _, parameter := range []setting{
		{"exit_on_error", "true"},
		{"password_encryption", "scram-sha-256"},
		{"synchronous_standby_names", ""},
		{"log_statement", "none"},
		{"log_min_error_statement", "panic"},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
	} {
		args = append(args, "-c", parameter.name+"="+parameter.value)
	}
	// With -j a statement ends with an empty line.
	_, err := c.run(ctx, strings.Join(statements, ";\n\n")+";\n\n", "postgres", append(args, database)...)
	return toolFault(c.cfg.DataDir, "", err)
}

// createMissing makes a role if there is none of that name, without an error that a
// standalone server would end by.
func createMissing(role string) string {
	return "DO $pghad$BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname =" + quoteLiteral(role) + ") THEN CREATE ROLE " +
		quoteIdentifier(role) + "; END IF; END$pghad$"
}

// roleStatements make the replication role, or give it its rights and password, and
// the monitoring role.
func (c *Controller) roleStatements() []string {
	role := quoteIdentifier(c.cfg.ReplicationUser)
	statements := []string{
		createMissing(c.cfg.ReplicationUser),
		"ALTER ROLE " + role + " LOGIN REPLICATION PASSWORD" + quoteLiteral(c.cfg.ReplicationPassword),
	}
	for _, function := range rewindFunctions {
		statements = append(statements, "GRANT EXECUTE ON FUNCTION pg_catalog."+function+" TO "+role)
	}
	if c.cfg.MonitorUser != "" {
		statements = append(statements, MonitoringRole(c.cfg.MonitorUser)...)
	}
	return statements
}
