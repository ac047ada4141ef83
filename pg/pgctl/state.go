package pgctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pghad/pghad/pg"
)

// settings are what the controller has been told to put in force. They are
// kept outside the data directory, so that neither a restart of the controller
// nor a copy of another server's data changes them.
type settings struct {
	Revision uint64      `json:"revision"`
	Sync     string      `json:"synchronous_standby_names"`
	Upstream pg.Upstream `json:"upstream"`
	GateOpen bool        `json:"gate_open"`
}

// unfinished says that the data directory is being made or changed in place,
// and is not to be started until that has ended.
type unfinished struct {
	Kind string `json:"kind"` // unfinishedInit, unfinishedRestore, unfinishedRewind
	From string `json:"from,omitempty"`
	// Copied says that a rewind is complete but for its floor.
	Copied bool `json:"copied,omitempty"`
}

const (
	unfinishedInit    = "init"
	unfinishedRestore = "restore"
	unfinishedRewind  = "rewind"
)

// cloning is the journal of a clone. Until phase removing the old data is what
// counts and an interrupted clone is undone; from then on the new data is.
type cloning struct {
	Phase string `json:"phase"`
	From  string `json:"from"`
	// HadData says that there was a data directory to be replaced.
	HadData bool `json:"had_data"`
}

const (
	cloneCopying  = "copying"
	cloneSwapping = "swapping"
	cloneRemoving = "removing"
)

// placeholders are the history files that a promotion in progress has reserved
// timeline numbers with.
type placeholders struct {
	Next  pg.Timeline `json:"next"`
	Files []string    `json:"files"`
}

// identity is whose data this state directory belongs to.
type identity struct {
	SystemID string `json:"system_id"`
}

func (c *Controller) identityNote() note[identity] {
	return note[identity]{c.cfg.account, c.statePath("identity.json")}
}

// mustBeOurs refuses a system that is not the one that this state directory was
// used for before.
func (c *Controller) mustBeOurs(systemID, place string) error {
	known, found, err := c.identityNote().read()
	if err != nil || !found || known.SystemID == systemID {
		return err
	}
	return &pg.FaultError{
		Kind: pg.ErrForeign, Path: place, Err: fmt.Errorf("it is of system %s, and the data here was of %s", systemID, known.SystemID),
		Remedy: "set DataDir and StateDir to those of one server, or remove " + c.identityNote().path + " if the change is meant",
	}
}

// belong notes whose data this is from now on.
func (c *Controller) belong(systemID string) error {
	if known, found, err := c.identityNote().read(); err == nil && found && known.SystemID == systemID {
		return nil
	}
	return c.identityNote().write(identity{SystemID: systemID})
}

func (c *Controller) settingsNote() note[settings] {
	return note[settings]{c.cfg.account, c.statePath("settings.json")}
}

func (c *Controller) unfinishedNote() note[unfinished] {
	return note[unfinished]{c.cfg.account, c.statePath("unfinished.json")}
}

func (c *Controller) cloneNote() note[cloning] {
	return note[cloning]{c.cfg.account, c.statePath("clone.json")}
}

func (c *Controller) placeholderNote() note[placeholders] {
	return note[placeholders]{c.cfg.account, c.statePath("placeholders.json")}
}

func (c *Controller) current() settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings
}

// confirm notes that the server has shown a revision of the settings, and
// reports whether it is that of the current ones.
func (c *Controller) confirm(revision string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.confirmLocked(revision)
}

// confirmLocked needs c.mu.
func (c *Controller) confirmLocked(revision string) bool {
	if revision != c.settings.revision() {
		return false
	}
	c.confirmed = c.settings
	return true
}

// gateOf says whether clients are admitted by a server that shows a revision of
// the settings. Of one that this controller has not written, in its life or in
// the note of the one before it, nobody knows: then they count as locked out,
// and OpenGate settles it.
func (c *Controller) gateOf(revision string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch revision {
	case c.settings.revision():
		return c.settings.GateOpen
	case c.confirmed.revision():
		return c.confirmed.GateOpen
	}
	return false
}

// revision is the number of the settings as a server shows it.
func (s settings) revision() string { return strconv.FormatUint(s.Revision, 10) }

// remember makes settings the current ones, durably first.
func (c *Controller) remember(s settings) error {
	if err := c.settingsNote().write(s); err != nil {
		return err
	}
	c.mu.Lock()
	c.settings = s
	c.mu.Unlock()
	return nil
}

// passfile is where libpq finds the replication role's password, so that it is
// neither in primary_conninfo, which every member of pg_read_all_settings reads,
// nor among a tool's arguments.
func (c *Controller) passfile() string { return c.statePath("passfile") }

func (c *Controller) writePassfile() error {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace
	line := "*:*:*:" + escape(c.cfg.ReplicationUser) + ":" + escape(c.cfg.ReplicationPassword) + "\n"
	if old, err := os.ReadFile(c.passfile()); err == nil && string(old) == line {
		return nil
	}
	return c.cfg.account.writeFile(c.passfile(), []byte(line))
}

// repair brings the directories of an interrupted clone back into one of the
// two states that count. It must run before anything that looks at the data
// directory, with no server running.
func (c *Controller) repair() error {
	journal, found, err := c.cloneNote().read()
	if err != nil || !found {
		return err
	}
	c.log.Warn("an interrupted clone is cleared up", "phase", journal.Phase, "from", journal.From)
	if journal.Phase == cloneRemoving {
		return c.finishClone()
	}
	if err := c.undoSwap(journal); err != nil {
		return fmt.Errorf("undo an interrupted clone of %s: %w", journal.From, err)
	}
	return c.removeClone()
}

// undoSwap puts the old data directory back, wherever the two renames stopped.
func (c *Controller) undoSwap(journal cloning) error {
	oldThere, err := exists(c.oldDir())
	if err != nil {
		return err
	}
	if journal.Phase == cloneSwapping && (oldThere || !journal.HadData) {
		// Whatever stands at DataDir now is the copy.
		if err := c.cfg.account.removeAll(c.cfg.DataDir); err != nil {
			return err
		}
		if oldThere {
			return c.cfg.account.rename(c.oldDir(), c.cfg.DataDir)
		}
	}
	return syncDir(filepath.Dir(c.cfg.DataDir))
}

// finishClone ends a clone whose data counts: no interrupted rewind is left, the
// old data goes.
func (c *Controller) finishClone() error {
	if err := c.unfinishedNote().remove(); err != nil {
		return err
	}
	if err := c.dropOwnFiles(); err != nil {
		return err
	}
	return c.removeClone()
}

// removeClone removes the directories that a clone leaves beside the data
// directory, and its journal last.
func (c *Controller) removeClone() error {
	err := errors.Join(c.cfg.account.removeAll(c.newDir()), c.cfg.account.removeAll(c.oldDir()))
	if err != nil {
		return fmt.Errorf("remove what a clone left beside %s: %w", c.cfg.DataDir, err)
	}
	return c.cloneNote().remove()
}

func (c *Controller) newDir() string { return c.cfg.DataDir + ".new" }
func (c *Controller) oldDir() string { return c.cfg.DataDir + ".old" }

// checkComplete refuses data that must not be started: pg.ErrNoData, pg.ErrNotData,
// pg.ErrIncompleteCopy, pg.ErrForeign, another version's or another user's.
func (c *Controller) checkComplete() error {
	if left, found, err := c.unfinishedNote().read(); err != nil {
		return err
	} else if found {
		remedy := "clone it from another server"
		if left.Kind != unfinishedRewind {
			remedy = "run " + left.Kind + " again"
		}
		return &pg.FaultError{Kind: pg.ErrIncompleteCopy, Path: c.cfg.DataDir, Err: errors.New(left.Kind + " was interrupted"), Remedy: remedy}
	}
	if _, err := majorOfData(c.cfg.DataDir); err != nil {
		return err
	}
	if err := c.cfg.checkData(); err != nil {
		return err
	}
	control, err := c.readControlFile()
	if err != nil {
		return nil //nolint:nilerr // who needs it says what is wrong with it
	}
	return c.mustBeOurs(control.systemID(), c.cfg.DataDir)
}
