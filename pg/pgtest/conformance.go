package pgtest

import (
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
)

//go:embed testdata/conformance
var conformance embed.FS

const conformanceDir = "testdata/conformance"

// Factory makes the servers of a script: machines without data, one for each
// name. It cleans up by t.Cleanup.
type Factory func(t *testing.T, names []string) Servers

// An Option changes how Run runs.
type Option func(*suite)

// RecordTo has Run write what it sees into a directory, as what the model is held
// to from then on. The factory must be one of real servers.
func RecordTo(dir string) Option { return func(s *suite) { s.record = dir } }

// AtOnce has Run play that many recipes at a time, however many processors there
// are: recipes of real servers mostly wait. Zero leaves it to go test's -parallel.
func AtOnce(n int) Option { return func(s *suite) { s.atOnce = n } }

// Scripts has Run play random scripts in place of the recipes, that many, from a
// seed on. One seed is one script; what real servers make of it depends on their
// timing too. Nothing is expected but that the model allows it.
func Scripts(first uint64, count int) Option {
	return func(s *suite) { s.first, s.scripts = first, count }
}

// FullSize has Run take the sizes and times that the recipes name: gigabytes and
// minutes.
func FullSize(full bool) Option { return func(s *suite) { s.full = full } }

// Run plays every recipe as a subtest, several of them at a time: what the recipe
// says must be seen, and what is seen must be possible on the model. Recipes are
// the files of testdata/conformance; see the documentation of the package.
func Run(t *testing.T, factory Factory, options ...Option) {
	t.Helper()
	s := suite{factory: factory}
	for _, option := range options {
		option(&s)
	}
	recipes, err := s.recipes()
	require.NoError(t, err)
	if s.atOnce > 0 {
		s.playAtOnce(t, recipes)
		return
	}
	for _, r := range recipes {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s.play(t, r)
		})
	}
}

type suite struct {
	factory Factory
	record  string
	full    bool
	atOnce  int
	first   uint64 // seed of the first random script
	scripts int
}

// recipes are the ones of testdata, or the random ones that were asked for.
func (s suite) recipes() ([]*recipe, error) {
	if s.scripts == 0 {
		return loadRecipes()
	}
	recipes := make([]*recipe, s.scripts)
	for i := range recipes {
		r, err := drawScript(s.first + uint64(i))
		if err != nil {
			return nil, fmt.Errorf("random script: %w", err)
		}
		recipes[i] = r
	}
	return recipes, nil
}

// playAtOnce plays recipes on its own goroutines, not on those of parallel tests,
// of which there are no more than processors.
func (s suite) playAtOnce(t *testing.T, recipes []*recipe) {
	t.Helper()
	places := make(chan struct{}, s.atOnce)
	var running sync.WaitGroup
	for _, r := range recipes {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			t.Run(r.name, func(t *testing.T) { s.play(t, r) }) //nolint:paralleltest // they are, by their goroutines
		})
	}
	running.Wait()
}

func (s suite) play(t *testing.T, r *recipe) {
	t.Helper()
	servers := s.factory(t, r.names)
	if _, model := servers.(*modelServers); r.model && !model {
		t.Skip("this recipe is for the model: no real server can be made to do it")
	}
	p := &player{recipe: r, servers: servers, full: s.full}
	err := p.run(t.Context(), nil)
	t.Logf("%s\n%s", r.title, p.transcript())
	require.NoError(t, err)
	if s.record != "" {
		path := filepath.Join(s.record, r.name+".trace")
		require.NoError(t, os.WriteFile(path, []byte(p.trace().String()), 0o600))
	}
	if verdict := explain(p.trace(), nil, searchBudget); !verdict.allowed {
		t.Errorf("the model does not allow what was seen: %s", verdict)
	}
}

func loadRecipes() ([]*recipe, error) {
	files, err := conformance.ReadDir(conformanceDir)
	if err != nil {
		return nil, fmt.Errorf("recipes: %w", err)
	}
	var recipes []*recipe
	for _, file := range files {
		name, isRecipe := strings.CutSuffix(file.Name(), ".txt")
		if !isRecipe {
			continue
		}
		text, err := conformance.ReadFile(conformanceDir + "/" + file.Name())
		if err != nil {
			return nil, fmt.Errorf("recipe %s: %w", name, err)
		}
		r, err := parseRecipe(name, string(text))
		if err != nil {
			return nil, fmt.Errorf("recipe %s: %w", name, err)
		}
		recipes = append(recipes, r)
	}
	return recipes, nil
}

// Control is what the suite needs of a server's controller: the methods of
// ha.PostgresController, with the same meaning.
type Control interface {
	Status(ctx context.Context) (pg.Status, error)
	OnDisk(ctx context.Context) (pg.OnDisk, error)
	SelfCheck(ctx context.Context) error
	Init(ctx context.Context) error
	StartStandby(ctx context.Context, up pg.Upstream) error
	StartPrimary(ctx context.Context, warrant pg.Warrant, setting pg.SyncSetting) error
	Stop(ctx context.Context, mode pg.StopMode) error
	Yield(ctx context.Context, to string) (pg.Position, error)
	Fence(ctx context.Context) error
	Position(ctx context.Context) (pg.Position, error)
	Promote(ctx context.Context, warrant pg.Warrant, next pg.Timeline) (pg.Promotion, error)
	Follow(ctx context.Context, up pg.Upstream) error
	Identify(ctx context.Context, up pg.Upstream) (pg.Remote, error)
	Rewind(ctx context.Context, source pg.Upstream) (pg.Position, error)
	Clone(ctx context.Context, source pg.Upstream) (pg.Position, error)
	SetSync(ctx context.Context, setting pg.SyncSetting) error
	SyncView(ctx context.Context) (pg.SyncView, error)
	DropSenders(ctx context.Context) error
	Checkpoint(ctx context.Context) error
	EnsureSlots(ctx context.Context, slots []pg.Slot) error
	OpenGate(ctx context.Context) error
}

var _ Control = (*Controller)(nil)

// Servers are the machines of one script. All methods are called by one
// goroutine, and but for those of Time none of them waits for other servers.
type Servers interface {
	// Prepare gives the first node a new cluster and a running primary with its
	// gate open, and each other node a standby that streams from it under its
	// node's name, without a slot.
	Prepare(ctx context.Context) error
	// Control is the controller of a node.
	Control(node string) Control
	// Route is how a node reaches another one: host and port.
	Route(node, to string) pg.Upstream

	Time
	Faults
	Operator
	Clients
	Witness
}

// Time passes in Servers only by these.
type Time interface {
	// Begin begins an operation, which goes on while time passes.
	Begin(work func(ctx context.Context) error) Operation
	// Await lets time pass until done reports true. It reports whether that was
	// before patience was over.
	Await(done func() bool) bool
	// Pass lets time pass, while look reports true.
	Pass(d time.Duration, look func() bool)
}

// Operation is one that was begun.
type Operation interface {
	Done() bool
	Err() error // valid once Done
	Abort()     // ends its context
}

// Faults of servers, machines and the network between the nodes.
type Faults interface {
	// Freeze stops a process as SIGSTOP does: "postmaster", "startup",
	// "receiver", "checkpointer", "sender NAME", or "backend SESSION". "flush" stands
	// for whoever flushes WAL, on the model only.
	Freeze(node, process string) error
	Thaw(node, process string) error
	// Kill is kill -9, of the postmaster or of a backend.
	Kill(node, process string) error
	// Cut loses what one node sends to another one, CutAfter when that many bytes
	// of it have arrived; Heal ends all cuts.
	Cut(from, to string) error
	CutAfter(from, to string, size pg.LSN) error
	Heal() error
	// Expire ends the connections between two nodes, as timeouts do.
	Expire(a, b string) error
	// FillDisk lets no new WAL file be made on a node.
	FillDisk(node string) error
	FreeDisk(node string) error
	// PowerOff ends the machine's processes with everything that is not durable.
	PowerOff(node string) error
	// LoseDisk ends the server and removes its data.
	LoseDisk(node string) error
	// WriteHistory writes a timeline history file.
	WriteHistory(node string, t pg.Timeline, h pg.History) error
	RemoveHistory(node string, t pg.Timeline) error
	// LeaveLock leaves a postmaster.pid of a process that is no server.
	LeaveLock(node string) error
	// Tear has a node commit a row in a long record, of which another one
	// receives the first part; nothing passes from the one to the other any more.
	Tear(row, from, to string) error
	// CrashPromotion promotes a standby and ends it with kill -9 before a step:
	// "signal" (standby.signal is removed), "history" (the history file is
	// written), or "record" (the end-of-recovery record is written).
	CrashPromotion(node, before string) error
}

// Operator is somebody with SQL who goes past the controller.
type Operator interface {
	SignalPromotion(node string) error // pg_promote(wait => false)
	SwitchWAL(node string) error       // pg_switch_wal
	Load(node string, size pg.LSN) error
	PauseReplay(node string) error
	ResumeReplay(node string) error
	// HoldReplay opens a query on a standby, and does something on the primary that
	// conflicts with it.
	HoldReplay(node, primary string) error
	ReleaseReplay(node string) error
	DropSlot(node, slot string) error
	LimitSlots(node string, size pg.LSN) error // max_slot_wal_keep_size
	// Receive connects a tool that acknowledges everything, under any name.
	Receive(node, name string) error
}

// Clients have one session for each name.
type Clients interface {
	Connect(session, node string, options SessionOptions) error
	// Commit asks for the commit of one row, and does not wait.
	Commit(session, row string) error
	Cancel(session string) error     // pg_cancel_backend
	Terminate(session string) error  // pg_terminate_backend
	Disconnect(session string) error // the client goes away
	GiveUp(session string) error     // the context of its statement ends
	Outcome(row string) Outcome
}

// SessionOptions are settings of a session.
type SessionOptions struct {
	Level   Level         // synchronous_commit; empty for the server's
	Timeout time.Duration // statement_timeout
}

// Witness looks where no controller does.
type Witness interface {
	// Rows are the names of all rows that a new session sees, sorted.
	Rows(node string) ([]string, error)
	// Admits is nil if a client is admitted.
	Admits(node string) error
	Receivers(node string) (int, error) // walreceiver processes, connecting or not
	Copies(node string) (int, error)    // base backups that are being taken from it
	HasHistory(node string, t pg.Timeline) (bool, error)
	Slot(node, slot string) (string, error) // "absent", "held", "lost"
}

// ErrNoAnswer is what a look returns when a server neither answers nor refuses.
var ErrNoAnswer = fmt.Errorf("%w: no answer", ErrRefused)
