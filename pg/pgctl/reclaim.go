package pgctl

import (
	"context"
	"strings"

	"github.com/pghad/pghad/internal/timectx"
)

// overriddenQuery reads which managed settings are in force from another file than
// ours, by ALTER SYSTEM or an edit and a reload. Those that only a start changes are
// left out: before each start they are written anew.
func (c *Controller) overriddenQuery() string {
	var names []string
	for _, name := range fixedParameters {
		names = append(names, "'"+name+"'")
	}
	return `json_agg(name ORDER BY name) FILTER (WHERE sourcefile NOT LIKE '%/` + managedFile + `' AND context NOT IN ('postmaster', 'internal')
   AND (name IN (` + strings.Join(names, ", ") + `) OR name IN ('fsync', 'full_page_writes') AND setting <> 'on'))`
}

// reclaim puts the managed settings in force again that somebody has overridden. It
// does so in the background, once for each discovery: what comes back at once is
// beyond it.
func (c *Controller) reclaim(names []string) {
	found := strings.Join(names, ", ")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.overridden == found || c.closed {
		return
	}
	c.overridden = found
	if found == "" {
		return
	}
	c.log.Error("managed settings were overridden, and are put in force again", "names", found)
	c.tasks.Go(func() {
		ctx, cancel := timectx.With(c.lifetime, c.clock, 2*c.cfg.ReloadTimeout, "managed settings in force again")
		defer cancel()
		if err := c.putBack(ctx); err != nil && c.lifetime.Err() == nil {
			c.log.Error("managed settings are still overridden", "names", found, "error", err.Error())
		}
	})
}

func (c *Controller) putBack(ctx context.Context) error {
	ctx, done, err := c.begin(ctx, "put managed settings in force again")
	if err != nil {
		return err
	}
	defer done()
	return c.change(ctx, func(*settings) {})
}
