package ha_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/election"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

// voter is a fenced standby that holds a position, as far as an Elector looks.
type voter struct {
	position pg.Position
	fenced   bool
	stopped  bool
	err      error
	onFence  func()
}

func (v *voter) Fence(context.Context) error {
	if v.onFence != nil {
		v.onFence()
	}
	v.fenced = v.err == nil
	return v.err
}

func (v *voter) Position(context.Context) (pg.Position, error) {
	if !v.fenced {
		return pg.Position{}, pg.ErrNotFenced
	}
	return v.position, nil
}

func (v *voter) Stop(context.Context, pg.StopMode) error {
	v.stopped = true
	return v.err
}

type ramDisk struct{ state ha.LocalState }

func (d *ramDisk) Load() (ha.LocalState, error) { return d.state, nil }

func (d *ramDisk) Save(s ha.LocalState) error {
	d.state = s
	return nil
}

// bench is a cluster of electors over one store: a has been the primary of term
// 7 on timeline 3, and is gone.
type bench struct {
	t        *testing.T
	store    dcs.Store
	keys     record.Keys
	electors map[string]*ha.Elector
	voters   map[string]*voter
	memories map[string]*ha.Memory
	lockers  []*ha.Locker
}

func newBench(t *testing.T, recorded quorum.Config, positions map[string]pg.LSN) *bench {
	t.Helper()
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	cluster := memory.New(memory.Config{Clock: clock.New()})
	b := &bench{
		t: t, store: cluster.Client("records"), keys: keys,
		electors: map[string]*ha.Elector{}, voters: map[string]*voter{}, memories: map[string]*ha.Memory{},
	}
	_, err = b.store.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{
		{Key: keys.Quorum(), Value: record.Encode(record.Quorum{Format: 1, Version: 12, Nonce: "q", Config: recorded})},
		{Key: keys.FailoverState(), Value: record.Encode(record.FailoverState{
			Format: 1, ID: 7, Nonce: "seven", Phase: record.PhaseTaken, Winner: recorded.Primary,
		})},
		{Key: keys.History(), Value: record.Encode(record.History{{ID: 7, Primary: recorded.Primary.Node, Timeline: 3}})},
	}})
	require.NoError(t, err)
	for _, name := range []string{"a", "b", "c", "d"} {
		lsn, ok := positions[name]
		if !ok {
			continue
		}
		store := cluster.Client(name)
		locker, err := ha.NewLocker(ha.LockerConfig{Store: store})
		require.NoError(t, err)
		memory, err := ha.OpenMemory(&ramDisk{ha.LocalState{Incarnation: "1", Pledge: 7, PledgeNonce: "seven"}})
		require.NoError(t, err)
		b.voters[name] = &voter{position: pg.Position{Timeline: 3, LSN: lsn}}
		b.memories[name] = memory
		b.lockers = append(b.lockers, locker)
		b.electors[name], err = ha.NewElector(ha.ElectorConfig{
			Store: store, Locker: locker, Keys: keys, Postgres: b.voters[name], Memory: memory, Name: name,
			Rand: rand.NewChaCha8([32]byte{name[0]}),
		})
		require.NoError(t, err)
	}
	return b
}

func (b *bench) close() {
	for _, l := range b.lockers {
		require.NoError(b.t, l.Close(b.t.Context()))
	}
	require.NoError(b.t, b.store.Close())
}

func (b *bench) records() record.Cluster {
	b.t.Helper()
	records, err := ha.ReadRecords(b.t.Context(), b.store, b.keys)
	require.NoError(b.t, err)
	require.Empty(b.t, records.Errs)
	return records
}

func (b *bench) step(name string) (ha.Outcome, error) {
	b.t.Helper()
	return b.electors[name].Step(b.t.Context(), b.records())
}

// play lets the electors take turns until one of them is in office.
func (b *bench) play(names ...string) (string, *ha.Office) {
	b.t.Helper()
	for range 10 {
		for _, name := range names {
			out, err := b.step(name)
			if err != nil {
				require.True(b.t, errors.Is(err, ha.ErrHeld) || errors.Is(err, dcs.ErrConflict), err)
			}
			if out.Office != nil {
				return name, out.Office
			}
		}
	}
	return "", nil
}

func members(names ...string) []quorum.Member {
	var all []quorum.Member
	for _, name := range names {
		all = append(all, quorum.Member{Node: name, Incarnation: "1"})
	}
	return all
}

func recordedABC() quorum.Config {
	return quorum.Config{Mode: quorum.ModeQuorum, Primary: members("a")[0], Members: members("b", "c"), K: 1}
}

// TestElectionToldOnce is the failover of the protocol's example: a is dead, c
// holds more than b.
func TestElectionToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x50000D8, "c": 0x5000148})
		defer b.close()
		winner, office := b.play("b", "c")
		require.Equal(t, "c", winner)
		require.Equal(t, uint64(8), office.Term)
		require.Equal(t, pg.Timeline(4), office.Timeline)
		require.NoError(t, office.Lease.Check())

		r := b.records()
		require.Equal(t, "c", r.Leader.Holder)
		require.Equal(t, record.PhaseTaken, r.Failover.Value.Phase)
		require.Equal(t, "c.1 + ANY 1 (a.1, b.1)", r.Quorum.Value.String())
		require.Equal(t, uint64(13), r.Quorum.Value.Version)
		require.Equal(t, record.Promoting{Host: "c", Term: 8}, r.Promoting.Value)
		term, err := r.InOffice()
		require.NoError(t, err)
		require.Equal(t, pg.Timeline(3), term.Parent)
		require.Zero(t, term.SwitchAt)
		for _, name := range []string{"b", "c"} {
			require.Equal(t, uint64(8), b.memories[name].State().Pledge, "%s is bound", name)
			require.True(t, b.voters[name].fenced)
		}
	})
}

func TestElectionNeedsVotesOfTheRecordedSet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x5000000, "d": 0x9000000})
		defer b.close()
		winner, _ := b.play("b", "d")
		require.Empty(t, winner, "one vote of D and one of a stranger are not enough")
		out, err := b.step("b")
		require.NoError(t, err)
		require.Equal(t, election.Wait, out.Plan.Action)
		require.Contains(t, out.Plan.Why, "missing: a.1, c.1")
	})
}

// TestVoteComesAfterPledgeAndFence: the pledge is durable before the fence is
// asked for, and no vote is cast when the fence fails.
func TestVoteComesAfterPledgeAndFence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x5000000, "c": 0x5000000})
		defer b.close()
		_, err := b.step("b")
		require.NoError(t, err)
		var pledged uint64
		b.voters["b"].onFence = func() { pledged = b.memories["b"].State().Pledge }
		b.voters["b"].err = errors.New("startup process is busy")
		_, err = b.step("b")
		require.ErrorContains(t, err, "startup process is busy")
		require.Equal(t, uint64(8), pledged)
		require.Empty(t, b.records().Votes)

		b.voters["b"].err = nil
		_, err = b.step("b")
		require.NoError(t, err)
		require.Len(t, b.records().ValidVotes(), 1)
	})
}

// TestNoVoteForAnElectionThatHasChanged: records that have gone stale between
// the look and the vote do not carry a vote.
func TestNoVoteForAnElectionThatHasChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x5000000, "c": 0x5000000})
		defer b.close()
		_, err := b.step("b") // opens
		require.NoError(t, err)
		stale := b.records()
		winner, _ := b.play("b", "c")
		require.Equal(t, "b", winner)
		votes := len(b.records().Votes)
		_, err = b.electors["c"].Step(t.Context(), stale)
		require.Error(t, err)
		require.Len(t, b.records().Votes, votes)
	})
}

func TestRolledBackDataDoesNotVote(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x5000000, "c": 0x5000000})
		defer b.close()
		require.NoError(t, b.memories["b"].Update(func(s *ha.LocalState) {
			s.Published = pg.Position{Timeline: 3, LSN: 0x5000001}
		}))
		_, err := b.step("b")
		require.NoError(t, err)
		_, err = b.step("b")
		require.ErrorIs(t, err, ha.ErrRolledBack)
		require.Empty(t, b.records().Votes)
	})
}

func TestVoterBelowItsFloorIsCountedAndCannotWin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x9000000, "c": 0x5000000})
		defer b.close()
		require.NoError(t, b.memories["b"].Update(func(s *ha.LocalState) { s.Floor = pg.Position{Timeline: 3, LSN: 0xA000000} }))
		winner, _ := b.play("b", "c")
		require.Equal(t, "c", winner)
		require.True(t, b.voters["b"].stopped, "its data may not be fit to be opened: it is silenced by a stop")
	})
}

// TestTakeOverNeedsTheFrozenQuorum: the former primary's
// tracker wrote the record of the quorum between freeze and take-over.
func TestTakeOverNeedsTheFrozenQuorum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"b": 0x5000000, "c": 0x5000000})
		defer b.close()
		for range 2 {
			for _, name := range []string{"b", "c"} {
				_, _ = b.step(name)
			}
		}
		r := b.records()
		require.NotEqual(t, record.PhaseTaken, r.Failover.Value.Phase)
		late := r.Quorum.Value
		late.Members, late.Version = members("c"), 13
		_, err := dcs.CompareAndSwap(t.Context(), b.store, b.keys.Quorum(), r.Quorum.Revision, record.Encode(late), "")
		require.NoError(t, err)
		winner, _ := b.play("b", "c")
		require.Empty(t, winner)
		require.False(t, b.records().Leader.Held())
	})
}

// TestManagerThatDiesIsReplaced: the election goes on under another manager,
// with the votes that it has.
func TestManagerThatDiesIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorded := recordedABC()
		recorded.Members = members("b", "c", "d")
		b := newBench(t, recorded, map[string]pg.LSN{"b": 0x5000000, "c": 0x6000000, "d": 0x5000000})
		defer b.close()
		_, err := b.step("b") // opens it, and is not heard of again
		require.NoError(t, err)
		_, err = b.step("c")
		require.NoError(t, err)
		require.NoError(t, b.lockers[0].Close(t.Context()))
		b.lockers = b.lockers[1:]
		winner, office := b.play("c", "d")
		require.Empty(t, winner, "R = 3")
		require.Nil(t, office)
		require.Equal(t, uint64(8), b.records().Failover.Value.ID, "it is the same election")
	})
}

// TestWinnerThatDoesNotComeIsReplaced after the deadline and one TTL.
func TestWinnerThatDoesNotComeIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, recordedABC(), map[string]pg.LSN{"a": 0x1000000, "b": 0x6000000, "c": 0x5000000})
		defer b.close()
		for _, name := range []string{"c", "b", "c", "b", "c"} { // open, held, vote, vote, name
			if _, err := b.step(name); err != nil {
				require.ErrorIs(t, err, ha.ErrHeld)
			}
		}
		require.Equal(t, record.PhaseWon, b.records().Failover.Value.Phase)
		require.Equal(t, "b.1", b.records().Failover.Value.Winner.String())
		out, err := b.step("c")
		require.NoError(t, err)
		require.Equal(t, election.Wait, out.Plan.Action)
		time.Sleep(19 * time.Second)
		out, _ = b.step("c")
		require.Equal(t, election.Wait, out.Plan.Action)
		time.Sleep(2 * time.Second)
		out, err = b.step("c")
		require.NoError(t, err)
		require.Equal(t, election.Open, out.Plan.Action)
		require.Equal(t, uint64(9), b.records().Failover.Value.ID)
		_, err = b.step("b")
		require.NoError(t, err, "the former winner votes again")
	})
}

func TestNewElectorSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := ha.NewElector(ha.ElectorConfig{})
	require.ErrorContains(t, err, "required")
}
