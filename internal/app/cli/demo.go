package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/internal/app/demo"
)

func (a *app) demo() *cobra.Command {
	var options demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a cluster of three nodes on this machine, with nothing to configure",
		Long: `demo starts three PostgreSQL nodes, a configuration store and clients that write,
and shows them live: who leads, how far the others are, what was acknowledged, how
long writes were not possible. Keys kill the postmaster, the agent or the whole node
of the leader, stop the store, and ask for a switchover.

The store is an etcd that is built in, or with --dcs the etcd or the ZooKeeper that
is installed on this machine: on Debian the packages etcd-server and zookeeper.

With --script it plays one fault unattended and ends with a verdict: exit code 0
only if no acknowledged row was lost, no two nodes wrote at one time, and the
cluster did what it should. Everything it starts and writes is removed at the
end.

Scripts: ` + strings.Join(demo.Scripts(), ", "),
		Example: "  pghad demo\n  pghad demo --script kill-node --json\n  pghad demo --dcs zookeeper --dcs-members 3 --script dcs-outage",
		Args:    cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runDemo(cmd.Context(), options)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&options.Script, "script", "", "play the script `NAME` unattended")
	f.BoolVar(&options.JSON, "json", false, "print the result of the script as one JSON object")
	f.StringVar(&options.Sabotage, "sabotage", "", "plant a fault that the verdict must find: "+strings.Join(demo.Sabotages(), " or ")+" (`KIND`)")
	f.StringVar(&options.DCS, "dcs", demo.DCSEmbedded, "`KIND` of the configuration store: "+strings.Join(demo.DCSKinds(), ", "))
	f.IntVar(&options.DCSMembers, "dcs-members", 1, "`NUMBER` of its servers: 1, or 3 with etcd and zookeeper")
	f.StringVar(&options.Mode, "mode", demo.ModeQuorum, "how commits are made durable: "+demo.ModeQuorum+", or "+demo.ModeAsync+", in which a failover may lose some (`MODE`)")
	f.BoolVar(&options.Quick, "quick", false, "give the nodes short timings: a lease of 3s instead of the default of 10s")
	f.BoolVar(&options.Keep, "keep", false, "keep the files if the verdict is not ok")
	cmd.AddCommand(a.demoSweep())
	return cmd
}

// demoSweep cleans up after a demo that was killed.
func (a *app) demoSweep() *cobra.Command {
	var options demo.SweepOptions
	cmd := &cobra.Command{
		Use:    "sweep",
		Short:  "Clean up after a demo that was killed; started by it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			options.Parent = a.In
			return demo.RunSweep(cmd.Context(), options) //nolint:wrapcheck // says what it is about
		}),
	}
	cmd.Flags().StringVar(&options.Dir, "dir", "", "directory of the demo")
	return cmd
}

func (a *app) runDemo(ctx context.Context, options demo.Options) error {
	switch {
	case options.Script != "" && !slices.Contains(demo.Scripts(), options.Script):
		return &usageError{fmt.Errorf("--script %q is unknown: write one of %s", options.Script, strings.Join(demo.Scripts(), ", "))}
	case options.Sabotage != "" && !slices.Contains(demo.Sabotages(), options.Sabotage):
		return &usageError{fmt.Errorf("--sabotage %q is unknown: write one of %s", options.Sabotage, strings.Join(demo.Sabotages(), ", "))}
	case !slices.Contains(demo.DCSKinds(), options.DCS):
		return &usageError{fmt.Errorf("--dcs %q is unknown: write one of %s", options.DCS, strings.Join(demo.DCSKinds(), ", "))}
	case options.DCSMembers != 1 && options.DCSMembers != 3:
		return &usageError{fmt.Errorf("--dcs-members %d is not possible: write 1 or 3", options.DCSMembers)}
	case options.DCSMembers != 1 && options.DCS == demo.DCSEmbedded:
		return &usageError{fmt.Errorf("--dcs-members %d needs --dcs %s or %s: the embedded store has one member", options.DCSMembers, demo.DCSEtcd, demo.DCSZooKeeper)}
	case options.Mode != demo.ModeQuorum && options.Mode != demo.ModeAsync:
		return &usageError{fmt.Errorf("--mode %q is unknown: write %s or %s", options.Mode, demo.ModeQuorum, demo.ModeAsync)}
	case options.Script == "" && (options.JSON || options.Sabotage != ""):
		return &usageError{errors.New("--json and --sabotage need a --script")}
	}
	options.Stdout, options.Stderr = a.Out, a.Err
	if terminal, ok := a.In.(*os.File); ok {
		options.Stdin = terminal
	}
	result, err := demo.Run(ctx, options)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if options.Script != "" && !result.OK() {
		return fmt.Errorf("demo: the verdict of %s is %s", options.Script, result.Verdict)
	}
	return nil
}

// demoEtcd is the demo's etcd, which runs as a process of its own.
func (a *app) demoEtcd() *cobra.Command {
	var options demo.EtcdOptions
	cmd := &cobra.Command{
		Use:    "demo-etcd",
		Short:  "The etcd of a demo; started by it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return demo.RunEtcd(cmd.Context(), options) //nolint:wrapcheck // says what it is about
		}),
	}
	cmd.Flags().StringVar(&options.Dir, "dir", "", "directory of the demo")
	cmd.Flags().StringVar(&options.ClientURL, "client-url", "", "where to listen")
	return cmd
}
