package workload_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/workload"
)

// write is an entry in milliseconds.
func write(node string, timeline uint32, sent, done int, outcome workload.Outcome) workload.Entry {
	return workload.Entry{
		Node: node, Timeline: timeline, Outcome: outcome,
		Sent: time.Duration(sent) * time.Millisecond, Done: time.Duration(done) * time.Millisecond,
	}
}

func TestTwoWriters(t *testing.T) {
	t.Parallel()
	const ack, unknown, failed = workload.Acknowledged, workload.Unknown, workload.Failed
	tests := map[string]struct {
		entries []workload.Entry
		convict []uint64 // ids, which number the entries from 1
	}{
		"nothing": {},
		"one reign": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("a", 1, 2, 3, ack),
		}},
		"a failover": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("b", 2, 50, 51, ack), write("b", 2, 52, 53, ack),
		}},
		"there and back, each time on a new timeline": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("b", 2, 10, 11, ack), write("a", 3, 20, 21, ack), write("a", 3, 22, 23, ack),
		}},
		"a restart in place keeps its timeline": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("a", 1, 500, 501, ack),
		}},
		"the old primary releases late what was sent before": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("a", 1, 2, 90, ack), write("b", 2, 50, 51, ack),
		}},
		"sent after the first of the new reign was sent, before it was seen": {entries: []workload.Entry{
			write("b", 2, 50, 60, ack), write("a", 1, 55, 70, ack),
		}},
		"sent in the moment the other was seen": {entries: []workload.Entry{
			write("b", 2, 50, 60, ack), write("a", 1, 60, 70, ack),
		}},
		"sent to the old primary after the new one was seen": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("b", 2, 50, 60, ack), write("a", 1, 61, 62, ack), write("a", 1, 63, 64, ack),
		}, convict: []uint64{3, 4}},
		"the same, not acknowledged": {entries: []workload.Entry{
			write("b", 2, 50, 60, ack), write("a", 1, 61, 62, unknown), write("a", 1, 63, 64, failed),
		}},
		"the new one's was not acknowledged": {entries: []workload.Entry{
			write("b", 2, 50, 60, unknown), write("a", 1, 61, 62, ack),
		}},
		"one timeline, two nodes": {entries: []workload.Entry{
			write("a", 2, 0, 10, ack), write("b", 2, 1, 5, ack), write("a", 2, 2, 3, ack),
		}, convict: []uint64{2}},
		"two nodes promoted to one timeline, one after the other": {entries: []workload.Entry{
			write("a", 1, 0, 1, ack), write("b", 2, 10, 11, ack), write("c", 2, 20, 21, ack),
		}, convict: []uint64{3}},
		"a node that goes back to an older timeline": {entries: []workload.Entry{
			write("a", 2, 0, 1, ack), write("a", 1, 10, 11, ack),
		}, convict: []uint64{2}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range test.entries {
				test.entries[i].ID = uint64(i + 1)
			}
			var convicted []uint64
			for _, conflict := range workload.TwoWriters(test.entries) {
				convicted = append(convicted, conflict.Entry.ID)
				require.NotEqual(t, conflict.Entry.ID, conflict.Witness.ID)
				require.NotEmpty(t, conflict.String())
			}
			require.Equal(t, test.convict, convicted)
		})
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	lost := []workload.Loss{{ID: 7, Node: "b"}, {ID: 3, Node: "a"}, {ID: 7, Node: "a"}}
	conflicts := []workload.Conflict{{}}
	require.Equal(t, workload.VerdictOK, workload.Report{Absent: []string{"a"}}.Verdict())
	require.Equal(t, workload.VerdictLost, workload.Report{Lost: lost, Behind: []string{"b"}}.Verdict())
	require.Equal(t, workload.VerdictTwoWriters, workload.Report{Lost: lost, Conflicts: conflicts}.Verdict())
	require.Equal(t, workload.VerdictStuck, workload.Report{Behind: []string{"b"}}.Verdict())
	require.Equal(t, workload.VerdictError, workload.Report{Resurrected: []uint64{1}}.Verdict())
	require.Equal(t, []uint64{3, 7}, workload.Report{Lost: lost}.LostIDs())
}

func TestLate(t *testing.T) {
	t.Parallel()
	const ack, unknown, failed = workload.Acknowledged, workload.Unknown, workload.Failed
	entries := []workload.Entry{
		write("a", 1, 0, 1, ack),
		write("a", 1, 40, 90, unknown), // sent before
		write("b", 2, 50, 60, ack),
		write("a", 1, 60, 70, unknown), // in that very moment
		write("a", 1, 61, 62, unknown),
		write("a", 1, 63, 64, ack),
		write("c", 1, 65, 66, failed),
		write("b", 2, 67, 68, ack),
		write("a", 2, 69, 70, failed),
	}
	require.Equal(t, entries[4:6], workload.Late(entries, "a"))
	require.Empty(t, workload.Late(entries, "b"))
	require.Empty(t, workload.Late(nil, "a"))
}
