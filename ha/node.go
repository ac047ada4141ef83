package ha

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/role"
	"github.com/pghad/pghad/internal/timectx"
	"github.com/pghad/pghad/pg"
)

// NodeConfig is what a Node needs. Cluster, Name, Store, Postgres, Disk, Host
// and Port are required.
type NodeConfig struct {
	Namespace string // default "service"
	Cluster   string
	Name      string // unique in the cluster

	Store    dcs.Store
	Postgres PostgresController
	Disk     Disk // keeps what the node must not forget, outside the data directory
	// Peers asks other nodes directly. With nil the server can be written to only
	// while the store renews the node's lease.
	Peers Peers

	Host   string // where other nodes and clients reach the server
	Port   int
	APIURL string // published in members/<host>, may be empty

	Timing Timing
	// Mode is that of a cluster which this node creates: quorum (default) or async.
	// After that the record counts, see Settings.
	Mode quorum.Mode
	// MaxLag bounds the loss in mode async: see ElectorConfig.
	MaxLag uint64
	// Relaxed allows the quorum to be lowered to zero acknowledgements when no
	// member is left. Default: strict, commits then wait.
	Relaxed   bool
	Bootstrap bool // this node may create the cluster; never implied
	// Existing makes the cluster, where Bootstrap permits it, of the data that is there,
	// and not of a directory that is empty. Postgres.Init is then called with that data,
	// of a primary that was shut down cleanly, and makes it the controller's own; it may be
	// called again.
	Existing bool
	// Exit is what becomes of the server when Run's context ends; default
	// ExitHandOver. In maintenance the server is always left running.
	Exit Exit

	Priority   int
	NoFailover bool
	Version    string // of the program, published

	Clock   clock.Clock
	Wall    func() time.Time
	Rand    io.Reader
	Logger  *slog.Logger
	Events  Events
	Effects Effects
}

// Node is one node of a cluster: the loop that joins the pieces. It looks at
// the store and at its server, decides what it is to be (package role), does
// one thing towards that, and looks again; what it knows and why it waits is in
// Status.
//
// A loop that hangs, for example in a call of the operating system about a dead disk,
// renews no lock any more once nothing was heard of it for TTL + ElectionTimeout +
// Observe + Request; the server of a primary is then stopped as without a store. It is
// heard of at each look and before and after each effect. Not counted are a promotion,
// which has a limit of its own, and what copies data.
//
// Some of what it is told when it is made can be changed later, by Reconfigure.
type Node struct {
	cfg     NodeConfig
	keys    record.Keys
	locker  *Locker
	elector *Elector
	memory  *Memory
	// promiser answers requests of other nodes, from their goroutines.
	promiser    *promiser
	progress    *progress // of the loop, which others look at
	coordinator *SwitchoverCoordinator
	wake        chan struct{} // the one inbox of the loop: "look again", or the end

	// What follows belongs to the loop's goroutine.
	office     *office
	alive      *Lease
	membership *Lease
	following  following
	writable   bool // the server may have been started as a primary, by whomever
	pause      time.Duration
	plan       role.Plan
	why        string
	question   question
	leaving    string // the switchover by which the node hands over at its end, until that has ended
	published  published
	dry        time.Time // since when the server follows without a lasting stream, zero if it has one
	flows      time.Time // since when each look has shown a stream, zero if the last one has not
	turns      int       // restarts since then
	settings   Settings  // in force, see settle
	broken     string    // why the server does not start on its own data, "" if it does
	noRewind   string    // why a rewind of this data was found impossible

	toldConfig     bool // Events.Config has been called
	configRevision dcs.Revision

	stuck atomic.Bool // the server should be stopped and could not be: no lock is renewed

	mu     sync.Mutex // guards what follows; never held over anything that waits
	status NodeStatus
	wanted Settings
}

// following is the upstream that the server was last pointed at, under which term.
type following struct {
	term     uint64
	upstream pg.Upstream
}

// question is asked of the primary before this node destroys its copy.
type question struct {
	term  uint64
	nonce string
}

// errStart marks that a server did not start as a standby.
var errStart = errors.New("start as a standby")

// maxTurns is how often a server that gets no stream from a primary that is
// there is restarted, before it is taken for one that cannot follow: the WAL
// that it needs is gone.
const maxTurns = 3

// shortPause is the first pause between two looks while something is under way;
// backoff lets it grow. Every news of the store or the server ends a pause.
const shortPause = 10 * time.Millisecond

// NewNode checks the configuration and loads the local state.
func NewNode(cfg NodeConfig) (*Node, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "service"
	}
	if cfg.Mode == "" {
		cfg.Mode = quorum.ModeQuorum
	}
	if cfg.Exit == "" {
		cfg.Exit = ExitHandOver
	}
	switch {
	case cfg.Store == nil || cfg.Postgres == nil || cfg.Disk == nil:
		return nil, errors.New("node: Store, Postgres and Disk are required")
	case cfg.Host == "" || cfg.Port < 1 || cfg.Port > 65535:
		return nil, fmt.Errorf("node: address %q:%d: other nodes must be able to reach the server there", cfg.Host, cfg.Port)
	case !cfg.Exit.valid():
		return nil, fmt.Errorf("node: exit %q: want %q, %q or %q", cfg.Exit, ExitHandOver, ExitStop, ExitKeep)
	case cfg.Mode != quorum.ModeQuorum && cfg.Mode != quorum.ModeAsync:
		return nil, fmt.Errorf("node: mode %q: this version knows quorum and async", cfg.Mode)
	}
	keys, err := record.NewKeys(cfg.Namespace, cfg.Cluster)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	cfg.Timing = cfg.Timing.Defaults()
	cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger = realIfNil(cfg.Clock, cfg.Wall, cfg.Rand, cfg.Logger)
	memory, err := OpenMemory(cfg.Disk)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	n := &Node{cfg: cfg, keys: keys, memory: memory, wake: make(chan struct{}, 1), writable: true}
	n.progress = newProgress(cfg.Clock, cfg.Timing)
	n.cfg.Effects = n.progress.follow(cfg.Effects)
	n.wanted, n.settings = cfg.settings(), cfg.settings()
	n.promiser = &promiser{clock: cfg.Clock, longest: cfg.Timing.TTL, ask: n.poke, why: "this node has not looked yet"}
	if longest := memory.State().Promising; longest > 0 {
		n.promiser.bind(longest)
	}
	if err := n.assemble(); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) assemble() error {
	cfg := n.cfg
	var err error
	n.locker, err = NewLocker(LockerConfig{
		Store: cfg.Store, TTL: cfg.Timing.TTL, RenewEvery: cfg.Timing.RenewEvery, Margin: cfg.Timing.Margin,
		Request: cfg.Timing.Request, MaxDrift: cfg.Timing.MaxDrift, Clock: cfg.Clock, Wall: cfg.Wall, Logger: cfg.Logger,
		Gate: func(context.Context) error {
			if n.stuck.Load() {
				return errors.New("the server cannot serve and could not be stopped")
			}
			return n.progress.check()
		},
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.elector, err = NewElector(ElectorConfig{
		Store: cfg.Store, Locker: n.locker, Keys: n.keys, Postgres: cfg.Postgres, Memory: n.memory, Name: cfg.Name,
		Priority: cfg.Priority, NoFailover: cfg.NoFailover, MaxLag: cfg.MaxLag, Timing: cfg.Timing, Clock: cfg.Clock, Wall: cfg.Wall,
		Promised: n.promiser.bound,
		Rand:     cfg.Rand, Logger: cfg.Logger, Events: cfg.Events, Effects: cfg.Effects,
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.coordinator, err = NewSwitchoverCoordinator(SwitchoverConfig{
		Store: cfg.Store, Keys: n.keys, Postgres: cfg.Postgres, Memory: n.memory, Name: cfg.Name, Timing: cfg.Timing,
		Clock: cfg.Clock, Wall: cfg.Wall, Rand: cfg.Rand, Logger: cfg.Logger, Events: cfg.Events, Effects: cfg.Effects,
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

// Run is the node's life. It returns when ctx ends, after server and locks have
// been left as NodeConfig.Exit says, or with ErrForeignData, which no waiting can
// mend. It must be called once.
func (n *Node) Run(ctx context.Context) error {
	sources, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wait sync.WaitGroup
	wait.Go(func() { n.watchStore(sources) })
	wait.Go(func() { n.watchServer(sources) })
	unhook := context.AfterFunc(ctx, n.poke)
	err := n.loop(ctx)
	unhook()
	if err == nil {
		err = n.exit(ctx)
	}
	stop()
	wait.Wait()
	return err
}

func (n *Node) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		pause, err := n.turn(ctx)
		if err != nil {
			return err
		}
		n.rest(pause)
	}
	return nil
}

// rest waits for the next poke, at most for d.
func (n *Node) rest(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := n.cfg.Clock.AfterFunc(d, n.poke)
	<-n.wake
	timer.Stop()
}

// poke makes the loop look again. It never blocks.
func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// watchStore pokes on every news of the cluster's keys, but positions: those are
// nothing to get up for. The news itself is only a hint: the loop reads.
func (n *Node) watchStore(ctx context.Context) {
	var known map[string]string
	for update := range n.cfg.Store.Watch(ctx, n.keys.Prefix()) {
		news := n.keys.News(update.KVs)
		if update.Err != nil || !maps.Equal(news, known) {
			n.poke()
		}
		known = news
	}
}

// watchServer pokes when the postmaster starts or ends.
func (n *Node) watchServer(ctx context.Context) {
	var generation uint64
	for ctx.Err() == nil {
		next, err := n.cfg.Postgres.WaitChange(ctx, generation)
		if err != nil {
			_ = timectx.Sleep(ctx, n.cfg.Clock, n.cfg.Timing.Observe)
			continue
		}
		generation = next
		n.poke()
	}
}

// turn looks, decides and acts once. It returns for how long to rest; an error
// ends the node.
func (n *Node) turn(ctx context.Context) (time.Duration, error) {
	n.why = ""
	n.progress.note()
	n.settle()
	v := n.look(ctx)
	n.note(v)
	n.tellConfig(v)
	plan := role.Decide(v.role(n))
	pause, err := n.act(ctx, plan, v)
	switch {
	case errors.Is(err, ErrForeignData):
		return 0, err
	case err != nil && ctx.Err() == nil:
		n.why = err.Error()
		level := slog.LevelWarn
		if n.why == n.status.Why { // said already
			level = slog.LevelDebug
		}
		n.cfg.Logger.Log(ctx, level, "turn cut short", "plan", string(plan.Action), "error", err)
		pause = max(pause, shortPause)
	}
	same := plan.Action == n.plan.Action
	n.announce(ctx, plan, v)
	return n.backoff(same, pause), nil
}

// backoff lets pauses grow up to the observation interval while the plan stays
// the same: a cluster that waits for hours is not asked a hundred times a second.
func (n *Node) backoff(same bool, wanted time.Duration) time.Duration {
	if !same {
		n.pause = 0
	}
	if wanted >= n.cfg.Timing.Observe || wanted <= 0 {
		n.pause = 0
		return wanted
	}
	n.pause = min(max(wanted, n.pause+n.pause/4), n.cfg.Timing.Observe)
	return n.pause
}

func (n *Node) act(ctx context.Context, plan role.Plan, v look) (time.Duration, error) {
	if n.office != nil {
		if err := n.office.warrant.Check(); err != nil {
			n.endOffice(ctx, false, err)
			return 0, nil // the look is older than the stop
		}
	}
	if plan.Action != role.Elect {
		if err := n.elector.Leave(ctx); err != nil {
			n.cfg.Logger.DebugContext(ctx, "manager's lock not released", "error", err)
		}
	}
	n.keepAlive(ctx, v)
	if err := n.leaveMaintenance(ctx, v); err != nil {
		n.cfg.Logger.WarnContext(ctx, "end of maintenance not confirmed", "error", err)
	}
	switch plan.Action {
	case role.Stop:
		return 0, n.stop(ctx, pg.StopImmediate)
	case role.TakeUp:
		return 0, n.takeUp(ctx, v)
	case role.Vacate:
		return 0, n.vacate(ctx, v)
	case role.Keep:
		n.why = plan.Why
		return n.keep(ctx, v)
	case role.Bootstrap:
		return n.bootstrap(ctx, v)
	case role.Lead:
		return n.lead(ctx, v)
	case role.Follow:
		return n.follow(ctx, v)
	case role.Elect:
		return n.elect(ctx, v)
	case role.Stand:
		return n.stand(ctx, v)
	case role.Foreign:
		return 0, fmt.Errorf("%w: %s; hands off", ErrForeignData, plan.Why)
	case role.Wait:
	}
	return n.cfg.Timing.Observe, nil
}

// stop stops the server and remembers that nothing of it is left.
func (n *Node) stop(ctx context.Context, mode pg.StopMode) error {
	n.following = following{}
	err := n.cfg.Effects.run("server/stop", func() error { return n.cfg.Postgres.Stop(ctx, mode) })
	if err != nil {
		return fmt.Errorf("stop (%s): %w", mode, err)
	}
	n.writable = false
	n.stuck.Store(false)
	return nil
}

// startStandby starts the server as a standby of up, fenced if that is nowhere.
func (n *Node) startStandby(ctx context.Context, v look, up pg.Upstream) error {
	if err := n.cfg.Postgres.SetSync(ctx, n.dormant(v)); err != nil {
		return fmt.Errorf("synchronous setting: %w", err)
	}
	// A recovery that takes longer goes on without being waited for.
	ctx, cancel := timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.ElectionTimeout, "start as a standby")
	defer cancel()
	err := n.cfg.Effects.run("server/start-standby", func() error { return n.cfg.Postgres.StartStandby(ctx, up) })
	if err != nil {
		return fmt.Errorf("%w: %w", errStart, err)
	}
	n.writable = false
	return nil
}

// dormant is the synchronous setting of a standby: never empty, so that a
// promotion cannot acknowledge anything before its own setting is in force (X4).
func (n *Node) dormant(v look) pg.SyncSetting {
	setting := pg.SyncSetting{Method: pg.SyncAny, K: max(1, v.recorded().K)}
	for _, m := range v.recorded().D() {
		if m.Node != n.cfg.Name {
			setting.Names = append(setting.Names, m.String())
		}
	}
	if len(setting.Names) == 0 {
		setting.Names = []string{"pghad!nobody"}
	}
	setting.K = min(setting.K, len(setting.Names))
	return setting
}

// stand keeps a standby running that streams from nobody. A copy below its floor
// cannot be opened without its source.
func (n *Node) stand(ctx context.Context, v look) (time.Duration, error) {
	local := n.memory.State()
	if before := n.following; v.storeErr != nil && v.stopped() && before.term != 0 && before.term == local.Pledge {
		// It goes on with the primary of its pledge, which it has followed until now.
		return 0, n.startStandby(ctx, v, before.upstream)
	}
	if v.stopped() && !local.BelowFloor() {
		n.following = following{}
		return 0, n.startStandby(ctx, v, pg.Upstream{})
	}
	return n.cfg.Timing.Observe, nil
}

// elect lets the Elector do one step. It gives up the membership first: who
// votes does not stream.
func (n *Node) elect(ctx context.Context, v look) (time.Duration, error) {
	state := v.records.Failover.Value
	handed := state.Handover != nil && state.Winner == n.self() // by the very primary that it may have promised
	if bound := n.promiser.bound(); bound > 0 && !handed {
		// It goes on streaming, and the primary may come back.
		out, err := n.elector.Step(ctx, v.records)
		n.why = out.Plan.Why
		if out.Office != nil { // it has voted in time, and was restarted since
			n.enterOffice(ctx, out.Office)
			return 0, nil
		}
		return min(bound, n.cfg.Timing.Observe), err
	}
	n.dropMembership(ctx)
	below := n.memory.State().BelowFloor()
	if v.data != role.DataPresent && !below {
		return n.cfg.Timing.Observe, errors.New("this node is a recorded member and has no data to vote with")
	}
	if v.stopped() && !below {
		if err := n.startStandby(ctx, v, pg.Upstream{}); err != nil {
			return 0, err
		}
	}
	n.following = following{}
	if state.Handover != nil && state.Phase == record.PhaseWon && !handed {
		// The old primary has ended: to follow the new one takes less time from here.
		if err := n.restOnOwnData(ctx, v); err != nil && !n.unfit(err) {
			n.cfg.Logger.WarnContext(ctx, "not at rest before the new primary comes", "error", err)
		}
	}
	out, err := n.elector.Step(ctx, v.records)
	if errors.Is(err, ErrRolledBack) {
		return 0, n.beginNewLife(ctx, v, err)
	}
	n.why = out.Plan.Why
	if err != nil {
		return shortPause, err
	}
	if out.Office != nil {
		n.enterOffice(ctx, out.Office)
		return 0, nil
	}
	if out.Again {
		return 0, nil
	}
	return shortPause, nil
}

// beginNewLife gives up this life of the data: it has been found behind what it
// had published. The new life is no recorded member and starts with the highest
// pledge in the store.
func (n *Node) beginNewLife(ctx context.Context, v look, cause error) error {
	nonce, err := newNonce(n.cfg.Rand)
	if err != nil {
		return err
	}
	n.cfg.Logger.WarnContext(ctx, "new life of this node", "cause", cause)
	return n.memory.Update(func(s *LocalState) {
		s.Incarnation, s.Published = nonce[:8], pg.Position{}
		if id := v.records.Failover.Value.ID; id > s.Pledge {
			s.bind(id, v.records.Failover.Value.Nonce)
		}
	})
}

// shutdown stops the server, lets go of the locks and waits for everything that
// the node has started. `leader` is released only when no process of the server
// is left.
func (n *Node) shutdown(ctx context.Context) error {
	if n.memory.State().Maintenance {
		n.cfg.Logger.InfoContext(ctx, "maintenance is on: the server is left running")
		if n.office != nil {
			n.leaveOffice(ctx, ErrReleased)
		}
		return n.closeLocker(ctx)
	}
	bounded, cancel := timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.TTL, "fast stop")
	err := n.stop(bounded, pg.StopFast)
	cancel()
	if err != nil {
		n.cfg.Logger.WarnContext(ctx, "fast stop did not end, stopping immediately", "error", err)
		err = n.stop(ctx, pg.StopImmediate)
	}
	if err != nil {
		n.cfg.Logger.ErrorContext(ctx, "server still runs, its locks are left to expire", "error", err)
		n.stuck.Store(true)
		if n.office != nil {
			n.leaveOffice(ctx, err)
		}
		return err
	}
	if n.office != nil {
		n.endOffice(ctx, true, ErrReleased)
	}
	return n.closeLocker(ctx)
}

func (n *Node) closeLocker(ctx context.Context) error {
	closing, cancel := timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.Request, "release of locks")
	defer cancel()
	if err := n.locker.Close(closing); err != nil {
		n.cfg.Logger.WarnContext(ctx, "locks not released, they will expire", "error", err)
	}
	return nil
}

// request bounds one exchange with the store or another server.
func (n *Node) request(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return timectx.With(ctx, n.cfg.Clock, n.cfg.Timing.Request, what)
}

// upstreamOf says where a node's server is, from its own record.
func (n *Node) upstreamOf(v look, host string) (pg.Upstream, error) {
	member, ok := v.records.Member(host)
	if !ok {
		return pg.Upstream{}, fmt.Errorf("%s has not published its address (members/%s)", host, host)
	}
	parsed, err := url.Parse(member.ConnURL)
	if err != nil {
		return pg.Upstream{}, fmt.Errorf("members/%s: conn_url: %w", host, err)
	}
	port, err := strconv.Atoi(parsed.Port())
	if err != nil || parsed.Hostname() == "" {
		return pg.Upstream{}, fmt.Errorf("members/%s: conn_url %q has no host and port", host, member.ConnURL)
	}
	return pg.Upstream{
		Host: parsed.Hostname(), Port: port, Name: n.streamName(), Slot: record.SlotName(n.cfg.Name),
	}, nil
}

// uncounted ends the name under which a life below its floor streams: no setting
// lists it.
const uncounted = "~"

// streamName is the application_name to stream under. A life below its floor
// uses one that no setting lists.
func (n *Node) streamName() string {
	local := n.memory.State()
	name := local.Member(n.cfg.Name).String()
	if local.BelowFloor() {
		name += uncounted
	}
	return name
}
