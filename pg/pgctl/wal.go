package pgctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pghad/pghad/pg"
)

// walGeometry is how a server's WAL is cut: bytes per file and per page.
type walGeometry struct {
	segment uint64
	page    uint64
}

// fileName is the name of the WAL file that holds a byte on a timeline.
func (g walGeometry) fileName(timeline pg.Timeline, at pg.LSN) string {
	number := uint64(at) / g.segment
	perID := uint64(1<<32) / g.segment
	return fmt.Sprintf("%s%08X%08X", timeline.Hex(), number/perID, number%perID)
}

// timelineOf returns the timeline that the last byte before end belongs to, by
// the WAL files in directory: the functions of SQL err or lag on a standby.
//
// The file is that of the highest timeline whose page at that byte has been
// written (a preallocated or recycled file has zeros or another address there);
// where none has, that of the highest one which has zeros there after a written
// page, as a change of segment (pg_switch_wal, the end of a base backup) leaves.
//
// A file's start may be a copy of the ancestor's WAL: a standby that changes
// timelines receives the whole segment again. A byte below the point where the
// ancestor was left is the ancestor's, also when it stands in the newer file;
// who holds no more than that must not count as somebody who has reached the
// newer timeline. Nor must who has only begun one: a promotion copies the segment
// before it writes the timeline's history file, and a server that was killed
// between the two has a file of a timeline that recovery does not know. Such a file
// counts where there is no other. Zero, without error, if no file has the byte.
func timelineOf(directory string, geometry walGeometry, end pg.LSN) (pg.Timeline, error) {
	if end == 0 || geometry.segment == 0 || geometry.page == 0 {
		return 0, nil
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return 0, fmt.Errorf("look for the WAL before %s: %w", end, err)
	}
	suffix := geometry.fileName(0, end-1)[8:]
	var known, unknown walFile
	for _, entry := range slices.Backward(entries) { // sorted by name: the highest timeline first
		name := entry.Name()
		if len(name) != 24 || name[8:] != suffix {
			continue
		}
		state, err := pageOf(filepath.Join(directory, name), geometry, end-1)
		if err != nil {
			return 0, err
		}
		timeline, err := parseHexTimeline(name[:8])
		if err != nil {
			return 0, err
		}
		best := &unknown
		if there, err := exists(filepath.Join(directory, historyName(timeline))); err != nil {
			return 0, err
		} else if there || timeline == 1 {
			best = &known
		}
		if state > best.state {
			*best = walFile{timeline, state}
		}
	}
	switch {
	case known.timeline != 0:
		return ownerOf(directory, known.timeline, end)
	case unknown.timeline != 0:
		return ownerOf(directory, unknown.timeline, end)
	}
	return 0, nil
}

// walFile is a WAL file that may have a certain byte.
type walFile struct {
	timeline pg.Timeline // zero: none
	state    pageState
}

// pageState is what a WAL file has at a byte.
type pageState int

const (
	pageForeign pageState = iota // another page's content, or nothing that was written
	pageTail                     // zeros that end a segment after a written page
	pageWritten
)

// pageOf looks at the page of a WAL file that holds a byte.
func pageOf(path string, geometry walGeometry, at pg.LSN) (pageState, error) {
	f, err := os.Open(path) //nolint:gosec // a file of the configured directories
	if errors.Is(err, fs.ErrNotExist) {
		return pageForeign, nil // recycled meanwhile
	}
	if err != nil {
		return pageForeign, fmt.Errorf("read WAL: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	start := uint64(at) / geometry.segment * geometry.segment
	page := uint64(at) / geometry.page * geometry.page
	for state := pageWritten; ; state = pageTail {
		header, err := readPageHeader(f, int64(page-start)) //nolint:gosec // below the segment's size
		switch {
		case err != nil:
			return pageForeign, nil // a short file does not hold the page
		case header.is(page):
			return state, nil
		case header != pageHeader{} || page == start:
			return pageForeign, nil
		}
		page -= geometry.page
	}
}

// pageHeader is what identifies a page of WAL.
type pageHeader struct {
	magic   uint16
	address uint64
}

// is reports whether the header is of the page at an address: its own, and of
// the family of magic numbers that all supported versions use (0xD1..).
func (h pageHeader) is(address uint64) bool { return h.magic>>8 == 0xD1 && h.address == address }

func readPageHeader(f *os.File, offset int64) (pageHeader, error) {
	var header [16]byte // xlp_magic, xlp_info, xlp_tli, xlp_pageaddr
	if _, err := f.ReadAt(header[:], offset); err != nil {
		return pageHeader{}, err
	}
	return pageHeader{magic: binary.NativeEndian.Uint16(header[:]), address: binary.NativeEndian.Uint64(header[8:])}, nil
}

func parseHexTimeline(digits string) (pg.Timeline, error) {
	var timeline uint32
	if _, err := fmt.Sscanf(digits, "%08X", &timeline); err != nil {
		return 0, fmt.Errorf("timeline %q of a WAL file: %w", digits, err)
	}
	return pg.Timeline(timeline), nil
}

// ownerOf maps a position in a timeline's WAL to the timeline that wrote it, by
// the history file; without one it is the timeline itself.
func ownerOf(directory string, timeline pg.Timeline, end pg.LSN) (pg.Timeline, error) {
	history, err := readHistory(directory, timeline)
	if errors.Is(err, fs.ErrNotExist) {
		return timeline, nil
	}
	if err != nil {
		return 0, err
	}
	return pg.Lineage{Timeline: timeline, History: history}.Owner(end), nil
}

func historyName(timeline pg.Timeline) string { return timeline.Hex() + ".history" }

// readHistory reads a timeline's history file; fs.ErrNotExist if there is none.
func readHistory(directory string, timeline pg.Timeline) (pg.History, error) {
	text, err := os.ReadFile(filepath.Join(directory, historyName(timeline))) //nolint:gosec // a file of the configured directories
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %w", timeline, err)
	}
	history, err := pg.ParseHistory(string(text))
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %w", timeline, err)
	}
	return history, nil
}

// placeholderReason stands in the history files that reserve a timeline number.
const placeholderReason = "reserved by pghad, not a timeline"

// findPlaceholders returns the history files in pg_wal that an interrupted
// promotion has left: they reserve a number, and there is no real timeline above
// them. Below a real one they stay for ever: PostgreSQL probes for numbers
// without a gap, and a standby that follows asks its upstream for every history
// file between its own timeline and the new one.
func (c *Controller) findPlaceholders() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(escapeGlob(c.dataPath("pg_wal")), "????????.history"))
	if err != nil {
		return nil, fmt.Errorf("look for placeholder history files: %w", err)
	}
	var found []string
	for _, path := range slices.Backward(paths) { // the highest timeline first
		text, err := os.ReadFile(path) //nolint:gosec // a file of the configured directories
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for placeholder history files: %w", err)
		}
		if !isPlaceholder(string(text)) {
			break
		}
		found = append(found, path)
	}
	return found, nil
}

func isPlaceholder(history string) bool {
	return strings.Contains(history, placeholderReason) && !strings.Contains(strings.TrimSpace(history), "\n")
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// removePlaceholders removes the placeholder history files of an interrupted
// promotion and their note, and reports whether there was either: a server that
// ran with them has to be restarted.
func (c *Controller) removePlaceholders() (bool, error) {
	_, noted, err := c.placeholderNote().read()
	if err != nil {
		return false, err
	}
	found, err := c.findPlaceholders()
	if err != nil {
		return false, err
	}
	if !noted && len(found) == 0 {
		return false, nil
	}
	for _, path := range found {
		c.log.Info("a placeholder history file is removed", "file", filepath.Base(path))
		if err := c.cfg.Effects.run("remove placeholder", func() error { return removeIfExists(path) }); err != nil {
			return true, fmt.Errorf("remove a placeholder history file: %w", err)
		}
	}
	if len(found) > 0 {
		if err := syncDir(c.dataPath("pg_wal")); err != nil {
			return true, err
		}
	}
	return true, c.placeholderNote().remove()
}
