package pg

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log, in bytes. Zero is "none": no WAL
// record starts there.
type LSN uint64

// ParseLSN reads the text form of PostgreSQL, two hexadecimal numbers of at
// most 32 bits: "16/B374D848".
func ParseLSN(text string) (LSN, error) {
	high, low, ok := strings.Cut(text, "/")
	if !ok || !isHex(high) || !isHex(low) {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal numbers like 16/B374D848", text)
	}
	h, errHigh := strconv.ParseUint(high, 16, 32)
	l, errLow := strconv.ParseUint(low, 16, 32)
	if errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("LSN %q: each half has at most 32 bits", text)
	}
	return LSN(h<<32 | l), nil
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// String returns the text form of PostgreSQL.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) //nolint:gosec // the halves are meant to be cut off
}

// MarshalText writes the text form of PostgreSQL, so that records are readable.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the text form of PostgreSQL.
func (l *LSN) UnmarshalText(text []byte) error {
	parsed, err := ParseLSN(string(text))
	if err != nil {
		return err
	}
	*l = parsed
	return nil
}

// Timeline is PostgreSQL's timeline id. Zero is "unknown".
type Timeline uint32

// ParseTimeline reads a timeline in decimal, as records hold it.
func ParseTimeline(text string) (Timeline, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("timeline %q: want a decimal number from 1 to 4294967295", text)
	}
	return Timeline(n), nil
}

// String returns the timeline in decimal.
func (t Timeline) String() string { return strconv.FormatUint(uint64(t), 10) }

// Hex returns the eight digits that start the name of a WAL file.
func (t Timeline) Hex() string { return fmt.Sprintf("%08X", uint32(t)) }

// Position is the end of the WAL that a server holds: the timeline of that WAL
// and the LSN just past its last durable byte.
type Position struct {
	Timeline Timeline `json:"timeline"`
	LSN      LSN      `json:"lsn"`
}

// String returns "timeline/LSN" as in "(3, 0/5000148)".
func (p Position) String() string { return fmt.Sprintf("(%d, %s)", p.Timeline, p.LSN) }

// Compare orders positions by timeline first, then LSN. It is the order of an
// election (every timeline number is used once, so the newer timeline contains
// the last recorded promotion); it does not say that one position contains the
// other, Lineage.Contains does.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Timeline, q.Timeline); c != 0 {
		return c
	}
	return cmp.Compare(p.LSN, q.LSN)
}
