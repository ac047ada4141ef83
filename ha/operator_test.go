package ha_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/ha/switchover"
	"github.com/pghad/pghad/pg"
)

// desk is a healthy cluster as the records show it: a leads in term 8 on
// timeline 4, b and c stream from it.
type desk struct {
	t       *testing.T
	cluster *memory.Cluster
	admin   dcs.Store
	keys    record.Keys
}

var lives = []quorum.Member{{Node: "a", Incarnation: "1"}, {Node: "b", Incarnation: "1"}, {Node: "c", Incarnation: "1"}}

func newDesk(t *testing.T) *desk {
	t.Helper()
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	cluster := memory.New(memory.Config{Clock: clock.New()})
	t.Cleanup(cluster.Close)
	d := &desk{t: t, cluster: cluster, admin: cluster.Client("admin"), keys: keys}
	d.put(map[string]any{
		keys.Initialize(): "7301234567890123456",
		keys.Leader():     "a",
		keys.Quorum(): record.Quorum{
			Format: 1, Version: 12, Nonce: "q", Config: quorum.Config{Mode: quorum.ModeQuorum, Primary: lives[0], Members: lives[1:], K: 1},
		},
		keys.FailoverState(): record.FailoverState{Format: 1, ID: 8, Nonce: "eight", Phase: record.PhaseTaken, Winner: lives[0]},
		keys.History():       record.History{{ID: 8, Primary: "a", Timeline: 4}},
		keys.Status():        record.Status{Format: 1, Term: 8, Leader: "a", Flushed: 0x6000000, Gate: "open"},
		keys.ReplicsInfo(): record.ReplicsInfo{Format: 1, Senders: []pg.Walsender{
			{Name: "b.1", State: "streaming", Flush: 0x6000000, Replay: 0x5fff000},
			{Name: "c.1", State: "streaming", Flush: 0x5000000, Replay: 0x5000000},
		}},
		keys.Alive("a"):  "a",
		keys.Member("a"): record.Member{Format: 1, Role: "primary", Incarnation: "1", Priority: 1},
		keys.Member("b"): record.Member{Format: 1, Role: "replica", Incarnation: "1", Priority: 1},
		keys.Member("c"): record.Member{Format: 1, Role: "replica", Incarnation: "1", Priority: 1},
	})
	return d
}

// put writes records in one transaction: a text as it is, nil as a deletion,
// anything else as JSON.
func (d *desk) put(values map[string]any) {
	d.t.Helper()
	_, err := d.admin.Commit(context.Background(), txnOf(values))
	require.NoError(d.t, err)
}

func txnOf(values map[string]any) dcs.Txn {
	var txn dcs.Txn
	for key, value := range values {
		op := dcs.Op{Key: key}
		switch v := value.(type) {
		case nil:
			op.Delete = true
		case string:
			op.Value = []byte(v)
		default:
			op.Value = record.Encode(v)
		}
		txn.Then = append(txn.Then, op)
	}
	slices.SortFunc(txn.Then, func(a, b dcs.Op) int { return len(a.Key) - len(b.Key) })
	return txn
}

func (d *desk) records() record.Cluster {
	d.t.Helper()
	now, err := ha.ReadRecords(context.Background(), d.admin, d.keys)
	require.NoError(d.t, err)
	return now
}

// operator is one with a connection of its own, on which faults can be played.
func (d *desk) operator(name string) (*ha.Operator, *faultyStore) {
	d.t.Helper()
	store := &faultyStore{inner: d.cluster.Client(name), calls: map[string]int{}}
	o, err := ha.NewOperator(ha.OperatorConfig{Store: store, Keys: d.keys})
	require.NoError(d.t, err)
	return o, store
}

// advance writes what the primary would write of the switchover that is there.
func (d *desk) advance(phase record.SwitchoverPhase, reason string) {
	d.t.Helper()
	now := d.records().Switchover.Value
	now.Term, now.Target, now.Reason = 8, lives[1], reason
	d.put(map[string]any{d.keys.SwitchoverState(): string(phase), d.keys.SwitchoverMaster(): now})
}

// handOver makes b the primary of term 9.
func (d *desk) handOver() {
	d.t.Helper()
	d.put(map[string]any{d.keys.Leader(): nil})
	config := d.records().Quorum.Value
	config.Config = config.After(lives[1])
	d.put(map[string]any{
		d.keys.Leader():        "b",
		d.keys.Quorum():        config,
		d.keys.FailoverState(): record.FailoverState{Format: 1, ID: 9, Nonce: "nine", Phase: record.PhaseTaken, Winner: lives[1]},
		d.keys.History():       record.History{{ID: 8, Primary: "a", Timeline: 4}, {ID: 9, Primary: "b", Timeline: 5}},
	})
}

// asksSwitchover matches the write that asks for one, or cancels it.
func (d *desk) asksSwitchover(c storeCall) bool { return c.takes(d.keys.SwitchoverState()) }

func (d *desk) writesMaintenance(c storeCall) bool { return c.takes(d.keys.Maintenance()) }

func (d *desk) releases(c storeCall) bool { return c.deletes(d.keys.SwitchoverLock()) }

func TestNewOperator(t *testing.T) {
	t.Parallel()
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	store := memory.New(memory.Config{}).Client("x")
	for want, cfg := range map[string]ha.OperatorConfig{
		"operator: no Store":                             {Keys: keys},
		"operator: Keys is required; see record.NewKeys": {Store: store},
		"operator: margin 9s + 2 × renew 3s = 15s":       {Store: store, Keys: keys, Timing: ha.Timing{Margin: 9 * time.Second}},
	} {
		_, err := ha.NewOperator(cfg)
		require.ErrorContains(t, err, want)
	}
	o, err := ha.NewOperator(ha.OperatorConfig{Store: store, Keys: keys})
	require.NoError(t, err)
	require.Equal(t, 35*time.Second, o.SwitchoverBound())
}

func TestCheckSwitchover(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		to     string
		change func(*desk) map[string]any
		want   string // "" if it can be asked for
	}{
		{"the best", "", nil, ""},
		{"a member", "b", nil, ""},
		{"a member that is behind", "c", nil, ""},
		{"the primary", "a", nil, "switchover refused: a is the primary already"},
		{"a stranger", "x", nil, "switchover refused: x is no recorded member of the quorum: only one that confirms commits can take over"},
		{"nobody leads", "", func(d *desk) map[string]any { return map[string]any{d.keys.Leader(): nil} }, "switchover refused: nobody holds `leader`"},
		{
			"records disagree", "",
			func(d *desk) map[string]any { return map[string]any{d.keys.Leader(): "c"} },
			"the records do not agree",
		},
		{
			"a record cannot be read", "",
			func(d *desk) map[string]any { return map[string]any{d.keys.Timeline(): "soon"} },
			"switchover refused: records cannot be read: record /service/test/timeline: ",
		},
		{
			"one is under way", "c",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.SwitchoverState(): "preparing", d.keys.SwitchoverMaster(): record.Switchover{Hostname: "a", Target: lives[1]}}
			},
			"switchover refused: there is one already, from a to b, and it is preparing",
		},
		{
			"one is asked for", "c",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.SwitchoverState(): "scheduled", d.keys.SwitchoverMaster(): record.Switchover{Hostname: "a"}}
			},
			"switchover refused: there is one already, from a to the best, and it is scheduled",
		},
		{
			"one has ended", "",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.SwitchoverState(): "failed", d.keys.SwitchoverMaster(): record.Switchover{Hostname: "a"}}
			}, "",
		},
		{
			"its records cannot be read", "",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.SwitchoverState(): "done", d.keys.SwitchoverMaster(): "{"}
			},
			"switchover refused: the records of the last one cannot be read: record /service/test/switchover/master: ",
		},
		{
			"maintenance", "",
			func(d *desk) map[string]any { return map[string]any{d.keys.Maintenance(): "disable"} },
			"switchover refused: maintenance is disable: nobody changes roles",
		},
		{
			"nofailover", "b",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.Member("b"): record.Member{Incarnation: "1", NoFailover: true}}
			},
			"switchover refused: b may not lead (nofailover)",
		},
		{
			"below its floor", "b",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.Member("b"): record.Member{Incarnation: "1", Floor: &pg.Position{Timeline: 4, LSN: 1}}}
			},
			"switchover refused: the copy of b is not complete yet",
		},
		{
			"another life than the recorded one", "b",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.Member("b"): record.Member{Incarnation: "2"}}
			},
			"switchover refused: the agent of b.1 does not publish itself",
		},
		{
			"no agent", "c",
			func(d *desk) map[string]any { return map[string]any{d.keys.Member("c"): nil} },
			"switchover refused: the agent of c.1 does not publish itself",
		},
		{
			"the other one will do", "",
			func(d *desk) map[string]any { return map[string]any{d.keys.Member("c"): nil} }, "",
		},
		{
			"it does not stream", "b",
			func(d *desk) map[string]any { return map[string]any{d.keys.ReplicsInfo(): record.ReplicsInfo{}} },
			"switchover refused: b.1 does not stream from a",
		},
		{
			"what an earlier primary published", "",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.Status(): record.Status{Term: 7, Leader: "a"}}
			},
			"switchover refused: b.1 does not stream from a; c.1 does not stream from a",
		},
		{
			"a lone primary", "",
			func(d *desk) map[string]any {
				return map[string]any{d.keys.Quorum(): record.Quorum{Version: 1, Config: quorum.Config{Mode: quorum.ModeQuorum, Primary: lives[0]}}}
			},
			"switchover refused: a is the only recorded member: there is nobody to hand over to",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			if tt.change != nil {
				d.put(tt.change(d))
			}
			err := ha.CheckSwitchover(d.records(), tt.to)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ha.ErrRefused)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestPreviewSwitchover(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o, _ := d.operator("o")
	preview, err := o.PreviewSwitchover(t.Context(), ha.SwitchoverRequest{})
	require.NoError(t, err)
	require.Equal(t, ha.SwitchoverPreview{From: "a", Term: 8, Timeline: 4, Target: "b", Candidates: []switchover.Candidate{
		{Member: lives[1], Streams: true, ReplayLag: 0x1000, Priority: 1},
		{Member: lives[2], Streams: true, Lag: 0x1000000, ReplayLag: 0x1000000, Priority: 1},
	}}, preview)
	c, ok := preview.Candidate("c")
	require.True(t, ok)
	require.EqualValues(t, 0x1000000, c.Lag)
	_, ok = preview.Candidate("a")
	require.False(t, ok)

	_, err = o.PreviewSwitchover(t.Context(), ha.SwitchoverRequest{From: "b"})
	require.ErrorIs(t, err, ha.ErrRefused)
	require.EqualError(t, err, "switchover refused: the primary is a, not b")
}

func TestScheduleSwitchover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{To: "c", By: "jo"})
		require.NoError(t, err)
		now := d.records()
		require.Equal(t, record.SwitchoverScheduled, now.SwitchoverState.Value)
		require.Equal(t, record.Switchover{
			Format: 1, Hostname: "a", Timeline: 4, Destination: "c", ID: id, By: "jo", At: "2000-01-01T00:00:00Z",
		}, now.Switchover.Value)
		require.False(t, now.SwitchoverLock.Held(), "the lock is let go")

		_, err = o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
		require.ErrorIs(t, err, ha.ErrRefused)
		require.Equal(t, id, d.records().Switchover.Value.ID)
	})
}

// TestScheduleSwitchoverOnce: of many operators at once exactly one is granted
// what it asked for.
func TestScheduleSwitchoverOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		var (
			wait    sync.WaitGroup
			mu      sync.Mutex
			granted []string
		)
		for i := range 5 {
			o, store := d.operator(fmt.Sprintf("o%d", i))
			store.setRule(slowReplies(time.Duration(i+1) * 100 * time.Millisecond))
			wait.Go(func() {
				id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{By: fmt.Sprint(i)})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					granted = append(granted, id)
				} else if !errors.Is(err, ha.ErrRefused) {
					t.Errorf("operator %d: %v", i, err)
				}
			})
		}
		wait.Wait()
		require.Len(t, granted, 1)
		require.Equal(t, granted[0], d.records().Switchover.Value.ID)
	})
}

// TestScheduleSwitchoverAsksAgain: what has changed between the read and the
// write is found by the guards, and what is then asked is the new state.
func TestScheduleSwitchoverAsksAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*desk)
		req    ha.SwitchoverRequest
		want   string
	}{
		{"leader", (*desk).handOver, ha.SwitchoverRequest{From: "a"}, "switchover refused: the primary is b, not a"},
		{"leader is gone", func(d *desk) { d.put(map[string]any{d.keys.Leader(): nil}) }, ha.SwitchoverRequest{}, "switchover refused: nobody holds `leader`"},
		{"maintenance", func(d *desk) { d.put(map[string]any{d.keys.Maintenance(): "enable"}) }, ha.SwitchoverRequest{}, "switchover refused: maintenance is enable: nobody changes roles"},
		{"scheduled by hand", func(d *desk) {
			d.put(map[string]any{d.keys.SwitchoverState(): "scheduled", d.keys.SwitchoverMaster(): record.Switchover{Hostname: "a", Destination: "c"}})
		}, ha.SwitchoverRequest{}, "switchover refused: there is one already, from a to c, and it is scheduled"},
		{"only the record of the last one", func(d *desk) {
			d.put(map[string]any{d.keys.SwitchoverState(): "", d.keys.SwitchoverMaster(): ""})
		}, ha.SwitchoverRequest{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				o, store := d.operator("o")
				changed := false
				store.setRule(func(c storeCall) fault {
					if d.asksSwitchover(c) && !changed {
						changed = true
						tt.change(d)
					}
					return fault{}
				})
				_, err := o.ScheduleSwitchover(t.Context(), tt.req)
				require.True(t, changed)
				if tt.want == "" {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, ha.ErrRefused)
				require.EqualError(t, err, tt.want)
			})
		})
	}
}

// TestScheduleSwitchoverWithoutReply: a lost reply is resolved, and a write
// that was given up never lands later.
func TestScheduleSwitchoverWithoutReply(t *testing.T) {
	t.Parallel()
	late := fault{fail: true, late: time.Minute}
	tests := []struct {
		name  string
		rule  func(*desk) func(storeCall) fault
		is    error // nil: it is scheduled
		there bool
	}{
		{"the reply is lost", func(d *desk) func(storeCall) fault {
			return first(1, d.asksSwitchover, fault{mute: true})
		}, nil, true},
		{"the write is lost", func(d *desk) func(storeCall) fault {
			return first(1, d.asksSwitchover, fault{lost: true})
		}, nil, true},
		{"the write comes late", func(d *desk) func(storeCall) fault {
			return first(1, d.asksSwitchover, late)
		}, nil, true},
		{"every write comes late", func(d *desk) func(storeCall) fault {
			return first(100, d.asksSwitchover, late)
		}, dcs.ErrUnavailable, false},
		{"every reply is lost", func(d *desk) func(storeCall) fault {
			return func(c storeCall) fault { return fault{mute: d.asksSwitchover(c)} }
		}, nil, true},
		{"nothing gets through any more", func(d *desk) func(storeCall) fault {
			gone := false
			return func(c storeCall) fault {
				gone = gone || d.asksSwitchover(c)
				return fault{lost: gone}
			}
		}, dcs.ErrAmbiguous, false},
		{"it has landed and nothing comes back any more", func(d *desk) func(storeCall) fault {
			gone := false
			return func(c storeCall) fault {
				gone = gone || d.asksSwitchover(c)
				return fault{mute: gone}
			}
		}, dcs.ErrAmbiguous, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				o, store := d.operator("o")
				store.setRule(tt.rule(d))
				id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{By: "jo"})
				store.setRule(nil)
				time.Sleep(2 * time.Minute) // what is late has arrived
				now := d.records()
				require.Equal(t, tt.there, now.SwitchoverState.Value == record.SwitchoverScheduled)
				switch {
				case tt.is == nil:
					require.NoError(t, err)
					require.Equal(t, id, now.Switchover.Value.ID)
				case errors.Is(tt.is, dcs.ErrAmbiguous):
					require.ErrorIs(t, err, tt.is)
					require.NotEmpty(t, id, "by which it can be looked for")
					require.True(t, !tt.there || id == now.Switchover.Value.ID)
				default:
					require.ErrorIs(t, err, tt.is)
					require.NotErrorIs(t, err, dcs.ErrAmbiguous)
					require.Empty(t, id)
				}
			})
		})
	}
}

// TestScheduleSwitchoverOverwritten: the reply was lost, and what is there now
// does not tell whether the write had been there before.
func TestScheduleSwitchoverOverwritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, store := d.operator("o")
		store.setRule(func(c storeCall) fault {
			if d.releases(c) { // between the write and the look
				d.put(map[string]any{d.keys.SwitchoverState(): "done", d.keys.SwitchoverMaster(): record.Switchover{ID: "other"}})
			}
			if d.asksSwitchover(c) {
				return fault{mute: true}
			}
			return fault{}
		})
		_, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		require.ErrorContains(t, err, "the records of the switchover have been written by somebody else since")
	})
}

// TestSwitchoverLock: an operator waits for another one no longer than that
// one's session can live, and then says who is in the way.
func TestSwitchoverLock(t *testing.T) {
	t.Parallel()
	t.Run("dead holder", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			session, err := d.admin.NewSession(t.Context(), 10*time.Second)
			require.NoError(t, err)
			_, err = dcs.Create(t.Context(), d.admin, d.keys.SwitchoverLock(), []byte("dead"), session.ID())
			require.NoError(t, err)
			o, _ := d.operator("o")
			_, err = o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
			require.NoError(t, err)
		})
	})
	t.Run("living holder", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			d.put(map[string]any{d.keys.SwitchoverLock(): "jo"})
			o, _ := d.operator("o")
			_, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
			require.ErrorIs(t, err, ha.ErrRefused)
			require.EqualError(t, err, `refused: "jo" holds /service/test/switchover/lock and asks for something at this moment; try again`)

			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = o.ScheduleSwitchover(ctx, ha.SwitchoverRequest{})
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
}

func TestOperatorWithoutStore(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o, store := d.operator("o")
	require.NoError(t, store.Close())
	calls := map[string]func() error{
		"schedule": func() error {
			_, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
			return err
		},
		"await": func() error { _, err := o.AwaitSwitchover(t.Context(), "x", nil); return err },
		"cancel": func() error {
			return o.CancelSwitchover(t.Context(), "x", "")
		},
		"enable":  func() error { return o.EnableMaintenance(t.Context(), "") },
		"disable": func() error { return o.DisableMaintenance(t.Context()) },
		"force":   func() error { return o.ForceMaintenanceOff(t.Context()) },
		"show":    func() error { _, err := o.Maintenance(t.Context()); return err },
		"wait":    func() error { _, err := o.AwaitMaintenance(t.Context(), true, nil); return err },
	}
	for name, call := range calls {
		err := call()
		require.ErrorIs(t, err, dcs.ErrClosed, name)
		require.NotErrorIs(t, err, dcs.ErrAmbiguous, name)
	}
}

func TestCancelSwitchover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		err := o.CancelSwitchover(t.Context(), "", "")
		require.ErrorIs(t, err, ha.ErrRefused)
		require.EqualError(t, err, "cancellation refused: there is no such switchover under way")

		id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{To: "b"})
		require.NoError(t, err)
		require.ErrorIs(t, o.CancelSwitchover(t.Context(), "another", ""), ha.ErrRefused)
		require.NoError(t, o.CancelSwitchover(t.Context(), id, "jo"))
		now := d.records()
		require.Equal(t, record.SwitchoverFailed, now.SwitchoverState.Value)
		require.Equal(t, id, now.Switchover.Value.ID)
		require.Regexp(t, `^it was cancelled before the primary took it up, by jo \([0-9a-f]{8}\)$`, now.Switchover.Value.Reason)
		require.False(t, now.SwitchoverLock.Held())

		_, err = o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
		require.NoError(t, err)
		require.NoError(t, o.CancelSwitchover(t.Context(), "", ""), "whichever there is")

		id, err = o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
		require.NoError(t, err)
		d.advance(record.SwitchoverPreparing, "")
		err = o.CancelSwitchover(t.Context(), id, "")
		require.ErrorIs(t, err, ha.ErrRefused)
		require.EqualError(t, err, "cancellation refused: the switchover from a to b is preparing, only the primary can end it")
	})
}

// TestCancelSwitchoverRace: the primary takes the switchover up while it is
// being cancelled, with and without a reply to the cancellation.
func TestCancelSwitchoverRace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		takenUp bool
		fault   fault
		refused bool
	}{
		{name: "taken up", takenUp: true, refused: true},
		{name: "taken up and the write lost", takenUp: true, fault: fault{lost: true}, refused: true},
		{name: "the write lost", fault: fault{lost: true}},
		{name: "the write late", fault: fault{fail: true, late: time.Minute}},
		{name: "the reply lost", fault: fault{mute: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				o, store := d.operator("o")
				id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{To: "b"})
				require.NoError(t, err)
				begun := false
				store.setRule(func(c storeCall) fault {
					if !d.asksSwitchover(c) || begun {
						return fault{}
					}
					begun = true
					if tt.takenUp {
						d.advance(record.SwitchoverPreparing, "")
					}
					return tt.fault
				})
				err = o.CancelSwitchover(t.Context(), id, "")
				time.Sleep(2 * time.Minute)
				if tt.refused {
					require.ErrorIs(t, err, ha.ErrRefused)
					require.Equal(t, record.SwitchoverPreparing, d.records().SwitchoverState.Value)
				} else {
					require.NoError(t, err)
					require.Equal(t, record.SwitchoverFailed, d.records().SwitchoverState.Value)
				}
			})
		})
	}
}

// await runs AwaitSwitchover beside the test. Its result comes when it has ended.
type awaited struct {
	result ha.SwitchoverResult
	err    error
	told   []ha.SwitchoverProgress
}

func await(ctx context.Context, o *ha.Operator, id string) <-chan awaited {
	ended := make(chan awaited, 1)
	go func() {
		var a awaited
		a.result, a.err = o.AwaitSwitchover(ctx, id, func(p ha.SwitchoverProgress) { a.told = append(a.told, p) })
		ended <- a
	}()
	return ended
}

func TestAwaitSwitchover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{To: "b"})
		require.NoError(t, err)
		ended := await(t.Context(), o, id)
		for _, step := range []func(){
			func() {},
			func() { d.advance(record.SwitchoverPreparing, "b is far behind") },
			func() { d.advance(record.SwitchoverStopping, "") },
			func() {
				d.advance(record.SwitchoverCommitted, "")
				d.put(map[string]any{d.keys.Leader(): nil})
			},
			d.handOver,
			func() { d.advance(record.SwitchoverDone, "") },
		} {
			synctest.Wait()
			require.Empty(t, ended, "it goes on")
			step()
		}
		got := <-ended
		require.NoError(t, got.err)
		require.Equal(t, ha.SwitchoverResult{
			Phase: record.SwitchoverDone, From: "a", Target: "b", Leader: "b", Term: 9, Timeline: 5,
		}, got.result)
		require.True(t, got.result.Done())
		require.False(t, got.result.RolledBack())
		require.Equal(t, []ha.SwitchoverProgress{
			{Phase: record.SwitchoverScheduled, From: "a", Leader: "a"},
			{Phase: record.SwitchoverPreparing, From: "a", Target: "b", Leader: "a", Reason: "b is far behind"},
			{Phase: record.SwitchoverStopping, From: "a", Target: "b", Leader: "a"},
			{Phase: record.SwitchoverCommitted, From: "a", Target: "b"},
			{Phase: record.SwitchoverCommitted, From: "a", Target: "b", Leader: "b"},
			{Phase: record.SwitchoverDone, From: "a", Target: "b", Leader: "b"},
		}, got.told)
	})
}

func TestAwaitSwitchoverThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
		require.NoError(t, err)
		d.advance(record.SwitchoverFailed, "not ready in 10s")
		got := <-await(t.Context(), o, id)
		require.NoError(t, got.err)
		require.True(t, got.result.RolledBack())
		require.Equal(t, "not ready in 10s", got.result.Reason)

		d.handOver() // by an election
		got = <-await(t.Context(), o, id)
		require.NoError(t, got.err)
		require.False(t, got.result.RolledBack())
		require.Equal(t, "b", got.result.Leader)

		d.put(map[string]any{d.keys.SwitchoverState(): "scheduled", d.keys.SwitchoverMaster(): record.Switchover{ID: "other"}})
		got = <-await(t.Context(), o, id)
		require.ErrorIs(t, got.err, ha.ErrOvertaken)
	})
}

// TestAwaitSwitchoverGivesUp: the caller's patience ends, with what was seen
// last. That the store could not be read in between is told.
func TestAwaitSwitchoverGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		store := &unreadable{Store: d.cluster.Client("o")}
		o, err := ha.NewOperator(ha.OperatorConfig{Store: store, Keys: d.keys})
		require.NoError(t, err)
		id, err := o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{})
		require.NoError(t, err)
		d.advance(record.SwitchoverPreparing, "")
		impatient := errors.New("no patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, impatient)
		defer cancel()
		ended := await(ctx, o, id)
		synctest.Wait()
		store.set(true)
		time.Sleep(5 * time.Second)
		store.set(false)
		got := <-ended
		require.ErrorIs(t, got.err, impatient)
		require.Equal(t, record.SwitchoverPreparing, got.result.Phase)
		require.Len(t, got.told, 3)
		require.Contains(t, got.told[1].StoreErr, "store unavailable")
		require.Equal(t, record.SwitchoverPreparing, got.told[1].Phase, "what was read last")
		require.Equal(t, got.told[0], got.told[2])
	})
}

// unreadable is a store that cannot be read while it is set so.
type unreadable struct {
	dcs.Store
	mu    sync.Mutex
	isSet bool
}

func (u *unreadable) set(to bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.isSet = to
}

func (u *unreadable) List(ctx context.Context, prefix string) ([]dcs.KV, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.isSet {
		return nil, dcs.ErrUnavailable
	}
	return u.Store.List(ctx, prefix) //nolint:wrapcheck // as it is
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		const began = "2000-01-01T00:00:00Z"
		is := func(mode record.MaintenanceMode, since, primary string) {
			t.Helper()
			m := d.records().Maintenance
			require.Equal(t, []string{string(mode), since, primary}, []string{string(m.Mode.Value), m.Since.Value, m.Master.Value})
		}
		require.NoError(t, o.DisableMaintenance(t.Context()), "it is off")
		require.False(t, d.records().Maintenance.Mode.Exists(), "nothing to write")

		require.NoError(t, o.EnableMaintenance(t.Context(), "jo"))
		is(record.MaintenanceOn, began, "a")
		revision := d.records().Maintenance.Mode.Revision
		time.Sleep(time.Hour)
		require.NoError(t, o.EnableMaintenance(t.Context(), "jo"))
		is(record.MaintenanceOn, began, "a")
		require.Equal(t, revision, d.records().Maintenance.Mode.Revision, "nothing was written")

		require.NoError(t, o.DisableMaintenance(t.Context()))
		is(record.MaintenanceLeaving, began, "a")
		require.NoError(t, o.DisableMaintenance(t.Context()))
		d.handOver() // by hand
		require.NoError(t, o.EnableMaintenance(t.Context(), "jo"))
		is(record.MaintenanceOn, began, "a")

		err := o.ForceMaintenanceOff(t.Context())
		require.ErrorIs(t, err, ha.ErrRefused)
		require.EqualError(t, err, "force refused: the agent of a runs and can confirm the end; stop it and PostgreSQL there first")
		d.put(map[string]any{d.keys.Member("a"): nil})
		err = o.ForceMaintenanceOff(t.Context())
		require.EqualError(t, err, "force refused: PostgreSQL of a is alive; stop it first")
		d.put(map[string]any{d.keys.Alive("a"): nil})
		require.NoError(t, o.ForceMaintenanceOff(t.Context()))
		is(record.MaintenanceOff, "", "")
		require.True(t, d.records().Maintenance.Mode.Exists(), "a record is emptied, not deleted")
		require.NoError(t, o.ForceMaintenanceOff(t.Context()))

		require.NoError(t, o.EnableMaintenance(t.Context(), "jo"))
		is(record.MaintenanceOn, "2000-01-01T01:00:00Z", "b")
	})
}

// TestMaintenanceByHand: somebody has written the one record only.
func TestMaintenanceByHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		d.put(map[string]any{d.keys.Maintenance(): "enable"})
		require.NoError(t, o.EnableMaintenance(t.Context(), ""))
		m := d.records().Maintenance
		require.Equal(t, "a", m.Master.Value)
		require.NotZero(t, m.Time())

		d.put(map[string]any{d.keys.MaintenanceMaster(): ""})
		require.NoError(t, o.DisableMaintenance(t.Context()))
		require.Equal(t, "a", d.records().Maintenance.Master.Value, "somebody must confirm")
	})
}

func TestMaintenanceRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		d.put(map[string]any{
			d.keys.Leader():           nil,
			d.keys.SwitchoverState():  "committed",
			d.keys.SwitchoverMaster(): record.Switchover{Hostname: "a", Target: lives[1], Next: 9},
			d.keys.FailoverState():    record.FailoverState{ID: 9, Phase: record.PhaseWon, Winner: lives[1]},
		})
		err := o.EnableMaintenance(t.Context(), "")
		require.ErrorIs(t, err, ha.ErrRefused)
		require.EqualError(t, err, "maintenance refused: a has handed over to b, which is about to take over; try again when it has")
		d.put(map[string]any{d.keys.FailoverState(): record.FailoverState{ID: 10, Phase: record.PhaseFencing}})
		require.NoError(t, o.EnableMaintenance(t.Context(), ""), "the target has not taken over: nothing to wait for")

		empty, err := record.NewKeys("service", "empty")
		require.NoError(t, err)
		o, err = ha.NewOperator(ha.OperatorConfig{Store: d.admin, Keys: empty})
		require.NoError(t, err)
		err = o.EnableMaintenance(t.Context(), "")
		require.ErrorIs(t, err, ha.ErrRefused)
		require.EqualError(t, err, "maintenance refused: the records name no primary; is there a cluster?")
	})
}

// TestMaintenanceWithoutReply: a lost reply settles itself, and what is late
// never lands.
func TestMaintenanceWithoutReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		rule func(*desk) func(storeCall) fault
		is   error
		mode record.MaintenanceMode // in the end
	}{
		{"the reply is lost", func(d *desk) func(storeCall) fault {
			return first(1, d.writesMaintenance, fault{mute: true})
		}, nil, record.MaintenanceOn},
		{"the write is lost", func(d *desk) func(storeCall) fault {
			return first(1, d.writesMaintenance, fault{lost: true})
		}, nil, record.MaintenanceOn},
		{"the write is late", func(d *desk) func(storeCall) fault {
			return first(1, d.writesMaintenance, fault{fail: true, late: time.Minute})
		}, nil, record.MaintenanceOn},
		{"all writes are lost", func(d *desk) func(storeCall) fault {
			return first(100, d.writesMaintenance, fault{lost: true})
		}, dcs.ErrAmbiguous, record.MaintenanceOff},
		{"all writes are late", func(d *desk) func(storeCall) fault {
			return first(100, d.writesMaintenance, fault{fail: true, late: time.Minute})
		}, dcs.ErrAmbiguous, record.MaintenanceOn},
		{"the quorum changes meanwhile", func(d *desk) func(storeCall) fault {
			changes := 0
			return func(c storeCall) fault {
				if d.writesMaintenance(c) && changes < 3 {
					changes++
					d.put(map[string]any{d.keys.Quorum(): d.records().Quorum.Value})
				}
				return fault{}
			}
		}, nil, record.MaintenanceOn},
		{"the quorum never rests", func(d *desk) func(storeCall) fault {
			return func(c storeCall) fault {
				if d.writesMaintenance(c) {
					d.put(map[string]any{d.keys.Quorum(): d.records().Quorum.Value})
				}
				return fault{}
			}
		}, dcs.ErrConflict, record.MaintenanceOff},
		{"the cluster's records go", func(d *desk) func(storeCall) fault {
			return func(c storeCall) fault {
				if d.writesMaintenance(c) {
					d.put(map[string]any{d.keys.Quorum(): nil})
					return fault{lost: true}
				}
				return fault{}
			}
		}, dcs.ErrAmbiguous, record.MaintenanceOff},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				o, store := d.operator("o")
				store.setRule(tt.rule(d))
				err := o.EnableMaintenance(t.Context(), "jo")
				store.setRule(nil)
				if tt.is == nil {
					require.NoError(t, err)
					require.NoError(t, o.DisableMaintenance(t.Context()))
				} else {
					require.ErrorIs(t, err, tt.is)
				}
				time.Sleep(2 * time.Minute)
				want := tt.mode
				if tt.is == nil {
					want = record.MaintenanceLeaving // what was late has not taken it back
				}
				require.Equal(t, want, d.records().Maintenance.Mode.Value)
			})
		})
	}
}

func TestMaintenanceInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, store := d.operator("o")
		store.setRule(func(c storeCall) fault { return fault{lost: d.writesMaintenance(c)} })
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond) // in the pause before the second try
		defer cancel()
		require.ErrorIs(t, o.EnableMaintenance(ctx, ""), dcs.ErrAmbiguous)
		cancel()
		err := o.EnableMaintenance(ctx, "")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, dcs.ErrAmbiguous)
	})
}

func TestAwaitMaintenance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o, _ := d.operator("o")
		say := func(node string, keeps bool) {
			d.put(map[string]any{d.keys.Member(node): record.Member{Incarnation: "1", Maintenance: keeps, Why: "says " + node}})
		}
		d.put(map[string]any{d.keys.Member("c"): nil, d.keys.Member("x"): record.Member{}})
		require.NoError(t, o.EnableMaintenance(t.Context(), ""))

		var told [][]string
		ended := make(chan error, 1)
		go func() {
			_, err := o.AwaitMaintenance(t.Context(), true, func(s ha.MaintenanceState) { told = append(told, s.Waiting()) })
			ended <- err
		}()
		for _, node := range []string{"a", "x", "b"} {
			synctest.Wait()
			require.Empty(t, ended)
			say(node, true)
		}
		require.NoError(t, <-ended)
		require.Equal(t, [][]string{{"a", "b", "x"}, {"b", "x"}, {"b"}, {}}, told)
		state, err := o.Maintenance(t.Context())
		require.NoError(t, err)
		require.True(t, state.On())
		require.Equal(t, []string{"c"}, state.Absent())
		require.Equal(t, ha.MaintenanceNode{Name: "b", Present: true, Keeps: true, Why: "says b"}, state.Nodes[1])

		_, err = o.AwaitMaintenance(t.Context(), false, nil)
		require.ErrorIs(t, err, ha.ErrOvertaken, "it is on")
		require.NoError(t, o.DisableMaintenance(t.Context()))
		_, err = o.AwaitMaintenance(t.Context(), true, nil)
		require.ErrorIs(t, err, ha.ErrOvertaken, "it is being left")

		go func() {
			_, err := o.AwaitMaintenance(t.Context(), false, nil)
			ended <- err
		}()
		for _, node := range []string{"a", "b", "x"} {
			synctest.Wait()
			require.Empty(t, ended)
			say(node, false)
		}
		synctest.Wait()
		require.Empty(t, ended, "nobody has confirmed")
		d.put(map[string]any{d.keys.Maintenance(): "", d.keys.MaintenanceTS(): "", d.keys.MaintenanceMaster(): ""})
		require.NoError(t, <-ended)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, o.EnableMaintenance(ctx, ""))
		state, err = o.AwaitMaintenance(ctx, true, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{"a", "b", "x"}, state.Waiting())
	})
}

// TestSwitchoverAgainstMaintenance: of two operators, one of whom asks for a
// switchover and one for maintenance at the same time, the switchover never
// begins after maintenance was on.
func TestSwitchoverAgainstMaintenance(t *testing.T) {
	t.Parallel()
	for _, ms := range []int{0, 50, 150, 250, 350, 450, 550, 650} {
		delay := time.Duration(ms) * time.Millisecond
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				o, store := d.operator("o")
				store.setRule(slowReplies(100 * time.Millisecond))
				other, _ := d.operator("p")
				var wait sync.WaitGroup
				var scheduled error
				wait.Go(func() { _, scheduled = o.ScheduleSwitchover(t.Context(), ha.SwitchoverRequest{}) })
				wait.Go(func() {
					time.Sleep(delay)
					require.NoError(t, other.EnableMaintenance(t.Context(), ""))
				})
				wait.Wait()
				now := d.records()
				require.True(t, now.Maintenance.On())
				if scheduled != nil {
					require.ErrorIs(t, scheduled, ha.ErrRefused)
					require.False(t, now.SwitchoverState.Value.Open())
				} else {
					require.Less(t, now.SwitchoverState.Revision, now.Maintenance.Mode.Revision)
				}
			})
		})
	}
}
