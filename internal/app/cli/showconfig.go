package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/app/daemon"
)

func (a *app) check() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether a node could run with its configuration",
		Long: `check does what run does before it changes anything: it reads the configuration,
looks at the directories, ports and certificates of this machine, and asks the store.
It writes nothing but a session of the store that it ends at once.

It says on standard output what is risky, a line each, and exits with 0. What keeps a
node from running it says on standard error, and exits with 2.`,
		Example: "  pghad check -c /etc/pghad.yaml",
		Args:    cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			cfg, err := config.Load(config.Options{File: file, Env: a.Env})
			if err != nil {
				return err //nolint:wrapcheck // says file, line and key
			}
			remarks, err := daemon.Check(cmd.Context(), cfg, a.newLogger(config.Log{Level: "error"}))
			if err != nil {
				return err //nolint:wrapcheck // says file, line and key
			}
			for _, remark := range remarks {
				fmt.Fprintln(a.Out, "warning: "+remark.String())
			}
			fmt.Fprintf(a.Out, "node %s of cluster %s can run\n", cfg.Node, cfg.Cluster)
			return nil
		}),
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`; without it everything comes from the environment")
	return cmd
}

func (a *app) showConfig() *cobra.Command {
	var (
		file    string
		explain bool
	)
	cmd := &cobra.Command{
		Use:   "show-config",
		Short: "Show the configuration in force, from file, environment and defaults",
		Long: `show-config reads the configuration as run does and writes it as a file that means
the same. Secrets are not shown. With --explain every key is there, with what it means
and where its value comes from.`,
		Example: "  pghad show-config -c /etc/pghad.yaml --explain",
		Args:    cobra.NoArgs,
		RunE: a.command(func(*cobra.Command) error {
			cfg, err := config.Load(config.Options{File: file, Env: a.Env})
			if err != nil {
				return err //nolint:wrapcheck // says file, line and key
			}
			return cfg.Write(a.Out, explain) //nolint:wrapcheck // says what it is about
		}),
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`; without it everything comes from the environment")
	cmd.Flags().BoolVar(&explain, "explain", false, "say what each key means and where its value comes from")
	return cmd
}
