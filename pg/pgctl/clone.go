package pgctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/pghad/pghad/pg"
)

// Clone implements ha.Rebuilder. The old data stays in place until the copy is
// complete; a clone that is interrupted before that is undone at the next
// operation.
func (c *Controller) Clone(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	ctx, done, err := c.begin(ctx, "clone")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	floor, err := c.clone(ctx, source)
	if err != nil {
		return pg.Position{}, fmt.Errorf("clone %s: %w", source.Address(), err)
	}
	return floor, nil
}

func (c *Controller) clone(ctx context.Context, source pg.Upstream) (floor pg.Position, err error) {
	if c.adopt() != nil {
		return floor, errors.New("the server runs: stop it first")
	}
	if err := c.drain(ctx); err != nil {
		return floor, err
	}
	if err := c.repair(); err != nil {
		return floor, err
	}
	remote, err := c.identify(ctx, source)
	if err != nil {
		return floor, err
	}
	if err := c.mayBeReplaced(remote.SystemID, source); err != nil {
		return floor, err
	}
	if err := c.tablespacesHaveRoom(ctx, source); err != nil {
		return floor, err
	}
	over, err := c.attempt(copyClone)
	if err != nil {
		return floor, err
	}
	defer func() { err = errors.Join(err, over(ctx, err)) }()
	journal, err := c.beginClone(source)
	if err != nil {
		return floor, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.repair())
		}
	}()
	if err := c.copyBase(ctx, source); err != nil {
		return floor, toolFault(c.newDir(), source.Address(), err)
	}
	if err := c.checkCopy(remote.SystemID, source); err != nil {
		return floor, err
	}
	if err := c.copyHistories(ctx, source); err != nil {
		return floor, err
	}
	if floor, err = c.floor(ctx, source); err != nil {
		return floor, err
	}
	return floor, c.swap(journal)
}

// mayBeReplaced refuses to replace what is not a copy of this cluster's data, or the
// beginning of one: somebody's files, or another cluster's.
func (c *Controller) mayBeReplaced(systemID string, source pg.Upstream) error {
	known, found, err := c.identityNote().read()
	if err != nil {
		return err
	}
	if found && known.SystemID != systemID {
		return c.foreign(known.SystemID, systemID, source)
	}
	if _, interrupted, err := c.unfinishedNote().read(); err != nil || interrupted {
		return err
	}
	if _, err := majorOfData(c.cfg.DataDir); errors.Is(err, pg.ErrNoData) {
		return nil
	} else if err != nil {
		return err
	}
	control, err := c.readControlFile()
	if err != nil {
		c.log.Warn("the data that is to be replaced cannot be looked at", "error", err.Error())
		return nil // damaged data is what a copy is for
	}
	if control.systemID() != systemID {
		return c.foreign(control.systemID(), systemID, source)
	}
	return nil
}

// foreign says that the data here and the server there are of two clusters.
func (c *Controller) foreign(here, there string, source pg.Upstream) error {
	return &pg.FaultError{
		Kind: pg.ErrForeign, Path: c.cfg.DataDir, Address: source.Address(),
		Err:    fmt.Errorf("the data is of system %s, and the server at %s of %s", here, source.Address(), there),
		Remedy: "set DataDir and StateDir to those of the same cluster, or move away what is in both if nobody needs it",
	}
}

// copyBase makes the copy beside the data.
func (c *Controller) copyBase(ctx context.Context, source pg.Upstream) error {
	if err := c.cfg.account.makeDir(c.newDir(), 0o700); err != nil {
		return err
	}
	defer c.copies.begin(pg.Copying{How: copyClone, From: source.Address(), Since: c.clock.Now()})()
	argv := c.cloneCommand(source)
	if len(argv) == 0 {
		argv = []string{
			filepath.Join(c.cfg.BinDir, "pg_basebackup"), "-D", c.newDir(), "-d", c.sourceConninfo(source, ""),
			"-X", "stream", "-c", "fast", "-w", "--progress",
		}
	}
	_, err := c.runTool(ctx, tool{argv: argv, line: c.copies.line})
	return err
}

// cloneCommand is the user's own command, with what it needs to know filled in.
func (c *Controller) cloneCommand(source pg.Upstream) []string {
	fill := strings.NewReplacer("{dir}", c.newDir(), "{host}", source.Host, "{port}", strconv.Itoa(source.Port),
		"{user}", c.cfg.ReplicationUser, "{passfile}", c.passfile(), "{conninfo}", c.sourceConninfo(source, ""))
	argv := make([]string, len(c.cfg.CloneCommand))
	for i, argument := range c.cfg.CloneCommand {
		argv[i] = fill.Replace(argument)
	}
	return argv
}

// checkCopy refuses a copy that this server could not be started on, before the old
// data gives way to it.
func (c *Controller) checkCopy(systemID string, source pg.Upstream) error {
	if err := c.cfg.checkVersion(c.newDir()); err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	control, err := readControl(c.newDir())
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	if control.systemID() != systemID {
		return fmt.Errorf("the copy: %w", c.foreign(control.systemID(), systemID, source))
	}
	return syncDir(c.newDir())
}

// copyHistories fetches the history files that the source has and a base backup
// leaves out: a standby on an older timeline that will follow this server asks
// for each between its own and the newest.
func (c *Controller) copyHistories(ctx context.Context, source pg.Upstream) error {
	s, newest, err := c.greet(ctx, source)
	if err != nil {
		return fmt.Errorf("fetch the histories of timelines: %w", err)
	}
	defer s.close()
	for timeline := pg.Timeline(2); timeline <= newest.Lineage.Timeline; timeline++ {
		path := filepath.Join(c.newDir(), "pg_wal", historyName(timeline))
		if there, err := exists(path); err != nil || there {
			if err != nil {
				return err
			}
			continue
		}
		text, err := historyText(ctx, s, timeline)
		if sqlState(err) == stateUndefinedFile {
			continue // it was a copy itself once
		}
		if err != nil {
			return err
		}
		if err := c.cfg.account.writeFile(path, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

const stateUndefinedFile = "58P01"

// beginClone checks what a clone needs and writes its journal.
func (c *Controller) beginClone(source pg.Upstream) (journal cloning, err error) {
	for _, dir := range []string{c.newDir(), c.oldDir()} {
		if there, err := exists(dir); err != nil || there {
			return journal, errors.Join(&pg.FaultError{Kind: pg.ErrNotEmpty, Path: dir, Err: errors.New("it is in the way"), Remedy: "move it away"}, err)
		}
	}
	if err := c.mustBeMovable(); err != nil {
		return journal, err
	}
	empty, err := isEmptyDir(c.cfg.DataDir)
	if err != nil {
		return journal, err
	}
	keep := c.saveOwnFiles
	if empty {
		keep = c.dropOwnFiles
	}
	if err := keep(); err != nil {
		return journal, err
	}
	there, err := exists(c.cfg.DataDir)
	if err != nil {
		return journal, err
	}
	journal = cloning{Phase: cloneCopying, From: source.Address(), HadData: there}
	return journal, c.cloneNote().write(journal)
}

// mustBeMovable refuses a data directory that cannot be swapped by renames.
func (c *Controller) mustBeMovable() error {
	var data, parent syscall.Stat_t
	if err := syscall.Stat(filepath.Dir(c.cfg.DataDir), &parent); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("parent of %s: %w", c.cfg.DataDir, err)
	}
	link, err := os.Lstat(c.cfg.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syscall.Stat(c.cfg.DataDir, &data); err != nil {
		return fmt.Errorf("data directory %s: %w", c.cfg.DataDir, err)
	}
	if link.Mode()&os.ModeSymlink != 0 || data.Dev != parent.Dev {
		return fmt.Errorf("data directory %s is a mount point or a link, so a copy beside it cannot take its place: make DataDir a directory below it", c.cfg.DataDir)
	}
	return nil
}

// swap puts the finished copy in the place of the old data.
func (c *Controller) swap(journal cloning) error {
	journal.Phase = cloneSwapping
	if err := c.cloneNote().write(journal); err != nil {
		return err
	}
	if journal.HadData {
		if err := c.cfg.account.rename(c.cfg.DataDir, c.oldDir()); err != nil {
			return fmt.Errorf("move the old data aside: %w", err)
		}
	}
	if err := c.cfg.account.rename(c.newDir(), c.cfg.DataDir); err != nil {
		return fmt.Errorf("put the copy in place: %w", err)
	}
	if err := c.takePossession(); err != nil {
		return err
	}
	control, err := c.readControlFile()
	if err != nil {
		return err
	}
	if err := c.belong(control.systemID()); err != nil {
		return err
	}
	journal.Phase = cloneRemoving
	if err := c.cloneNote().write(journal); err != nil {
		return err
	}
	// From here on the new data is what counts, whatever happens to the old.
	if err := c.finishClone(); err != nil {
		c.log.Warn("a finished clone is cleared up later", "error", err.Error())
	}
	return nil
}
