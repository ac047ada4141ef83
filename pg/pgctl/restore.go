package pgctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Backup is what a new cluster begins with instead of initdb.
type Backup struct {
	// Command fills the data directory: a program and its arguments, run as
	// Config.User. In each argument {dir} is the directory, which exists and is empty.
	// What it leaves is a base backup, or the data of a server that was shut down.
	Command []string
	// RestoreCommand is restore_command, with %f and %p, by which recovery gets WAL.
	// Without it recovery has what Command has left.
	RestoreCommand string
	// Target is where recovery ends, by the name of the setting without
	// "recovery_target_": time, lsn, name, xid; or immediate. Default: the end of the
	// WAL that there is.
	Target string
	// Value is the target's value, as PostgreSQL reads it.
	Value string
	// Exclusive stops right before the target, not behind it.
	Exclusive bool
	// Timeline is recovery_target_timeline. Default: latest.
	Timeline string
}

// targets are the kinds of target that have a value.
var targets = []string{"time", "lsn", "name", "xid"}

func (b Backup) settings() ([]setting, error) {
	lines := []setting{
		{"restore_command", b.RestoreCommand},
		{"recovery_target_timeline", b.Timeline},
		{"recovery_target_action", "promote"},
		{"recovery_target_inclusive", "on"},
		{"listen_addresses", ""},
		{"hot_standby", "off"}, // whatever sizes the former server had
		{"archive_mode", "off"},
		{"synchronous_standby_names", ""},
	}
	if b.RestoreCommand == "" {
		lines[0].value = "false" // there must be one
	}
	if b.Timeline == "" {
		lines[1].value = "latest"
	}
	if b.Exclusive {
		lines[3].value = "off"
	}
	switch {
	case b.Target == "" && b.Value == "":
	case b.Target == "immediate" && b.Value == "":
		lines = append(lines, setting{"recovery_target", "immediate"})
	default:
		for _, target := range targets {
			if b.Target == target && b.Value != "" {
				return append(lines, setting{"recovery_target_" + target, b.Value}), nil
			}
		}
		return nil, fmt.Errorf("recovery target %q with value %q: want time, lsn, name or xid and a value, or immediate without one", b.Target, b.Value)
	}
	return lines, nil
}

// Restore makes a new data directory from a backup, recovered to a point in time on
// a timeline of its own, and shuts it down: the beginning of a new cluster, on
// explicit request only, like Init. It refuses a directory that is not empty. What
// an interrupted one has left is made anew.
func (c *Controller) Restore(ctx context.Context, backup Backup) error {
	ctx, done, err := c.begin(ctx, "restore a backup")
	if err != nil {
		return err
	}
	defer done()
	if err := c.restore(ctx, backup); err != nil {
		return fmt.Errorf("restore a backup to %s: %w", c.cfg.DataDir, err)
	}
	return nil
}

func (c *Controller) restore(ctx context.Context, backup Backup) error {
	flags, err := backup.settings()
	if err != nil {
		return err
	}
	if len(backup.Command) == 0 {
		return errors.New("there is no command that fills the directory: set Command")
	}
	if err := c.beginInit(ctx, unfinishedRestore); err != nil {
		return err
	}
	argv := make([]string, len(backup.Command))
	for i, argument := range backup.Command {
		argv[i] = strings.ReplaceAll(argument, "{dir}", c.cfg.DataDir)
	}
	if _, err := c.runTool(ctx, tool{argv: argv}); err != nil {
		return toolFault(c.cfg.DataDir, "", err)
	}
	if err := c.cfg.checkVersion(c.cfg.DataDir); err != nil {
		return err
	}
	control, err := c.readControlFile()
	if err != nil {
		return err
	}
	if _, err := c.prepare(func(s *settings) { *s = settings{Revision: s.Revision} }); err != nil {
		return err
	}
	if err := c.recover(ctx, flags); err != nil {
		return err
	}
	if err := c.belong(control.systemID()); err != nil {
		return err
	}
	return c.unfinishedNote().remove()
}

// recover runs recovery to its end on a server that nobody else can reach, and makes
// the roles.
func (c *Controller) recover(ctx context.Context, flags []setting) (err error) {
	if err := c.cfg.account.removeDurably(c.cfg.signalFile()); err != nil {
		return err
	}
	if err := c.cfg.account.writeFile(c.dataPath("recovery.signal"), nil); err != nil {
		return err
	}
	user, err := c.keepUserFile()
	if err != nil {
		return err
	}
	if err := c.cfg.account.writeFile(c.dataPath(managedFile), []byte(c.recoveryConf(user, flags))); err != nil {
		return err
	}
	server, err := c.spawnWith(ctx, &childRunner{cfg: &c.cfg}, false)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop(context.WithoutCancel(ctx), pg.StopImmediate))
		}
	}()
	if err := c.awaitRecovered(ctx, server); err != nil {
		return err
	}
	session, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer session.close()
	for _, statement := range append(c.roleStatements(), "CHECKPOINT") {
		if err := session.exec(ctx, statement); err != nil {
			return fmt.Errorf("make the roles: %w", err)
		}
	}
	session.close()
	if err := c.stop(ctx, pg.StopFast); err != nil {
		return err
	}
	disk, err := c.readControlFile()
	if err == nil && disk.state != stateShutDown {
		err = fmt.Errorf("the recovered server was not shut down cleanly: %s", disk.stateName())
	}
	return err
}

// recoveryConf are the managed settings, with others for one recovery, until the next
// change writes it anew. PostgreSQL objects to an empty target beside one that is
// set, wherever it stands.
func (c *Controller) recoveryConf(user string, flags []setting) string {
	var b strings.Builder
	for line := range strings.Lines(c.conf(c.current(), user)) {
		name, _ := splitSetting(line)
		if !strings.HasPrefix(name, "recovery_target") {
			b.WriteString(line)
		}
	}
	b.WriteString("\n# For the recovery of a backup.\n")
	for _, flag := range flags {
		b.WriteString(flag.String())
	}
	return b.String()
}

// awaitRecovered waits until a server is a primary.
func (c *Controller) awaitRecovered(ctx context.Context, server *postmaster) error {
	for {
		if err := c.admits(ctx, true); err == nil {
			return nil
		} else if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("recovery has not ended: %w (%w)", cause, err)
		}
		select {
		case <-server.gone:
			return c.exitError(server)
		default:
		}
		if err := timectx.Sleep(ctx, c.clock, 4*c.cfg.Poll); err != nil {
			return fmt.Errorf("recovery has not ended: %w", err)
		}
	}
}

// endRecovery stops a server that a killed controller has left in the recovery of a
// backup: it runs with other settings than those in its files.
func (c *Controller) endRecovery() error {
	left, found, err := c.unfinishedNote().read()
	if err != nil || !found || left.Kind != unfinishedRestore || c.running() == nil {
		return err
	}
	c.log.Warn("a recovery is ended whose controller was killed")
	return c.stop(c.lifetime, pg.StopImmediate)
}

// beginInit prepares an empty data directory, or one that an interrupted call of the
// same kind has begun to fill, and notes that it is not to be started.
func (c *Controller) beginInit(ctx context.Context, kind string) error {
	if c.adopt() != nil {
		return errors.New("a server runs on it")
	}
	// What is left of an initdb whose controller was killed ends without it.
	if err := c.drain(ctx); err != nil {
		return err
	}
	if err := c.repair(); err != nil {
		return err
	}
	left, interrupted, err := c.unfinishedNote().read()
	if err != nil {
		return err
	}
	if interrupted && (left.Kind == unfinishedInit || left.Kind == unfinishedRestore) {
		c.log.Warn("what an interrupted call has left is made anew", "what", left.Kind)
		if err := c.cfg.account.emptyDir(c.cfg.DataDir); err != nil {
			return err
		}
	}
	empty, err := isEmptyDir(c.cfg.DataDir)
	if err != nil {
		return fileFault(c.cfg.DataDir, err)
	}
	if !empty {
		return &pg.FaultError{Kind: pg.ErrNotEmpty, Path: c.cfg.DataDir, Remedy: "move its content away if nobody needs it"}
	}
	if err := c.cfg.account.makeDir(c.cfg.DataDir, 0o700); err != nil {
		return err
	}
	return c.unfinishedNote().write(unfinished{Kind: kind})
}
