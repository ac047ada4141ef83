package pgctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pghad/pghad/pg"
)

// Values of DBState in catalog/pg_control.h.
const (
	stateShutDown           = 1
	stateShutDownInRecovery = 2
)

// stateNames are the values of DBState as pg_controldata says them.
var stateNames = []string{
	"starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery", "in archive recovery", "in production",
}

// controlFile is the beginning of global/pg_control, which is the same in all
// supported versions.
type controlFile struct {
	system     uint64      // system identifier
	state      uint32      // DBState
	checkpoint pg.LSN      // where the last checkpoint's record begins
	timeline   pg.Timeline // of that record
}

// systemID is the system identifier as PostgreSQL says it.
func (f controlFile) systemID() string { return strconv.FormatUint(f.system, 10) }

// clean reports whether the server was shut down, as a primary or in recovery.
func (f controlFile) clean() bool {
	return f.state == stateShutDown || f.state == stateShutDownInRecovery
}

func (f controlFile) stateName() string {
	if int(f.state) < len(stateNames) {
		return stateNames[f.state]
	}
	return "state " + strconv.FormatUint(uint64(f.state), 10)
}

func (c *Controller) readControlFile() (controlFile, error) { return readControl(c.cfg.DataDir) }

// readControl reads the control file of a data directory, which is written in one
// piece, also while its server runs. pg.ErrCorrupt if it does not bear its checksum;
// os.ErrNotExist if there is none.
func readControl(dataDir string) (controlFile, error) {
	const (
		stateAt      = 16 // behind the system identifier and two version numbers
		checkpointAt = 32 // behind the time of the last change
		timelineAt   = 48 // in the copy of the checkpoint, behind its redo pointer
		most         = 8 << 10
	)
	path := filepath.Join(dataDir, "global", "pg_control")
	f, err := os.Open(path) //nolint:gosec // a file of the configured directories
	if err != nil {
		return controlFile{}, fileFault(path, err)
	}
	defer f.Close() //nolint:errcheck // read only
	content, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return controlFile{}, fmt.Errorf("read pg_control: %w", fileFault(path, err))
	}
	if !bearsChecksum(content) {
		return controlFile{}, &pg.FaultError{Kind: pg.ErrCorrupt, Path: path, Err: errors.New("its checksum does not match"), Remedy: cloneRemedy}
	}
	return controlFile{
		system:     binary.NativeEndian.Uint64(content),
		state:      binary.NativeEndian.Uint32(content[stateAt:]),
		checkpoint: pg.LSN(binary.NativeEndian.Uint64(content[checkpointAt:])),
		timeline:   pg.Timeline(binary.NativeEndian.Uint32(content[timelineAt:])),
	}, nil
}

// bearsChecksum reports whether a control file is whole. Its checksum stands behind
// what it covers, whose length depends on the version of PostgreSQL: it is tried.
func bearsChecksum(content []byte) bool {
	const shortest, longest = 128, 1024 // 288 to 300 bytes in the versions 13 to 18
	for length := shortest; length <= longest && length+4 <= len(content); length += 4 {
		if crc32.Checksum(content[:length], castagnoli) == binary.NativeEndian.Uint32(content[length:]) {
			return true
		}
	}
	return false
}

// shutdownEnd is where the WAL of a server ends that was shut down as a primary:
// the end of the shutdown checkpoint's record, which is read from the WAL and
// checked. No process of the server may be left.
func (c *Controller) shutdownEnd() (pg.Position, error) {
	control, err := c.readControlFile()
	if err != nil {
		return pg.Position{}, err
	}
	if control.state != stateShutDown {
		return pg.Position{}, fmt.Errorf("it was not shut down cleanly as a primary: the state in its control file is %d", control.state)
	}
	end, err := shutdownRecordEnd(c.dataPath("pg_wal"), control)
	if err != nil {
		return pg.Position{}, fmt.Errorf("shutdown checkpoint at %s on timeline %d: %w", control.checkpoint, control.timeline, err)
	}
	return pg.Position{Timeline: control.timeline, LSN: end}, nil
}

// Of access/xlogrecord.h and access/xlog_internal.h.
const (
	recordHeaderSize    = 24
	recordInfoAt        = 16 // xl_info, then xl_rmid
	recordCRCAt         = 20
	recordAlignment     = 8
	shortPageHeaderSize = 24
	longPageHeaderSize  = 40 // at the start of a segment: with its size and that of a page
	segmentSizeAt       = 32
	pageSizeAt          = 36
	blockDataShort      = 255 // XLR_BLOCK_ID_DATA_SHORT: one byte of length, then the data
	infoMask            = 0xF0
)

// shutdownRecordEnd reads the record at the control file's checkpoint, and
// returns where it ends, if it is a valid shutdown checkpoint of that timeline.
func shutdownRecordEnd(directory string, control controlFile) (pg.LSN, error) {
	geometry, err := geometryOf(directory, control)
	if err != nil {
		return 0, err
	}
	r := &recordReader{directory: directory, geometry: geometry, timeline: control.timeline, at: uint64(control.checkpoint)}
	record, err := r.checkpoint()
	if err != nil {
		return 0, err
	}
	const checkpointShutdown = 0x00
	if record.info != checkpointShutdown || record.redo != control.checkpoint || record.timeline != control.timeline {
		return 0, errors.New("its record is not that of a shutdown checkpoint")
	}
	return pg.LSN(r.aligned()), nil
}

// checkpointRecord is a checkpoint as WAL has it.
type checkpointRecord struct {
	info     byte        // of which kind
	redo     pg.LSN      // where recovery from it begins
	timeline pg.Timeline // of it
}

// checkpoint reads the record of a checkpoint and checks that it is whole.
func (r *recordReader) checkpoint() (found checkpointRecord, err error) {
	header, err := r.read(recordHeaderSize)
	if err != nil {
		return found, err
	}
	length := binary.NativeEndian.Uint32(header)
	const most = 1 << 10 // a checkpoint has about a hundred bytes
	if length < recordHeaderSize+2+12 || length > most {
		return found, fmt.Errorf("its record cannot have %d bytes", length)
	}
	data, err := r.read(int(length - recordHeaderSize))
	if err != nil {
		return found, err
	}
	sum := crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, header[:recordCRCAt])
	if sum != binary.NativeEndian.Uint32(header[recordCRCAt:]) {
		return found, errors.New("its record is damaged: the checksum does not match")
	}
	const resourceManagerXLOG = 0
	if header[recordInfoAt+1] != resourceManagerXLOG || data[0] != blockDataShort {
		return found, errors.New("its record is not that of a checkpoint")
	}
	return checkpointRecord{
		info: header[recordInfoAt] & infoMask, redo: pg.LSN(binary.NativeEndian.Uint64(data[2:])),
		timeline: pg.Timeline(binary.NativeEndian.Uint32(data[10:])),
	}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// geometryOf finds out how the WAL is cut, from the header of the file that holds
// the checkpoint. The file's name depends on the size of a segment: it is tried.
func geometryOf(directory string, control controlFile) (walGeometry, error) {
	const smallest, largest = 1 << 20, 1 << 30
	for size := uint64(smallest); size <= largest; size *= 2 {
		name := walGeometry{segment: size}.fileName(control.timeline, control.checkpoint)
		header := make([]byte, longPageHeaderSize)
		if err := readAt(filepath.Join(directory, name), header, 0); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return walGeometry{}, err
		}
		start := uint64(control.checkpoint) / size * size
		page := pageHeader{magic: binary.NativeEndian.Uint16(header), address: binary.NativeEndian.Uint64(header[8:])}
		segment, pages := binary.NativeEndian.Uint32(header[segmentSizeAt:]), binary.NativeEndian.Uint32(header[pageSizeAt:])
		if page.is(start) && uint64(segment) == size && pages >= longPageHeaderSize {
			return walGeometry{segment: size, page: uint64(pages)}, nil
		}
	}
	return walGeometry{}, errors.New("no WAL file holds it")
}

// recordReader reads the bytes of one record, which go around the headers of
// pages.
type recordReader struct {
	directory string
	geometry  walGeometry
	timeline  pg.Timeline
	at        uint64 // the next byte
}

func (r *recordReader) read(n int) ([]byte, error) {
	data := make([]byte, 0, n)
	for len(data) < n {
		if r.at%r.geometry.page == 0 {
			if r.at += shortPageHeaderSize; (r.at-shortPageHeaderSize)%r.geometry.segment == 0 {
				r.at += longPageHeaderSize - shortPageHeaderSize
			}
		}
		part := make([]byte, min(uint64(n-len(data)), r.geometry.page-r.at%r.geometry.page)) //nolint:gosec // at least one is missing
		path := filepath.Join(r.directory, r.geometry.fileName(r.timeline, pg.LSN(r.at)))
		if err := readAt(path, part, int64(r.at%r.geometry.segment)); err != nil { //nolint:gosec // below the segment's size
			return nil, err
		}
		data = append(data, part...)
		r.at += uint64(len(part))
	}
	return data, nil
}

// aligned is the end of the record that was read: the next one begins there, or
// behind the header of a page that begins there.
func (r *recordReader) aligned() uint64 {
	return (r.at + recordAlignment - 1) / recordAlignment * recordAlignment
}

func readAt(path string, data []byte, offset int64) error {
	f, err := os.Open(path) //nolint:gosec // a file of the configured directories
	if err != nil {
		return fmt.Errorf("read WAL: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	if _, err := f.ReadAt(data, offset); err != nil {
		return fmt.Errorf("read WAL: %w", err)
	}
	return nil
}
