package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
)

// editConfigFlags are the flags of edit-config.
type editConfigFlags struct {
	clientFlags
	set, unset []string
	replace    string
	yes, wait  bool
	timeout    time.Duration // 0: long enough for every node that is healthy
}

func (a *app) editConfig() *cobra.Command {
	var flags editConfigFlags
	cmd := &cobra.Command{
		Use:   "edit-config",
		Short: "Change what is set for the whole cluster",
		Long: `edit-config changes the cluster's record: the keys that are cluster-wide (pghad help
config), which win there over the file and the environment of every node. Without
--set, --unset or --replace it opens the record in $VISUAL or $EDITOR.

It checks the whole as a node's file is checked, shows what changes and asks. Running
nodes take it up at once, but for the timings, which count from the next start of each
node on, and for those of PostgreSQL's settings that need a restart of the server:
restart the standbys first where max_connections and the like are raised, and the
primary first where they are lowered. A node that cannot go by it keeps what it has,
and says why: pghad show-config --record.

When somebody else has changed the record meanwhile, nothing is written.`,
		Example: `  pghad edit-config -c /etc/pghad.yaml
  pghad edit-config --cluster orders --set mode=async --set postgres.parameters.work_mem=64MB --wait
  pghad edit-config -c /etc/pghad.yaml --unset postgres.parameters.work_mem --yes
  pghad edit-config -c /etc/pghad.yaml --replace cluster.yaml`,
		Args: cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error { return a.runEditConfig(cmd.Context(), flags) }),
	}
	flags.add(cmd)
	cmd.Flags().StringArrayVar(&flags.set, "set", nil, "set `KEY=VALUE`; an element of a map is KEY.NAME=VALUE; can be repeated")
	cmd.Flags().StringArrayVar(&flags.unset, "unset", nil, "leave `KEY` to each node again; done before --set; can be repeated")
	cmd.Flags().StringVar(&flags.replace, "replace", "", "set what `FILE` says, - for standard input, and nothing else")
	cmd.Flags().BoolVarP(&flags.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&flags.wait, "wait", false, "wait until all nodes that are there go by it, or say why not")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 0, "wait for `TIME` at most, like 1m; without it for a TTL and the election timeout")
	return cmd
}

func (f *editConfigFlags) check() error {
	switch {
	case f.replace != "" && len(f.set)+len(f.unset) > 0:
		return &usageError{errors.New("--replace sets everything: leave out --set and --unset")}
	case f.timeout < 0:
		return &usageError{fmt.Errorf("--timeout %s is not above zero", f.timeout)}
	case f.timeout > 0 && !f.wait:
		return &usageError{errors.New("--timeout needs --wait")}
	case f.replace == "-" && !f.yes:
		return &usageError{errors.New("standard input is the record, so nobody can be asked on it: write --yes")}
	}
	return nil
}

// configEdit is one run of edit-config.
type configEdit struct {
	app      *app
	client   *client
	operator *ha.Operator
	flags    editConfigFlags
	view     ha.ConfigView  // as it was read
	before   *config.Record // that of view
	unread   bool           // there is one, and it cannot be read
}

// editResult is what edit-config -o json writes. Its JSON is stable.
type editResult struct {
	Version uint64          `json:"version"` // of the record now
	Changed []config.Change `json:"changed"`
	Nodes   []ha.ConfigNode `json:"nodes"` // as they stood to it last; with --wait when all had answered
}

func (a *app) runEditConfig(ctx context.Context, flags editConfigFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	if err := a.mayAsk(flags.yes); err != nil {
		return err
	}
	c, err := a.open(ctx, flags.clientFlags)
	if err != nil {
		return err
	}
	defer c.close()
	e := &configEdit{app: a, client: c, flags: flags}
	if e.operator, err = c.operator(); err != nil {
		return err
	}
	if err := e.read(ctx); err != nil {
		return err
	}
	if flags.replace == "" && len(flags.set)+len(flags.unset) == 0 {
		return e.inEditor(ctx)
	}
	after, err := e.given()
	if err == nil {
		err = e.fits(after)
	}
	if err != nil {
		return err
	}
	return e.write(ctx, after)
}

// read reads the record. One that this version cannot read can only be replaced, and
// not at all if it is of a newer format.
func (e *configEdit) read(ctx context.Context) error {
	var err error
	if e.view, err = e.operator.Config(ctx); err != nil {
		return e.client.words(ctx, err)
	}
	e.before, err = decodeRecord(e.view)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, record.ErrNewer):
		return &outcomeError{code: ExitRefused, err: fmt.Errorf("%w; nothing was changed", err)}
	case e.flags.replace == "":
		return &outcomeError{code: ExitRefused, err: fmt.Errorf("%v; nothing was changed: set the whole record anew by --replace", err)} //nolint:errorlint // it is no problem of this command's own configuration
	}
	e.unread = true
	e.app.sayf("What is there cannot be read, and is replaced: %v", err)
	return nil
}

// given is the record that the flags ask for.
func (e *configEdit) given() (*config.Record, error) {
	if e.flags.replace != "" {
		return e.fromFile(e.flags.replace)
	}
	var edits []config.Edit
	for _, key := range e.flags.unset {
		edits = append(edits, config.Edit{Key: key, Unset: true})
	}
	for _, text := range e.flags.set {
		edit, err := config.ParseEdit(text)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--set %w", err)}
		}
		edits = append(edits, edit)
	}
	return e.before.With(edits) //nolint:wrapcheck // says which key
}

func (e *configEdit) fromFile(name string) (*config.Record, error) {
	var (
		data []byte
		err  error
	)
	if name == "-" {
		name = "standard input"
		data, err = io.ReadAll(io.LimitReader(e.app.In, 1<<20))
	} else {
		data, err = os.ReadFile(name) //nolint:gosec // the operator names the file
	}
	if err != nil {
		return nil, &usageError{fmt.Errorf("--replace: %w", err)}
	}
	return config.ParseRecord(name, data) //nolint:wrapcheck // says where and which key
}

// fits checks a record together with what this command knows of a node.
func (e *configEdit) fits(after *config.Record) error {
	_, err := e.client.cfg.WithRecord(after)
	return err //nolint:wrapcheck // says which key
}

// inEditor lets a person edit the record. What that person has written is kept when
// it is not taken.
func (e *configEdit) inEditor(ctx context.Context) error {
	file, err := os.CreateTemp("", "pghad-"+e.client.cfg.Cluster+"-*.yaml")
	if err != nil {
		return fmt.Errorf("file for the editor: %w", err)
	}
	name := file.Name()
	_, err = file.WriteString(e.text())
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(fmt.Errorf("file for the editor: %w", err), os.Remove(name))
	}
	err = e.edit(ctx, name)
	if err == nil {
		return os.Remove(name) //nolint:wrapcheck // names the file
	}
	e.app.sayf("What you have written is kept in %s; use it by --replace.", name)
	return err
}

func (e *configEdit) edit(ctx context.Context, name string) error {
	editor := cmp.Or(e.app.env("VISUAL"), e.app.env("EDITOR"), "vi")
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", name) //nolint:gosec // the user's own editor, as the user has it
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.app.In, e.app.Err, e.app.Err
	cmd.Env = e.app.Env
	if err := cmd.Run(); err != nil {
		return &outcomeError{code: ExitFailed, err: fmt.Errorf("editor %s: %w; nothing was changed", editor, err)}
	}
	after, err := e.fromFile(name)
	if err == nil {
		err = e.fits(after)
	}
	if err != nil {
		return err
	}
	return e.write(ctx, after)
}

// text is the record as the editor opens it.
func (e *configEdit) text() string {
	var text strings.Builder
	fmt.Fprintf(&text, "# What is set for all nodes of cluster %s, version %d; over their files and environment.\n", e.client.cfg.Cluster, e.before.Version())
	text.WriteString("# What is not set here is left to each node. These keys can be set:\n#\n")
	for _, key := range config.ClusterKeys() {
		fmt.Fprintf(&text, "#   %s: %s\n", key.Name, key.Doc)
	}
	text.WriteString("\n" + e.before.YAML())
	return text.String()
}

// write shows what changes, asks, and writes the record.
func (e *configEdit) write(ctx context.Context, after *config.Record) error {
	changes := config.Changes(e.before, after)
	if len(changes) == 0 && !e.unread {
		e.app.sayf("Nothing changes.")
		return e.result(e.view.Record.Value.Version, changes, e.view)
	}
	e.show(changes)
	if !e.flags.yes {
		if err := e.app.confirm(ctx, "Change the configuration of cluster "+e.client.cfg.Cluster+"?"); err != nil {
			return err
		}
	}
	wrote, err := e.operator.WriteConfig(ctx, e.view, after.Values(), e.app.by())
	if errors.Is(err, dcs.ErrConflict) {
		return &outcomeError{code: ExitRefused, err: e.overtaken(ctx)}
	}
	if err != nil {
		return e.client.words(ctx, err)
	}
	if !e.flags.wait {
		return e.result(wrote.Version, changes, e.view)
	}
	return e.await(ctx, wrote.Version, changes)
}

// overtaken says who has written the record meanwhile.
func (e *configEdit) overtaken(ctx context.Context) error {
	const what = "somebody else has changed the configuration meanwhile"
	now, err := e.operator.Config(ctx)
	if err != nil || now.Err != nil || now.Record.Value.Version == 0 {
		return errors.New(what + "; nothing was changed, look and try again")
	}
	return fmt.Errorf("%s: it is version %d now, by %s; nothing was changed, look and try again",
		what, now.Record.Value.Version, cmp.Or(now.Record.Value.By, "somebody"))
}

// show says what changes, for the person who is asked.
func (e *configEdit) show(changes []config.Change) {
	for _, change := range changes {
		if change.Before != "" {
			e.app.sayf("- %s: %s", change.Key, change.Before)
		}
		if change.After != "" {
			e.app.sayf("+ %s: %s", change.Key, change.After)
		}
	}
	for _, change := range changes {
		switch {
		case change.Key == "mode" && change.After == "async":
			e.app.sayf("In mode async a failover may lose commits that were acknowledged.")
		case change.Key == "mode" && change.After == "":
			e.app.sayf("The mode stays as it is; mode: in a node's file is for a new cluster.")
		case !change.Live:
			e.app.sayf("%s comes into force at the next start of each pghad.", change.Key)
		}
	}
}

// await waits for the nodes.
func (e *configEdit) await(ctx context.Context, version uint64, changes []config.Change) error {
	t := e.client.cfg.Timing
	limit := cmp.Or(e.flags.timeout, t.TTL+t.ElectionTimeout)
	waiting, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not complete in %s", limit))
	defer cancel()
	var last []string
	view, err := e.operator.AwaitConfig(waiting, version, func(names []string) {
		if last = names; len(names) > 0 {
			e.app.sayf("waiting for %s", strings.Join(names, ", "))
		}
	})
	if err != nil {
		if waiting.Err() != nil {
			err = fmt.Errorf("%w; version %d is written, and these do not go by it yet: %s", endOf(waiting), version, cmp.Or(strings.Join(last, ", "), "nobody could be asked"))
		}
		return &outcomeError{code: ExitFailed, err: err}
	}
	var refusing []string
	for _, node := range view.Nodes {
		if node.Version < version {
			refusing = append(refusing, fmt.Sprintf("node %s does not go by it: %s", node.Name, node.Problem))
		}
	}
	if len(refusing) > 0 {
		err = &outcomeError{code: ExitFailed, err: fmt.Errorf("version %d is written, but %s", version, strings.Join(refusing, "; "))}
	}
	return errors.Join(e.result(version, changes, view), err)
}

func (e *configEdit) result(version uint64, changes []config.Change, view ha.ConfigView) error {
	if e.client.json {
		nodes := view.Nodes
		if nodes == nil {
			nodes = []ha.ConfigNode{}
		}
		return e.app.printJSON(editResult{Version: version, Changed: changes, Nodes: nodes})
	}
	text := fmt.Sprintf("the cluster's record is version %d\n", version)
	if e.flags.wait && len(changes) > 0 {
		text += nodeLines(view)
	}
	return e.app.print(text)
}

// env is a variable of the environment, "" if it is not set.
func (a *app) env(name string) string {
	for _, variable := range a.Env {
		if key, value, _ := strings.Cut(variable, "="); key == name {
			return value
		}
	}
	return ""
}
