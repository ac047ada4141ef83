package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/internal/workload"
)

const (
	// orphanTime is how much longer than a lease a killed agent stays away.
	orphanTime = 5 * time.Second
	// restartTime is how long an agent that is restarted stays away.
	restartTime = time.Second
	// hangGrace is what a loaded machine may add to the time after which another node
	// leads.
	hangGrace = 5 * time.Second
	// burstSessions is how many sessions wait for a frozen node to go on.
	burstSessions = 4
)

// killAgent kills the agent of the primary and leaves its PostgreSQL running,
// until well after another node must have taken over. The orphan believes that it
// is the primary; what it is sent must not be acknowledged any more.
func (p *play) killAgent(ctx context.Context) error {
	if err := p.strike("the agent", p.cluster.KillAgent); err != nil {
		return err
	}
	killed := time.Now()
	if err := p.awaitWrites(ctx); err != nil {
		return err
	}
	if err := p.wait(ctx, p.timing.TTL+orphanTime-time.Since(killed)); err != nil {
		return err
	}
	view, err := p.view(ctx)
	if err != nil {
		return err
	}
	if view.Leader == p.victim {
		p.breakf("%s still leads, %s after its agent was killed", p.victim, p.timing.TTL+orphanTime)
	}
	p.sayf("the agent of %s is started again; its PostgreSQL %s", p.victim, p.serverState())
	if err := p.bringBack(ctx); err != nil {
		return err
	}
	return p.tellLate()
}

// serverState says whether there is a server of the node that was hit.
func (p *play) serverState() string {
	if _, err := p.cluster.Postmaster(p.victim); err != nil {
		return "has ended"
	}
	return "is there"
}

// freezes is for how many leases something stays frozen.
const freezes = 3

// freezeAgent stops the agent of the primary for three leases, and lets it go on.
// Meanwhile the guard stops its PostgreSQL, and another node takes over.
func (p *play) freezeAgent(ctx context.Context) error {
	return p.freeze(ctx, "the agent", p.cluster.FreezeAgent, p.cluster.ThawAgent)
}

// freezeNode stops every process of the primary's node for three leases. When they go
// on, its PostgreSQL still believes that it is the primary, until its guard has run.
// That is measured, by sessions that have waited for the moment.
func (p *play) freezeNode(ctx context.Context) error {
	burst, err := workload.OpenBurst(ctx, p.cluster.Target(), p.victim, burstSessions)
	if err != nil {
		return err
	}
	defer burst.Close()
	return p.freeze(ctx, "everything", p.cluster.FreezeNode, func(name string) error {
		return p.thaw(ctx, burst, name)
	})
}

// thaw lets a frozen node go on, and measures for how long it acknowledges.
func (p *play) thaw(ctx context.Context, burst *workload.Burst, name string) error {
	ctx, cancel := context.WithTimeout(ctx, p.timing.TTL)
	defer cancel()
	p.thawed = &thawed{at: p.ledger.Now(), gone: never}
	began := time.Now()
	result, err := burst.Run(ctx, func() error { return p.cluster.ThawNode(name) })
	if err != nil {
		return err
	}
	err = until(ctx, time.Millisecond, "the end of its server", func(context.Context) error {
		if _, err := p.cluster.Postmaster(name); err == nil {
			return errors.New("it still runs")
		}
		return nil
	})
	if err != nil {
		p.breakf("the thawed server of %s: %v", name, err)
	} else {
		p.thawed.gone = p.ledger.Now()
	}
	p.thaws = &Thaw{
		Acknowledged: result.Acknowledged,
		WindowMS:     float64(result.Last.Microseconds()) / 1000,
		GoneMS:       float64(time.Since(began).Microseconds()) / 1000,
	}
	if p.mode != ModeAsync && result.Acknowledged > 0 {
		p.breakf("the thawed server of %s has acknowledged %d writes without a quorum", name, result.Acknowledged)
	}
	p.sayf("%s", p.thaws)
	return nil
}

// thawed is when a node went on that had been frozen, by the ledger.
type thawed struct {
	at, gone time.Duration // gone: when no postmaster was left
}

// never is later than everything in a ledger.
const never = time.Duration(1<<63 - 1)

// excuses reports whether a thawed server in mode async has acknowledged a write before
// its guard had run. Nothing but a watchdog device keeps it from that; it is no second
// writer for longer.
func (t *thawed) excuses(victim, mode string, c workload.Conflict) bool {
	return t != nil && mode == ModeAsync && c.Entry.Node == victim && c.Entry.Done >= t.at && c.Entry.Done <= t.gone && t.gone != never
}

func (p *play) freeze(ctx context.Context, what string, freeze, thaw func(string) error) error {
	if err := p.hit(what, "frozen", freeze); err != nil {
		return err
	}
	frozen := time.Now()
	if err := p.awaitWrites(ctx); err != nil {
		return err
	}
	if err := p.wait(ctx, freezes*p.timing.TTL-time.Since(frozen)); err != nil {
		return err
	}
	p.sayf("%s of %s goes on; its PostgreSQL %s", what, p.victim, p.serverState())
	if err := p.comeBack(ctx, thaw); err != nil {
		return err
	}
	return p.tellLate()
}

// hangAgent lets the loop of the primary's agent hang in a call of the operating
// system, while the rest of its process goes on and renews its locks. Nobody sees to
// the server then. The node must notice that by itself, and let another one lead.
func (p *play) hangAgent(ctx context.Context) error {
	hang := func(name string) error { return p.cluster.HangAgent(ctx, name) }
	if err := p.hit("the loop of the agent", "hung", hang); err != nil {
		return err
	}
	hung := time.Now()
	// What a loop may take, then the lease, then an election.
	limit := p.timing.TTL + p.timing.ElectionTimeout + p.timing.Observe + p.timing.Request + p.timing.TTL + p.servers.late + p.timing.ElectionTimeout
	bounded, cancel := context.WithTimeout(ctx, limit+hangGrace)
	defer cancel()
	err := until(bounded, 20*time.Millisecond, "another node to lead", func(ctx context.Context) error {
		view, err := p.view(ctx)
		switch {
		case err != nil:
			return err
		case view.Leader == "" || view.Leader == p.victim || view.Gate != "open":
			return fmt.Errorf("the leader is %q", view.Leader)
		}
		return nil
	})
	took := time.Since(hung)
	switch {
	case err != nil && bounded.Err() != nil && ctx.Err() == nil:
		p.breakf("%v", err)
	case err != nil:
		return err
	default:
		p.sayf("another node leads after %d ms; %s", took.Milliseconds(), p.ledger.Counts())
	}
	if !p.cluster.AgentHangs(p.victim) {
		p.breakf("the agent of %s was to hang all the time, and does not", p.victim)
	}
	p.hang = &Hang{DeposedMS: took.Milliseconds(), LimitMS: limit.Milliseconds()}
	if err := p.wait(ctx, p.timing.TTL); err != nil {
		return err
	}
	p.sayf("the agent of %s goes on; its PostgreSQL %s", p.victim, p.serverState())
	if err := p.comeBack(ctx, p.cluster.WakeAgent); err != nil {
		return err
	}
	return p.tellLate()
}

// tellLate says how often the deposed primary was tried.
func (p *play) tellLate() error {
	_, entries, err := workload.ReadLedger(p.ledgerPath())
	if err != nil {
		return err
	}
	acknowledged := 0
	late := workload.Late(entries, p.victim)
	for _, entry := range late {
		if entry.Outcome == workload.Acknowledged {
			acknowledged++
		}
	}
	p.sayf("%s was sent %d writes after its successor had acknowledged one; it acknowledged %d of them", p.victim, len(late), acknowledged)
	return nil
}

// restartAgent kills the agent of the primary and starts it again within its
// lease. Clients are to notice nothing: the same server goes on in the same term.
func (p *play) restartAgent(ctx context.Context) error {
	before, err := p.view(ctx)
	if err != nil {
		return err
	}
	postmaster, err := p.cluster.Postmaster(p.victim)
	if err != nil {
		return err
	}
	if err := p.strike("the agent", p.cluster.KillAgent); err != nil {
		return err
	}
	if err := p.wait(ctx, restartTime); err != nil {
		return err
	}
	if err := p.cluster.StartNode(p.victim); err != nil {
		return err
	}
	p.sayf("the agent of %s is started again", p.victim)
	if err := p.keep(ctx, before); err != nil {
		return err
	}
	if p.lock.TermAfter != before.Term {
		p.breakf("the term was %d before and is %d now", before.Term, p.lock.TermAfter)
	}
	switch now, err := p.cluster.Postmaster(p.victim); {
	case err != nil:
		p.breakf("%v", err)
	case now != postmaster:
		p.breakf("the postmaster of %s was process %d before and is %d now", p.victim, postmaster, now)
	}
	return p.awaitRejoined(ctx)
}
