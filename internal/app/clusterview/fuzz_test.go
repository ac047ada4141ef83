package clusterview_test

import (
	"encoding/json"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/clusterview"
)

// FuzzRecords: whatever stands under a cluster's keys, it can be read, shown and
// explained.
func FuzzRecords(f *testing.F) {
	keys, err := record.NewKeys("service", "test")
	require.NoError(f, err)
	f.Add("leader", "a", "quorum", `{"format":1,"version":1,"mode":"quorum","primary":"a.1","members":["b.1"],"k":1}`, "failover_state",
		`{"format":1,"id":7,"phase":"taken","winner":"a.1"}`, "history", `[{"id":7,"primary":"a","timeline":4}]`)
	f.Add("members/a", `{"format":1,"role":"primary"}`, "members/", `{}`, "status", `{"format":1,"nodes":{"a":{}}}`, "replics_info", `{"senders":[{}]}`)
	f.Add("switchover/state", "preparing", "switchover/master", `{"hostname":"a"}`, "maintenance", "enable", "maintenance/master", "a")
	f.Add("election/7/a", `{"format":1,"id":7}`, "election/x/y/z", "{", "timeline", "x", "initialize", "7")
	f.Add("quorum/members/a", "a.1", "alive/a", "a", "config", `{"set":{}}`, "epoch_manager", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3, k4, v4 string) {
		var kvs []dcs.KV
		for i, pair := range [][2]string{{k1, v1}, {k2, v2}, {k3, v3}, {k4, v4}} {
			n := dcs.Revision(i + 1)
			kvs = append(kvs, dcs.KV{Key: keys.Prefix() + pair[0], Value: []byte(pair[1]), Created: n, Revision: n, Session: "s"})
		}
		keys.News(kvs)
		records := record.Parse(keys, kvs)
		view := clusterview.Build("service", "test", records)
		_, err := json.Marshal(view)
		require.NoError(t, err)
		require.NoError(t, clusterview.WriteTable(io.Discard, view))
		require.NoError(t, clusterview.WriteExplanation(io.Discard, clusterview.Explain("service", "test", records)))
	})
}
