package pgtest

import (
	"maps"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// placeholderReason marks a history file that only keeps a number taken.
const placeholderReason = "reserved by pgtest"

// placeholderAt is where a placeholder says that its timeline begins.
const placeholderAt pg.LSN = 1

// states of the control file, in PostgreSQL's words.
const (
	stateProduction  = "in production"
	stateRecovery    = "in archive recovery"
	stateShutDown    = "shut down"
	stateShutDownRec = "shut down in recovery"
)

// control is the control file.
type control struct {
	State      string
	Checkpoint pg.LSN      // where recovery would begin to read
	Timeline   pg.Timeline // of that checkpoint; behind after a promotion (C10)
	// Recovery is consistent, and clients are admitted, from here on.
	Minimum         pg.LSN
	MinimumTimeline pg.Timeline
}

// settings are what a server's configuration files say.
type settings struct {
	Sync     pg.SyncSetting
	Upstream pg.Upstream
	GateOpen bool
	Revision uint64
}

// slot is a physical replication slot.
type slot struct {
	restart pg.LSN
	lost    bool // max_slot_wal_keep_size has taken its WAL
	used    *sender
}

// disk is everything of a server that survives its processes.
type disk struct {
	present   bool
	systemID  string
	wal       wal
	histories map[pg.Timeline]pg.History // read by key only
	control   control
	signal    bool   // standby.signal: the server starts as a standby
	room      pg.LSN // no WAL file can be made beyond it; zero: no limit
	slots     map[string]*slot
	files     settings // configuration in the data directory

	// Outside the data directory.
	wanted     settings // what the controller has been told to put in force
	noted      bool     // a promotion with placeholders was begun
	unfinished string   // "init" or "rewind": not to be started
	copied     bool     // the rewind only lacks its floor
	rewindFrom string
	cloning    bool // a clone lies beside the data directory, incomplete
}

// clone is an independent copy, for copies of servers and of disks.
func (d *disk) clone() disk {
	c := *d
	c.wal = d.wal.clone()
	c.histories = maps.Clone(d.histories)
	c.slots = make(map[string]*slot, len(d.slots))
	for name, s := range d.slots {
		c.slots[name] = &slot{restart: s.restart, lost: s.lost}
	}
	return c
}

// newest is the highest timeline in an unbroken row of history files above from.
func (d *disk) newest(from pg.Timeline) pg.Timeline {
	for d.hasHistory(from + 1) {
		from++
	}
	return from
}

func (d *disk) hasHistory(t pg.Timeline) bool {
	_, ok := d.histories[t]
	return ok
}

// lineageOf is what the history file of t says. Timeline 1 has none.
func (d *disk) lineageOf(t pg.Timeline) lineage {
	return lineage{Timeline: t, History: d.histories[t]}
}

// recoveryLineage is along which timeline a start recovers.
func (s *server) recoveryLineage() lineage {
	d := &s.disk
	t := max(d.control.Timeline, d.control.MinimumTimeline)
	if d.signal || s.c.without(RuleRecoveryOnTheSpot) {
		t = d.newest(t)
	}
	return d.lineageOf(t)
}

// removePlaceholders removes the placeholder history files above the last real
// one.
func (d *disk) removePlaceholders() {
	d.noted = false
	timelines := slices.Sorted(maps.Keys(d.histories))
	for _, t := range slices.Backward(timelines) {
		if !isPlaceholder(d.histories[t]) {
			break
		}
		delete(d.histories, t)
	}
}

func (d *disk) hasPlaceholders() bool {
	timelines := slices.Sorted(maps.Keys(d.histories))
	return d.noted || len(timelines) > 0 && isPlaceholder(d.histories[timelines[len(timelines)-1]])
}

func isPlaceholder(h pg.History) bool {
	return len(h) == 1 && strings.Contains(h[0].Reason, placeholderReason)
}

func (d *disk) slotNames() []string { return slices.Sorted(maps.Keys(d.slots)) }

// clean reports whether the server was shut down in good order.
func (d *disk) clean() bool {
	return d.control.State == stateShutDown || d.control.State == stateShutDownRec
}
