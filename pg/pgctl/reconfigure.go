package pgctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// Settings are what a controller can be given anew while it works.
type Settings struct {
	Parameters map[string]string // as Config.Parameters
	HBA        []string          // as Config.HBA
}

// CheckSettings says what of the settings is refused whatever the server is:
// managed parameters, names that are none, lines that are several. Whether
// PostgreSQL takes the values only a server knows: see Controller.Reconfigure.
func CheckSettings(s Settings) error {
	cfg := Config{Parameters: s.Parameters, HBA: s.HBA}
	return errors.Join(cfg.checkParameters(), cfg.checkLines())
}

// Reconfigure replaces the user's parameters and rules of pg_hba.conf. A server
// that runs reads them at once; what it can take only at its next start, Status
// shows as Pending. Without a server they are in force from the next start on.
//
// An error says that the former ones are in force, or will be with the next
// change: pg.ErrParameter if PostgreSQL does not take the new ones. It waits for
// the operation that runs and is ended by Stop.
func (c *Controller) Reconfigure(ctx context.Context, s Settings) error {
	if err := CheckSettings(s); err != nil {
		return fmt.Errorf("change the configuration: %w", err)
	}
	ctx, done, err := c.begin(ctx, "change the configuration")
	if err != nil {
		return err
	}
	defer done()
	if err := c.reconfigure(ctx, s); err != nil {
		return fmt.Errorf("change the configuration: %w", err)
	}
	return nil
}

func (c *Controller) reconfigure(ctx context.Context, s Settings) error {
	before := Settings{c.cfg.Parameters, c.cfg.HBA}
	if maps.Equal(before.Parameters, s.Parameters) && slices.Equal(before.HBA, s.HBA) {
		return nil
	}
	if err := c.tryParameters(s.Parameters); err != nil {
		return err
	}
	c.cfg.Parameters, c.cfg.HBA = maps.Clone(s.Parameters), slices.Clone(s.HBA)
	if c.adopt() == nil {
		return nil // each start writes them
	}
	err := c.change(ctx, func(*settings) {})
	if err == nil {
		err = c.brokenRules(ctx)
	}
	if err == nil {
		return nil
	}
	c.cfg.Parameters, c.cfg.HBA = before.Parameters, before.HBA
	// What was cut off is carried out by the next change: then with these.
	back, cancel := timectx.With(context.WithoutCancel(ctx), c.clock, c.cfg.ReloadTimeout, "return to the former configuration")
	defer cancel()
	if backErr := c.change(back, func(*settings) {}); backErr != nil {
		err = fmt.Errorf("%w; the former one comes into force with the next change (%w)", err, backErr)
	}
	return err
}

// brokenRules says which rules of pg_hba.conf the server cannot read: it goes on
// with the ones before, and would not start with these.
func (c *Controller) brokenRules(ctx context.Context) error {
	ctx, cancel := c.short(ctx, "rules of pg_hba.conf")
	defer cancel()
	session, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer session.close()
	rows, err := session.rows(ctx, "SELECT line_number::text, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY line_number")
	if err != nil || len(rows) == 0 {
		return err
	}
	var wrong []string
	for _, row := range rows {
		wrong = append(wrong, "line "+row[0]+": "+row[1])
	}
	return &pg.FaultError{Kind: pg.ErrParameter, Path: c.dataPath(hbaFile), Err: errors.New(strings.Join(wrong, "; ")), Remedy: "correct HBA"}
}
