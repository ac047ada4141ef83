package record_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/pg"
)

func TestNews(t *testing.T) {
	t.Parallel()
	keys, err := record.NewKeys("service", "test")
	require.NoError(t, err)
	now := time.Now()
	member := record.Member{Format: 1, Role: "replica", State: "streaming", XlogLSN: 1, Received: 1, Replayed: 1, Sampled: now}
	status := record.Status{Format: 1, Term: 7, Flushed: 1, Nodes: map[string]record.NodeStatus{"b": {Health: "alive", Lag: 1}}}
	replics := record.ReplicsInfo{Format: 1, Sampled: now, Senders: []pg.Walsender{{Name: "b.1", Flush: 1, Replay: 1}}}
	write := func(revision dcs.Revision, change func(*record.Member, *record.Status, *record.ReplicsInfo)) map[string]string {
		m, s, r := member, status, replics
		s.Nodes = map[string]record.NodeStatus{"b": status.Nodes["b"]}
		r.Senders = []pg.Walsender{replics.Senders[0]}
		if change != nil {
			change(&m, &s, &r)
		}
		return keys.News([]dcs.KV{
			{Key: keys.Leader(), Value: []byte("a"), Created: 1, Revision: 1},
			{Key: keys.Member("b"), Value: record.Encode(m), Created: 2, Revision: revision, Session: "x"},
			{Key: keys.Status(), Value: record.Encode(s), Created: 3, Revision: revision},
			{Key: keys.ReplicsInfo(), Value: record.Encode(r), Created: 4, Revision: revision},
		})
	}
	before := write(5, nil)
	require.Len(t, before, 4)
	require.Equal(t, before, write(6, func(m *record.Member, s *record.Status, r *record.ReplicsInfo) {
		m.XlogLSN, m.Received, m.Replayed, m.Sampled = 2, 2, 2, now.Add(1)
		s.Flushed, s.Nodes["b"] = 2, record.NodeStatus{Health: "alive", Lag: 2}
		r.Sampled, r.Senders[0].Flush, r.Senders[0].Replay = now.Add(1), 2, 2
	}), "positions are no news")
	for name, change := range map[string]func(*record.Member, *record.Status, *record.ReplicsInfo){
		"a question": func(m *record.Member, _ *record.Status, _ *record.ReplicsInfo) { m.Rejoin = "x" },
		"a pledge":   func(m *record.Member, _ *record.Status, _ *record.ReplicsInfo) { m.Pledge = 8 },
		"an answer": func(_ *record.Member, s *record.Status, _ *record.ReplicsInfo) {
			s.Spared = map[string]string{"b": "x"}
		},
		"a stream": func(_ *record.Member, _ *record.Status, r *record.ReplicsInfo) { r.Senders[0].State = "catchup" },
	} {
		require.NotEqual(t, before, write(6, change), name)
	}
	require.Equal(t, uint64(1), status.Nodes["b"].Lag, "the record itself stays")
	other := keys.News([]dcs.KV{{Key: keys.Leader(), Value: []byte("a"), Created: 1, Revision: 2}})
	require.NotEqual(t, before[keys.Leader()], other[keys.Leader()], "each write of another key is news")
	broken := func(revision dcs.Revision) map[string]string {
		return keys.News([]dcs.KV{{Key: keys.Status(), Value: []byte("{"), Revision: revision}})
	}
	require.NotEqual(t, broken(1), broken(2), "what cannot be read is news each time")
}
