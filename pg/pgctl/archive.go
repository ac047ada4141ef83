package pgctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghad/pghad/pg"
)

// Archive is how WAL is archived. Only a primary whose gate is open archives: not
// one that is being started, promoted, stopped or fenced, whose end of WAL may turn
// out not to be the cluster's. Under a guard the permission ends with the deadline,
// whatever becomes of the controller.
//
// After a promotion the WAL before it is sent to the archive again, as nobody knows
// how far the former primary had come with it.
type Archive struct {
	// Command is archive_command, with %p and %f. It must succeed, and change
	// nothing, for a file that the archive already has with the same content, and fail
	// for one with another content, as PostgreSQL's documentation asks for. Default:
	// nothing is archived.
	Command string
	// Resend is how many bytes of WAL before a promotion are sent again. Default: 1 GiB.
	Resend uint64
}

// standardResend is as much as wal_keep_size and some checkpoints leave.
const standardResend = 1 << 30

// notPermitted is the exit status of the archive command without permission. One
// above 128 ends the archiver at once: it does not hold up a shutdown by trying
// again, and is started anew ten seconds later.
const notPermitted = 130

// archiveOpen is the content of a permit that has no deadline.
const archiveOpen = "open"

// archivePermit is the file whose content is the permission to archive: archiveOpen,
// or the second, since 1970, until which it holds.
func (c *Controller) archivePermit() string { return c.statePath("archive.permit") }

// archiveSettings are the settings by which the server archives with permission, or
// not at all: a command of the user's own would run without permission, also on a
// primary that has lost its right.
func (c *Controller) archiveSettings() []setting {
	lines := []setting{{"archive_mode", "off"}, {"archive_command", ""}}
	if c.cfg.Archive.Command != "" {
		lines = []setting{{"archive_mode", "on"}, {"archive_command", c.archiveCommand()}}
	}
	if c.cfg.version >= 150000 {
		lines = append(lines, setting{"archive_library", ""})
	}
	return lines
}

// sayIneffective warns, once, of a command in the user's file that archives nothing.
func (c *Controller) sayIneffective(user string) {
	found := ""
	for line := range strings.Lines(user) {
		if name, value := splitSetting(line); value != "" && (name == "archive_command" || name == "archive_library") {
			found = name
		}
	}
	c.mu.Lock()
	said := c.archiver == found
	c.archiver = found
	c.mu.Unlock()
	if found != "" && !said {
		c.log.Warn("a setting of the user's file archives nothing, since it would on a primary too that has lost its right: only Archive does",
			"name", found, "path", c.dataPath(mainFile))
	}
}

// archiveCommand is the user's command behind the question for the permission. In
// archive_command a percent sign is doubled.
func (c *Controller) archiveCommand() string {
	permit := strings.ReplaceAll("'"+c.archivePermit()+"'", "%", "%%")
	return fmt.Sprintf(`p=$(cat %s 2>/dev/null) && { [ "$p" = %s ] || [ "$p" -gt "$(date +%%%%s)" ]; } || exit %d`+"\n%s",
		permit, archiveOpen, notPermitted, c.cfg.Archive.Command)
}

// permitPrimary lets a running primary with an open gate archive, unless it is told
// to stop. The reload that follows wakes its archiver.
func (c *Controller) permitPrimary() error {
	if c.cfg.Archive.Command == "" {
		return nil
	}
	standby, err := exists(c.cfg.signalFile())
	if err != nil || standby {
		return err
	}
	c.mu.Lock()
	serves, until := c.server != nil && !c.server.asked, c.archived
	c.mu.Unlock()
	if !serves {
		return nil
	}
	return c.cfg.account.writeFile(c.archivePermit(), []byte(permitText(until)))
}

func permitText(until time.Time) string {
	if until.IsZero() {
		return archiveOpen
	}
	return strconv.FormatInt(until.Unix(), 10)
}

// forbidArchiving takes the permission back. It does not wait for a file that is
// being archived.
func (c *Controller) forbidArchiving() error {
	if c.cfg.Archive.Command == "" {
		return nil
	}
	if err := c.cfg.account.removeDurably(c.archivePermit()); err != nil {
		return fmt.Errorf("forbid archiving: %w", fileFault(c.archivePermit(), err))
	}
	return nil
}

// forbidSoon is forbidArchiving for a stop, which no file system may hold up.
func (c *Controller) forbidSoon() {
	if c.cfg.Archive.Command == "" {
		return
	}
	done := make(chan struct{})
	c.tasks.Go(func() {
		defer close(done)
		if err := c.forbidArchiving(); err != nil {
			c.log.Warn("a server that is stopped may still archive", "error", err.Error())
		}
	})
	timer := c.clock.Timer(forbidPatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		c.log.Warn("a server that is stopped may still archive: the state directory does not answer")
	}
}

// forbidPatience is how long a stop waits for a file to be removed.
const forbidPatience = 100 * time.Millisecond

// archiveDeadline moves the end of a permission on, together with that of the guard.
func (c *Controller) archiveDeadline(left time.Duration) error {
	if c.cfg.Archive.Command == "" {
		return nil
	}
	until := c.clock.Now().Add(left)
	c.mu.Lock()
	c.archived = until
	c.mu.Unlock()
	// In place and not durably: it matters only as long as the machine runs.
	f, err := os.OpenFile(c.archivePermit(), os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // there is no permission
	}
	if err != nil {
		return fmt.Errorf("move the permission to archive on: %w", err)
	}
	_, err = f.WriteString(permitText(until))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("move the permission to archive on: %w", err)
	}
	return nil
}

// resendArchive has the server archive what is left of the WAL before a promotion:
// complete files of its own lineage, and the histories of its ancestors. PostgreSQL
// sends the incomplete last file and the new history by itself.
func (c *Controller) resendArchive(timeline pg.Timeline, history pg.History) error {
	if c.cfg.Archive.Command == "" {
		return nil
	}
	names, err := c.unsent(pg.Lineage{Timeline: timeline, History: history})
	if err != nil {
		return fmt.Errorf("archive the WAL before the promotion: %w", err)
	}
	status := c.dataPath("pg_wal", "archive_status")
	for _, name := range names {
		ready, done := filepath.Join(status, name+".ready"), filepath.Join(status, name+".done")
		if err := c.cfg.account.writeFile(ready, nil); err != nil {
			return fmt.Errorf("archive the WAL before the promotion: %w", err)
		}
		if err := removeIfExists(done); err != nil {
			return fmt.Errorf("archive the WAL before the promotion: %w", err)
		}
	}
	c.log.Info("the WAL before the promotion is archived again", "files", len(names))
	return nil
}

// unsent are the files in pg_wal that a lineage's ancestors have left complete, the
// newest Resend bytes of them, and their histories.
func (c *Controller) unsent(lineage pg.Lineage) ([]string, error) {
	entries, err := os.ReadDir(c.dataPath("pg_wal"))
	if err != nil {
		return nil, err
	}
	var segments, histories []string
	left := c.cfg.Archive.Resend
	for _, entry := range slices.Backward(entries) {
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // recycled meanwhile
		}
		if err != nil {
			return nil, err
		}
		name, size := entry.Name(), uint64(max(0, info.Size()))
		timeline, end, ok := segmentEnd(name, size)
		switch {
		case ok && timeline != lineage.Timeline && lineage.Contains(pg.Position{Timeline: timeline, LSN: end}) && left >= size:
			left -= size
			segments = append(segments, name)
		case strings.HasSuffix(name, ".history"):
			if timeline, err := parseHexTimeline(strings.TrimSuffix(name, ".history")); err == nil && lineage.History.Has(timeline) {
				histories = append(histories, name)
			}
		}
	}
	return append(histories, segments...), nil
}

// segmentEnd is the timeline of a complete WAL file, by its name, and where it ends.
func segmentEnd(name string, size uint64) (pg.Timeline, pg.LSN, bool) {
	if len(name) != 24 || size == 0 || strings.Trim(name, "0123456789ABCDEF") != "" {
		return 0, 0, false
	}
	timeline, errTimeline := strconv.ParseUint(name[:8], 16, 32)
	high, errHigh := strconv.ParseUint(name[8:16], 16, 32)
	low, errLow := strconv.ParseUint(name[16:], 16, 32)
	if errors.Join(errTimeline, errHigh, errLow) != nil {
		return 0, 0, false
	}
	return pg.Timeline(timeline), pg.LSN(high<<32 + (low+1)*size), true
}
