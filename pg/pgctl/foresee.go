package pgctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/pghad/pghad/pg"
)

// foreseen is what the dry run of pg_rewind has said, with its debug messages.
type foreseen struct {
	fork       string          // where the servers have diverged
	checkpoint string          // the one before, from which recovery will begin
	timeline   string          // of that checkpoint
	removed    map[string]bool // WAL files here that will be removed
}

var (
	saidFork       = regexp.MustCompile(`diverged at WAL location ([0-9A-F]+/[0-9A-F]+) `)
	saidCheckpoint = regexp.MustCompile(`last common checkpoint at ([0-9A-F]+/[0-9A-F]+) on timeline ([0-9]+)`)
	saidRemoved    = regexp.MustCompile(`pg_wal/([0-9A-F]{24}) \(REMOVE\)`)
)

// line reads one line.
func (f *foreseen) line(text string) {
	if found := saidFork.FindStringSubmatch(text); found != nil {
		f.fork = found[1]
	}
	if found := saidCheckpoint.FindStringSubmatch(text); found != nil {
		f.checkpoint, f.timeline = found[1], found[2]
	}
	if found := saidRemoved.FindStringSubmatch(text); found != nil {
		if f.removed == nil {
			f.removed = make(map[string]bool)
		}
		f.removed[found[1]] = true
	}
}

// mustBeRewindable refuses a rewind that would succeed and leave data that cannot be
// started: because WAL that its recovery needs would be neither here nor on the source,
// or because a tablespace would have to be made here. pg_rewind looks at neither.
func (c *Controller) mustBeRewindable(ctx context.Context, source pg.Upstream, seen foreseen) error {
	if seen.checkpoint == "" || seen.fork == "" {
		return nil // there is nothing to rewind
	}
	checkpoint, errCheckpoint := pg.ParseLSN(seen.checkpoint)
	fork, errFork := pg.ParseLSN(seen.fork)
	timeline, errTimeline := pg.ParseTimeline(seen.timeline)
	if err := errors.Join(errCheckpoint, errFork, errTimeline); err != nil {
		return fmt.Errorf("read what pg_rewind says: %w", err)
	}
	s, remote, err := c.greet(ctx, source)
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := c.short(ctx, "look at the WAL of "+source.Address())
	defer cancel()
	geometry, redo, err := c.recoveryStart(checkpoint, timeline)
	if err != nil {
		return fmt.Errorf("checkpoint at %s on timeline %s from which recovery would begin: %w", checkpoint, timeline, err)
	}
	stays, err := c.stayingWAL(geometry, fork, seen)
	if err != nil {
		return fmt.Errorf("look at the WAL here: %w", err)
	}
	missing, err := missingWAL(ctx, s, geometry, stays, redo, remote.Flushed)
	if err != nil {
		return fmt.Errorf("look at the WAL of %s: %w", source.Address(), err)
	}
	if missing != "" {
		return c.notRewindable(source, fmt.Errorf("recovery would begin at %s and needs the WAL file ........%s, which the server at %s does not have any more", redo, missing, source.Address()))
	}
	spaces, err := tablespaces(ctx, s)
	if err != nil {
		return fmt.Errorf("look at the tablespaces of %s: %w", source.Address(), err)
	}
	for _, space := range spaces {
		if there, err := exists(c.dataPath("pg_tblspc", space.oid)); err != nil || !there {
			return errors.Join(err, c.notRewindable(source, fmt.Errorf("the tablespace %s in %s is not here", space.name, space.location)))
		}
	}
	return nil
}

// notRewindable says that only a clone helps.
func (c *Controller) notRewindable(source pg.Upstream, seen error) error {
	return &pg.FaultError{Kind: pg.ErrRewindImpossible, Path: c.cfg.DataDir, Address: source.Address(), Err: seen, Remedy: "clone it"}
}

// recoveryStart is where recovery from a checkpoint begins, by its record here. Where
// the timeline's own file has become an incomplete one for the archive, a promotion has
// copied it to the next timeline's.
func (c *Controller) recoveryStart(checkpoint pg.LSN, timeline pg.Timeline) (geometry walGeometry, redo pg.LSN, err error) {
	control, err := c.readControlFile()
	if err != nil {
		return geometry, 0, err
	}
	directory, newest := c.dataPath("pg_wal"), control.timeline
	control.checkpoint = checkpoint
	var first error
	for control.timeline = timeline; control.timeline <= newest; control.timeline++ {
		if geometry, err = geometryOf(directory, control); err == nil {
			r := &recordReader{directory: directory, geometry: geometry, timeline: control.timeline, at: uint64(checkpoint)}
			var record checkpointRecord
			if record, err = r.checkpoint(); err == nil {
				return geometry, record.redo, nil
			}
		}
		first = cmp.Or(first, err)
	}
	return geometry, 0, first
}

// stayingWAL are the WAL files, by their names without the timeline, from before the
// fork that the rewind leaves here. Newer versions of pg_rewind keep those that they
// have read.
func (c *Controller) stayingWAL(geometry walGeometry, fork pg.LSN, seen foreseen) (map[string]bool, error) {
	entries, err := os.ReadDir(c.dataPath("pg_wal"))
	if err != nil {
		return nil, err
	}
	forked := geometry.fileName(0, fork)[8:]
	stays := make(map[string]bool)
	for _, entry := range entries {
		if name := entry.Name(); len(name) == 24 && name[8:] < forked && !seen.removed[name] {
			stays[name[8:]] = true
		}
	}
	return stays, nil
}

// missingWAL is the first WAL file between two positions, by its name without the
// timeline, that is neither there nor on a server; "" if there is none.
func missingWAL(ctx context.Context, s *session, geometry walGeometry, there map[string]bool, from, to pg.LSN) (string, error) {
	rows, err := s.rows(ctx, "SELECT pg_ls_dir('pg_wal', true, false)")
	if err != nil {
		return "", err
	}
	for _, row := range rows {
		if name := row[0]; len(name) == 24 {
			there[name[8:]] = true
		}
	}
	for at := uint64(from) / geometry.segment * geometry.segment; at < uint64(to); at += geometry.segment {
		if name := geometry.fileName(0, pg.LSN(at))[8:]; !there[name] {
			return name, nil
		}
	}
	return "", nil
}

// tablespace is one besides those that every server has.
type tablespace struct{ oid, name, location string }

func tablespaces(ctx context.Context, s *session) ([]tablespace, error) {
	const firstNormalOID = 16384
	rows, err := s.rows(ctx, "SELECT oid::text, spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid >= "+strconv.Itoa(firstNormalOID)+" ORDER BY spcname")
	if err != nil {
		return nil, err
	}
	found := make([]tablespace, len(rows))
	for i, row := range rows {
		found[i] = tablespace{row[0], row[1], row[2]}
	}
	return found, nil
}

// tablespacesHaveRoom refuses a clone whose tablespaces would lie where something is:
// pg_basebackup puts them where they are on the source, and there may lie those of the
// data that the copy is to replace. Where the user's own command goes is his affair.
func (c *Controller) tablespacesHaveRoom(ctx context.Context, source pg.Upstream) error {
	if len(c.cfg.CloneCommand) > 0 {
		return nil
	}
	s, _, err := c.greet(ctx, source)
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := c.short(ctx, "look at the tablespaces of "+source.Address())
	defer cancel()
	spaces, err := tablespaces(ctx, s)
	if err != nil {
		return fmt.Errorf("look at the tablespaces of %s: %w", source.Address(), err)
	}
	for _, space := range spaces {
		if !filepath.IsAbs(space.location) {
			continue // in the data directory
		}
		empty, err := isEmptyDir(space.location)
		if err != nil {
			return fileFault(space.location, err)
		}
		if !empty {
			return &pg.FaultError{
				Kind: pg.ErrNotEmpty, Path: space.location, Address: source.Address(),
				Err:    fmt.Errorf("the tablespace %s of the server at %s would come to %s", space.name, source.Address(), strings.TrimSuffix(space.location, "/")),
				Remedy: "move away what is there if nobody needs it, also if it is this server's own former tablespace, or set CloneCommand to a program that puts it elsewhere",
			}
		}
	}
	return nil
}
