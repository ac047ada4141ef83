package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// startConfig is what a node starts by.
type startConfig struct {
	base    *config.Config // without a record
	config  *config.Config // with the one that the node goes by
	kept    keptRecord
	loaded  keptRecord // kept, as it was found
	keeper  keeper
	problem string // why it does not go by the one that the store has

	// older are what to start by where the server refuses config, best first.
	older []candidate
}

// candidate is a configuration with the record that is in it.
type candidate struct {
	config *config.Config
	stored record.Config
}

// newStart chooses the record that the node starts by: what the store has, else what
// the node went by last, else none. A record cannot keep a node from starting.
func newStart(ctx context.Context, base *config.Config, store dcs.Store, logger *slog.Logger) startConfig {
	start := startConfig{base: base, keeper: newKeeper(base.Postgres.StateDir)}
	var err error
	if start.kept, err = start.keeper.load(); err != nil {
		logger.WarnContext(ctx, "cluster's configuration that was kept cannot be read", "error", err)
	}
	start.loaded = start.kept
	stored := start.kept.Accepted
	read, readErr, storeErr := readRecord(ctx, base, store)
	if storeErr != nil {
		logger.WarnContext(ctx, "cluster's configuration cannot be read now; the node starts by what it went by last",
			"version", stored.Version, "error", storeErr)
	} else {
		stored, readErr = choose(start.kept.Accepted, read, readErr)
	}
	if readErr == nil && start.kept.refuses(stored) {
		readErr = errors.New(start.kept.Refused.Problem)
		stored = start.kept.Accepted
	}
	for _, wanted := range []record.Config{stored, start.kept.Accepted, {}} {
		if next, err := start.with(wanted); err == nil {
			start.older = append(start.older, next)
		} else if readErr == nil {
			readErr = err
		}
	}
	if readErr != nil {
		start.refused(ctx, logger, read.Value.Version, readErr)
	}
	start.use(start.older[0])
	return start
}

func (s *startConfig) with(stored record.Config) (candidate, error) {
	if stored.Version == 0 {
		return candidate{config: s.base}, nil
	}
	decoded, err := config.DecodeRecord(stored)
	if err != nil {
		return candidate{}, err //nolint:wrapcheck // says where and which key
	}
	merged, err := s.base.WithRecord(decoded)
	return candidate{merged, stored}, err //nolint:wrapcheck // says where and which key
}

func (s *startConfig) use(next candidate) {
	s.config, s.kept.Accepted, s.older = next.config, next.stored, s.older[1:]
}

func (s *startConfig) refused(ctx context.Context, logger *slog.Logger, version uint64, why error) {
	s.problem = inKeys(why.Error())
	logger.ErrorContext(ctx, "cluster's configuration is not taken; the node starts without it", "version", version, "problem", s.problem)
}

// open makes the controller, with an older record where PostgreSQL does not take
// the parameters of the one that the node was to start by.
func (s *startConfig) open(ctx context.Context, host string, logger *slog.Logger) (*pgctl.Controller, error) {
	for {
		controller, err := pgctl.New(controllerConfig(s.config, host, logger))
		version := s.config.Record().Version()
		if err == nil || version == 0 || len(s.older) == 0 || !errors.Is(err, pg.ErrParameter) {
			return controller, err //nolint:wrapcheck // the caller words it
		}
		s.refused(ctx, logger, version, err)
		for len(s.older) > 1 && s.older[0].stored.Version == version {
			s.older = s.older[1:]
		}
		s.use(s.older[0])
	}
}

// readRecord asks the store for the record. recordErr says why the one that is there
// cannot be read, storeErr why the store could not be asked.
func readRecord(ctx context.Context, cfg *config.Config, store dcs.Store) (read record.Rec[record.Config], recordErr, storeErr error) {
	keys, err := record.NewKeys(cfg.Namespace, cfg.Cluster)
	if err != nil {
		return read, nil, err //nolint:wrapcheck // has been checked
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timing.Request)
	defer cancel()
	kv, err := store.Get(ctx, keys.Config())
	switch {
	case errors.Is(err, dcs.ErrNotFound):
		return read, nil, nil
	case err != nil:
		return read, nil, fmt.Errorf("read %s: %w", keys.Config(), err)
	}
	read.Revision = kv.Revision
	read.Value, recordErr = record.DecodeConfig(keys.Config(), kv.Value)
	return read, recordErr, nil
}
