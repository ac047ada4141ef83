package cli

import (
	"context"

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
pghad at once. It logs to standard error.`,
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
	cfg, err := config.Load(opts)
	if err != nil {
		return err //nolint:wrapcheck // says file, line and key
	}
	return daemon.Run(ctx, cfg, a.newLogger(cfg.Log), programVersion()) //nolint:wrapcheck // says node or key
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
