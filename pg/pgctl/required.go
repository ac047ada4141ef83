package pgctl

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// required are parameters of which a standby needs at least what its primary has: with
// less it does not start, or stops to replay. Each standby notes in its control file
// what the primary had last. preset is PostgreSQL's own default.
var required = []struct {
	name   string
	at     int // in the control file, the same in the versions 13 to 18
	preset int
}{
	{"max_connections", 180, 100},
	{"max_worker_processes", 184, 8},
	{"max_wal_senders", 188, 10},
	{"max_prepared_transactions", 192, 0},
	{"max_locks_per_transaction", 196, 64},
}

// Behind the five PostgreSQL keeps a number by which it knows its own format of
// floating-point numbers. Where it stands at its place, so do they.
const (
	floatFormatAt = 208
	floatFormat   = 1234567.0
)

// requiredSettings raise what is configured for a standby to what its primary has had:
// so that a lower value, which has been given to all servers, does not keep a standby
// from starting while the primary still has the higher one. chosen are the user's own
// choices in postgresql.conf, which are not known here.
func (c *Controller) requiredSettings(chosen map[string]bool) []setting {
	if standby, err := exists(c.cfg.signalFile()); err != nil || !standby {
		return nil
	}
	least, raised := c.leastRequired(), []setting(nil)
	for _, r := range required {
		configured, known := c.configured(r.name, chosen)
		if known && configured < least[r.name] {
			raised = append(raised, setting{r.name, strconv.Itoa(least[r.name])})
		}
	}
	return raised
}

// configured is the value that a parameter will have, if that is a number which is
// known here.
func (c *Controller) configured(name string, chosen map[string]bool) (value int, known bool) {
	for key, text := range c.cfg.Parameters {
		if strings.EqualFold(key, name) {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			return n, err == nil
		}
	}
	if chosen[name] {
		return 0, false
	}
	if standard, ok := boundedParameters[name]; ok {
		n, err := strconv.Atoi(standard.standard)
		return n, err == nil
	}
	for _, r := range required {
		if r.name == name {
			return r.preset, true
		}
	}
	return 0, false
}

// leastRequired reads what the primary had from the control file; nothing where that
// cannot be read, or has another form than is known here.
func (c *Controller) leastRequired() map[string]int {
	content, err := os.ReadFile(filepath.Join(c.cfg.DataDir, "global", "pg_control"))
	if err != nil || len(content) < 512 || !bearsChecksum(content) {
		return nil
	}
	if math.Float64frombits(binary.NativeEndian.Uint64(content[floatFormatAt:])) != floatFormat {
		return nil
	}
	least := make(map[string]int, len(required))
	for _, r := range required {
		least[r.name] = int(int32(binary.NativeEndian.Uint32(content[r.at:]))) //nolint:gosec // a C int
	}
	return least
}
