package ha

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/switchover"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// ErrHandedOver is the cause of a term that its primary has ended by a
// switchover.
var ErrHandedOver = errors.New("handed over")

// Leaver is what a SwitchoverCoordinator needs of the local server.
type Leaver interface {
	Yielder
	Stop(ctx context.Context, mode pg.StopMode) error
	Checkpoint(ctx context.Context) error
	Identify(ctx context.Context, up pg.Upstream) (pg.Remote, error)
}

// SwitchoverConfig is what a SwitchoverCoordinator needs. Store, Keys, Postgres,
// Memory and Name are required.
type SwitchoverConfig struct {
	Store    dcs.Store
	Keys     record.Keys
	Postgres Leaver
	Memory   *Memory // the pledge; owned by the caller's goroutine
	Name     string  // of this node

	Timing  Timing
	Clock   clock.Clock      // nil: the real one
	Wall    func() time.Time // nil: the real one; for people only
	Rand    io.Reader        // nonces; nil: crypto/rand
	Logger  *slog.Logger     // nil: discarded
	Events  Events
	Effects Effects
}

// SwitchoverCoordinator moves the primary to another node on purpose, on behalf
// of the node that holds `leader`: it accepts what was asked for in
// `switchover/state`, waits until the target is close, stops the server, confirms
// that the target has everything, and hands over the term in one transaction.
// The target takes over by its Elector.
//
// Until the node has pledged the target's term on its disk, any trouble leaves
// the server stopped at worst: the caller starts it again in its term, and the
// record says that the switchover failed. After the pledge the old term is over:
// the coordinator finds out whether the transaction has landed, and if not takes
// a new term for this node in a way that keeps it from landing. Each step begins
// from the records, so that it can be resumed after any crash.
//
// Limits: preparing ends after Timing.ElectionTimeout, stopping and confirming
// after half of it, in done or failed.
//
// It is not safe for use by several goroutines at once. Close must be called when
// the term ends.
type SwitchoverCoordinator struct {
	cfg SwitchoverConfig

	seen    switchoverMark
	since   time.Time // when the phase was first seen
	trouble string    // why handing over has not succeeded
	job     *checkpointJob
}

// switchoverMark is one phase of one switchover.
type switchoverMark struct {
	phase record.SwitchoverPhase
	id    string
	term  uint64
}

// SwitchoverSeen is what the caller has just read.
type SwitchoverSeen struct {
	Office      Office // this node's term, with its lease in force
	Records     record.Cluster
	Server      pg.Status
	Maintenance bool
	Busy        string // what has to end before the server may be stopped, "" if nothing
	// Upstream says where a node's server is.
	Upstream func(host string) (pg.Upstream, error)
}

// SwitchoverOutcome is what one Step came to.
type SwitchoverOutcome struct {
	Plan  switchover.Plan
	Again bool // something was written or done: look again at once
	// HandedOver: the term is over, and no process of the server is left.
	HandedOver bool
	// Office, where not nil, is the term that this node has now instead of its
	// old one; the server is to be started again in it.
	Office *Office
}

// NewSwitchoverCoordinator checks the configuration.
func NewSwitchoverCoordinator(cfg SwitchoverConfig) (*SwitchoverCoordinator, error) {
	switch {
	case cfg.Store == nil || cfg.Postgres == nil || cfg.Memory == nil:
		return nil, errors.New("switchover: Store, Postgres and Memory are required")
	case cfg.Keys == (record.Keys{}):
		return nil, errors.New("switchover: Keys is required; see record.NewKeys")
	}
	if err := record.ValidName("node", cfg.Name); err != nil {
		return nil, fmt.Errorf("switchover: %w", err)
	}
	cfg.Timing = cfg.Timing.Defaults()
	if err := cfg.Timing.Validate(); err != nil {
		return nil, fmt.Errorf("switchover: %w", err)
	}
	cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger = realIfNil(cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger)
	return &SwitchoverCoordinator{cfg: cfg}, nil
}

// Close ends a CHECKPOINT that is under way and waits until it has returned.
func (c *SwitchoverCoordinator) Close() {
	if c.job != nil {
		c.job.cancel()
		<-c.job.done
		c.job = nil
	}
}

// Idle reports whether there is nothing to do for the holder of the term.
func (c *SwitchoverCoordinator) Idle(now record.Cluster) bool {
	return !now.SwitchoverState.Value.Open() && now.SwitchoverErr == nil
}

// Step decides and does one thing, from what was just read. After an error it is
// not known whether that was done: look again and call Step again.
func (c *SwitchoverCoordinator) Step(ctx context.Context, seen SwitchoverSeen) (SwitchoverOutcome, error) {
	if c.Idle(seen.Records) {
		return SwitchoverOutcome{Plan: switchover.Plan{Action: switchover.Idle}}, nil
	}
	plan := switchover.Decide(c.view(seen))
	out := SwitchoverOutcome{Plan: plan}
	asked := seen.Records.Switchover.Value
	asked.Format = record.Format
	var err error
	switch plan.Action {
	case switchover.Accept:
		asked.Term, asked.Target, asked.Next, asked.Reason = seen.Office.Term, plan.Target, 0, ""
		out.Again, err = true, c.write(ctx, seen, "switchover/accept", record.SwitchoverPreparing, asked)
	case switchover.Fail:
		asked.Reason = plan.Why
		out.Again, err = true, c.write(ctx, seen, "switchover/fail", record.SwitchoverFailed, asked)
	case switchover.Stop:
		out.Again, err = true, c.write(ctx, seen, "switchover/stopping", record.SwitchoverStopping, asked)
	case switchover.Finish:
		out.Again, err = true, c.write(ctx, seen, "switchover/finish", record.SwitchoverDone, asked)
	case switchover.Checkpoint:
		c.checkpoint(ctx)
	case switchover.HandOver:
		out.Again = true
		out.HandedOver, err = c.handOver(ctx, seen, asked)
	case switchover.Idle, switchover.Wait:
	}
	if err != nil {
		return SwitchoverOutcome{Plan: plan}, fmt.Errorf("switchover: %s: %w", plan.Action, err)
	}
	return out, nil
}

func (c *SwitchoverCoordinator) view(seen SwitchoverSeen) switchover.View {
	now, asked := seen.Records, seen.Records.Switchover.Value
	mark := switchoverMark{phase: now.SwitchoverState.Value, id: asked.ID, term: asked.Term}
	if mark != c.seen {
		if mark.phase == record.SwitchoverPreparing {
			c.Close()
		}
		if mark.phase != record.SwitchoverStopping {
			c.trouble = ""
		}
		c.seen, c.since = mark, c.cfg.Clock.Now()
	}
	view := switchover.View{
		Self: now.Quorum.Value.Primary, Term: seen.Office.Term, Timeline: seen.Office.Timeline, Recorded: now.Quorum.Value.Config,
		Phase:    switchover.Phase(mark.phase),
		Request:  switchover.Request{Hostname: asked.Hostname, Timeline: asked.Timeline, Destination: asked.Destination},
		Accepted: asked.Term, Target: asked.Target, Next: asked.Next,
		Candidates: Candidates(now, seen.Server), Maintenance: seen.Maintenance, Busy: seen.Busy,
		Prepared: c.prepared(), Trouble: c.trouble,
		Elapsed: c.cfg.Clock.Since(c.since), Prepare: c.cfg.Timing.ElectionTimeout,
	}
	if now.SwitchoverErr != nil {
		view.Garbled = now.SwitchoverErr.Error()
	}
	return view
}

// Candidates are the recorded members as possible targets of a switchover, as
// the primary sees them stream.
func Candidates(now record.Cluster, primary pg.Status) []switchover.Candidate {
	var all []switchover.Candidate
	for _, m := range now.Quorum.Value.Members {
		c := switchover.Candidate{Member: m, Unknown: true}
		if said, ok := now.Member(m.Node); ok && said.Incarnation == m.Incarnation {
			c.Unknown = false
			c.Priority, c.NoFailover, c.BelowFloor = said.Priority, said.NoFailover, said.Floor != nil
		}
		for _, s := range primary.Senders {
			if s.Name == m.String() && s.State == "streaming" {
				c.Streams, c.Lag, c.ReplayLag = true, lacks(primary.Flushed, s.Flush), lacks(primary.Flushed, s.Replay)
			}
		}
		all = append(all, c)
	}
	return all
}

func lacks(end, have pg.LSN) uint64 {
	if have >= end {
		return 0
	}
	return uint64(end - have)
}

// write advances the two records together, as the holder of the term.
func (c *SwitchoverCoordinator) write(ctx context.Context, seen SwitchoverSeen, effect string, phase record.SwitchoverPhase, next record.Switchover) error {
	err := c.cfg.Effects.run(effect, func() error {
		return c.commit(ctx, seen, c.records(seen.Records, phase, next))
	})
	if err != nil {
		return err
	}
	c.tell(ctx, phase, next)
	return nil
}

// records is the transaction that advances the two records together.
func (c *SwitchoverCoordinator) records(now record.Cluster, phase record.SwitchoverPhase, next record.Switchover) dcs.Txn {
	state, master := c.cfg.Keys.SwitchoverState(), c.cfg.Keys.SwitchoverMaster()
	return dcs.Txn{
		If: []dcs.Guard{now.SwitchoverState.Guard(state), now.Switchover.Guard(master)},
		Then: []dcs.Op{
			{Key: state, Value: []byte(phase)},
			{Key: master, Value: record.Encode(next)},
		},
	}
}

// commit writes under the token of the term, within the time of one request.
func (c *SwitchoverCoordinator) commit(ctx context.Context, seen SwitchoverSeen, txn dcs.Txn) error {
	if err := seen.Office.Lease.Check(); err != nil {
		return err
	}
	txn.If = append(txn.If, seen.Office.Lease.Guard())
	ctx, cancel := timectx.With(ctx, c.cfg.Clock, c.cfg.Timing.Request, "writing the switchover")
	defer cancel()
	_, err := c.cfg.Store.Commit(ctx, txn)
	return err //nolint:wrapcheck // Step adds what was done
}

func (c *SwitchoverCoordinator) tell(ctx context.Context, phase record.SwitchoverPhase, s record.Switchover) {
	c.cfg.Logger.InfoContext(ctx, "switchover", "phase", string(phase), "target", s.Target.String(), "why", s.Reason)
	if c.cfg.Events.Switchover != nil {
		c.cfg.Events.Switchover(SwitchoverInfo{ID: s.ID, Phase: string(phase), Target: s.Target, Why: s.Reason})
	}
}

// checkpoint starts a CHECKPOINT, so that the one of the shutdown has little to
// write. It takes as long as it takes, and the primary has other duties.
func (c *SwitchoverCoordinator) checkpoint(ctx context.Context) {
	if c.job != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	job := &checkpointJob{cancel: cancel, done: make(chan struct{})}
	c.job = job
	go func() {
		defer close(job.done)
		defer cancel()
		if job.err = c.cfg.Postgres.Checkpoint(ctx); job.err != nil {
			c.cfg.Logger.WarnContext(ctx, "no checkpoint before the switchover: the stop may take longer", "error", job.err)
		}
	}()
}

// prepared reports whether the checkpoint has been tried to its end.
func (c *SwitchoverCoordinator) prepared() bool {
	if c.job == nil {
		return false
	}
	select {
	case <-c.job.done:
		return true
	default:
		return false
	}
}

// handOver stops the server, confirms that the target has flushed the end of its
// WAL, and commits. It reports whether the term is over. Whatever goes wrong
// before the pledge is trouble, which the records tell when the server serves
// again.
func (c *SwitchoverCoordinator) handOver(ctx context.Context, seen SwitchoverSeen, asked record.Switchover) (bool, error) {
	limit := c.cfg.Timing.ElectionTimeout / 2
	bounded, cancel := timectx.With(ctx, c.cfg.Clock, limit, "stopping the primary for a switchover")
	defer cancel()
	end, err := c.yield(bounded, seen, asked.Target)
	if err == nil {
		// The store may have gone meanwhile. From the pledge on the server does not
		// run before the store has answered.
		err = c.commit(bounded, seen, dcs.Txn{})
	}
	if err != nil {
		c.trouble = err.Error()
		c.cfg.Logger.WarnContext(ctx, "switchover is given up", "target", asked.Target.String(), "error", err)
		if errors.Is(err, pg.ErrNotStopped) {
			return false, nil // nobody has noticed
		}
		if err := c.cfg.Postgres.Stop(ctx, pg.StopImmediate); err != nil {
			return false, fmt.Errorf("stop what is left of the server: %w", err)
		}
		return false, nil
	}
	next, err := c.successor(seen, asked, end)
	if err != nil {
		return false, err
	}
	err = c.cfg.Effects.run("switchover/pledge", func() error {
		return c.cfg.Memory.Update(func(s *LocalState) { s.bindOwn(next.state.ID, next.state.Nonce, seen.Office.Term) })
	})
	if err != nil {
		return false, err
	}
	for try := 1; ; try++ {
		err = c.cfg.Effects.run("switchover/commit", func() error { return c.commit(ctx, seen, next.txn) })
		if err == nil || errors.Is(err, dcs.ErrConflict) || try == attempts || bounded.Err() != nil {
			break
		}
		c.cfg.Logger.WarnContext(ctx, "handing over is tried again", "error", err)
		_ = timectx.Sleep(bounded, c.cfg.Clock, c.cfg.Timing.Request/8)
		if lost := c.confirm(bounded, seen, asked.Target, end); lost != nil {
			err = errors.Join(err, lost) // it has gone meanwhile: Resolve goes back
			break
		}
	}
	if err != nil {
		return false, err // Resolve finds out
	}
	c.tell(ctx, record.SwitchoverCommitted, next.asked)
	return true, nil
}

// yield stops the server when everything that it has written is on the target. An
// error that wraps pg.ErrNotStopped says that it has not been stopped.
func (c *SwitchoverCoordinator) yield(ctx context.Context, seen SwitchoverSeen, target quorum.Member) (end pg.Position, err error) {
	up, err := seen.Upstream(target.Node)
	if err != nil {
		return end, fmt.Errorf("%w: %w", pg.ErrNotStopped, err)
	}
	// Whether the target can be asked shows before the stop, and not after it.
	if _, err := c.cfg.Postgres.Identify(ctx, up); err != nil {
		return end, fmt.Errorf("%w: %w", pg.ErrNotStopped, err)
	}
	err = c.cfg.Effects.run("switchover/yield", func() error {
		end, err = c.cfg.Postgres.Yield(ctx, target.String())
		return err
	})
	if err != nil {
		return end, err
	}
	return end, c.confirm(ctx, seen, target, end)
}

// confirm asks the target's server until it says that it has flushed the end.
func (c *SwitchoverCoordinator) confirm(ctx context.Context, seen SwitchoverSeen, target quorum.Member, end pg.Position) error {
	up, err := seen.Upstream(target.Node)
	if err != nil {
		return err
	}
	for {
		remote, err := c.cfg.Postgres.Identify(ctx, up)
		switch {
		case err != nil:
		case remote.SystemID != seen.Records.Initialize.Value || !remote.Standby:
			return fmt.Errorf("the server at %s, which should be %s, is no standby of this cluster", up.Address(), target.Node)
		case remote.Lineage.Timeline == end.Timeline && remote.Flushed >= end.LSN:
			return nil
		default:
			err = fmt.Errorf("it holds %d/%s", remote.Lineage.Timeline, remote.Flushed)
		}
		if timectx.Sleep(ctx, c.cfg.Clock, shortPause/2) != nil {
			return fmt.Errorf("%s has not confirmed in time that it holds everything, up to %s: %w", target.Node, end, err)
		}
	}
}

// succession is the transaction of the commit point.
type succession struct {
	state record.FailoverState
	asked record.Switchover
	txn   dcs.Txn
}

// successor makes the target the winner of the next term and the recorded
// primary, reserves its timeline and deletes `leader`.
func (c *SwitchoverCoordinator) successor(seen SwitchoverSeen, asked record.Switchover, end pg.Position) (succession, error) {
	now, keys, local := seen.Records, c.cfg.Keys, c.cfg.Memory.State()
	nonce, err := newNonce(c.cfg.Rand)
	if err != nil {
		return succession{}, err
	}
	recorded := now.Quorum.Value
	state := record.FailoverState{
		Format: record.Format, ID: max(now.Failover.Value.ID, local.Pledge, now.HighestPledge()) + 1, Nonce: nonce,
		Phase: record.PhaseWon, Manager: c.cfg.Name, Electorate: recorded.D(), Winner: asked.Target,
		Deadline: record.Duration(c.cfg.Timing.ElectionTimeout / 2), Reason: "switchover",
		Handover: &record.Handover{From: recorded.Primary, Position: end},
	}
	timeline := max(now.History.Value.Newest(), end.Timeline, now.Timeline.Value) + 1
	term := record.Term{
		ID: state.ID, Primary: asked.Target.Node, Timeline: timeline, Parent: end.Timeline, At: c.cfg.Wall().UTC().Format(time.RFC3339),
	}
	quorumNext := recorded.Next(nonce, recorded.After(asked.Target))
	asked.Next, asked.Reason = state.ID, ""
	txn := c.records(now, record.SwitchoverCommitted, asked)
	txn.If = append(txn.If, now.Failover.Guard(keys.FailoverState()), now.Quorum.Guard(keys.Quorum()), now.History.Guard(keys.History()))
	txn.Then = append(txn.Then,
		dcs.Op{Key: keys.FailoverState(), Value: record.Encode(state)},
		dcs.Op{Key: keys.Quorum(), Value: record.Encode(quorumNext)},
		dcs.Op{Key: keys.History(), Value: record.Encode(now.History.Value.With(term))},
	)
	txn.Then = append(txn.Then, deletions(keys.Leader())...)
	return succession{state: state, asked: asked, txn: txn}, nil
}

// Pledged reports whether this node has pledged a term above its own, by handing
// over: its term is over, whatever comes, and Resolve finds out what came.
func (c *SwitchoverCoordinator) Pledged(office Office) bool {
	return c.cfg.Memory.State().Pledge > office.Term
}

// Resolve goes on after the pledge, with the server stopped, when the outcome of
// the commit point is not known. If it has landed the term is handed over. If
// not, this node takes a new term, by a transaction that keeps it from landing.
func (c *SwitchoverCoordinator) Resolve(ctx context.Context, seen SwitchoverSeen) (SwitchoverOutcome, error) {
	now, local := seen.Records, c.cfg.Memory.State()
	state := now.Failover.Value
	if state.ID == local.Pledge && state.Nonce == local.PledgeNonce {
		if state.Winner != now.Quorum.Value.Primary || state.Winner.Node != c.cfg.Name {
			return SwitchoverOutcome{HandedOver: true, Again: true}, nil
		}
		return SwitchoverOutcome{Again: true, Office: &Office{
			Term: state.ID, Nonce: state.Nonce, Lease: seen.Office.Lease, Timeline: seen.Office.Timeline, Recorded: now.Quorum.Value.Config,
		}}, nil
	}
	if state.ID != seen.Office.Term || state.Nonce != seen.Office.Nonce {
		return SwitchoverOutcome{HandedOver: true, Again: true}, nil // a newer election: the term is over in any case
	}
	office, err := c.rollBack(ctx, seen)
	if err != nil {
		return SwitchoverOutcome{}, fmt.Errorf("switchover: roll back after the pledge: %w", err)
	}
	return SwitchoverOutcome{Office: office, Again: true}, nil
}

// rollBack gives this node a new term, above its pledge, on the timeline that it
// has. Both records that the commit point is guarded by are rewritten.
func (c *SwitchoverCoordinator) rollBack(ctx context.Context, seen SwitchoverSeen) (*Office, error) {
	now, keys := seen.Records, c.cfg.Keys
	nonce, err := newNonce(c.cfg.Rand)
	if err != nil {
		return nil, err
	}
	recorded := now.Quorum.Value
	state := record.FailoverState{
		Format: record.Format, ID: max(c.cfg.Memory.State().Pledge, now.HighestPledge()) + 1, Nonce: nonce, Phase: record.PhaseTaken,
		Manager: c.cfg.Name, Electorate: recorded.D(), Winner: recorded.Primary, Reason: "a switchover was rolled back",
	}
	err = c.cfg.Effects.run("switchover/pledge-own", func() error {
		return c.cfg.Memory.Update(func(s *LocalState) { s.bindOwn(state.ID, state.Nonce, seen.Office.Term) })
	})
	if err != nil {
		return nil, err
	}
	term := record.Term{
		ID: state.ID, Primary: c.cfg.Name, Timeline: seen.Office.Timeline, At: c.cfg.Wall().UTC().Format(time.RFC3339),
	}
	recorded = recorded.Next(nonce, recorded.Config)
	asked := now.Switchover.Value
	asked.Reason = "rolled back after the pledge: the commit point could not be written"
	txn := c.records(now, record.SwitchoverFailed, asked)
	txn.If = append(txn.If, now.Failover.Guard(keys.FailoverState()), now.Quorum.Guard(keys.Quorum()),
		now.History.Guard(keys.History()), now.Promoting.Guard(keys.CurrentPromotingHost()))
	txn.Then = append(txn.Then,
		dcs.Op{Key: keys.FailoverState(), Value: record.Encode(state)},
		dcs.Op{Key: keys.Quorum(), Value: record.Encode(recorded)},
		dcs.Op{Key: keys.History(), Value: record.Encode(now.History.Value.With(term))},
		dcs.Op{Key: keys.CurrentPromotingHost(), Value: record.Encode(record.Promoting{Host: c.cfg.Name, Term: state.ID})},
	)
	if err := c.cfg.Effects.run("switchover/roll-back", func() error { return c.commit(ctx, seen, txn) }); err != nil {
		return nil, err
	}
	c.tell(ctx, record.SwitchoverFailed, asked)
	return &Office{Term: state.ID, Nonce: state.Nonce, Lease: seen.Office.Lease, Timeline: seen.Office.Timeline, Recorded: recorded.Config}, nil
}
