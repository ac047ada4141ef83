package pgctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// ownFiles are configuration of this server that a copy of another one must not
// replace.
var ownFiles = []string{mainFile, autoFile}

// Rewind implements ha.Rebuilder. The data must have been shut down cleanly
// (start it as a standby and stop it fast): pg_rewind is not allowed to run
// recovery by itself, which would finish it on the old timeline. Nothing is
// changed before a dry run has passed.
func (c *Controller) Rewind(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	ctx, done, err := c.begin(ctx, "rewind")
	if err != nil {
		return pg.Position{}, err
	}
	defer done()
	floor, err := c.rewind(ctx, source)
	if err != nil {
		return pg.Position{}, fmt.Errorf("rewind to %s: %w", source.Address(), err)
	}
	return floor, nil
}

func (c *Controller) rewind(ctx context.Context, source pg.Upstream) (_ pg.Position, err error) {
	if left, found, err := c.unfinishedNote().read(); err != nil {
		return pg.Position{}, err
	} else if found && left.Copied && left.From == source.Address() {
		return c.finishRewind(ctx, source) // only the floor was missing
	}
	disk, err := c.beginRebuild(ctx)
	if err != nil {
		return pg.Position{}, err
	}
	if !disk.Clean {
		return pg.Position{}, fmt.Errorf("the data was not shut down cleanly (%s): start it as a standby and stop it fast first", disk.State)
	}
	remote, err := c.awaitSource(ctx, source)
	if err != nil {
		return pg.Position{}, err
	}
	if remote.SystemID != disk.SystemID {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrRewindImpossible, c.foreign(disk.SystemID, remote.SystemID, source))
	}
	over, err := c.attempt(copyRewind)
	if err != nil {
		return pg.Position{}, err
	}
	defer func() { err = errors.Join(err, over(ctx, err)) }()
	defer c.copies.begin(pg.Copying{How: copyRewind, From: source.Address(), Since: c.clock.Now()})()
	var seen foreseen
	if err := c.runRewind(ctx, source, seen.line, "--dry-run", "--debug"); err != nil {
		return pg.Position{}, err
	}
	if err := c.mustBeRewindable(ctx, source, seen); err != nil {
		return pg.Position{}, err
	}
	if err := c.saveOwnFiles(); err != nil {
		return pg.Position{}, err
	}
	progress := unfinished{Kind: unfinishedRewind, From: source.Address()}
	if err := c.unfinishedNote().write(progress); err != nil {
		return pg.Position{}, err
	}
	if err := c.runRewind(ctx, source, c.copies.line); err != nil {
		return pg.Position{}, fmt.Errorf("%w: %w", pg.ErrIncompleteCopy, err)
	}
	if err := c.takePossession(); err != nil {
		return pg.Position{}, err
	}
	progress.Copied = true
	if err := c.unfinishedNote().write(progress); err != nil {
		return pg.Position{}, err
	}
	return c.finishRewind(ctx, source)
}

// finishRewind reads the floor and lifts the ban on starting.
func (c *Controller) finishRewind(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	floor, err := c.floor(ctx, source)
	if err != nil {
		return pg.Position{}, err
	}
	if err := c.unfinishedNote().remove(); err != nil {
		return pg.Position{}, err
	}
	return floor, c.dropOwnFiles()
}

// beginRebuild checks that there is complete data that nobody uses.
func (c *Controller) beginRebuild(ctx context.Context) (pg.OnDisk, error) {
	if c.adopt() != nil {
		return pg.OnDisk{}, errors.New("the server runs: stop it first")
	}
	if err := c.drain(ctx); err != nil {
		return pg.OnDisk{}, err
	}
	if err := c.repair(); err != nil {
		return pg.OnDisk{}, err
	}
	if err := c.removePlaceholdersIfAny(); err != nil {
		return pg.OnDisk{}, err
	}
	return c.onDisk()
}

// removePlaceholdersIfAny is removePlaceholders for a directory that may have no
// data yet.
func (c *Controller) removePlaceholdersIfAny() error {
	there, err := exists(c.dataPath("pg_wal"))
	if err != nil || !there {
		return err
	}
	_, err = c.removePlaceholders()
	return err
}

// awaitSource waits until the source has finished a checkpoint on its timeline.
// Before, its control file names the old one and pg_rewind sees nothing to do.
func (c *Controller) awaitSource(ctx context.Context, source pg.Upstream) (pg.Remote, error) {
	ctx, cancel := timectx.With(ctx, c.clock, c.cfg.SourceTimeout, "first checkpoint of the source on its timeline")
	defer cancel()
	for {
		remote, err := c.identify(ctx, source)
		if err != nil || remote.CheckpointTimeline == remote.Lineage.Timeline {
			return remote, err
		}
		if err := timectx.Sleep(ctx, c.clock, 4*c.cfg.Poll); err != nil {
			return remote, fmt.Errorf("the source is on timeline %d and its last checkpoint on %d: try again when it has finished one: %w",
				remote.Lineage.Timeline, remote.CheckpointTimeline, err)
		}
	}
}

// sourceConninfo is the source as libpq reads it, for a tool.
func (c *Controller) sourceConninfo(source pg.Upstream, database string) string {
	text := fmt.Sprintf("host=%s port=%d user=%s passfile=%s sslmode=%s connect_timeout=%d application_name='pghad copy'",
		quoteConninfo(source.Host), source.Port, quoteConninfo(c.cfg.ReplicationUser), quoteConninfo(c.passfile()),
		c.cfg.SSLMode, max(2, int(c.cfg.ConnectTimeout.Seconds())))
	if database != "" {
		text += " dbname=" + quoteConninfo(database)
	}
	return text
}

// runRewind runs pg_rewind; line is called with each line that it says.
func (c *Controller) runRewind(ctx context.Context, source pg.Upstream, line func(string), more ...string) error {
	args := append([]string{
		filepath.Join(c.cfg.BinDir, "pg_rewind"), "-D", c.cfg.DataDir, "--source-server=" + c.sourceConninfo(source, c.cfg.Database),
		"--no-ensure-shutdown", "--progress",
	}, more...)
	_, err := c.runTool(ctx, tool{argv: args, line: line})
	if failed := (*toolError)(nil); errors.As(err, &failed) && hopeless(failed.output) {
		return fmt.Errorf("%w: %w", pg.ErrRewindImpossible, toolFault(c.cfg.DataDir, source.Address(), err))
	}
	return toolFault(c.cfg.DataDir, source.Address(), err)
}

// hopeless reports whether pg_rewind has said that it cannot help: lineages
// without a common ancestor, local WAL that is gone, servers that do not match.
func hopeless(output string) bool {
	for _, sign := range []string{
		"could not find common ancestor",
		"could not find previous WAL record",
		"could not read WAL record",
		"source and target clusters are from different systems",
		"clusters are not compatible with this version of pg_rewind",
		"target server needs to use either data checksums or",
		"requested WAL segment",
		".history\"",
	} {
		if strings.Contains(output, sign) {
			return true
		}
	}
	return false
}

// takePossession turns the copy in the data directory into this server's own,
// before the note that keeps it from being started goes: its own files, the
// managed settings, nothing of the source's roles, always a standby.
func (c *Controller) takePossession() error {
	if err := c.restoreOwnFiles(); err != nil {
		return err
	}
	if err := c.placeSignal(true); err != nil {
		return err
	}
	if err := c.removePlaceholdersIfAny(); err != nil {
		return err
	}
	_, err := c.prepare(func(s *settings) { s.Upstream, s.GateOpen = pg.Upstream{}, false })
	return err
}

// floor is the source's position after the copy.
func (c *Controller) floor(ctx context.Context, source pg.Upstream) (pg.Position, error) {
	remote, err := c.identify(ctx, source)
	if err != nil {
		return pg.Position{}, fmt.Errorf("read the floor: %w", err)
	}
	return pg.Position{Timeline: remote.Lineage.Timeline, LSN: remote.Flushed}, nil
}

// saveOwnFiles keeps this server's own files outside the data directory while a
// copy replaces it. What an interrupted copy has saved already is not replaced:
// what lies in the data directory since then may be the source's.
func (c *Controller) saveOwnFiles() error {
	if _, interrupted, err := c.unfinishedNote().read(); err != nil || interrupted {
		return err
	}
	if _, err := c.keepUserFile(); err != nil {
		return err
	}
	for _, name := range ownFiles {
		if err := c.cfg.account.removeDurably(c.statePath("own." + name)); err != nil {
			return err
		}
		if err := c.cfg.account.copyFile(c.statePath("own."+name), c.dataPath(name)); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	return nil
}

// restoreOwnFiles puts them back. A server without its own keeps the source's,
// whose sizes it needs to replay the source's WAL.
func (c *Controller) restoreOwnFiles() error {
	for _, name := range ownFiles {
		if err := c.cfg.account.copyFile(c.dataPath(name), c.statePath("own."+name)); err != nil {
			return fmt.Errorf("put %s back: %w", name, err)
		}
	}
	// An earlier version had the user's under another name, and was interrupted.
	if there, err := exists(c.statePath("own." + mainFile)); err != nil || there {
		return err
	}
	return c.cfg.account.copyFile(c.dataPath(mainFile), c.statePath("own."+baseFile))
}

// dropOwnFiles forgets what saveOwnFiles has kept.
func (c *Controller) dropOwnFiles() error {
	for _, name := range append([]string{baseFile}, ownFiles...) {
		if err := c.cfg.account.removeDurably(c.statePath("own." + name)); err != nil {
			return err
		}
	}
	return nil
}
