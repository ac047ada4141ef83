package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/app/member"
	"github.com/pghad/pghad/internal/reaper"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// stopTimeout bounds the stop of a server whose node has given up.
const stopTimeout = 30 * time.Second

// Options are what Run needs beside its configuration.
type Options struct {
	Logger  *slog.Logger
	Version string // is published with the node's record

	// Read reads the configuration again, without a record of the cluster, when
	// Hangups gives a value. nil: what the node has started with stays.
	Read    func() (*config.Config, error)
	Hangups <-chan struct{}
	// SetLevel sets the least severity that Logger logs; may be nil.
	SetLevel func(level string)
}

// Run runs the node that base and the cluster's record describe until ctx ends; then
// it stops PostgreSQL, lets go of the locks and returns nil. Meanwhile it takes up
// what changes in the record, and in the file when it is told to.
//
// A store that cannot be reached is said at first and once a minute, and tried
// again; it is no error. *config.Error and ha.ErrForeignData say that the
// configuration does not fit this machine or this cluster, or that another
// process uses the state directory; what is wrong with the configuration is
// found before anything is written to disk.
func Run(ctx context.Context, base *config.Config, opts Options) error {
	logger := opts.Logger
	store, err := OpenStore(ctx, base, logger)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // nothing depends on it any more
	host, err := listenAddress(ctx, base, logger)
	if err != nil {
		return err
	}
	if err := checkMachine(ctx, base, host); err != nil {
		return err
	}
	own, err := member.Start(ctx, base, logger)
	if err != nil {
		return err
	}
	defer own.Close() // after the node, which lets go of its locks first
	start := newStart(ctx, base, store, logger)
	cfg := start.config
	remarks, storeErr, err := checkStore(ctx, cfg, store)
	if err != nil {
		return err
	}
	for _, remark := range append(append(remarks, guardRemarks(cfg)...), lineRemarks(ctx, cfg, host)...) {
		logger.WarnContext(ctx, "configuration", "remark", remark.String())
	}
	line, err := openLine(ctx, cfg, host, logger)
	if err != nil {
		return err
	}
	defer line.close()
	watch := &storeWatch{logger: logger}
	watch.look(ctx, time.Now(), storeErr)
	orphans, err := reaper.Start(reaper.Config{})
	switch {
	case errors.Is(err, reaper.ErrUnsupported):
		logger.WarnContext(ctx, "orphaned processes are left to process 1", "reason", err)
	case err != nil:
		return fmt.Errorf("reap orphaned processes: %w", err)
	default:
		defer orphans.Stop()
	}
	return runNode(ctx, start, host, store, line, watch, opts)
}

// runNode makes the local pieces, which may write to the state directory, and
// runs the node.
func runNode(ctx context.Context, start startConfig, host string, store dcs.Store, line *line, watch *storeWatch, opts Options) (err error) {
	logger := watch.logger
	found := ownServerRuns(start.base.Postgres.DataDir)
	controller, err := start.open(ctx, host, logger)
	if err != nil {
		return start.config.Problem("postgres", inKeys(err.Error()))
	}
	cfg := start.config
	defer func() { err = errors.Join(err, controller.Close()) }()
	if err := linkLog(cfg); err != nil {
		return err
	}
	disk, err := ha.FileDisk(cfg.Postgres.StateDir)
	if err != nil {
		return cfg.Problem("postgres.state_dir", err.Error())
	}
	manager := newService(logger, cfg.Timing.HA())
	changes := newSettings(logger, start)
	changes.controller, changes.line, changes.service = controller, line, manager
	changes.read, changes.level = opts.Read, opts.SetLevel
	node, err := ha.NewNode(ha.NodeConfig{
		Namespace:  cfg.Namespace,
		Cluster:    cfg.Cluster,
		Name:       cfg.Node,
		Store:      store,
		Postgres:   founder{controller, cfg},
		Disk:       disk,
		Peers:      line.peers(),
		Host:       host,
		Port:       cfg.Postgres.Port,
		APIURL:     line.address(),
		Timing:     cfg.Timing.HA(),
		Mode:       quorum.Mode(cfg.Mode),
		MaxLag:     uint64(cfg.MaximumLagOnFailover), //nolint:gosec // checked, above zero
		Exit:       ha.Exit(cfg.OnExit),
		Relaxed:    !cfg.Strict,
		Bootstrap:  cfg.Bootstrap,
		Existing:   cfg.BootstrapFrom == config.FromExisting,
		Priority:   cfg.Tags.FailoverPriority,
		NoFailover: !cfg.Tags.MayWin(),
		Version:    opts.Version,
		Logger:     logger,
		Events:     ha.Events{Config: changes.tell},
		Effects:    manager.effects(),
	})
	if err != nil {
		return fmt.Errorf("node %s: %w", cfg.Node, err)
	}
	changes.node = node
	changes.began(ctx, start.loaded)
	changes.publish(start.problem)
	if err := line.serve(ctx, node); err != nil {
		return err
	}
	logger.InfoContext(ctx, "node starts", "cluster", cfg.Cluster, "node", cfg.Node, "version", opts.Version,
		"postgres", net.JoinHostPort(host, fmt.Sprint(cfg.Postgres.Port)), "store", cfg.DCS.Type+" at "+strings.Join(cfg.DCS.Addresses(), ","),
		"api", cmp.Or(line.address(), "none"))
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	wait.Go(func() { watch.run(watching, node) })
	wait.Go(func() { manager.run(watching, node) })
	wait.Go(func() { changes.run(watching, opts.Hangups) })
	wait.Go(func() { shedding(watching, logger) })
	defer context.AfterFunc(ctx, manager.ending)()
	err = node.Run(ctx)
	stop()
	wait.Wait()
	if err != nil {
		err = fmt.Errorf("node %s: %w", cfg.Node, err)
		if !found { // what this process has started it does not leave behind
			err = errors.Join(err, stopServer(controller))
		}
		return err
	}
	logger.Info("node has ended", "cluster", cfg.Cluster, "node", cfg.Node)
	return nil
}

// stopServer stops PostgreSQL after the node has given up.
func stopServer(controller *pgctl.Controller) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := controller.Stop(ctx, pg.StopFast); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

func controllerConfig(cfg *config.Config, host string, logger *slog.Logger) pgctl.Config {
	p := cfg.Postgres
	return pgctl.Config{
		BinDir:              p.BinDir,
		DataDir:             p.DataDir,
		StateDir:            p.StateDir,
		SocketDir:           p.SocketDir,
		ListenHost:          host,
		Port:                p.Port,
		Name:                cfg.Node,
		User:                p.OSUser,
		Superuser:           p.Superuser,
		Database:            p.Database,
		ReplicationUser:     p.Replication.User,
		ReplicationPassword: p.Replication.Password.Reveal(),
		Parameters:          p.Parameters,
		HBA:                 p.HBA,
		Ident:               p.Ident,
		MonitorUser:         p.MonitorUser,
		SelfCheckTimeout:    p.SelfCheckTimeout,
		MemberSlotsTTL:      p.MemberSlotsTTL,
		Archive:             pgctl.Archive{Command: p.Archive.Command, Resend: uint64(p.Archive.Resend)}, //nolint:gosec // checked, above zero
		CloneCommand:        p.CloneCommand,
		Rejoin:              pgctl.RejoinPolicy{Attempts: p.Rejoin.Attempts, Within: p.Rejoin.Within, Then: pgctl.RejoinThen(p.Rejoin.Then)},
		Guard:               guardOf(cfg),
		Logger:              logger,
	}
}

// guardOf is the guard of the server, nil for none.
func guardOf(cfg *config.Config) *pgctl.Guard {
	g := cfg.Guard
	if g.Use == config.GuardNever || g.Use == config.GuardAuto && g.Program == "" && pgctl.FindGuard() == "" {
		return nil
	}
	return &pgctl.Guard{Program: g.Program, Watchdog: g.Watchdog, WatchdogTimeout: g.WatchdogTimeout}
}

// guardRemarks say what the want of a guard means.
func guardRemarks(cfg *config.Config) []config.Problem {
	if guardOf(cfg) != nil {
		return nil
	}
	const without = "PostgreSQL runs without a guard (no pghad-guard beside pghad or in PATH, or guard.use: never): "
	if cfg.Mode == string(quorum.ModeAsync) {
		return []config.Problem{cfg.Remark("guard.use", without+
			"if pghad is killed or frozen while another node takes over, both accept writes, for nothing else prevents that in mode async")}
	}
	return []config.Problem{cfg.Remark("guard.use", without+
		"if pghad is killed or frozen, it goes on serving reads that may be old, and commits that can never be acknowledged wait on it")}
}
