package pgtest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgtest"
)

// errDead ends an operation as the death of the agent does.
var errDead = errors.New("the agent is dead")

// forever is a warrant that does not end.
type forever struct{}

func (forever) Check() error     { return nil }
func (forever) Until() time.Time { return time.Time{} }

// world is a script's view of a cluster: every line of a script is one call.
type world struct {
	*testing.T
	*pgtest.Cluster
	cut map[string]bool // "a>b": packets from a to b are lost
	ctl map[string]*pgtest.Controller
	run map[string]*pgtest.Driver
	// onStep, where not nil, sees each step.
	onStep func(what string)
}

// newWorld makes machines; rules may be switched off.
func newWorld(t *testing.T, cfg pgtest.Config, nodes ...string) *world {
	t.Helper()
	w := &world{T: t, cut: map[string]bool{}, ctl: map[string]*pgtest.Controller{}, run: map[string]*pgtest.Driver{}}
	for _, n := range nodes {
		cfg.Nodes = append(cfg.Nodes, pgtest.Node{Name: n})
	}
	cfg.OnStep = func(_ uint64, what string) {
		if w.onStep != nil {
			w.onStep(what)
		}
	}
	cfg.Reachable = func(from, to string) bool { return !w.cut[from+">"+to] }
	var err error
	w.Cluster, err = pgtest.New(cfg)
	require.NoError(t, err)
	for _, n := range nodes {
		w.run[n] = &pgtest.Driver{Cluster: w.Cluster}
		w.ctl[n], err = w.Controller(n, w.run[n])
		require.NoError(t, err)
	}
	return w
}

// replicated is a primary, the first node, with the others as its standbys.
func replicated(t *testing.T, cfg pgtest.Config, nodes ...string) *world {
	t.Helper()
	w := newWorld(t, cfg, nodes...)
	a := nodes[0]
	require.NoError(t, w.ctl[a].Init(t.Context()))
	w.startPrimary(a, pg.SyncSetting{})
	require.NoError(t, w.ctl[a].OpenGate(t.Context()))
	for _, n := range nodes[1:] {
		require.NoError(t, w.ctl[a].EnsureSlots(t.Context(), []pg.Slot{{Name: "slot_" + n}}))
		_, err := w.ctl[n].Clone(t.Context(), upstream(a, ""))
		require.NoError(t, err)
		w.startStandby(n, a)
	}
	w.Settle(nil)
	return w
}

func upstream(to, name string) pg.Upstream { return pg.Upstream{Host: to, Port: 5432, Name: name} }

func (w *world) ok(err error) {
	w.Helper()
	require.NoError(w.T, err)
}

func (w *world) startPrimary(node string, setting pg.SyncSetting) {
	w.Helper()
	w.ok(w.ctl[node].StartPrimary(w.Context(), forever{}, setting))
}

func (w *world) startStandby(node, of string) {
	w.Helper()
	up := pg.Upstream{}
	if of != "" {
		up = upstream(of, node)
	}
	w.ok(w.ctl[node].StartStandby(w.Context(), up))
}

func (w *world) Context() context.Context { return w.T.Context() }

func (w *world) follow(node, of string) {
	w.Helper()
	w.ok(w.ctl[node].Follow(w.Context(), upstream(of, node)))
	w.Settle(nil)
}

func (w *world) fence(node string) pg.Position {
	w.Helper()
	w.ok(w.ctl[node].Fence(w.Context()))
	at, err := w.ctl[node].Position(w.Context())
	w.ok(err)
	return at
}

func (w *world) promote(node string, t pg.Timeline) pg.Promotion {
	w.Helper()
	p, err := w.ctl[node].Promote(w.Context(), forever{}, t)
	w.ok(err)
	require.Equal(w.T, t, p.Timeline)
	w.ok(w.ctl[node].OpenGate(w.Context()))
	return p
}

func (w *world) setSync(node, setting string) {
	w.Helper()
	s, err := pg.ParseSyncSetting(setting)
	w.ok(err)
	w.ok(w.ctl[node].SetSync(w.Context(), s))
}

func (w *world) session(node string) *pgtest.Session {
	w.Helper()
	s, err := w.Connect("client", node)
	w.ok(err)
	return s
}

// begin asks for a commit in a new session, and lets nothing happen.
func (w *world) begin(node, id string) *pgtest.Session {
	w.Helper()
	s := w.session(node)
	w.ok(s.Insert(id))
	_, err := s.Commit()
	w.ok(err)
	return s
}

// commit asks for a commit, lets everything happen but timers, and returns its
// outcome.
func (w *world) commit(node, id string) pgtest.Outcome {
	w.Helper()
	w.begin(node, id)
	w.Settle(nil)
	return w.outcome(id)
}

func (w *world) outcome(id string) pgtest.Outcome { return w.row(id).Outcome }

func (w *world) row(id string) pgtest.Commit {
	w.Helper()
	row, err := w.Commit(id)
	w.ok(err)
	return row
}

func (w *world) holds(node, id string) bool   { w.Helper(); return w.Contains(node, w.row(id)) }
func (w *world) visible(node, id string) bool { w.Helper(); return w.Visible(node, w.row(id)) }

// pass lets all timers pass once, and then everything else happen.
func (w *world) pass() {
	for _, e := range w.Enabled() {
		if e.Timer() {
			w.Fire(e)
		}
	}
	w.Settle(nil)
}

// fire fires the one enabled event whose text is this.
func (w *world) fire(event string) {
	w.Helper()
	enabled := w.Enabled()
	i := slices.IndexFunc(enabled, func(e pgtest.Event) bool { return e.String() == event })
	require.GreaterOrEqual(w.T, i, 0, "%s is not enabled: %v", event, enabled)
	require.True(w.T, w.Fire(enabled[i]))
}

func (w *world) kill(node string) {
	w.Helper()
	w.ok(w.ctl[node].Stop(w.Context(), pg.StopImmediate))
}

func (w *world) freeze(node, process string) { w.Helper(); w.ok(w.Freeze(node, process)) }
func (w *world) thaw(node, process string)   { w.Helper(); w.ok(w.Thaw(node, process)) }

func (w *world) senders(node string) []pg.Walsender {
	w.Helper()
	view, err := w.ctl[node].SyncView(w.Context())
	w.ok(err)
	return view.Senders
}

func (w *world) sender(node, name string) pg.Walsender {
	w.Helper()
	for _, s := range w.senders(node) {
		if s.Name == name {
			return s
		}
	}
	w.Fatalf("%s has no walsender %s", node, name)
	return pg.Walsender{}
}

// isolate cuts a node from another one, both ways; heal ends all cuts.
func (w *world) isolate(a, b string) { w.cut[a+">"+b], w.cut[b+">"+a] = true, true }
func (w *world) heal()               { clear(w.cut) }
