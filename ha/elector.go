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
	"github.com/pghad/pghad/ha/election"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// DefaultMaxLag is the bound of ElectorConfig.MaxLag, 1 MiB, as Patroni has it for
// maximum_lag_on_failover.
const DefaultMaxLag = 1 << 20

// Voter is what an Elector needs of the local server.
type Voter interface {
	Fencer
	// Stop is the fence of a server that has no position: see Starter.
	Stop(ctx context.Context, mode pg.StopMode) error
}

// ElectorConfig is what an Elector needs. Store, Locker, Keys, Postgres, Memory
// and Name are required.
type ElectorConfig struct {
	Store    dcs.Store
	Locker   *Locker // holds `epoch_manager` and, after a victory, `leader`
	Keys     record.Keys
	Postgres Voter
	Memory   *Memory // pledge and published position; owned by the caller's goroutine
	Name     string  // of this node

	Priority   int  // higher wins among equally advanced nodes
	NoFailover bool // this node votes and never wins
	// MaxLag bounds the loss of an automatic failover in mode async: the winner
	// holds at most so much less than the primary has last published. Bytes of WAL.
	// Zero: DefaultMaxLag.
	MaxLag uint64

	// Promised, where not nil, says how long this node is still bound by a promise
	// not to fence. It does not vote before that has passed.
	Promised func() time.Duration

	Timing  Timing
	Clock   clock.Clock      // nil: the real one
	Wall    func() time.Time // nil: the real one; for people only
	Rand    io.Reader        // nonces; nil: crypto/rand
	Logger  *slog.Logger     // nil: discarded
	Events  Events
	Effects Effects
}

// Elector takes part in the elections of a cluster on behalf of one node: after
// the leader is gone it opens an election or joins it, fences the local server,
// votes, names the most advanced node, and takes the lock if that is this one.
// It never compares positions of different lineages, and never counts a vote
// that was given before the voter was fenced.
//
// It has no goroutine: the caller reads the records and calls Step until the
// outcome is an office, or somebody else leads. It is not safe for use by
// several goroutines at once.
type Elector struct {
	cfg     ElectorConfig
	manager *Lease

	// since is when this node first saw the election seen at its phase.
	seen  electionMark
	since time.Time
}

type electionMark struct {
	id    uint64
	nonce string
	phase record.Phase
}

// Office is a term that this node has won: the lock, and what it promised.
type Office struct {
	Term     uint64
	Nonce    string
	Lease    *Lease        // of `leader`
	Timeline pg.Timeline   // reserved for this term
	Recorded quorum.Config // as rewritten by taking office
	Former   quorum.Member // the primary that was recorded before; nobody if the cluster is new
}

// Outcome is what one Step came to.
type Outcome struct {
	Plan   election.Plan
	Office *Office // not nil: this node has taken office
	Again  bool    // something was written: look again at once
}

// NewElector checks the configuration.
func NewElector(cfg ElectorConfig) (*Elector, error) {
	switch {
	case cfg.Store == nil || cfg.Locker == nil || cfg.Postgres == nil || cfg.Memory == nil:
		return nil, errors.New("elector: Store, Locker, Postgres and Memory are required")
	case cfg.Keys == (record.Keys{}):
		return nil, errors.New("elector: Keys is required; see record.NewKeys")
	}
	if err := record.ValidName("node", cfg.Name); err != nil {
		return nil, fmt.Errorf("elector: %w", err)
	}
	if cfg.MaxLag == 0 {
		cfg.MaxLag = DefaultMaxLag
	}
	cfg.Timing = cfg.Timing.Defaults()
	if err := cfg.Timing.Validate(); err != nil {
		return nil, fmt.Errorf("elector: %w", err)
	}
	cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger = realIfNil(cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger)
	return &Elector{cfg: cfg}, nil
}

// Step decides and does one thing, from records just read. An error means that
// the thing was not done, or that it is unknown whether it was: read the
// records anew and call Step again.
func (e *Elector) Step(ctx context.Context, now record.Cluster) (Outcome, error) {
	plan := election.Decide(e.view(now))
	out := Outcome{Plan: plan}
	var err error
	switch plan.Action {
	case election.Idle:
		err = e.Leave(ctx)
	case election.Open:
		out.Again, err = true, e.open(ctx, now, plan)
	case election.CastVote:
		out.Again, err = true, e.vote(ctx, now, plan)
	case election.Name:
		out.Again, err = true, e.name(ctx, now, plan)
	case election.TakeOver:
		out.Office, err = e.takeOver(ctx, now, plan)
	case election.Wait:
	}
	if err != nil {
		return Outcome{Plan: plan}, fmt.Errorf("election %d: %s: %w", plan.ID, plan.Action, err)
	}
	return out, nil
}

// Leave lets go of the manager's lock, if this node holds it.
func (e *Elector) Leave(ctx context.Context) error {
	if e.manager == nil {
		return nil
	}
	manager := e.manager
	e.manager = nil
	return manager.Release(ctx)
}

func (e *Elector) view(now record.Cluster) election.View {
	state := now.Failover.Value
	local := e.cfg.Memory.State()
	mark := electionMark{state.ID, state.Nonce, state.Phase}
	if mark != e.seen {
		e.seen, e.since = mark, e.cfg.Clock.Now()
	}
	view := election.View{
		Self:          e.self(),
		Recorded:      now.Quorum.Value.Config,
		LeaderPresent: now.Leader.Held(),
		LettingGo:     now.LeaderTwin.Holder,
		ID:            state.ID,
		Phase:         election.Phase(state.Phase),
		Electorate:    state.Electorate,
		Winner:        state.Winner,
		Pledge:        local.Pledge,
		HighestPledge: now.HighestPledge(),
		Manager:       now.EpochManager.Holder,
		Overdue:       e.cfg.Clock.Since(e.since),
		Deadline:      time.Duration(state.Deadline),
		TTL:           e.cfg.Timing.TTL,
		Handover:      state.Handover != nil,
		Present:       now.Alive,
		Published:     now.PublishedBy(now.Quorum.Value.Primary),
		MaxLag:        e.cfg.MaxLag,
	}
	if local.PledgeOwn && !local.bars(state.ID, state.Nonce) {
		view.Pledge = min(local.Pledge, state.ID)
	}
	if e.cfg.Promised != nil {
		view.Promised = e.cfg.Promised()
	}
	if e.manager != nil {
		if e.manager.Check() != nil {
			e.manager.yield()
			e.manager = nil
		} else {
			view.ManagerIsMe = now.EpochManager.Created == e.manager.Token()
		}
	}
	for _, v := range now.ValidVotes() {
		view.Votes = append(view.Votes, election.Vote{
			Member: v.Member, Position: v.Position, HasPosition: v.HasPosition, Priority: v.Priority, MayWin: v.MayWin,
		})
	}
	return view
}

func (e *Elector) self() quorum.Member { return e.cfg.Memory.State().Member(e.cfg.Name) }

// frozen are the guards under which an election may be changed: nobody leads,
// and neither the quorum nor the election is another one than the one read.
func (e *Elector) frozen(now record.Cluster) []dcs.Guard {
	return []dcs.Guard{
		{Key: e.cfg.Keys.Leader(), Absent: true},
		now.Quorum.Guard(e.cfg.Keys.Quorum()),
		now.Failover.Guard(e.cfg.Keys.FailoverState()),
	}
}

// open takes the manager's lock and freezes the election, in one transaction
// where the lock is not held yet.
func (e *Elector) open(ctx context.Context, now record.Cluster, plan election.Plan) error {
	nonce, err := newNonce(e.cfg.Rand)
	if err != nil {
		return err
	}
	state := record.FailoverState{
		Format: record.Format, ID: plan.ID, Nonce: nonce, Phase: record.PhaseFencing, Manager: e.cfg.Name,
		Electorate: plan.Electorate, QuorumRevision: uint64(now.Quorum.Revision),
		Deadline: record.Duration(e.cfg.Timing.ElectionTimeout), Reason: plan.Why,
	}
	txn := dcs.Txn{
		If:   e.frozen(now),
		Then: []dcs.Op{{Key: e.cfg.Keys.FailoverState(), Value: record.Encode(state)}},
	}
	err = e.cfg.Effects.run("election/open", func() error { return e.asManager(ctx, txn) })
	if err != nil {
		return err
	}
	e.cfg.Logger.InfoContext(ctx, "election opened", "election", plan.ID, "electorate", plan.Electorate, "why", plan.Why)
	e.tell(ElectionInfo{ID: plan.ID, Step: "opened", Why: plan.Why})
	return nil
}

// asManager commits txn under the manager's lock, taking it in the same
// transaction where this node does not hold it.
func (e *Elector) asManager(ctx context.Context, txn dcs.Txn) error {
	if e.manager != nil {
		if err := e.manager.Check(); err != nil {
			e.manager.yield()
			e.manager = nil
			return err
		}
		txn.If = append(txn.If, e.manager.Guard())
		return e.commit(ctx, txn)
	}
	lease, err := e.cfg.Locker.TryAcquireWith(ctx, e.cfg.Keys.EpochManager(), []byte(e.cfg.Name), txn)
	if err != nil {
		return err
	}
	e.manager = lease
	return nil
}

// commit writes within the time of one request: a reply that never comes must
// not keep the node from looking again.
func (e *Elector) commit(ctx context.Context, txn dcs.Txn) error {
	ctx, cancel := timectx.With(ctx, e.cfg.Clock, e.cfg.Timing.Request, "writing the election")
	defer cancel()
	_, err := e.cfg.Store.Commit(ctx, txn)
	return err //nolint:wrapcheck // Step adds what was done
}

// vote pledges, fences, reads the position and votes, in this order: the
// pledge is durable before the position is read, and a vote given before the
// fence would be worth nothing.
func (e *Elector) vote(ctx context.Context, now record.Cluster, plan election.Plan) error {
	state := now.Failover.Value
	if err := e.pledge(state.ID, state.Nonce); err != nil {
		return err
	}
	position, counts, err := e.fencedPosition(ctx)
	if err != nil {
		return err
	}
	vote := record.Vote{
		Format: record.Format, ID: state.ID, Nonce: state.Nonce, Member: e.self(),
		Position: position, HasPosition: counts, Priority: e.cfg.Priority, MayWin: counts && !e.cfg.NoFailover,
	}
	if counts {
		if err := e.cfg.Memory.Update(func(s *LocalState) { s.Published = position }); err != nil {
			return err
		}
	}
	key := e.cfg.Keys.Vote(state.ID, e.cfg.Name)
	err = e.cfg.Effects.run("election/vote", func() error {
		return e.commit(ctx, dcs.Txn{
			If:   append(e.frozen(now), dcs.Guard{Key: key, Absent: true}),
			Then: []dcs.Op{{Key: key, Value: record.Encode(vote)}},
		})
	})
	if err != nil {
		return err
	}
	e.cfg.Logger.InfoContext(ctx, "vote cast", "election", state.ID, "position", position.String(), "counts", counts, "plan", plan.String())
	e.tell(ElectionInfo{ID: state.ID, Step: "voted", Vote: position})
	return nil
}

// fencedPosition fences the server and reads what it holds. A life below its
// floor has no position that counts, and perhaps no data that can be opened:
// its server is stopped, which is a fence too.
func (e *Elector) fencedPosition(ctx context.Context) (position pg.Position, counts bool, err error) {
	ctx, cancel := timectx.With(ctx, e.cfg.Clock, e.cfg.Timing.ElectionTimeout, "fence")
	defer cancel()
	local := e.cfg.Memory.State()
	if local.BelowFloor() {
		err := e.cfg.Effects.run("election/fence", func() error { return e.cfg.Postgres.Stop(ctx, pg.StopImmediate) })
		if err != nil {
			return pg.Position{}, false, fmt.Errorf("stop, for want of a position: %w", err)
		}
		return pg.Position{}, false, nil
	}
	if err := e.cfg.Effects.run("election/fence", func() error { return e.cfg.Postgres.Fence(ctx) }); err != nil {
		return pg.Position{}, false, fmt.Errorf("fence: %w", err)
	}
	position, err = e.cfg.Postgres.Position(ctx)
	if err != nil {
		return pg.Position{}, false, fmt.Errorf("position: %w", err)
	}
	if position.Compare(local.Published) < 0 {
		return pg.Position{}, false, fmt.Errorf("%w: it holds %s and has voted with %s", ErrRolledBack, position, local.Published)
	}
	return position, true, nil
}

// pledge binds the node to an election. A pledge of the same number for
// another election (another nonce) is not the same pledge.
func (e *Elector) pledge(id uint64, nonce string) error {
	local := e.cfg.Memory.State()
	if local.bars(id, nonce) {
		return fmt.Errorf("%w: this node has pledged %d", ErrPledged, local.Pledge)
	}
	return e.cfg.Effects.run("election/pledge", func() error {
		return e.cfg.Memory.Update(func(s *LocalState) { s.bind(id, nonce) })
	})
}

// name records the winner.
func (e *Elector) name(ctx context.Context, now record.Cluster, plan election.Plan) error {
	state := now.Failover.Value
	state.Phase, state.Winner, state.Reason = record.PhaseWon, plan.Winner, plan.Why
	if plan.Lossy {
		primary := now.Quorum.Value.Primary
		state.Loss = &record.Loss{Of: primary, Published: now.PublishedBy(primary), Bytes: plan.Lag}
	}
	txn := dcs.Txn{
		If:   e.frozen(now),
		Then: []dcs.Op{{Key: e.cfg.Keys.FailoverState(), Value: record.Encode(state)}},
	}
	if err := e.cfg.Effects.run("election/name", func() error { return e.asManager(ctx, txn) }); err != nil {
		return err
	}
	level := slog.LevelInfo
	if plan.Lossy {
		level = slog.LevelWarn
	}
	e.cfg.Logger.Log(ctx, level, "election won", "election", plan.ID, "winner", plan.Winner.String(), "why", plan.Why)
	e.tell(ElectionInfo{ID: plan.ID, Step: "named", Winner: plan.Winner, Why: plan.Why, Loss: state.Loss})
	return nil
}

// takeOver is the one transaction that ends the election: it creates `leader`,
// rewrites `quorum` for the winner, reserves the timeline and says who promotes.
// The timeline is above every number that was ever recorded or voted with.
func (e *Elector) takeOver(ctx context.Context, now record.Cluster, plan election.Plan) (*Office, error) {
	state, recorded, keys := now.Failover.Value, now.Quorum.Value, e.cfg.Keys
	position, former, err := e.mayTakeOver(ctx, now)
	if err != nil {
		return nil, err
	}
	history, term := e.reserve(now, position)
	nonce, err := newNonce(e.cfg.Rand)
	if err != nil {
		return nil, err
	}
	next := recorded.Next(nonce, recorded.After(plan.Winner))
	state.Phase = record.PhaseTaken
	txn := dcs.Txn{
		If: []dcs.Guard{
			now.Failover.Guard(keys.FailoverState()),
			now.Quorum.Guard(keys.Quorum()),
			now.History.Guard(keys.History()),
			now.Promoting.Guard(keys.CurrentPromotingHost()),
		},
		Then: []dcs.Op{
			{Key: keys.FailoverState(), Value: record.Encode(state)},
			{Key: keys.Quorum(), Value: record.Encode(next)},
			{Key: keys.History(), Value: record.Encode(history)},
			{Key: keys.CurrentPromotingHost(), Value: record.Encode(record.Promoting{Host: e.cfg.Name, Term: plan.ID})},
		},
	}
	var lease *Lease
	err = e.cfg.Effects.run("election/take-over", func() error {
		lease, err = e.cfg.Locker.TryAcquireWith(ctx, keys.Leader(), []byte(e.cfg.Name), txn)
		return err
	})
	if err != nil {
		return nil, err
	}
	e.cfg.Logger.InfoContext(ctx, "office taken", "term", plan.ID, "timeline", term.Timeline, "quorum", next.String())
	e.tell(ElectionInfo{ID: plan.ID, Step: "taken", Winner: plan.Winner})
	return &Office{Term: plan.ID, Nonce: state.Nonce, Lease: lease, Timeline: term.Timeline, Recorded: next.Config, Former: former}, nil
}

// mayTakeOver reads the position again: only a fenced standby takes office, also
// when it was restarted since it voted. Whoever was handed a term to must hold
// what the primary had written. It also says who was the primary before.
func (e *Elector) mayTakeOver(ctx context.Context, now record.Cluster) (position pg.Position, former quorum.Member, err error) {
	state, recorded := now.Failover.Value, now.Quorum.Value
	handover := state.Handover
	switch {
	case handover == nil && state.QuorumRevision != uint64(now.Quorum.Revision):
		return position, former, fmt.Errorf("%w: `quorum` is not the one that the election froze", dcs.ErrConflict)
	case handover != nil && recorded.Primary != e.self():
		return position, former, fmt.Errorf("%w: the term was handed over to %s and the recorded primary is %s", dcs.ErrConflict, e.self(), recorded.Primary)
	case handover != nil:
		if err := e.pledge(state.ID, state.Nonce); err != nil {
			return position, former, err
		}
	}
	position, counts, err := e.fencedPosition(ctx)
	switch {
	case err != nil:
		return position, former, err
	case !counts:
		return position, former, errors.New("this node has won and is below its floor: it waits to be replaced")
	case handover == nil:
		return position, recorded.Primary, nil
	case position.Compare(handover.Position) < 0:
		return position, former, fmt.Errorf("%w: it holds %s, and %s has confirmed %s before it handed over",
			ErrRolledBack, position, e.self(), handover.Position)
	}
	return position, handover.From, nil
}

// reserve is the history with the winner's term: its timeline is above every
// number that was ever recorded or voted with. A term that was handed over has it
// already.
func (e *Elector) reserve(now record.Cluster, position pg.Position) (record.History, record.Term) {
	state := now.Failover.Value
	if term, ok := now.History.Value.Find(state.ID); ok && state.Handover != nil {
		return now.History.Value, term
	}
	timeline := max(now.History.Value.Newest(), position.Timeline, now.Timeline.Value)
	for _, v := range now.Votes {
		timeline = max(timeline, v.Position.Timeline)
	}
	term := record.Term{
		ID: state.ID, Primary: e.cfg.Name, Timeline: timeline + 1, Parent: position.Timeline, At: e.cfg.Wall().UTC().Format(time.RFC3339),
		Loss: state.Loss,
	}
	return now.History.Value.With(term), term
}

func (e *Elector) tell(info ElectionInfo) {
	if e.cfg.Events.Election != nil {
		e.cfg.Events.Election(info)
	}
}
