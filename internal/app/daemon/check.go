package daemon

import (
	"context"
	"log/slog"

	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/pg/pgctl"
)

// Check finds what Run would refuse before it changes anything, and says what is
// risky. It changes nothing itself, and opens a session of the store for a moment. A
// node that already runs from this
// configuration is no problem.
func Check(ctx context.Context, cfg *config.Config, logger *slog.Logger) ([]config.Problem, error) {
	store, err := OpenStore(ctx, cfg, logger)
	if err != nil {
		return nil, err
	}
	defer store.Close() //nolint:errcheck // nothing depends on it any more
	host, err := listenAddress(ctx, cfg, logger)
	if err != nil {
		return nil, err
	}
	if err := checkMachine(ctx, cfg, host); err != nil {
		return nil, err
	}
	remarks, storeErr, err := checkStore(ctx, cfg, store)
	if err != nil {
		return nil, err
	}
	if err := pgctl.Check(controllerConfig(cfg, host, logger)); err != nil {
		return nil, cfg.Problem("postgres", inKeys(err.Error()))
	}
	remarks = append(append(remarks, guardRemarks(cfg)...), lineRemarks(ctx, cfg, host)...)
	if storeErr != "" {
		remarks = append(remarks, cfg.Remark("dcs.endpoints", "cannot be reached now: "+storeErr))
	}
	if ownServerRuns(cfg.Postgres.DataDir) { // its agent has the address of the API
		return remarks, nil
	}
	line, err := openLine(ctx, cfg, host, logger)
	if err != nil {
		return nil, err
	}
	line.close()
	return remarks, nil
}
