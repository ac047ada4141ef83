package pgctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/pghad/pghad/pg"
)

// Existing is a server that was made and run by somebody else.
type Existing struct {
	// ConfigFile is its postgresql.conf, where that is not in the data directory
	// (Debian has it in /etc/postgresql). Default: the one in DataDir.
	ConfigFile string
}

// Adopt makes the data of an existing primary this controller's own: the data stays,
// its postgresql.conf gets a last line that includes the managed settings, and the
// replication role (and the monitoring role) is made. The
// server must have been shut down cleanly, and nobody else may start it from now on:
// disable its unit. It starts again by StartPrimary.
//
// Users who connect over the network are admitted by Config.HBA only; its former
// pg_hba.conf and pg_ident.conf are kept beside the new ones, with the ending .old.
// Calling it again is a success, and so is calling it after a crash.
func (c *Controller) Adopt(ctx context.Context, existing Existing) error {
	ctx, done, err := c.begin(ctx, "adopt the data")
	if err != nil {
		return err
	}
	defer done()
	if err := c.takeIn(ctx, existing); err != nil {
		return fmt.Errorf("adopt the data in %s: %w", c.cfg.DataDir, err)
	}
	return nil
}

func (c *Controller) takeIn(ctx context.Context, existing Existing) error {
	if c.adopt() != nil {
		return errors.New("the server runs: stop it first, fast, and see that nobody starts it again")
	}
	if err := c.drain(ctx); err != nil {
		return err
	}
	if err := c.repair(); err != nil {
		return err
	}
	disk, err := c.onDisk()
	switch {
	case err != nil:
		return err
	case disk.Standby:
		return errors.New("it is a standby's: adopt the primary, and clone it here")
	case !disk.Clean:
		return fmt.Errorf("it was not shut down cleanly (%s): start it as it was, and stop it fast", disk.State)
	}
	if err := c.keepExisting(existing); err != nil {
		return err
	}
	if _, err := c.prepare(func(s *settings) { s.Upstream, s.GateOpen = pg.Upstream{}, false }); err != nil {
		return err
	}
	if err := c.createRole(ctx, false); err != nil {
		return fmt.Errorf("create the replication role: %w", err)
	}
	return c.belong(disk.SystemID)
}

// keepExisting keeps the files of the one who ran the server so far.
func (c *Controller) keepExisting(existing Existing) error {
	main, err := readIfExists(c.dataPath(mainFile))
	if err != nil {
		return err
	}
	if existing.ConfigFile != "" && !strings.Contains(main, includeLine) {
		if err := c.cfg.account.copyFile(c.dataPath(mainFile), existing.ConfigFile); err != nil {
			return fmt.Errorf("keep %s: %w", existing.ConfigFile, err)
		}
	}
	if err := c.mustNotArchive(existing); err != nil {
		return err
	}
	for _, name := range []string{hbaFile, identFile} {
		text, err := os.ReadFile(c.dataPath(name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && strings.HasPrefix(string(text), generatedBy) {
			continue
		}
		if err != nil {
			return fileFault(c.dataPath(name), err)
		}
		if err := c.cfg.account.writeFile(c.dataPath(name+".old"), text); err != nil {
			return err
		}
	}
	return nil
}

// mustNotArchive refuses a server that archives by its own configuration, which
// would go on doing it when it is not the primary any more.
func (c *Controller) mustNotArchive(existing Existing) error {
	if c.cfg.Archive.Command != "" {
		return nil
	}
	for _, path := range []string{c.dataPath(mainFile), c.dataPath(autoFile), existing.ConfigFile} {
		text, err := os.ReadFile(path) //nolint:gosec // a file of the configured directories, or named by the caller
		if path == "" || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fileFault(path, err)
		}
		for line := range strings.Lines(string(text)) {
			name, value := splitSetting(line)
			if (name == "archive_command" || name == "archive_library") && value != "" {
				return &pg.FaultError{
					Kind: pg.ErrUnsupported, Path: path, Err: errors.New("it archives WAL by " + name),
					Remedy: "set Archive to that command, so that it archives only while it is the primary",
				}
			}
		}
	}
	return nil
}
