package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/clusterview"
)

func (a *app) list() *cobra.Command {
	return a.reader(reader{
		use:   "list",
		short: "Show the nodes of a cluster, who leads, and what is waited for",
		long: `list reads the records of a cluster once and shows them: the leader with its term
and timeline, the quorum that confirms commits, the running or last election and
switchover, maintenance, and each node as it and the leader describe it.

What it reads is self-reported by the nodes and some moments old.`,
		show: func(namespace, cluster string, records record.Cluster) (any, func(io.Writer) error) {
			view := clusterview.Build(namespace, cluster, records)
			return view, func(w io.Writer) error { return clusterview.WriteTable(w, view) }
		},
	})
}

// reader is a command that reads the records of a cluster once and shows them.
type reader struct {
	use, short, long string
	// show returns the result as JSON has it, and how to write it for people.
	show func(namespace, cluster string, records record.Cluster) (any, func(io.Writer) error)
}

func (a *app) reader(r reader) *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use:   r.use,
		Short: r.short,
		Long:  r.long,
		Example: strings.ReplaceAll("  pghad USE -c /etc/pghad.yaml\n"+
			"  pghad USE --dcs-endpoints http://10.0.0.1:2379 --cluster orders -o json", "USE", r.use),
		Args: cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.read(cmd.Context(), flags, r)
		}),
	}
	flags.add(cmd)
	return cmd
}

func (a *app) read(ctx context.Context, flags clientFlags, r reader) error {
	c, err := a.open(ctx, flags)
	if err != nil {
		return err
	}
	defer c.close()
	records, err := c.records(ctx)
	if err != nil {
		return err
	}
	result, write := r.show(c.cfg.Namespace, c.cfg.Cluster, records)
	if c.json {
		return a.printJSON(result)
	}
	return write(a.Out)
}
