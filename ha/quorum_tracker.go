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
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// DefaultAdmissionLag is how many bytes behind a replica may be to be added to
// the quorum, by default: one WAL segment.
const DefaultAdmissionLag = 16 << 20

// maxConsecutiveSteps bounds one call of Step: the primary has other duties.
const maxConsecutiveSteps = 8

// ErrNoQuorumRecord says that there is no record of the quorum to keep. It is
// created when the cluster is, never by a QuorumTracker.
var ErrNoQuorumRecord = errors.New("no record of the quorum")

// ErrNotRecordedPrimary says that the record names another primary: this server
// is not the one whose setting the record describes.
var ErrNotRecordedPrimary = errors.New("not the recorded primary")

// Fence is the right to write what only the primary writes. A Lease on the
// leader key is one.
type Fence interface {
	// Guard holds as long as the right does: the leader key under its token.
	Guard() dcs.Guard
	// Check returns nil while the right is held, and why not otherwise.
	Check() error
}

var _ Fence = (*Lease)(nil)

// Replica is a replica that holds quorum/members/<host>; the value of that key
// is the text of Member.
type Replica struct {
	Member   quorum.Member
	Priority int  // higher is added earlier
	NoSync   bool // never waited for
}

// QuorumSeen is what the DCS says of the quorum, read in this iteration.
type QuorumSeen struct {
	Record   record.Quorum
	Revision dcs.Revision // of the record
	Replicas []Replica
}

// QuorumTrackerConfig configures a QuorumTracker. Store, Keys, Postgres and
// Self are required, everything else has a default.
type QuorumTrackerConfig struct {
	Store    dcs.Store
	Keys     record.Keys
	Postgres SyncSetter
	Self     quorum.Member // the life of the local server, as the record names it

	Mode   quorum.Mode // that is wanted; "" keeps the recorded one
	Strict bool        // never lower k from 1 to 0
	MaxK   int         // upper bound of k; 0 means half of the members, rounded up

	RemovalDelay time.Duration // how long a member is away until it is removed; 0 means DefaultRemovalDelay
	MaxLag       uint64        // bytes behind that a replica may be to be added; 0 means DefaultAdmissionLag
	Request      time.Duration // for one request to the DCS or the server; 0 means DefaultRequest

	Clock  clock.Clock  // nil means the real one
	Rand   io.Reader    // for nonces; nil means crypto/rand
	Logger *slog.Logger // nil means none

	// HoldWidening, where not nil, says why the setting must not yet follow a
	// record that claims less than inForce, and "" if it may.
	HoldWidening func(rec record.Quorum, inForce pg.SyncSetting) string
	// OnStep, where not nil, is called before and after each step is carried
	// out, from the goroutine of Step.
	OnStep func(QuorumStepInfo)
}

// QuorumStepInfo tells of a step of a QuorumTracker.
type QuorumStepInfo struct {
	Step quorum.Step
	Done bool  // false: it is about to be carried out
	Err  error // after it: why it was not, or not surely
}

// QuorumReport is what a QuorumTracker saw and did.
type QuorumReport struct {
	Recorded record.Quorum  // as of the last write
	Revision dcs.Revision   // of Recorded
	InForce  pg.SyncSetting // as a new session showed it last
	Done     []quorum.Step  // what was carried out, in order
	Step     quorum.Step    // what comes next: why, and what is waited for
}

// QuorumTracker keeps synchronous_standby_names of the local primary and the
// recorded quorum in step, in the only safe order: a record never claims copies
// that are not there. It decides by quorum.Next; this is the runner.
//
// It needs a DCS, a server and a Fence, nothing else of this package, and can
// work beside anybody's primary. It does nothing by itself: Step is called
// while the fence holds, about once a second, and never by two goroutines at
// once. Close ends a CHECKPOINT that it may have under way.
//
// When the DCS is away nothing shrinks: without the fence there is no write,
// and the setting in force goes on to demand what it demanded.
type QuorumTracker struct {
	cfg QuorumTrackerConfig

	guard     dcs.Guard // of the term that progress belongs to
	unsettled bool      // a write of the record may still land
	seen      QuorumSeen
	progress  quorum.Progress
	away      map[quorum.Member]time.Time // since when, by Clock; read by key only
	writes    uint64                      // settings written, by which a job knows its own
	job       *checkpointJob              // nil if none has been started
}

// NewQuorumTracker checks the configuration.
func NewQuorumTracker(cfg QuorumTrackerConfig) (*QuorumTracker, error) {
	switch {
	case cfg.Store == nil || cfg.Postgres == nil:
		return nil, errors.New("quorum tracker: Store and Postgres are required")
	case cfg.Keys == (record.Keys{}):
		return nil, errors.New("quorum tracker: Keys are required; make them with record.NewKeys")
	case cfg.Self == (quorum.Member{}):
		return nil, errors.New("quorum tracker: Self is required")
	case cfg.RemovalDelay < 0 || cfg.Request < 0 || cfg.MaxK < 0:
		return nil, fmt.Errorf("quorum tracker: RemovalDelay %s, Request %s and MaxK %d must not be negative",
			cfg.RemovalDelay, cfg.Request, cfg.MaxK)
	}
	if cfg.RemovalDelay == 0 {
		cfg.RemovalDelay = DefaultRemovalDelay
	}
	if cfg.MaxLag == 0 {
		cfg.MaxLag = DefaultAdmissionLag
	}
	if cfg.Request == 0 {
		cfg.Request = DefaultRequest
	}
	cfg.Clock, _, cfg.Rand, cfg.Logger = realIfNil(cfg.Clock, nil, cfg.Rand, cfg.Logger)
	return &QuorumTracker{cfg: cfg, away: map[quorum.Member]time.Time{}}, nil
}

// Forget drops what the tracker remembers of its own steps. It is called when
// the server was restarted, and may be called at any time: what is forgotten is
// proven again.
func (t *QuorumTracker) Forget() { t.progress = quorum.Progress{} }

// Want replaces what is wanted of Mode ("" keeps the recorded one) and Strict, from
// the next Step on. Like Step it is never called by two goroutines at once.
func (t *QuorumTracker) Want(mode quorum.Mode, strict bool) { t.cfg.Mode, t.cfg.Strict = mode, strict }

// Settled reports whether no write of the record, by Step, may still land: the
// record in force is the one that the last report of Step shows.
func (t *QuorumTracker) Settled() bool { return !t.unsettled }

// Close ends a CHECKPOINT that is under way and waits until it has returned.
func (t *QuorumTracker) Close() {
	if t.job != nil {
		t.job.cancel()
		<-t.job.done
	}
}

// Observe reads what Step needs from the DCS, for callers that have not read it
// anyway; priorities and NoSync are the caller's to add. ErrNoQuorumRecord if
// there is no record.
func (t *QuorumTracker) Observe(ctx context.Context) (QuorumSeen, error) {
	ctx, cancel := timectx.With(ctx, t.cfg.Clock, t.cfg.Request, "reading the quorum")
	defer cancel()
	key := t.cfg.Keys.Quorum()
	kv, err := t.cfg.Store.Get(ctx, key)
	if errors.Is(err, dcs.ErrNotFound) {
		return QuorumSeen{}, fmt.Errorf("%s: %w", key, ErrNoQuorumRecord)
	}
	if err != nil {
		return QuorumSeen{}, fmt.Errorf("read the record of the quorum: %w", err)
	}
	rec, err := record.Decode[record.Quorum](key, kv.Value)
	if err != nil {
		return QuorumSeen{}, err
	}
	members, err := t.cfg.Store.List(ctx, t.cfg.Keys.QuorumMember(""))
	if err != nil {
		return QuorumSeen{}, fmt.Errorf("list the members of the quorum: %w", err)
	}
	seen := QuorumSeen{Record: rec, Revision: kv.Revision}
	for _, kv := range members {
		var replica Replica
		if err := replica.Member.UnmarshalText(kv.Value); err != nil {
			t.cfg.Logger.WarnContext(ctx, "member of the quorum cannot be read and is not counted", "key", kv.Key, "error", err)
			continue
		}
		seen.Replicas = append(seen.Replicas, replica)
	}
	return seen, nil
}

// Step looks at the server, carries out the next step, and goes on as long as
// steps are ready, a few at most. It asks fence before each effect.
//
// A returned error says which step could not be carried out; the report is
// valid as far as it goes. After an error the next call looks again and goes on
// from record and setting. ErrNoQuorumRecord and ErrNotRecordedPrimary: nothing
// was done. The errors of Commit are wrapped: after dcs.ErrConflict somebody
// else has written the record, read it again.
func (t *QuorumTracker) Step(ctx context.Context, fence Fence, seen QuorumSeen) (QuorumReport, error) {
	t.seen = seen
	report := QuorumReport{Recorded: seen.Record, Revision: seen.Revision}
	switch {
	case seen.Revision == 0:
		return report, fmt.Errorf("%s: %w", t.cfg.Keys.Quorum(), ErrNoQuorumRecord)
	case seen.Record.Primary != t.cfg.Self:
		return report, fmt.Errorf("quorum names %s, this is %s: %w", seen.Record.Primary, t.cfg.Self, ErrNotRecordedPrimary)
	}
	if guard := fence.Guard(); guard != t.guard {
		t.guard, t.unsettled = guard, true
		t.Forget()
	}
	if t.unsettled {
		step := quorum.Step{Kind: quorum.WriteRecord, Record: seen.Record.Config, Why: "an earlier write must no longer land"}
		if err := t.carryOut(ctx, fence, quorum.View{Recorded: seen.Record.Config}, step); err != nil {
			return report, err
		}
		report.Done = append(report.Done, step)
	}
	return t.advance(ctx, fence, report)
}

// advance carries out ready steps.
func (t *QuorumTracker) advance(ctx context.Context, fence Fence, report QuorumReport) (QuorumReport, error) {
	for {
		view, err := t.look(ctx)
		if err != nil {
			return report, err
		}
		report.Recorded, report.Revision = t.seen.Record, t.seen.Revision
		report.InForce, report.Step = view.Sync.Setting, quorum.Next(view)
		if report.Step.Idle() || len(report.Done) >= maxConsecutiveSteps {
			return report, nil
		}
		if report.Step.Kind == quorum.Checkpoint {
			returned, waits, err := t.checkpoint(ctx, fence)
			if err != nil || !returned {
				report.Step.Waits = append(report.Step.Waits, waits)
				return report, err
			}
		}
		if err := t.carryOut(ctx, fence, view, report.Step); err != nil {
			return report, err
		}
		report.Done = append(report.Done, report.Step)
	}
}

// look is the view of this moment.
func (t *QuorumTracker) look(ctx context.Context) (quorum.View, error) {
	sync, err := t.syncView(ctx)
	if err != nil {
		return quorum.View{}, err
	}
	rec := t.seen.Record
	view := quorum.View{
		Recorded: rec.Config, Sync: sync, Progress: t.progress,
		Mode: t.cfg.Mode, Strict: t.cfg.Strict, MaxK: t.cfg.MaxK, MaxLag: t.cfg.MaxLag,
	}
	held := make(map[quorum.Member]bool, len(t.seen.Replicas))
	for _, r := range t.seen.Replicas {
		held[r.Member] = true
		view.Candidates = append(view.Candidates, quorum.Candidate{Member: r.Member, Priority: r.Priority, NoSync: r.NoSync})
	}
	view.Lost = t.lost(rec.Members, func(m quorum.Member) bool { return held[m] && quorum.Streams(sync, m) })
	if t.cfg.HoldWidening != nil {
		view.HoldWidening = t.cfg.HoldWidening(rec, sync.Setting)
	}
	return view, nil
}

func (t *QuorumTracker) syncView(ctx context.Context) (pg.SyncView, error) {
	ctx, cancel := timectx.With(ctx, t.cfg.Clock, t.cfg.Request, "looking at synchronous replication")
	defer cancel()
	view, err := t.cfg.Postgres.SyncView(ctx)
	if err != nil {
		return pg.SyncView{}, fmt.Errorf("look at synchronous replication: %w", err)
	}
	return view, nil
}

// lost keeps the book of who is away since when, and returns those who have
// been away for the removal delay.
func (t *QuorumTracker) lost(members []quorum.Member, present func(quorum.Member) bool) []quorum.Member {
	now := t.cfg.Clock.Now()
	away := make(map[quorum.Member]time.Time, len(members))
	var lost []quorum.Member
	for _, m := range members {
		if present(m) {
			continue
		}
		since, known := t.away[m]
		if !known {
			since = now
		}
		away[m] = since
		if now.Sub(since) >= t.cfg.RemovalDelay {
			lost = append(lost, m)
		}
	}
	t.away = away
	return lost
}

// carryOut carries out one step and keeps the progress. Before it, it asks for
// the fence once more.
func (t *QuorumTracker) carryOut(ctx context.Context, fence Fence, view quorum.View, step quorum.Step) error {
	t.tell(QuorumStepInfo{Step: step})
	err := fence.Check()
	if err != nil {
		err = fmt.Errorf("quorum step %q without the right to write: %w", step.Kind, err)
	} else {
		err = t.effect(ctx, fence, view, step)
	}
	t.tell(QuorumStepInfo{Step: step, Done: true, Err: err})
	return err
}

func (t *QuorumTracker) tell(info QuorumStepInfo) {
	if info.Done && info.Err == nil {
		t.cfg.Logger.Info("quorum step", "step", info.Step.String())
	}
	if t.cfg.OnStep != nil {
		t.cfg.OnStep(info)
	}
}

func (t *QuorumTracker) effect(ctx context.Context, fence Fence, view quorum.View, step quorum.Step) error {
	switch step.Kind {
	case quorum.WriteRecord:
		if err := t.write(ctx, fence, step.Record); err != nil {
			return err
		}
	case quorum.WriteSetting:
		ctx, cancel := timectx.With(ctx, t.cfg.Clock, t.cfg.Request, "writing the synchronous setting")
		defer cancel()
		t.writes++
		if err := t.cfg.Postgres.SetSync(ctx, step.Setting); err != nil {
			t.Forget() // it may be in force, or come into force later
			return fmt.Errorf("put setting '%s' in force: %w", step.Setting, err)
		}
	case quorum.ReadBarrier:
		sync, err := t.syncView(ctx)
		if err != nil {
			return err
		}
		t.progress = view.Progress.Read(sync)
		if t.progress.Barrier == 0 {
			return fmt.Errorf("read the barrier: a new session shows '%s' and flush position %s", sync.Setting, sync.Flush)
		}
		return nil
	default:
	}
	t.progress = view.After(step)
	return nil
}

// write writes the record: a new version under the fence and under the
// revision last read or written. Once it is written no earlier write can land.
func (t *QuorumTracker) write(ctx context.Context, fence Fence, next quorum.Config) error {
	nonce, err := newNonce(t.cfg.Rand)
	if err != nil {
		return fmt.Errorf("write quorum: %w", err)
	}
	rec := t.seen.Record.Next(nonce, next)
	ctx, cancel := timectx.With(ctx, t.cfg.Clock, t.cfg.Request, "writing the quorum")
	defer cancel()
	key := t.cfg.Keys.Quorum()
	rev, err := t.cfg.Store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{dcs.At(key, t.seen.Revision), fence.Guard()},
		Then: []dcs.Op{{Key: key, Value: record.Encode(rec)}},
	})
	if err != nil {
		t.unsettled = t.unsettled || !dcs.SurelyNotDone(err)
		return fmt.Errorf("write quorum version %d: %w", rec.Version, err)
	}
	t.seen.Record, t.seen.Revision, t.unsettled = rec, rev, false
	return nil
}

// checkpointJob runs CHECKPOINTs in the background: they take as long as they
// take, and the primary has other duties.
type checkpointJob struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine ends; err is valid then
	err    error
	write  uint64 // the setting that it is run for
}

// checkpoint reports whether the CHECKPOINTs that the setting in force needs
// have returned, and starts them if they have not been. Otherwise it says in
// waits what is waited for.
func (t *QuorumTracker) checkpoint(ctx context.Context, fence Fence) (returned bool, waits string, err error) {
	if t.job != nil {
		select {
		case <-t.job.done:
		default:
			return false, "a CHECKPOINT is under way", nil
		}
		job := t.job
		t.job = nil
		if job.write == t.writes {
			if job.err != nil {
				return false, "", fmt.Errorf("CHECKPOINT, without which commits might not wait: %w", job.err)
			}
			return true, "", nil
		}
	}
	if err := fence.Check(); err != nil {
		return false, "", fmt.Errorf("quorum step %q without the right to write: %w", quorum.Checkpoint, err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	job := &checkpointJob{cancel: cancel, done: make(chan struct{}), write: t.writes}
	t.job = job
	go func() {
		defer close(job.done)
		defer cancel()
		for range quorum.Checkpoints {
			if job.err = t.cfg.Postgres.Checkpoint(ctx); job.err != nil {
				return
			}
		}
	}()
	return false, "a CHECKPOINT has been started", nil
}
