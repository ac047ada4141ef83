package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/switchover"
)

// switchoverFlags are the flags of switchover.
type switchoverFlags struct {
	clientFlags
	to      string
	yes     bool
	cancel  bool
	timeout time.Duration // 0: the sum of the phases' limits
}

func (a *app) switchover() *cobra.Command {
	var flags switchoverFlags
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "Move the primary to another node, and wait until it leads",
		Long: `switchover asks the primary to hand over to another node of the quorum, without
losing a commit. It shows what will happen and asks for a yes; then it waits and
says how far it has come.

The primary goes on until the other node is close, at most for the election
timeout. Then it stops, at most for half of that, and the other node takes over.
Up to that point any trouble leaves the cluster as it was. Without --timeout the
wait is limited by the sum of these times: 35s with the default timing. When it
ends early, by --timeout or Ctrl-C, a switchover that the primary has not taken
up yet is cancelled; any other goes on, see pghad why.

Exit codes: 0 the other node leads, 1 refused, cancelled or taken back: the
primary is the one that it was, 2 usage or configuration, 3 failed or
unreachable, 4 how it ended is not known.`,
		Example: "  pghad switchover -c /etc/pghad.yaml --to b\n  pghad switchover --dcs-endpoints http://10.0.0.1:2379 --cluster orders --yes -o json",
		Args:    cobra.NoArgs,
		RunE: a.command(func(cmd *cobra.Command) error {
			return a.runSwitchover(cmd.Context(), flags)
		}),
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.to, "to", "", "`NODE` that is to take over; without it the primary chooses the best")
	f.BoolVarP(&flags.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&flags.cancel, "cancel", false, "cancel a switchover that the primary has not taken up yet, whoever asked for it")
	f.DurationVar(&flags.timeout, "timeout", 0, "wait for `TIME` at most, like 1m; without it for the sum of the phases' limits")
	return cmd
}

func (a *app) runSwitchover(ctx context.Context, flags switchoverFlags) error {
	switch {
	case flags.timeout < 0:
		return &usageError{fmt.Errorf("--timeout %s is not above zero", flags.timeout)}
	case flags.cancel && flags.to != "":
		return &usageError{errors.New("--cancel and --to contradict each other")}
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
	if flags.cancel {
		return a.cancelSwitchover(ctx, c, o)
	}
	if err := a.mayAsk(flags.yes); err != nil {
		return err
	}
	preview, err := o.PreviewSwitchover(ctx, ha.SwitchoverRequest{To: flags.to})
	if err != nil {
		return c.words(ctx, err)
	}
	w := &switchoverWait{app: a, client: c, operator: o, limit: flags.timeout}
	if w.limit == 0 {
		w.limit = o.SwitchoverBound()
	}
	a.announce(c, preview, flags.to, w.limit)
	if !flags.yes {
		if err := a.confirm(ctx, "Switch over?"); err != nil {
			return err
		}
	}
	return w.run(ctx, ha.SwitchoverRequest{From: preview.From, To: flags.to, By: a.by()})
}

func (a *app) cancelSwitchover(ctx context.Context, c *client, o *ha.Operator) error {
	if err := o.CancelSwitchover(ctx, "", a.by()); err != nil {
		return c.words(ctx, err)
	}
	if c.json {
		return a.printJSON(switchoverOutcome{Outcome: outcomeCancelled})
	}
	return a.print("cancelled: the primary had not taken it up\n")
}

// announce shows what will happen, and what it costs.
func (a *app) announce(c *client, p ha.SwitchoverPreview, to string, limit time.Duration) {
	t := c.cfg.Timing
	target, _ := p.Candidate(p.Target)
	a.sayf("cluster %s: %s hands over to %s", c.cfg.Cluster, p.From, p.Target)
	a.sayf("  from      %s, which leads in term %d on timeline %s", p.From, p.Term, p.Timeline)
	if to == "" {
		a.sayf("  to        the best of the quorum, which is %s now: %s", p.Target, lagText(target))
	} else {
		a.sayf("  to        %s: %s", p.Target, lagText(target))
	}
	for _, other := range p.Candidates {
		if other.Member != target.Member {
			a.sayf("  stays     %s: %s", other.Member.Node, lagText(other))
		}
	}
	a.sayf("  cost      writes go on until %s is close, at most %s; then all sessions of %s end, and nobody can write", p.Target, t.ElectionTimeout, p.From)
	a.sayf("            until %s has taken over: mostly a second or two, at most %s", p.Target, t.ElectionTimeout/2+t.ElectionTimeout)
	a.sayf("  otherwise %s goes on as the primary; if %s fails after the hand-over, an election decides", p.From, p.Target)
	a.sayf("  limit     %s in all", limit)
}

// lagText is what a candidate lacks, as the primary has published it last.
func lagText(c switchover.Candidate) string {
	switch {
	case c.BelowFloor:
		return "its copy is not complete yet"
	case !c.Streams:
		return "does not stream"
	case c.Lag == 0 && c.ReplayLag == 0:
		return "has all WAL, and has replayed it"
	}
	return fmt.Sprintf("lacks %s of WAL, and has %s to replay", bytesText(c.Lag), bytesText(c.ReplayLag))
}

func bytesText(n uint64) string {
	const kib = 1 << 10
	switch {
	case n < 10*kib:
		return fmt.Sprintf("%d B", n)
	case n < 10*kib*kib:
		return fmt.Sprintf("%d KiB", n/kib)
	}
	return fmt.Sprintf("%d MiB", n/kib/kib)
}

// How a switchover ended, for scripts.
const (
	outcomeDone       = "done"
	outcomeRolledBack = "rolled back" // the primary is the one that it was
	outcomeCancelled  = "cancelled"
	outcomeFailed     = "failed"
	outcomeUnknown    = "unknown"
)

// switchoverOutcome is the result of the command. Its JSON is stable: fields are
// added, never renamed or removed.
type switchoverOutcome struct {
	ID       string  `json:"id"`
	Outcome  string  `json:"outcome"`
	Phase    string  `json:"phase"` // seen last
	From     string  `json:"from"`
	Target   string  `json:"target"`
	Leader   string  `json:"leader"` // seen last
	Term     uint64  `json:"term"`
	Timeline uint64  `json:"timeline"`
	Reason   string  `json:"reason"`
	Seconds  float64 `json:"seconds"`
}

// switchoverWait asks for a switchover and waits for its end.
type switchoverWait struct {
	app      *app
	client   *client
	operator *ha.Operator
	limit    time.Duration
	begun    time.Time
	id       string
}

func (w *switchoverWait) run(ctx context.Context, req ha.SwitchoverRequest) error {
	w.begun = time.Now()
	waiting, cancel := context.WithTimeoutCause(ctx, w.limit, fmt.Errorf("it was not done in %s", w.limit))
	defer cancel()
	var err error
	w.id, err = w.operator.ScheduleSwitchover(waiting, req)
	if errors.Is(err, dcs.ErrAmbiguous) {
		return w.end(ha.SwitchoverResult{From: req.From}, outcomeUnknown, ExitUnknown,
			fmt.Errorf("whether the switchover has been asked for is not known (%w); if so, its id is %s in pghad why", err, w.id))
	}
	if err != nil && waiting.Err() != nil {
		return w.end(ha.SwitchoverResult{From: req.From}, outcomeCancelled, ExitRefused,
			fmt.Errorf("%w: the switchover has not been asked for; nothing was changed", endOf(waiting)))
	}
	if err != nil {
		return w.client.words(ctx, err)
	}
	result, err := w.operator.AwaitSwitchover(waiting, w.id, w.progress)
	switch {
	case err == nil:
		return w.ended(result)
	case waiting.Err() != nil:
		return w.giveUp(ctx, endOf(waiting), result)
	}
	return w.end(result, outcomeUnknown, ExitUnknown, fmt.Errorf("how the switchover has ended is not known: %w; see pghad why", err))
}

// progress says how far it has come.
func (w *switchoverWait) progress(p ha.SwitchoverProgress) {
	var text string
	switch p.Phase {
	case record.SwitchoverScheduled:
		text = fmt.Sprintf("asked for; %s has not taken it up yet", p.From)
	case record.SwitchoverPreparing:
		text = fmt.Sprintf("%s waits until %s is close; writes go on", p.From, p.Target)
	case record.SwitchoverStopping:
		text = fmt.Sprintf("%s stops; nobody can write", p.From)
	case record.SwitchoverCommitted:
		text = fmt.Sprintf("%s has handed over, %s takes over", p.From, p.Target)
		if p.Leader == p.Target {
			text = p.Target + " has taken over and promotes"
		}
	case record.SwitchoverNone, record.SwitchoverDone, record.SwitchoverFailed:
		return // the result says it
	}
	switch {
	case p.StoreErr != "":
		text = "the store cannot be read: " + p.StoreErr
	case p.Reason != "":
		text += ": " + p.Reason
	}
	w.app.sayf("%6.1fs  %s", time.Since(w.begun).Seconds(), strings.Join(strings.Fields(text), " "))
}

// ended words the end of a switchover that is known.
func (w *switchoverWait) ended(r ha.SwitchoverResult) error {
	switch {
	case r.Done():
		return w.end(r, outcomeDone, ExitDone, nil)
	case r.RolledBack():
		return w.end(r, outcomeRolledBack, ExitRefused, fmt.Errorf("no switchover, %s is the primary as before: %s", r.Leader, orUnsaid(r.Reason)))
	case r.Term > 0:
		return w.end(r, outcomeFailed, ExitFailed, fmt.Errorf("the switchover failed, and %s leads in term %d: %s", r.Leader, r.Term, orUnsaid(r.Reason)))
	}
	return w.end(r, outcomeFailed, ExitFailed, fmt.Errorf("the switchover failed, and nobody leads: %s; see pghad why", orUnsaid(r.Reason)))
}

func orUnsaid(reason string) string {
	if reason == "" {
		return "no reason is recorded"
	}
	return reason
}

// giveUp cancels what can still be cancelled when the wait has ended, and says
// how things stand. Also after an interrupt it takes its time; a second one ends
// the program.
func (w *switchoverWait) giveUp(ctx context.Context, cause error, seen ha.SwitchoverResult) error {
	w.app.sayf("%6.1fs  %v; cancelling if that is still possible", time.Since(w.begun).Seconds(), cause)
	t := w.client.cfg.Timing
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*t.TTL+5*t.Request)
	defer cancel()
	err := w.operator.CancelSwitchover(ending, w.id, w.app.by())
	if err == nil {
		return w.end(seen, outcomeCancelled, ExitRefused, fmt.Errorf("%w: the switchover is cancelled, the primary had not taken it up; nothing was changed", cause))
	}
	if errors.Is(err, ha.ErrRefused) { // it is under way, or over
		looking, cancel := context.WithTimeout(ending, t.Request)
		defer cancel()
		last, lookErr := w.operator.AwaitSwitchover(looking, w.id, nil)
		if lookErr == nil {
			return w.ended(last)
		}
		if last.Phase != record.SwitchoverNone {
			seen = last
		}
		return w.end(seen, outcomeUnknown, ExitUnknown,
			fmt.Errorf("%w: the switchover is %s and goes on without being waited for; see pghad why", cause, seen.Phase))
	}
	return w.end(seen, outcomeUnknown, ExitUnknown, fmt.Errorf("%w: the switchover could not be cancelled and may go on: %w; see pghad why", cause, err))
}

// end writes the result, and returns the error for the exit code.
func (w *switchoverWait) end(r ha.SwitchoverResult, outcome string, code int, err error) error {
	took := time.Since(w.begun)
	if err != nil {
		err = &outcomeError{code: code, err: err}
	}
	if w.client.json {
		printed := w.app.printJSON(switchoverOutcome{
			ID: w.id, Outcome: outcome, Phase: string(r.Phase), From: r.From, Target: r.Target, Leader: r.Leader,
			Term: r.Term, Timeline: uint64(r.Timeline), Reason: r.Reason, Seconds: took.Seconds(),
		})
		return errors.Join(err, printed)
	}
	if outcome == outcomeDone {
		return w.app.print(fmt.Sprintf("done: %s leads in term %d on timeline %s, after %.1fs\n", r.Leader, r.Term, r.Timeline, took.Seconds()))
	}
	return err
}
