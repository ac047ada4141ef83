package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/app/config"
	"github.com/pghad/pghad/internal/app/daemon"
)

// clientFlags say which cluster a command is about, and in which form it gives
// its result. Those that are empty leave the key to the environment and the file.
type clientFlags struct {
	file, store, endpoints, cluster, namespace string
	output                                     string
}

// add declares the flags on a command.
func (f *clientFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", "", "configuration `FILE` of any node of the cluster")
	flags.StringVar(&f.store, "dcs-type", "", "`KIND` of the store: etcd or zookeeper (dcs.type)")
	flags.StringVar(&f.endpoints, "dcs-endpoints", "", "`ADDRESSES` of the store, separated by commas (dcs.endpoints)")
	flags.StringVar(&f.cluster, "cluster", "", "`NAME` of the cluster")
	flags.StringVar(&f.namespace, "namespace", "", "first part of the cluster's keys in the store")
	flags.StringVarP(&f.output, "output", "o", "table", "`FORM` of the result: table or json")
}

// overrides are the flags that were given.
func (f *clientFlags) overrides() []config.Flag {
	var given []config.Flag
	for _, flag := range []config.Flag{
		{Name: "--dcs-type", Key: "dcs.type", Text: f.store},
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

// client is a command's connection to the store of its cluster.
type client struct {
	cfg   *config.Config
	store dcs.Store
	json  bool // the result is written as JSON
}

// open reads the configuration. It connects to nothing yet. The caller closes
// the client's store.
func (a *app) open(ctx context.Context, flags clientFlags) (*client, error) {
	if flags.output != "table" && flags.output != "json" {
		return nil, &usageError{fmt.Errorf("--output %q is unknown: write table or json", flags.output)}
	}
	cfg, err := config.Load(config.Options{File: flags.file, Env: a.Env, Flags: flags.overrides(), Client: true})
	if err != nil {
		return nil, err //nolint:wrapcheck // says file, line and key
	}
	store, err := daemon.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err //nolint:wrapcheck // says file, line and key
	}
	return &client{cfg: cfg, store: store, json: flags.output == "json"}, nil
}

func (c *client) close() { _ = c.store.Close() } // nothing depends on it any more

// records reads the cluster once, within the request timeout.
func (c *client) records(ctx context.Context) (record.Cluster, error) {
	asked, cancel := context.WithTimeout(ctx, c.cfg.Timing.Request)
	defer cancel()
	records, err := clusterview.ReadRecords(asked, c.store, c.cfg.Namespace, c.cfg.Cluster)
	if err != nil {
		return records, c.unread(err)
	}
	return records, nil
}

// unread says that the store cannot be read, and what to look at.
func (c *client) unread(err error) error {
	return fmt.Errorf("cluster %s cannot be read from the store at %s: %w; is the store running, and is dcs.endpoints right?",
		c.cfg.Cluster, strings.Join(c.cfg.DCS.Endpoints, ", "), err)
}

// operator is who writes what is asked for.
func (c *client) operator() (*ha.Operator, error) {
	keys, err := record.NewKeys(c.cfg.Namespace, c.cfg.Cluster)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the cluster
	}
	return ha.NewOperator(ha.OperatorConfig{Store: c.store, Keys: keys, Timing: c.cfg.Timing.HA()}) //nolint:wrapcheck // checked with the configuration
}

// words are those of an error of the operator. A store that could not be asked
// at all is said as by every other command.
func (c *client) words(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, ha.ErrRefused), errors.Is(err, dcs.ErrAmbiguous):
		return err
	case ctx.Err() != nil:
		return &outcomeError{code: ExitRefused, err: fmt.Errorf("%w; nothing was changed", endOf(ctx))}
	case errors.Is(err, dcs.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return c.unread(err)
	}
	return err
}

// printJSON writes a result to Out.
func (a *app) printJSON(result any) error {
	data, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	return a.print(string(data) + "\n")
}
