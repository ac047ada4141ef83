package pgctl

import (
	"regexp"
	"strconv"
	"sync"

	"github.com/pghad/pghad/pg"
)

// What makes the data a copy.
const (
	copyRewind = "rewind"
	copyClone  = "clone"
)

// copies is the rewind or clone under way, for those who ask how far it is.
type copies struct {
	mu  sync.Mutex
	now *pg.Copying // nil if there is none
}

// Copying says how far the rewind or clone is that runs, false if none does. It may
// be called at any time. A clone by the user's own command counts what that prints
// as pg_basebackup does.
func (c *Controller) Copying() (pg.Copying, bool) {
	c.copies.mu.Lock()
	defer c.copies.mu.Unlock()
	if c.copies.now == nil {
		return pg.Copying{}, false
	}
	return *c.copies.now, true
}

func (p *copies) begin(now pg.Copying) (end func()) {
	set := func(now *pg.Copying) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now = now
	}
	set(&now)
	return func() { set(nil) }
}

// copyProgress is what pg_basebackup and pg_rewind print: "1234/5678 kB (21%) copied".
var copyProgress = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \(`)

// line reads a line of a tool's output.
func (p *copies) line(text string) {
	found := copyProgress.FindStringSubmatch(text)
	if found == nil {
		return
	}
	done, errDone := strconv.ParseUint(found[1], 10, 50)
	total, errTotal := strconv.ParseUint(found[2], 10, 50)
	if errDone != nil || errTotal != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil {
		p.now.Done, p.now.Total = done<<10, total<<10
	}
}
