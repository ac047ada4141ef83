package record_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

func member(node string) quorum.Member { return quorum.Member{Node: node, Incarnation: "1"} }

func requireRoundTrip[T any](t *testing.T, value T) {
	t.Helper()
	data := record.Encode(value)
	back, err := record.Decode[T]("key", data)
	require.NoError(t, err, string(data))
	require.Equal(t, value, back, string(data))
	require.Equal(t, string(data), string(record.Encode(back)))
}

func TestRoundTrips(t *testing.T) {
	t.Parallel()
	requireRoundTrip(t, record.Quorum{
		Format: record.Format, Version: 12, Nonce: "ab",
		Config: quorum.Config{Mode: quorum.ModeQuorum, Primary: member("a"), Members: []quorum.Member{member("b"), member("c-1")}, K: 1},
	})
	requireRoundTrip(t, record.FailoverState{
		Format: record.Format, ID: 8, Nonce: "cd", Phase: record.PhaseWon, Manager: "b", Electorate: []quorum.Member{member("b")},
		QuorumRevision: 1 << 40, Deadline: record.Duration(10 * time.Second), Winner: member("b"), Reason: "leader is gone",
	})
	requireRoundTrip(t, record.FailoverState{Format: record.Format, Phase: record.PhaseFencing})
	requireRoundTrip(t, record.Vote{
		Format: record.Format, ID: 8, Member: member("b"), Position: pg.Position{Timeline: 3, LSN: 0x5000148}, HasPosition: true, MayWin: true, Priority: -1,
	})
	requireRoundTrip(t, record.Promoting{Host: "b", Term: 8})
	requireRoundTrip(t, record.Status{
		Format: record.Format, Term: 8, Leader: "b", Flushed: 7, Nodes: map[string]record.NodeStatus{"c": {Health: "alive", Lag: 5}},
	})
	requireRoundTrip(t, record.Member{
		Format: record.Format, ConnURL: "postgres://b:5432/postgres", Role: "replica", Floor: &pg.Position{Timeline: 2, LSN: 9},
		Sampled: time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC),
	})
	requireRoundTrip(t, record.ReplicsInfo{Format: record.Format, Senders: []pg.Walsender{{PID: 7, Name: "b.1", Flush: 3}}})
	requireRoundTrip(t, history())
}

func history() record.History {
	return record.History{
		{ID: 1, Primary: "a", Timeline: 1, At: "2024-05-06T07:08:09Z"},
		{ID: 7, Primary: "b", Timeline: 3, Parent: 1, SwitchAt: 0x5000148, At: "2024-05-06T07:09:09Z"},
		{ID: 8, Primary: "c", Timeline: 4, Parent: 3},
	}
}

// Patroni's readers take the first five elements.
func TestHistoryIsPatronisWithMore(t *testing.T) {
	t.Parallel()
	require.JSONEq(t, `[
		[0, 0, "same timeline", "2024-05-06T07:08:09Z", "a", {"term": 1, "timeline": 1}],
		[1, 83886408, "failover", "2024-05-06T07:09:09Z", "b", {"term": 7, "timeline": 3}],
		[3, 0, "reserved", "", "c", {"term": 8, "timeline": 4}]
	]`, string(record.Encode(history())))
	require.Equal(t, pg.Timeline(4), history().Newest())
	require.Zero(t, record.History(nil).Newest())
	found, ok := history().Find(7)
	require.True(t, ok)
	require.Equal(t, "b", found.Primary)
	_, ok = history().Find(6)
	require.False(t, ok)
}

func TestHistoryRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`[[1, 2, "no recovery target specified", "2024-05-06T07:08:09Z", "a"]]`, // Patroni's own, without term
		`[[1, 2, "r", "t", "a", 7]]`, `[{"term": 1}]`, `[["x", 2, "r", "t", "a", {}]]`, `[[-1, 2, "r", "t", "a", {}]]`, `{}`,
	} {
		_, err := record.Decode[record.History]("/service/x/history", []byte(text))
		require.ErrorContains(t, err, "/service/x/history", text)
	}
}

func TestNewerFormatIsAnError(t *testing.T) {
	t.Parallel()
	newer := []byte(`{"format": 2, "version": 3, "mode": "telepathy", "k": {}}`)
	_, err := record.Decode[record.Quorum]("quorum", newer)
	require.ErrorIs(t, err, record.ErrNewer)
	require.ErrorContains(t, err, "record quorum")
	_, err = record.Decode[record.Quorum]("quorum", append([]byte("\n "), newer...))
	require.ErrorIs(t, err, record.ErrNewer, "white space hides nothing")
	_, err = record.Decode[record.Vote]("vote", newer)
	require.ErrorIs(t, err, record.ErrNewer)
}

func TestDecode(t *testing.T) {
	t.Parallel()
	empty, err := record.Decode[record.Quorum]("quorum", nil)
	require.NoError(t, err)
	require.Zero(t, empty)
	for _, text := range []string{`{`, `[]`, `7`, `{"format": "1"}`, `{"members": ["b"]}`, `{"primary": "a."}`, "\x00"} {
		_, err := record.Decode[record.Quorum]("quorum", []byte(text))
		require.ErrorContains(t, err, "record quorum", text)
		require.NotErrorIs(t, err, record.ErrNewer)
	}
	more, err := record.Decode[record.Quorum]("quorum", []byte(`{"format": 1, "version": 3, "colour": "red"}`))
	require.NoError(t, err, "a field that came with a later version of the same format")
	require.Equal(t, uint64(3), more.Version)
	_, err = record.Decode[record.FailoverState]("failover_state", []byte(`{"deadline": "10"}`))
	require.Error(t, err, "a duration has a unit")
}

func TestElectionIsOpenUntilTaken(t *testing.T) {
	t.Parallel()
	for phase, open := range map[record.Phase]bool{"": false, record.PhaseFencing: true, record.PhaseWon: true, record.PhaseTaken: false} {
		require.Equal(t, open, record.FailoverState{Phase: phase}.Open(), phase)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "0", "main-db_1", strings.Repeat("a", 48)} {
		require.NoError(t, record.ValidName("node", name), name)
	}
	for _, name := range []string{"", "A", "a.b", "-a", "_a", "a b", "a/b", "ä", "a\x00", strings.Repeat("a", 49), "a" + strings.Repeat("-", 40)} {
		require.ErrorContains(t, record.ValidName("node", name), "node", name)
	}
	require.NoError(t, record.ValidName("cluster", strings.Repeat("a", 63)))
	require.Error(t, record.ValidName("cluster", strings.Repeat("a", 64)))
	_, err := record.NewKeys("service", "a/b")
	require.ErrorContains(t, err, "cluster")
	_, err = record.NewKeys("", "main")
	require.ErrorContains(t, err, "namespace")
}

func TestKeys(t *testing.T) {
	t.Parallel()
	keys, err := record.NewKeys("service", "main")
	require.NoError(t, err)
	for key, want := range map[string]string{
		keys.Leader():               "leader",
		keys.EpochManager():         "epoch_manager",
		keys.Alive("b"):             "alive/b",
		keys.QuorumMember("b"):      "quorum/members/b",
		keys.Initialize():           "initialize",
		keys.Timeline():             "timeline",
		keys.History():              "history",
		keys.Quorum():               "quorum",
		keys.ReplicsInfo():          "replics_info",
		keys.FailoverState():        "failover_state",
		keys.CurrentPromotingHost(): "current_promoting_host",
		keys.Status():               "status",
		keys.Member("b"):            "members/b",
		keys.Vote(8, "b"):           "election/8/b",
	} {
		require.Equal(t, "/service/main/"+want, key)
		require.True(t, strings.HasPrefix(key, keys.Prefix()))
	}
}

// Two nodes never share a slot, and a slot's name is one that PostgreSQL takes.
func TestSlotNamesAreInjective(t *testing.T) {
	t.Parallel()
	const alphabet = "am_-0"
	names := []string{""}
	seen := map[string]string{}
	for at := 0; at < len(names); at++ {
		name := names[at]
		if record.ValidName("node", name) == nil {
			slot := record.SlotName(name)
			require.Empty(t, strings.Trim(slot, "abcdefghijklmnopqrstuvwxyz0123456789_"), slot)
			require.LessOrEqual(t, len(slot), 63)
			require.Empty(t, seen[slot], "%s and %s share %s", seen[slot], name, slot)
			seen[slot] = name
		}
		if len(name) < 6 {
			for _, c := range alphabet {
				names = append(names, name+string(c))
			}
		}
	}
	require.Greater(t, len(seen), 5000)
}

func FuzzSlotName(f *testing.F) {
	f.Add("a-b", "a_mb")
	f.Add("a__b", "a_-b")
	f.Fuzz(func(t *testing.T, a, b string) {
		if record.ValidName("node", a) != nil || record.ValidName("node", b) != nil {
			t.Skip()
		}
		require.Equal(t, a == b, record.SlotName(a) == record.SlotName(b))
	})
}

// FuzzDecode: whatever stands in the store, decoding ends, and what it accepts
// comes back the same once it has been written by this version.
func FuzzDecode(f *testing.F) {
	f.Add(record.Encode(record.Quorum{Format: 1, Config: quorum.Config{Primary: member("a"), Members: []quorum.Member{member("b")}}}))
	f.Add(record.Encode(record.FailoverState{Format: 1, Deadline: 1, Electorate: []quorum.Member{{}}}))
	f.Add(record.Encode(history()))
	f.Add([]byte(`{"format": 9}`))
	f.Add([]byte(` {"format": 1}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzOne[record.Quorum](t, data)
		fuzzOne[record.FailoverState](t, data)
		fuzzOne[record.Vote](t, data)
		fuzzOne[record.History](t, data)
		fuzzOne[record.Member](t, data)
		fuzzOne[record.Status](t, data)
	})
}

func fuzzOne[T any](t *testing.T, data []byte) {
	t.Helper()
	value, err := record.Decode[T]("key", data)
	if err != nil {
		require.ErrorContains(t, err, "record key")
		return
	}
	if reflect.ValueOf(&value).Elem().IsZero() {
		return
	}
	var head struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(data, &head) == nil {
		require.LessOrEqual(t, head.Format, record.Format, "a newer format was accepted")
	}
	once := record.Encode(value)
	again, err := record.Decode[T]("key", once)
	require.NoError(t, err, string(once))
	require.JSONEq(t, string(once), string(record.Encode(again)))
}
