package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
)

// maintenanceFlags are the flags of the commands under maintenance.
type maintenanceFlags struct {
	clientFlags
	wait    bool
	force   bool
	yes     bool
	timeout time.Duration // 0: long enough for every node that is healthy
}

func (a *app) maintenance() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "maintenance",
		Short: "Keep all nodes from changing roles while you work on them",
		Long: `While maintenance is on, no node starts, stops, promotes or fences a server of its
own accord, and nobody is elected: neither when a server dies nor when the store
does. Replication, locks and records go on. A cluster that loses its primary
stays without one.`,
		Args: cobra.NoArgs,
		RunE: a.command(func(*cobra.Command) error {
			return &usageError{errors.New("maintenance alone does nothing: write enable, disable or show after it")}
		}),
	}
	cmd.AddCommand(a.maintenanceEnable(), a.maintenanceDisable(), a.maintenanceShow())
	return cmd
}

func (a *app) maintenanceEnable() *cobra.Command {
	var flags maintenanceFlags
	cmd := &cobra.Command{
		Use:   "enable",
		Short: "Begin maintenance",
		Long: `enable writes into the store that maintenance is on. Each node keeps to it from its
next look on; with --wait the command ends when all nodes that are there say so.
Where it is on already nothing changes.`,
		Args: cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runMaintenance(cmd.Context(), flags, (*maintenanceRun).enable)
		}),
	}
	flags.add(cmd)
	flags.addWait(cmd)
	return cmd
}

func (a *app) maintenanceDisable() *cobra.Command {
	var flags maintenanceFlags
	cmd := &cobra.Command{
		Use:   "disable",
		Short: "End maintenance",
		Long: `disable asks for the end of maintenance. It has ended when the node that was the
primary when it began has compared its data with the records and confirmed: until
then nobody acts, for that node's server may be one that can be written to.

--force ends it without that node. Whoever writes it claims that no PostgreSQL of
that node runs, nor can start by itself: another node may be promoted the next
moment. It is refused while that node is heard of.`,
		Args: cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runMaintenance(cmd.Context(), flags, (*maintenanceRun).disable)
		}),
	}
	flags.add(cmd)
	flags.addWait(cmd)
	cmd.Flags().BoolVar(&flags.force, "force", false, "end it without the node that was the primary: that one is off for sure")
	cmd.Flags().BoolVarP(&flags.yes, "yes", "y", false, "do not ask before --force")
	return cmd
}

func (a *app) maintenanceShow() *cobra.Command {
	var flags maintenanceFlags
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Say whether maintenance is on, and which nodes keep to it",
		Args:  cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runMaintenance(cmd.Context(), flags, (*maintenanceRun).show)
		}),
	}
	flags.add(cmd)
	return cmd
}

func (f *maintenanceFlags) addWait(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until all nodes that are there do accordingly")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "wait for `TIME` at most, like 1m; without it for a TTL and the election timeout")
}

// maintenanceRun is one run of such a command.
type maintenanceRun struct {
	app      *app
	client   *client
	operator *ha.Operator
	flags    maintenanceFlags
}

func (a *app) runMaintenance(ctx context.Context, flags maintenanceFlags, do func(*maintenanceRun, context.Context) error) error {
	switch {
	case flags.timeout < 0:
		return &usageError{fmt.Errorf("--timeout %s is not above zero", flags.timeout)}
	case flags.timeout > 0 && !flags.wait:
		return &usageError{errors.New("--timeout needs --wait")}
	case flags.yes && !flags.force:
		return &usageError{errors.New("--yes needs --force")}
	}
	c, err := a.open(ctx, flags.clientFlags)
	if err != nil {
		return err
	}
	defer c.close()
	o, err := c.operator()
	if err != nil {
		return err
	}
	return do(&maintenanceRun{app: a, client: c, operator: o, flags: flags}, ctx)
}

func (r *maintenanceRun) enable(ctx context.Context) error {
	if err := r.operator.EnableMaintenance(ctx, r.app.by()); err != nil {
		return r.client.words(ctx, err)
	}
	return r.finish(ctx, true)
}

func (r *maintenanceRun) disable(ctx context.Context) error {
	if r.flags.force {
		return r.force(ctx)
	}
	if err := r.operator.DisableMaintenance(ctx); err != nil {
		return r.client.words(ctx, err)
	}
	return r.finish(ctx, false)
}

func (r *maintenanceRun) force(ctx context.Context) error {
	if err := r.app.mayAsk(r.flags.yes); err != nil {
		return err
	}
	state, err := r.operator.Maintenance(ctx)
	if err != nil {
		return r.client.words(ctx, err)
	}
	if state.On() && !r.flags.yes {
		r.app.sayf("Maintenance ends without %s. That claims: no PostgreSQL of %s runs, nor can start by itself.",
			cmp.Or(state.Primary, "its primary"), cmp.Or(state.Primary, "that node"))
		r.app.sayf("If that is wrong, two servers may be written to at once, and what the old one takes is lost.")
		if err := r.app.confirm(ctx, "Is it off for sure?"); err != nil {
			return err
		}
	}
	if err := r.operator.ForceMaintenanceOff(ctx); err != nil {
		return r.client.words(ctx, err)
	}
	return r.finish(ctx, false)
}

func (r *maintenanceRun) show(ctx context.Context) error {
	state, err := r.operator.Maintenance(ctx)
	if err != nil {
		return r.client.words(ctx, err)
	}
	return r.print(state)
}

// finish waits, if that was asked for, and shows how things stand.
func (r *maintenanceRun) finish(ctx context.Context, on bool) error {
	if !r.flags.wait {
		return r.show(ctx)
	}
	t := r.client.cfg.Timing
	limit := cmp.Or(r.flags.timeout, t.TTL+t.ElectionTimeout)
	waiting, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not complete in %s", limit))
	defer cancel()
	last := ""
	state, err := r.operator.AwaitMaintenance(waiting, on, func(s ha.MaintenanceState) {
		if text := waitingText(s, on); text != "" && text != last {
			r.app.sayf("%s", text)
			last = text
		}
	})
	if waiting.Err() != nil && err != nil {
		err = &outcomeError{code: ExitFailed, err: fmt.Errorf("%w; what was asked for stands: %s",
			endOf(waiting), cmp.Or(waitingText(state, on), "the records could not be read"))}
	}
	if err != nil {
		return r.client.words(ctx, err)
	}
	return r.print(state)
}

// waitingText says who is waited for, "" if nobody is.
func waitingText(s ha.MaintenanceState, on bool) string {
	switch {
	case !on && s.Mode == record.MaintenanceLeaving:
		return fmt.Sprintf("waiting until %s has confirmed the end", cmp.Or(s.Primary, "the primary of its beginning"))
	case len(s.Waiting()) > 0:
		return "waiting for " + strings.Join(s.Waiting(), ", ")
	}
	return ""
}

func (r *maintenanceRun) print(s ha.MaintenanceState) error {
	if r.client.json {
		return r.app.printJSON(s)
	}
	var text bytes.Buffer
	since := cmp.Or(s.Since, "an unknown time")
	switch {
	case s.Mode == record.MaintenanceLeaving:
		fmt.Fprintf(&text, "maintenance is being left; it lasts until %s has confirmed\n", cmp.Or(s.Primary, "the primary of its beginning"))
	case s.On():
		fmt.Fprintf(&text, "maintenance is on since %s; the primary then was %s\n", since, cmp.Or(s.Primary, "not recorded"))
	default:
		fmt.Fprintln(&text, "maintenance is off")
	}
	if len(s.Nodes) > 0 {
		fmt.Fprintln(&text)
	}
	var table bytes.Buffer
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for i, n := range s.Nodes {
		if i == 0 {
			fmt.Fprintln(tw, "NODE\tAGENT\tKEEPS TO IT\tWHY")
		}
		agent, keeps := "absent", "-"
		if n.Present {
			agent, keeps = "present", "no"
		}
		if n.Keeps {
			keeps = "yes"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", n.Name, agent, keeps, strings.Join(strings.Fields(n.Why), " "))
	}
	_ = tw.Flush() // into memory
	for line := range strings.Lines(table.String()) {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return r.app.print(text.String())
}
