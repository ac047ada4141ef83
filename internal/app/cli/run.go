package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/app/daemon"
	"github.com/pghad/pghad/internal/app/member"
)

func (a *app) run() *cobra.Command {
	var (
		file string
		keep bool
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run one node of a cluster until told to stop",
		Long: `run keeps one PostgreSQL server as a node of a cluster: it creates the cluster if
the configuration permits that, or joins it, and then keeps its place.

On SIGINT or SIGTERM a primary lets another node take over, if one can; then pghad
stops PostgreSQL, lets go of its locks and ends (see on_exit). With --keep-postgres
it leaves both: a pghad that is started again before the lease ends goes on with them
and no client notices, after that the guard stops PostgreSQL. A second signal ends
pghad at once. It logs to standard error.

On SIGHUP it reads its configuration again. What can change without a restart does;
what cannot is named in the log, a line each. A configuration with a problem changes
nothing.`,
		Example: "  pghad run -c /etc/pghad.yaml",
		Args:    cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runNode(cmd.Context(), file, keep)
		}),
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`; without it everything comes from the environment (pghad help config)")
	cmd.Flags().BoolVar(&keep, "keep-postgres", false, "leave PostgreSQL to its guard at the end, as on_exit: keep")
	return cmd
}

func (a *app) runNode(ctx context.Context, file string, keep bool) error {
	opts := config.Options{File: file, Env: a.Env}
	if keep {
		opts.Flags = []config.Flag{{Name: "--keep-postgres", Key: "on_exit", Text: string(ha.ExitKeep)}}
	}
	read := func() (*config.Config, error) { return config.Load(opts) }
	cfg, err := read()
	if err != nil {
		return err
	}
	logger, level := a.levelLogger(cfg.Log)
	hangups, stop := hangups()
	defer stop()
	return daemon.Run(ctx, cfg, daemon.Options{ //nolint:wrapcheck // says node or key
		Logger: logger, Version: programVersion(), Read: read, Hangups: hangups,
		SetLevel: func(text string) { level.Set(logLevel(text)) },
	})
}

// hangups has a value after each SIGHUP to this process, until stop is called; several
// that come at once are one.
func hangups() (_ <-chan struct{}, stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	asked, end := make(chan struct{}, 1), make(chan struct{})
	go func() {
		for {
			select {
			case <-signals:
			case <-end:
				return
			}
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}()
	return asked, func() {
		signal.Stop(signals)
		close(end)
	}
}

// member is this node's part of an embedded store, which runs as a process of its
// own. Signals are not for it: it ends with the agent that has started it.
func (a *app) member() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:    "member",
		Short:  "This node's member of the embedded store; started by run",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			cfg, err := config.Load(config.Options{File: file, Env: a.Env})
			if err != nil {
				return err //nolint:wrapcheck // says file, line and key
			}
			return member.Run(context.WithoutCancel(cmd.Context()), cfg, a.In) //nolint:wrapcheck // says what it is about
		}),
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	return cmd
}
