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
	// scriptTime is the default of Options.Limit.
	scriptTime = 50 * time.Second
	// checkTime bounds the check at the end.
	checkTime = 6 * time.Second
	// steady is how long writing goes on undisturbed before and after.
	steady = 2 * time.Second
	// jitter is the longest random time by which the fault is late, as long as
	// the time between two renewals by default: a fault in step with the nodes'
	// timers would measure their phase.
	jitter = 3 * time.Second
)

// errStuck is the cause of a script's end when its time is up.
var errStuck = errors.New("the time of the script is up")

// scripts are the faults that can be played, by name.
var scripts = map[string]func(*play, context.Context) error{
	"kill-postmaster": (*play).killPostmaster,
	"kill-node":       (*play).killNode,
	"rejoin":          (*play).rejoin,
}

// planted is the verdict that each sabotage must lead to.
var planted = map[string]workload.Verdict{
	SabotageLose:       workload.VerdictLost,
	SabotageTwoWriters: workload.VerdictTwoWriters,
}

// Scripts are the names that Options.Script knows.
func Scripts() []string { return slices.Sorted(maps.Keys(scripts)) }

// play is one run of a script.
type play struct {
	*stage
	victim   string        // who was hit
	fault    time.Duration // when, by the ledger
	rejoined bool
}

// playScript sets up, plays, checks and cleans up. The error is about the demo
// itself; what the cluster did wrong is in the result.
func playScript(ctx context.Context, o Options) (Result, error) {
	result := Result{Scenario: o.Script, Verdict: workload.VerdictError}
	timed, cancel := context.WithTimeoutCause(ctx, o.Limit, errStuck)
	defer cancel()
	s, err := setUp(timed, o)
	if err != nil {
		return result, err
	}
	p := &play{stage: s}
	err = p.perform(timed, o)
	if err == nil || errors.Is(err, errStuck) {
		result, err = p.judge(ctx, o, err)
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

// perform does all that happens before the check.
func (p *play) perform(ctx context.Context, o Options) error {
	view, err := p.awaitCluster(ctx)
	if err != nil {
		return err
	}
	p.victim = view.Leader
	p.sayf("%s leads on timeline %d; the others stream and count", view.Leader, view.Timeline)
	if err := p.startClients(ctx); err != nil {
		return err
	}
	if err := p.wait(ctx, steady+rand.N(jitter)); err != nil { //nolint:gosec // not a secret
		return err
	}
	if o.Sabotage == SabotageTwoWriters {
		if err := p.plantWriter(ctx); err != nil {
			return err
		}
	}
	p.sayf("%s so far", p.ledger.Counts())
	if err := scripts[o.Script](p, ctx); err != nil {
		return err
	}
	if err := p.wait(ctx, steady); err != nil {
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
	if err := p.cluster.StartNode(p.victim); err != nil {
		return err
	}
	p.sayf("%s is started again", p.victim)
	return p.awaitRejoined(ctx)
}

// strike hits the primary.
func (p *play) strike(what string, kill func(string) error) error {
	p.fault = p.ledger.Now()
	if err := kill(p.victim); err != nil {
		return err
	}
	p.sayf("%s of %s is killed", what, p.victim)
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
// that is possible.
func (p *play) judge(ctx context.Context, o Options, stuck error) (Result, error) {
	result := Result{Scenario: o.Script, Rejoined: p.rejoined, Verdict: workload.VerdictError}
	if stuck != nil {
		p.sayf("stuck: %v", stuck)
		if err := p.stopClients(); err != nil {
			return result, err
		}
	}
	result.Acknowledged = p.ledger.Counts().Acknowledged
	if p.writers != nil {
		result.OutageMS = p.writers.Gaps().Longest(p.fault).Length().Milliseconds()
	}
	if p.writers == nil {
		result.Verdict = workload.VerdictStuck
		return result, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	primary := ""
	if view, err := p.view(ctx); err == nil {
		primary = view.Leader
	}
	report, err := workload.Check(ctx, workload.CheckConfig{
		Ledger: p.ledgerPath(), Target: p.cluster.Target(), Primary: primary, CatchUp: checkTime / 2,
	})
	result.Acknowledged, result.Lost, result.TwoWriters = report.Acknowledged, len(report.LostIDs()), len(report.Conflicts)
	result.Verdict = report.Verdict()
	if report.Primary != p.victim {
		result.Promoted = report.Primary
	}
	p.explain(report)
	if result.Verdict == workload.VerdictOK && (stuck != nil || errors.Is(err, workload.ErrNoPrimary)) {
		result.Verdict = workload.VerdictStuck
	}
	if err != nil {
		p.sayf("check: %v", err)
		if !errors.Is(err, workload.ErrNoPrimary) {
			result.Verdict = workload.VerdictError
			return result, fmt.Errorf("check: %w", err)
		}
	}
	return result, nil
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
