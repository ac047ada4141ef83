package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/ha"
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

// showConfigFlags are the flags of show-config.
type showConfigFlags struct {
	clientFlags
	explain, local, record bool
}

func (a *app) showConfig() *cobra.Command {
	var flags showConfigFlags
	cmd := &cobra.Command{
		Use:   "show-config",
		Short: "Show the configuration in force, from the cluster's record, file, environment and defaults",
		Long: `show-config reads the configuration as run does and writes it as a file that means
the same. Secrets are not shown. With --explain every key is there, with what it means
and where its value comes from: the cluster's record, which wins, a variable of the
environment, a line of the file, or the default; and what is not in force until a
restart, as the running node says.

With --record it shows the cluster's record alone, as edit-config would open it, and
how far each node has come with it.`,
		Example: `  pghad show-config -c /etc/pghad.yaml --explain
  pghad show-config --record --cluster orders --dcs-endpoints http://10.0.0.1:2379`,
		Args: cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			switch {
			case flags.record && (flags.local || flags.explain):
				return &usageError{errors.New("--record shows the cluster's record alone: leave out --local and --explain")}
			case flags.record:
				return a.showRecord(cmd.Context(), flags.clientFlags)
			case flags.output != "table":
				return &usageError{errors.New("-o is for --record")}
			}
			return a.showNodeConfig(cmd.Context(), flags)
		}),
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&flags.explain, "explain", false, "say what each key means and where its value comes from")
	cmd.Flags().BoolVar(&flags.local, "local", false, "do not ask the store: leave out what the cluster's record sets")
	cmd.Flags().BoolVar(&flags.record, "record", false, "show what is set for the whole cluster, and which nodes go by it")
	return cmd
}

func (a *app) showNodeConfig(ctx context.Context, flags showConfigFlags) error {
	cfg, err := config.Load(config.Options{File: flags.file, Env: a.Env, Flags: flags.overrides()})
	if err != nil {
		return err //nolint:wrapcheck // says file, line and key
	}
	if flags.local {
		return cfg.Write(a.Out, flags.explain) //nolint:wrapcheck // says what it is about
	}
	view, err := a.recordOf(ctx, cfg)
	merged := cfg
	if err == nil {
		merged, err = withRecord(cfg, view)
	}
	if err != nil {
		//nolint:errorlint // a problem of the record is none of this node's configuration
		err = &outcomeError{code: ExitFailed, err: fmt.Errorf("what the cluster's record sets is not shown: %v", err)}
		return errors.Join(cfg.Write(a.Out, flags.explain), err)
	}
	var own ha.ConfigNode
	for _, node := range view.Nodes {
		if node.Name == cfg.Node {
			own = node
		}
	}
	if flags.explain {
		fmt.Fprintf(a.Out, "%s%s", recordHeader(view), nodeLines(view))
	}
	if own.Name != "" && (own.Version != view.Record.Value.Version || own.Problem != "") {
		a.sayf("warning: node %s goes by version %d of the cluster's record, and the store has version %d: %s",
			own.Name, own.Version, view.Record.Value.Version, cmp.Or(own.Problem, "it has not come to it yet"))
	}
	return merged.Write(a.Out, flags.explain, own.Pending...) //nolint:wrapcheck // says what it is about
}

// withRecord is a configuration with the record that was read.
func withRecord(cfg *config.Config, view ha.ConfigView) (*config.Config, error) {
	decoded, err := decodeRecord(view)
	if err != nil {
		return nil, err
	}
	return cfg.WithRecord(decoded) //nolint:wrapcheck // says where and which key
}

// decodeRecord is the record that was read, nil if there is none.
func decodeRecord(view ha.ConfigView) (*config.Record, error) {
	switch {
	case view.Err != nil:
		return nil, view.Err
	case view.Record.Value.Version == 0:
		return nil, nil //nolint:nilnil // none is a valid record
	}
	return config.DecodeRecord(view.Record.Value) //nolint:wrapcheck // says where and which key
}

// recordOf reads the record of a node's cluster.
func (a *app) recordOf(ctx context.Context, cfg *config.Config) (ha.ConfigView, error) {
	store, err := daemon.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return ha.ConfigView{}, err //nolint:wrapcheck // says file, line and key
	}
	c := &client{cfg: cfg, store: store}
	defer c.close()
	o, err := c.operator()
	if err != nil {
		return ha.ConfigView{}, err
	}
	view, err := o.Config(ctx)
	return view, c.words(ctx, err)
}

// recordResult is what show-config --record -o json writes. Its JSON is stable:
// fields are added, never renamed or removed.
type recordResult struct {
	Cluster string                     `json:"cluster"`
	Version uint64                     `json:"version"` // 0: there is no record
	Changed string                     `json:"changed"` // RFC 3339
	By      string                     `json:"by"`
	Values  map[string]json.RawMessage `json:"values"`
	Nodes   []ha.ConfigNode            `json:"nodes"`
}

func (a *app) showRecord(ctx context.Context, flags clientFlags) error {
	c, err := a.open(ctx, flags)
	if err != nil {
		return err
	}
	defer c.close()
	o, err := c.operator()
	if err != nil {
		return err
	}
	view, err := o.Config(ctx)
	if err != nil {
		return c.words(ctx, err)
	}
	decoded, err := decodeRecord(view)
	if err != nil {
		return &outcomeError{code: ExitFailed, err: err}
	}
	if !c.json {
		return a.print(recordHeader(view) + nodeLines(view) + decoded.YAML())
	}
	got := view.Record.Value
	result := recordResult{Cluster: c.cfg.Cluster, Version: got.Version, By: got.By, Values: decoded.Values(), Nodes: view.Nodes}
	if got.Version > 0 {
		result.Changed = got.Changed.UTC().Format(time.RFC3339)
	}
	if result.Nodes == nil {
		result.Nodes = []ha.ConfigNode{}
	}
	return a.printJSON(result)
}

// recordHeader says which record it is, as a comment.
func recordHeader(view ha.ConfigView) string {
	got := view.Record.Value
	if got.Version == 0 {
		return "# The cluster has no record yet: nothing is set for all nodes.\n"
	}
	return fmt.Sprintf("# The cluster's record: version %d, of %s, by %s.\n", got.Version, got.Changed.UTC().Format(time.RFC3339), cmp.Or(got.By, "somebody"))
}

// nodeLines say how far each node has come with the record, as comments.
func nodeLines(view ha.ConfigView) string {
	var text strings.Builder
	for _, n := range view.Nodes {
		fmt.Fprintf(&text, "# node %s goes by version %d", n.Name, n.Version)
		if n.Problem != "" {
			fmt.Fprintf(&text, "; %s", strings.Join(strings.Fields(n.Problem), " "))
		}
		if len(n.Pending) > 0 {
			fmt.Fprintf(&text, "; not in force until a restart of pghad: %s", strings.Join(n.Pending, ", "))
		}
		if len(n.PendingRestart) > 0 {
			fmt.Fprintf(&text, "; not in force until a restart of PostgreSQL: %s", strings.Join(n.PendingRestart, ", "))
		}
		text.WriteString("\n")
	}
	return text.String()
}
