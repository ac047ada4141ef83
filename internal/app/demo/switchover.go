package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/workload"
)

// switchover moves the primary three times, as a user would: to a node that is
// named, to the best one, and back.
func (p *play) switchover(ctx context.Context) error {
	p.fault = p.ledger.Now()
	route := route{first: p.victim}
	for range 3 {
		view, err := p.awaitWhole(ctx)
		if err != nil {
			return err
		}
		moved, err := p.move(ctx, view, route.next(view, p.cluster.Names()))
		if err != nil {
			return err
		}
		p.switchovers = append(p.switchovers, moved)
		p.sayf("%s", moved)
		if len(p.broken) > 0 {
			break
		}
	}
	return p.awaitRejoined(ctx)
}

// route are the targets of the switchovers, one after the other.
type route struct {
	first string // who led in the beginning
	steps int
	last  string // who led before the last step
}

// next is the next target, empty for the best: another node than the leader, the
// best, back to where it began; if that is where the best was, one step back.
func (r *route) next(view clusterview.View, names []string) string {
	last := r.last
	r.last = view.Leader
	r.steps++
	switch {
	case r.steps == 1:
		for _, name := range names {
			if name != view.Leader {
				return name
			}
		}
		return ""
	case r.steps == 2:
		return ""
	case view.Leader != r.first:
		return r.first
	default:
		return last
	}
}

// move asks for one switchover and waits until the cluster is whole again. What
// is wrong with it breaks the script's promise.
func (p *play) move(ctx context.Context, before clusterview.View, to string) (Switchover, error) {
	result := Switchover{From: before.Leader, To: to}
	traces, err := p.cluster.Traces(before.Leader)
	if err != nil {
		return result, err
	}
	asked, began := p.ledger.Now(), time.Now()
	refused := p.ask(ctx, to)
	result.TookMS = time.Since(began).Milliseconds()
	if ctx.Err() != nil {
		return result, context.Cause(ctx)
	}
	if refused != nil {
		p.breakf("the switchover from %s was not done: %v", before.Leader, refused)
	} else if err := p.awaitMoved(ctx, before, asked); err != nil {
		return result, err
	}
	after, err := p.awaitWhole(ctx)
	if err != nil {
		return result, err
	}
	if err := p.wait(ctx, p.steady()); err != nil {
		return result, err
	}
	gaps := p.writers.Gaps().Between(asked, p.ledger.Now())
	result.OutageMS, result.TotalMS = standstill(gaps)
	back, err := traces.Comeback()
	if err != nil {
		return result, err
	}
	result.Leader, result.How, result.Followed = after.Leader, back.String(), back.Followed()
	p.judgeMove(result, refused)
	return result, nil
}

// ask runs the command.
func (p *play) ask(ctx context.Context, to string) error {
	args := []string{"--yes"}
	what := "the best"
	if to != "" {
		args = append(args, "--to", to)
		what = to
	}
	p.sayf("pghad switchover, to %s", what)
	_, err := p.cluster.Command(ctx, "switchover", args...)
	return err
}

// awaitMoved waits until another node leads and clients have found it.
func (p *play) awaitMoved(ctx context.Context, before clusterview.View, asked time.Duration) error {
	return until(ctx, 5*time.Millisecond, "writes on another primary", func(ctx context.Context) error {
		if !p.writers.Resumed(asked) {
			return errors.New("no session that was opened since has acknowledged anything")
		}
		view, err := p.view(ctx)
		if err != nil {
			return err
		}
		if view.Leader == "" || view.Leader == before.Leader {
			return fmt.Errorf("the leader is %q", view.Leader)
		}
		return nil
	})
}

// judgeMove notes what a switchover should have done and did not.
func (p *play) judgeMove(s Switchover, refused error) {
	switch {
	case refused != nil:
	case s.Leader == s.From:
		p.breakf("%s leads again after a switchover that was said to be done", s.Leader)
	case s.To != "" && s.Leader != s.To:
		p.breakf("%s leads, and the switchover was to %s", s.Leader, s.To)
	case !s.Followed:
		p.breakf("%s did not simply follow %s: %s", s.From, s.Leader, s.How)
	}
}

// standstill is the longest of some gaps, and their sum, in milliseconds.
func standstill(gaps []workload.Gap) (longest, total int64) {
	var most, sum time.Duration
	for _, gap := range gaps {
		most = max(most, gap.Length())
		sum += gap.Length()
	}
	return most.Milliseconds(), sum.Milliseconds()
}
