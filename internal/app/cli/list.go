package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/app/daemon"
)

// listFlags are the flags of list. Those that are empty leave the key to the
// environment and the file.
type listFlags struct {
	file, endpoints, cluster, namespace string
	output                              string
}

func (a *app) list() *cobra.Command {
	var flags listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the nodes of a cluster, who leads, and what is waited for",
		Long: `list reads the records of a cluster once and shows them: the leader with its term
and timeline, the quorum that confirms commits, the running or last election,
and each node as it and the leader describe it.

What it reads is self-reported by the nodes and some moments old.`,
		Example: "  pghad list -c /etc/pghad.yaml\n  pghad list --dcs-endpoints http://10.0.0.1:2379 --cluster orders -o json",
		Args:    cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runList(cmd.Context(), flags)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&flags.file, "config", "c", "", "configuration `FILE` of any node of the cluster")
	f.StringVar(&flags.endpoints, "dcs-endpoints", "", "`ADDRESSES` of the store, separated by commas (dcs.endpoints)")
	f.StringVar(&flags.cluster, "cluster", "", "`NAME` of the cluster")
	f.StringVar(&flags.namespace, "namespace", "", "first part of the cluster's keys in the store")
	f.StringVarP(&flags.output, "output", "o", "table", "`FORM` of the result: table or json")
	return cmd
}

func (a *app) runList(ctx context.Context, flags listFlags) error {
	if flags.output != "table" && flags.output != "json" {
		return &usageError{fmt.Errorf("--output %q is unknown: write table or json", flags.output)}
	}
	cfg, err := config.Load(config.Options{File: flags.file, Env: a.Env, Flags: flags.overrides(), Client: true})
	if err != nil {
		return err //nolint:wrapcheck // says file, line and key
	}
	view, err := readView(ctx, cfg)
	if err != nil {
		return err
	}
	if flags.output == "table" {
		return clusterview.WriteTable(a.Out, view) //nolint:wrapcheck // says what was written
	}
	data, err := json.MarshalIndent(view, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the records of cluster %s: %w", cfg.Cluster, err)
	}
	return a.print(string(data) + "\n")
}

// overrides are the flags that were given.
func (f listFlags) overrides() []config.Flag {
	var given []config.Flag
	for _, flag := range []config.Flag{
		{Name: "--dcs-endpoints", Key: "dcs.endpoints", Text: f.endpoints},
		{Name: "--cluster", Key: "cluster", Text: f.cluster},
		{Name: "--namespace", Key: "namespace", Text: f.namespace},
	} {
		if flag.Text != "" {
			given = append(given, flag)
		}
	}
	return given
}

// readView reads the records within the request timeout.
func readView(ctx context.Context, cfg *config.Config) (clusterview.View, error) {
	store, err := daemon.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return clusterview.View{}, err //nolint:wrapcheck // says file, line and key
	}
	defer store.Close() //nolint:errcheck // read only
	asked, cancel := context.WithTimeout(ctx, cfg.Timing.Request)
	defer cancel()
	view, err := clusterview.Read(asked, store, cfg.Namespace, cfg.Cluster)
	if err != nil {
		return view, fmt.Errorf("cluster %s cannot be read from the store at %s: %w; is the store running, and is dcs.endpoints right?",
			cfg.Cluster, strings.Join(cfg.DCS.Endpoints, ", "), err)
	}
	return view, nil
}
