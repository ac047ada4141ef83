package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pghad/pghad/internal/workload"
)

const (
	// setUpTime is how long a cluster may take to be whole for the first time. That
	// takes a loaded machine long, and says nothing about the cluster.
	setUpTime = 2 * time.Minute
	// scriptTime is how long most scripts may play.
	scriptTime = 50 * time.Second
	// checkTime bounds the check at the end.
	checkTime = 6 * time.Second
)

// errStuck is the cause of a script's end when its time is up.
var errStuck = errors.New("the time of the script is up")

// script is a fault that can be played.
type script struct {
	play func(*play, context.Context) error
	// limit is the default of Options.Limit.
	limit time.Duration
	// calm: clients are to notice nothing at all.
	calm bool
}

// scripts are the faults that can be played, by name.
var scripts = map[string]script{
	"kill-postmaster": {play: (*play).killPostmaster, limit: scriptTime},
	"kill-node":       {play: (*play).killNode, limit: scriptTime},
	"rejoin":          {play: (*play).rejoin, limit: scriptTime},
	"switchover":      {play: (*play).switchover, limit: 2 * scriptTime},
	"dcs-outage":      {play: (*play).dcsOutage, limit: 2 * scriptTime, calm: true},
	"dcs-freeze":      {play: (*play).dcsFreeze, limit: 2 * scriptTime, calm: true},
	"kill-agent":      {play: (*play).killAgent, limit: 2 * scriptTime},
	"freeze-agent":    {play: (*play).freezeAgent, limit: 2 * scriptTime},
	"hang-agent":      {play: (*play).hangAgent, limit: 3 * scriptTime},
	"freeze-node":     {play: (*play).freezeNode, limit: 2 * scriptTime},
	"restart-agent":   {play: (*play).restartAgent, limit: scriptTime, calm: true},
}

// planted is the verdict that each sabotage must lead to.
var planted = map[string]workload.Verdict{
	SabotageLose:       workload.VerdictLost,
	SabotageTwoWriters: workload.VerdictTwoWriters,
	SabotageFailWrite:  workload.VerdictBroken,
}

// Scripts are the names that Options.Script knows.
func Scripts() []string { return slices.Sorted(maps.Keys(scripts)) }

// play is one run of a script.
type play struct {
	*stage
	victim   string        // who was hit
	fault    time.Duration // when, by the ledger
	calm     bool          // no write may fail
	quick    bool          // not as long as a user would wait
	mode     string
	rejoined bool
	stuck    bool // the time was up before it had come to its end

	switchovers []Switchover
	lock        *Lock
	hang        *Hang
	thawed      *thawed
	thaws       *Thaw
	broken      []string // what did not hold
}

// breakf notes that something did not hold which the script promises.
func (p *play) breakf(format string, args ...any) {
	sentence := fmt.Sprintf(format, args...)
	p.broken = append(p.broken, sentence)
	p.sayf("broken: %s", sentence)
}

// playScript sets up, plays, checks and cleans up. The error is about the demo
// itself; what the cluster did wrong is in the result.
func playScript(ctx context.Context, o Options) (Result, error) {
	result := Result{Scenario: o.Script, Verdict: workload.VerdictError}
	starting, cancel := context.WithTimeoutCause(ctx, max(o.Limit, setUpTime), errStuck)
	defer cancel()
	s, err := setUp(starting, o)
	if err != nil {
		return result, err
	}
	p := &play{stage: s, calm: scripts[o.Script].calm, quick: o.Quick, mode: o.Mode}
	if err = p.begin(starting); err == nil {
		timed, cancel := context.WithTimeoutCause(ctx, o.Limit, errStuck)
		defer cancel()
		err = p.perform(timed, o)
	}
	if errors.Is(err, errStuck) {
		p.sayf("stuck: %v", err)
		p.stuck = true
		err = p.stopClients()
	}
	if err == nil {
		result, err = p.judge(ctx, o.Script)
	}
	if !result.OK() && result.Verdict != planted[o.Sabotage] && ctx.Err() == nil {
		s.logs()
	}
	keep := o.Keep && !result.OK()
	if keep {
		s.sayf("everything is kept in %s", s.dir)
	}
	if down := s.tearDown(keep); down != nil {
		result.Verdict = workload.VerdictError
		err = errors.Join(err, down)
	}
	return result, err
}

// sabotage plants what has to be there before the fault.
func (p *play) sabotage(ctx context.Context, o Options) error {
	switch o.Sabotage {
	case SabotageTwoWriters:
		return p.plantWriter(ctx)
	case SabotageFailWrite:
		p.sayf("sabotage: the sessions of all clients on %s are ended", p.victim)
		return p.cluster.EndSessions(ctx, p.victim)
	}
	return nil
}

// begin waits for the cluster that the script is played on.
func (p *play) begin(ctx context.Context) error {
	view, err := p.awaitCluster(ctx)
	if err != nil {
		return err
	}
	p.victim = view.Leader
	p.sayf("%s leads on timeline %d; the others stream and count", view.Leader, view.Timeline)
	return nil
}

// perform does all that happens from then on to the check.
func (p *play) perform(ctx context.Context, o Options) error {
	if err := p.startClients(ctx); err != nil {
		return err
	}
	// A fault in step with the nodes' timers would measure their phase.
	if err := p.wait(ctx, p.steady()+rand.N(p.timing.RenewEvery)); err != nil { //nolint:gosec // not a secret
		return err
	}
	if err := p.sabotage(ctx, o); err != nil {
		return err
	}
	p.sayf("%s so far", p.ledger.Counts())
	if err := scripts[o.Script].play(p, ctx); err != nil {
		return err
	}
	if err := p.wait(ctx, p.steady()); err != nil {
		return err
	}
	if err := p.stopClients(); err != nil {
		return err
	}
	if o.Sabotage == SabotageLose {
		ids, err := workload.Lose(ctx, p.cluster.Target(), p.ledgerPath(), 3)
		if err != nil {
			return err
		}
		p.sayf("sabotage: the acknowledged rows %v are deleted", ids)
	}
	return nil
}

func (p *play) killPostmaster(ctx context.Context) error {
	if err := p.strike("the postmaster", p.cluster.KillPostmaster); err != nil {
		return err
	}
	if err := p.awaitWrites(ctx); err != nil {
		return err
	}
	return p.awaitRejoined(ctx)
}

func (p *play) killNode(ctx context.Context) error {
	if err := p.strike("everything", p.cluster.KillNode); err != nil {
		return err
	}
	return p.awaitWrites(ctx)
}

func (p *play) rejoin(ctx context.Context) error {
	if err := p.killNode(ctx); err != nil {
		return err
	}
	if err := p.wait(ctx, time.Second); err != nil { // rows that the old primary lacks
		return err
	}
	p.sayf("%s is started again", p.victim)
	return p.bringBack(ctx)
}

// bringBack starts the agent of the node that was hit and waits until the node
// counts again.
func (p *play) bringBack(ctx context.Context) error {
	return p.comeBack(ctx, p.cluster.StartNode)
}

// comeBack lets the node that was hit go on and waits until it counts again.
func (p *play) comeBack(ctx context.Context, goOn func(string) error) error {
	traces, err := p.cluster.Traces(p.victim)
	if err != nil {
		return err
	}
	if err := goOn(p.victim); err != nil {
		return err
	}
	if err := p.awaitRejoined(ctx); err != nil {
		return err
	}
	back, err := traces.Comeback()
	if err != nil {
		return err
	}
	p.sayf("%s came back by: %s", p.victim, back)
	return nil
}

// strike hits the primary with SIGKILL.
func (p *play) strike(what string, kill func(string) error) error { return p.hit(what, "killed", kill) }

// hit does something to the primary.
func (p *play) hit(what, how string, do func(string) error) error {
	p.fault = p.ledger.Now()
	if err := do(p.victim); err != nil {
		return err
	}
	p.sayf("%s of %s is %s", what, p.victim, how)
	return nil
}

// awaitWrites waits until clients have found a primary after the fault.
func (p *play) awaitWrites(ctx context.Context) error {
	err := until(ctx, 5*time.Millisecond, "writes to go on", func(context.Context) error {
		if !p.writers.Resumed(p.fault) {
			return errors.New("nothing was acknowledged since the fault")
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.sayf("writes go on after %d ms", p.writers.Gaps().Longest(p.fault).Length().Milliseconds())
	return nil
}

// awaitRejoined waits until the node that was hit counts again.
func (p *play) awaitRejoined(ctx context.Context) error {
	view, err := p.awaitWhole(ctx)
	if err != nil {
		return err
	}
	p.rejoined = true
	p.sayf("the cluster is whole: %s leads on timeline %d", view.Leader, view.Timeline)
	return nil
}

// steady is how long writing goes on undisturbed before and after a fault.
func (p *play) steady() time.Duration {
	if p.quick {
		return time.Second
	}
	return 2 * time.Second
}

// wait lets time pass.
func (p *play) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// plantWriter makes a twin of the primary that takes writes of its own, and a
// client that writes there: two writers.
func (p *play) plantWriter(ctx context.Context) error {
	var err error
	if p.twin, err = p.cluster.Twin(ctx, p.victim); err != nil {
		return err
	}
	p.pinned.Add(workload.Node{Name: "twin", Host: p.twin.Host(), Port: p.twin.Port()})
	p.sayf("sabotage: a twin of %s takes writes", p.victim)
	return until(ctx, 100*time.Millisecond, "the twin to acknowledge", func(context.Context) error {
		_, entries, err := workload.ReadLedger(p.ledgerPath())
		if err != nil {
			return fatal{err}
		}
		if !slices.ContainsFunc(entries, func(e workload.Entry) bool { return e.Node == "twin" && e.Outcome == workload.Acknowledged }) {
			return errors.New("it has acknowledged nothing")
		}
		return nil
	})
}

// judge checks what was promised. A script that is stuck is checked as far as
// that is possible. Clients have stopped.
func (p *play) judge(ctx context.Context, scenario string) (Result, error) {
	result := Result{Scenario: scenario, Rejoined: p.rejoined, Switchovers: p.switchovers, Lock: p.lock, Hang: p.hang, Thaw: p.thaws, Verdict: workload.VerdictError}
	if p.writers == nil {
		result.Verdict = workload.VerdictStuck
		return result, nil
	}
	result.OutageMS = p.writers.Gaps().Longest(p.fault).Length().Milliseconds()
	counts := p.ledger.Counts()
	result.Acknowledged, result.Failed, result.Unknown = counts.Acknowledged, counts.Failed, counts.Unknown
	if p.calm {
		if err := p.breakUnacknowledged(counts); err != nil {
			return result, err
		}
	}
	result.Broken = p.broken
	report, leaderless, err := p.check(ctx)
	report.Conflicts = slices.DeleteFunc(report.Conflicts, func(c workload.Conflict) bool { return p.thawed.excuses(p.victim, p.mode, c) })
	result.Lost, result.TwoWriters = len(report.LostIDs()), len(report.Conflicts)
	if report.Primary != p.victim {
		result.Promoted = report.Primary
	}
	p.explain(report)
	if err != nil {
		p.sayf("check: %v", err)
		return result, fmt.Errorf("check: %w", err)
	}
	rows := report.Verdict()
	if rows == workload.VerdictLost && p.mode == ModeAsync {
		rows = workload.VerdictOK // it may lose some, and says how many
	}
	result.Verdict = verdict(rows, p.stuck || leaderless, p.broken)
	return result, nil
}

// verdict is the worst of what was found: in the rows first.
func verdict(rows workload.Verdict, stuck bool, broken []string) workload.Verdict {
	switch {
	case rows != workload.VerdictOK:
		return rows
	case stuck:
		return workload.VerdictStuck
	case len(broken) > 0:
		return workload.VerdictBroken
	default:
		return workload.VerdictOK
	}
}

// check compares the ledger with the rows on every node, as far as there is a
// primary.
func (p *play) check(ctx context.Context) (report workload.Report, leaderless bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	primary := ""
	if view, err := p.view(ctx); err == nil {
		primary = view.Leader
	}
	report, err = workload.Check(ctx, workload.CheckConfig{
		Ledger: p.ledgerPath(), Target: p.cluster.Target(), Primary: primary, CatchUp: checkTime / 2,
	})
	if errors.Is(err, workload.ErrNoPrimary) {
		p.sayf("check: %v", err)
		return report, true, nil
	}
	return report, false, err
}

// breakUnacknowledged is for scripts of which clients are to notice nothing.
func (p *play) breakUnacknowledged(counts workload.Counts) error {
	if counts.Failed+counts.Unknown == 0 {
		return nil
	}
	_, entries, err := workload.ReadLedger(p.ledgerPath())
	if err != nil {
		return err
	}
	at := slices.IndexFunc(entries, func(e workload.Entry) bool { return e.Outcome != workload.Acknowledged })
	if at < 0 {
		return errors.New("the ledger has fewer writes without an acknowledgement than were counted")
	}
	first := entries[at]
	p.breakf("%d writes failed and %d are unknown, first id %d of %s on %s, sent %d ms after the fault: %s",
		counts.Failed, counts.Unknown, first.ID, first.Writer, first.Node, (first.Sent - p.fault).Milliseconds(), first.Reason)
	return nil
}

// explain says what the check found.
func (p *play) explain(report workload.Report) {
	p.sayf("%d acknowledged, %d unknown, %d failed; the primary is %q; not asked: %v",
		report.Acknowledged, report.Unknown, report.Failed, report.Primary, report.Absent)
	const most = 3
	for i, conflict := range report.Conflicts {
		if i == most {
			p.sayf("... and %d more", len(report.Conflicts)-most)
			break
		}
		p.sayf("two writers: %s", conflict)
	}
	for i, loss := range report.Lost {
		if i == most {
			p.sayf("... and %d more", len(report.Lost)-most)
			break
		}
		p.sayf("lost: id %d is not on %s", loss.ID, loss.Node)
	}
	if len(report.Resurrected) > 0 {
		p.sayf("rows that had failed for sure are there: %v", report.Resurrected)
	}
	if len(report.Behind) > 0 {
		p.sayf("standbys that do not catch up: %v", report.Behind)
	}
}
