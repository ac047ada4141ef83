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
	"pg_read_binary_file(text, bigint, bigint, boolean)",
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
	if c.adopt() != nil {
		return errors.New("a server runs on it")
	}
	if err := c.repair(); err != nil {
		return err
	}
	left, interrupted, err := c.unfinishedNote().read()
	if err != nil {
		return err
	}
	if interrupted && left.Kind == unfinishedInit {
		c.log.Warn("an interrupted initdb is begun anew")
		if err := emptyDir(c.cfg.DataDir); err != nil {
			return err
		}
	}
	empty, err := isEmptyDir(c.cfg.DataDir)
	if err != nil {
		return err
	}
	if !empty {
		return errors.New("it is not empty: move its content away if nobody needs it")
	}
	if err := c.cfg.account.makeDir(c.cfg.DataDir, 0o700); err != nil {
		return err
	}
	if err := c.unfinishedNote().write(unfinished{Kind: unfinishedInit}); err != nil {
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
		return err
	}
	// A standalone server makes the role: no socket, no postmaster, a clean
	// shutdown at the end of its input. Functions are granted per database; one
	// that is made here is a copy of template1.
	statements, database := c.roleStatements(), "postgres"
	if c.cfg.Database != database {
		statements = append(statements, "CREATE DATABASE "+quoteIdentifier(c.cfg.Database))
		database = "template1"
	}
	// With -j a statement ends with an empty line.
	_, err := c.run(ctx, strings.Join(statements, ";\n\n")+";\n\n", "postgres", "--single", "-j", "-D", c.cfg.DataDir,
		"-c", "exit_on_error=true", "-c", "password_encryption=scram-sha-256", "-c", "log_statement=none",
		"-c", "log_min_error_statement=panic", "-c", "logging_collector=off", "-c", "log_destination=stderr", database)
	if err != nil {
		return fmt.Errorf("create the replication role: %w", err)
	}
	state, err := c.controlState()
	if err != nil {
		return err
	}
	if state != stateShutDown {
		return errors.New("the standalone server that creates the replication role was not shut down cleanly")
	}
	// Before the first start already: what is managed comes last and wins.
	_, err = c.prepare(func(s *settings) { s.Upstream, s.GateOpen = pg.Upstream{}, false })
	return err
}

// roleStatements make the replication role.
func (c *Controller) roleStatements() []string {
	role := quoteIdentifier(c.cfg.ReplicationUser)
	statements := []string{
		"CREATE ROLE " + role + " LOGIN REPLICATION PASSWORD" + quoteLiteral(c.cfg.ReplicationPassword),
	}
	for _, function := range rewindFunctions {
		statements = append(statements, "GRANT EXECUTE ON FUNCTION pg_catalog."+function+" TO "+role)
	}
	return statements
}
