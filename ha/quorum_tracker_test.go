package ha_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// syncServer is a primary as a tracker sees it: walsenders re-read the setting
// when they are looked at the next time, unless they are frozen.
type syncServer struct {
	mu          sync.Mutex
	setting     pg.SyncSetting
	flush       pg.LSN
	senders     []pg.Walsender
	frozen      map[string]bool
	behind      map[string]bool
	checkpoints int
	block       chan struct{} // CHECKPOINT returns when it is closed
	refuse      error         // of SetSync
}

func newSyncServer(names ...string) *syncServer {
	s := &syncServer{flush: 0x1000, frozen: map[string]bool{}, behind: map[string]bool{}}
	s.connect(names...)
	return s
}

func (s *syncServer) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *syncServer) connect(names ...string) {
	s.change(func() {
		for _, name := range names {
			s.senders = append(s.senders, pg.Walsender{PID: len(s.senders) + 1, Name: name, State: "streaming", Flush: s.flush})
		}
	})
}

func (s *syncServer) disconnect(name string) {
	s.change(func() {
		s.senders = slices.DeleteFunc(s.senders, func(w pg.Walsender) bool { return w.Name == name })
	})
}

func (s *syncServer) SetSync(_ context.Context, setting pg.SyncSetting) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.setting = setting
	return nil
}

func (s *syncServer) SyncView(context.Context) (pg.SyncView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush += 0x10
	for i := range s.senders {
		w := &s.senders[i]
		if !s.behind[w.Name] {
			w.Flush = s.flush
		}
		if s.frozen[w.Name] {
			continue
		}
		w.Priority = 0
		if at := slices.Index(s.setting.Names, w.Name); at >= 0 {
			w.Priority = 1
			if s.setting.Method == pg.SyncFirst {
				w.Priority = at + 1
			}
		}
	}
	return pg.SyncView{Setting: s.setting, Flush: s.flush, Senders: slices.Clone(s.senders)}, nil
}

func (s *syncServer) DropSenders(context.Context) error { return nil }

func (s *syncServer) Checkpoint(ctx context.Context) error {
	s.mu.Lock()
	block := s.block
	s.checkpoints++
	s.mu.Unlock()
	if block == nil {
		return nil
	}
	select {
	case <-block:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// testFence is the leader key under a token.
type testFence struct {
	key   string
	token dcs.Revision
	err   error
}

func (f *testFence) Guard() dcs.Guard { return dcs.Held(f.key, f.token) }
func (f *testFence) Check() error     { return f.err }

// losing answers "unknown" to writes while it is told to, and carries them out
// when land is called.
type losing struct {
	dcs.Store
	lose bool
	lost []dcs.Txn
}

func (l *losing) Commit(ctx context.Context, txn dcs.Txn) (dcs.Revision, error) {
	if !l.lose {
		return l.Store.Commit(ctx, txn)
	}
	l.lost = append(l.lost, txn)
	return 0, dcs.ErrAmbiguous
}

// land lets the lost writes arrive, late.
func (l *losing) land(t *testing.T) (errs []error) {
	t.Helper()
	for _, txn := range l.lost {
		_, err := l.Store.Commit(t.Context(), txn)
		errs = append(errs, err)
	}
	l.lost = nil
	return errs
}

type trackerRig struct {
	t       *testing.T
	store   *losing
	server  *syncServer
	fence   *testFence
	keys    record.Keys
	tracker *ha.QuorumTracker
	cfg     ha.QuorumTrackerConfig
	steps   []string
}

func member(text string) quorum.Member {
	m, err := quorum.ParseMember(text)
	if err != nil {
		panic(err)
	}
	return m
}

func newTrackerRig(t *testing.T, server *syncServer, first quorum.Config) *trackerRig {
	t.Helper()
	cluster := memory.New(memory.Config{})
	t.Cleanup(cluster.Close)
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	r := &trackerRig{t: t, store: &losing{Store: cluster.Client("a")}, server: server, keys: keys}
	token, err := dcs.Put(t.Context(), r.store, keys.Leader(), []byte("a"))
	require.NoError(t, err)
	r.fence = &testFence{key: keys.Leader(), token: token}
	_, err = dcs.Put(t.Context(), r.store, keys.Quorum(), record.Encode(record.Quorum{Format: 1, Version: 1, Nonce: "n", Config: first}))
	require.NoError(t, err)
	r.cfg = ha.QuorumTrackerConfig{
		Store: r.store, Keys: keys, Postgres: server, Self: member("a.1"), Strict: true,
		Rand: rand.NewChaCha8([32]byte{1}),
		OnStep: func(info ha.QuorumStepInfo) {
			if info.Done && info.Err == nil {
				r.steps = append(r.steps, string(info.Step.Kind))
			}
		},
	}
	r.restart()
	t.Cleanup(func() { r.tracker.Close() })
	return r
}

// restart is another tracker over the same world.
func (r *trackerRig) restart() {
	r.t.Helper()
	if r.tracker != nil {
		r.tracker.Close()
	}
	tracker, err := ha.NewQuorumTracker(r.cfg)
	require.NoError(r.t, err)
	r.tracker = tracker
}

func (r *trackerRig) join(names ...string) {
	r.t.Helper()
	for _, name := range names {
		_, err := dcs.Put(r.t.Context(), r.store, r.keys.QuorumMember(member(name).Node), []byte(name))
		require.NoError(r.t, err)
	}
}

func (r *trackerRig) leave(name string) {
	r.t.Helper()
	_, err := r.store.Store.Commit(r.t.Context(), dcs.Txn{Then: []dcs.Op{{Key: r.keys.QuorumMember(member(name).Node), Delete: true}}})
	require.NoError(r.t, err)
}

func (r *trackerRig) step() (ha.QuorumReport, error) {
	r.t.Helper()
	seen, err := r.tracker.Observe(r.t.Context())
	require.NoError(r.t, err)
	return r.tracker.Step(r.t.Context(), r.fence, seen)
}

// rest steps once a second until nothing is left to do.
func (r *trackerRig) rest() ha.QuorumReport {
	r.t.Helper()
	for range 30 {
		report, err := r.step()
		require.NoError(r.t, err)
		if report.Step.Kind == quorum.None && len(report.Done) == 0 {
			return report
		}
		time.Sleep(time.Second)
	}
	require.Fail(r.t, "the tracker does not come to rest")
	return ha.QuorumReport{}
}

func alone() quorum.Config { return quorum.Config{Mode: quorum.ModeQuorum, Primary: member("a.1")} }

func with(k int, names ...string) quorum.Config {
	c := alone()
	c.K = k
	for _, name := range names {
		c.Members = append(c.Members, member(name))
	}
	return c
}

func (r *trackerRig) requireRest(want quorum.Config) ha.QuorumReport {
	r.t.Helper()
	report := r.rest()
	require.Equal(r.t, want.String(), report.Recorded.Config.String())
	require.Equal(r.t, want.Setting().String(), report.InForce.String())
	return report
}

func TestQuorumTrackerGrowsAndShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1", "c.1", "d.1")
		r := newTrackerRig(t, server, alone())
		r.join("b.1", "c.1", "d.1")
		report := r.requireRest(with(2, "b.1", "c.1", "d.1"))
		require.Equal(t, 2, server.checkpoints, "for the first of them")
		require.NotEqual(t, "n", report.Recorded.Nonce)

		server.disconnect("d.1")
		began := time.Now()
		report, err := r.step()
		require.NoError(t, err)
		require.Equal(t, []string{"d.1 does not stream"}, report.Step.Waits)
		for len(report.Recorded.Members) == 3 {
			time.Sleep(100 * time.Millisecond)
			report, err = r.step()
			require.NoError(t, err)
		}
		require.Equal(t, ha.DefaultRemovalDelay, time.Since(began))
		r.leave("d.1")
		r.requireRest(with(1, "b.1", "c.1"))
		require.Equal(t, 2, server.checkpoints)
	})
}

func TestQuorumTrackerForgivesShortAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1", "c.1")
		r := newTrackerRig(t, server, with(1, "b.1", "c.1"))
		server.change(func() { server.setting = with(1, "b.1", "c.1").Setting() })
		r.join("b.1", "c.1")
		for range 5 {
			r.leave("c.1")
			r.rest()
			time.Sleep(ha.DefaultRemovalDelay - time.Second)
			r.join("c.1")
			r.requireRest(with(1, "b.1", "c.1"))
		}
	})
}

func TestQuorumTrackerWaitsForAdoptionAndBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1", "c.1", "d.1")
		r := newTrackerRig(t, server, with(1, "b.1", "c.1", "d.1"))
		server.change(func() { server.setting = with(1, "b.1", "c.1", "d.1").Setting() })
		_, err := server.SyncView(t.Context())
		require.NoError(t, err)
		server.change(func() { server.frozen["c.1"] = true; server.behind["b.1"] = true; server.behind["d.1"] = true })
		r.join("b.1", "c.1", "d.1")

		report, err := r.step()
		require.NoError(t, err)
		require.Equal(t, quorum.AwaitAdoption, report.Step.Kind)
		require.Len(t, report.Step.Waits, 1)
		require.Contains(t, report.Step.Waits[0], "walsender 2 of c.1")

		server.change(func() { delete(server.frozen, "c.1") })
		report, err = r.step()
		require.NoError(t, err)
		require.Equal(t, quorum.AwaitBarrier, report.Step.Kind)
		require.Equal(t, 1, report.Recorded.K)

		server.change(func() { delete(server.behind, "d.1") })
		r.requireRest(with(2, "b.1", "c.1", "d.1"))
	})
}

func TestQuorumTrackerUnknownOutcome(t *testing.T) {
	for name, landsAtOnce := range map[string]bool{"the write lands late": false, "the write has landed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newSyncServer("b.1")
				r := newTrackerRig(t, server, alone())
				r.rest()
				before := r.rest().Recorded
				r.join("b.1")
				r.store.lose = true
				_, err := r.step()
				require.ErrorIs(t, err, dcs.ErrAmbiguous)
				r.store.lose = false
				if landsAtOnce {
					require.Equal(t, []error{nil}, r.store.land(t))
				}
				// The lost write is made impossible before anything is built on a read.
				r.steps = nil
				report, err := r.step()
				require.NoError(t, err)
				require.Equal(t, string(quorum.WriteRecord), r.steps[0])
				require.Equal(t, "an earlier write must no longer land", report.Done[0].Why)
				require.Greater(t, report.Recorded.Version, before.Version+1)
				for _, err := range r.store.land(t) {
					require.ErrorIs(t, err, dcs.ErrConflict)
				}
				r.requireRest(with(1, "b.1"))
			})
		})
	}
}

func TestQuorumTrackerWithoutTheRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1")
		r := newTrackerRig(t, server, alone())
		r.rest()
		r.join("b.1")
		expired := errors.New("lease expired")
		r.fence.err = expired
		r.steps = nil
		_, err := r.step()
		require.ErrorIs(t, err, expired)
		require.Empty(t, r.steps)

		// The lease seems to hold, but the key is another's: the store refuses.
		r.fence.err = nil
		_, err = r.store.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: r.keys.Leader(), Delete: true}}})
		require.NoError(t, err)
		token, err := dcs.Put(t.Context(), r.store, r.keys.Leader(), []byte("b"))
		require.NoError(t, err)
		_, err = r.step()
		require.ErrorIs(t, err, dcs.ErrConflict)
		require.Empty(t, r.steps)

		// In another term the record is rewritten before anything else.
		r.fence.token = token
		report, err := r.step()
		require.NoError(t, err)
		require.Equal(t, "an earlier write must no longer land", report.Done[0].Why)
		r.requireRest(with(1, "b.1"))
	})
}

func TestQuorumTrackerCrashAtEveryStep(t *testing.T) {
	for crash := range 24 {
		synctest.Test(t, func(t *testing.T) {
			server := newSyncServer("b.1", "c.1", "d.1")
			r := newTrackerRig(t, server, alone())
			crashed := errors.New("crashed")
			count := 0
			r.cfg.OnStep = func(ha.QuorumStepInfo) {
				if count++; count == crash {
					panic(crashed)
				}
			}
			r.restart()
			r.join("b.1", "c.1", "d.1")
			for range 12 {
				func() {
					defer func() {
						if thrown := recover(); thrown != nil {
							require.Equal(t, crashed, thrown)
							r.restart()
						}
					}()
					_, err := r.step()
					require.NoError(t, err)
				}()
				time.Sleep(time.Second)
			}
			r.requireRest(with(2, "b.1", "c.1", "d.1"))
		})
	}
}

func TestQuorumTrackerCheckpointDoesNotHoldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1")
		server.block = make(chan struct{})
		r := newTrackerRig(t, server, alone())
		r.join("b.1")
		began := time.Now()
		report, err := r.step()
		require.NoError(t, err)
		require.Equal(t, []string{"a CHECKPOINT has been started"}, report.Step.Waits)
		report, err = r.step()
		require.NoError(t, err)
		require.Equal(t, []string{"a CHECKPOINT is under way"}, report.Step.Waits)
		require.Zero(t, time.Since(began))
		r.restart() // Close ends it
		_, err = r.step()
		require.NoError(t, err)
		close(server.block)
		synctest.Wait()
		r.requireRest(with(1, "b.1"))
	})
}

func TestQuorumTrackerServerRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1")
		r := newTrackerRig(t, server, alone())
		r.join("b.1")
		broken := errors.New("disk full")
		server.change(func() { server.refuse = broken })
		report, err := r.step()
		require.ErrorIs(t, err, broken)
		require.Equal(t, 0, report.Recorded.K)
		server.change(func() { server.refuse = nil })
		r.requireRest(with(1, "b.1"))
	})
}

func TestQuorumTrackerHoldsWideningBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newSyncServer("b.1", "c.1")
		server.setting = with(1, "b.1").Setting()
		r := newTrackerRig(t, server, with(1, "b.1"))
		held := "too few nodes remember it"
		r.cfg.HoldWidening = func(record.Quorum, pg.SyncSetting) string { return held }
		r.restart()
		r.join("b.1", "c.1")
		report := r.rest()
		require.Equal(t, []string{held}, report.Step.Waits)
		require.Equal(t, with(1, "b.1").Setting(), report.InForce)
		held = ""
		r.requireRest(with(1, "b.1", "c.1"))
	})
}

func TestQuorumTrackerRefusesOtherServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrackerRig(t, newSyncServer(), alone())
		_, err := r.tracker.Step(t.Context(), r.fence, ha.QuorumSeen{})
		require.ErrorIs(t, err, ha.ErrNoQuorumRecord)
		other := record.Quorum{Config: quorum.Config{Mode: quorum.ModeQuorum, Primary: member("b.1")}}
		_, err = r.tracker.Step(t.Context(), r.fence, ha.QuorumSeen{Record: other, Revision: 7})
		require.ErrorIs(t, err, ha.ErrNotRecordedPrimary)
		require.Empty(t, r.steps)
	})
}

func TestQuorumTrackerConfig(t *testing.T) {
	t.Parallel()
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	good := ha.QuorumTrackerConfig{
		Store: memory.New(memory.Config{}).Client("a"), Keys: keys, Postgres: newSyncServer(), Self: member("a.1"),
	}
	for name, spoil := range map[string]func(*ha.QuorumTrackerConfig){
		"Store":        func(c *ha.QuorumTrackerConfig) { c.Store = nil },
		"Postgres":     func(c *ha.QuorumTrackerConfig) { c.Postgres = nil },
		"Keys":         func(c *ha.QuorumTrackerConfig) { c.Keys = record.Keys{} },
		"Self":         func(c *ha.QuorumTrackerConfig) { c.Self = quorum.Member{} },
		"RemovalDelay": func(c *ha.QuorumTrackerConfig) { c.RemovalDelay = -1 },
	} {
		cfg := good
		spoil(&cfg)
		_, err := ha.NewQuorumTracker(cfg)
		require.ErrorContains(t, err, name)
	}
	_, err = ha.NewQuorumTracker(good)
	require.NoError(t, err)
}
