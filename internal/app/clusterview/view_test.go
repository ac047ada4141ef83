package clusterview_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/clusterview"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// records reads a file of records: an object from key, without the cluster's
// prefix, to its value; a text stands for a plain-text record.
func records(t *testing.T, file string) map[string][]byte {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var raw map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &raw))
	values := make(map[string][]byte, len(raw))
	for key, value := range raw {
		values[key] = value
		var text string
		if json.Unmarshal(value, &text) == nil {
			values[key] = []byte(text)
		}
	}
	return values
}

// load puts a file of records into a store, in the order of the keys, so that
// each gets the same revision in every run; locks are bound to a session.
func load(t *testing.T, input string) dcs.Store {
	t.Helper()
	cluster := memory.New(memory.Config{})
	t.Cleanup(cluster.Close)
	store := cluster.Client("test")
	session, err := store.NewSession(t.Context(), time.Hour)
	require.NoError(t, err)
	keys, err := record.NewKeys("service", "orders")
	require.NoError(t, err)
	values := records(t, input)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		op := dcs.Op{Key: keys.Prefix() + key, Value: values[key]}
		if slices.Contains([]string{"leader", "epoch_manager", "switchover/lock"}, key) {
			op.Session = session.ID()
		}
		_, err := store.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{op}})
		require.NoError(t, err)
	}
	return store
}

// TestGolden builds the picture and the explanation of each
// testdata/*.records.json and compares their JSON and their text with the files
// beside it. -update rewrites them.
func TestGolden(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.records.json")
	require.NoError(t, err)
	require.NotEmpty(t, inputs)
	for _, input := range inputs {
		base := strings.TrimSuffix(input, ".records.json")
		t.Run(filepath.Base(base), func(t *testing.T) {
			t.Parallel()
			store := load(t, input)
			view, err := clusterview.Read(t.Context(), store, "service", "orders")
			require.NoError(t, err)
			compare(t, base+".golden.json", pretty(t, view))
			var table bytes.Buffer
			require.NoError(t, clusterview.WriteTable(&table, view))
			compare(t, base+".golden.txt", table.Bytes())

			read, err := clusterview.ReadRecords(t.Context(), store, "service", "orders")
			require.NoError(t, err)
			why := clusterview.Explain("service", "orders", read)
			compare(t, base+".why.json", pretty(t, why))
			var text bytes.Buffer
			require.NoError(t, clusterview.WriteExplanation(&text, why))
			compare(t, base+".why.txt", text.Bytes())
		})
	}
}

func pretty(t *testing.T, value any) []byte {
	t.Helper()
	data, err := json.MarshalIndent(value, "", "  ")
	require.NoError(t, err)
	return append(data, '\n')
}

// TestAnyRecords: whichever records are missing, empty or garbage, there is a
// picture and an explanation.
func TestAnyRecords(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.records.json")
	require.NoError(t, err)
	keys, err := record.NewKeys("service", "orders")
	require.NoError(t, err)
	for _, input := range inputs {
		values := records(t, input)
		names := slices.Sorted(maps.Keys(values))
		explain := func(damage map[string][]byte) {
			var kvs []dcs.KV
			for i, name := range names {
				value, damaged := damage[name]
				if !damaged {
					value = values[name]
				} else if value == nil {
					continue
				}
				kvs = append(kvs, dcs.KV{Key: keys.Prefix() + name, Value: value, Revision: dcs.Revision(i + 1), Created: dcs.Revision(i + 1)})
			}
			read := record.Parse(keys, kvs)
			var text bytes.Buffer
			require.NoError(t, clusterview.WriteTable(&text, clusterview.Build("service", "orders", read)))
			why := clusterview.Explain("service", "orders", read)
			require.NotEmpty(t, why.Verdict.Code)
			require.NoError(t, clusterview.WriteExplanation(&text, why))
		}
		for i, one := range names {
			for _, d := range [][]byte{nil, {}, []byte("{"), []byte("{}"), []byte("[]")} {
				explain(map[string][]byte{one: d})
			}
			for _, other := range names[i+1:] {
				if slices.Contains([]string{"testdata/election.records.json", "testdata/switchover-done.records.json"}, input) {
					explain(map[string][]byte{one: nil, other: nil})
				}
			}
		}
	}
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, got, 0o600))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "make it with go test -update")
	require.Equal(t, string(want), string(got))
}

func TestReadSaysWhatItRead(t *testing.T) {
	t.Parallel()
	cluster := memory.New(memory.Config{})
	store := cluster.Client("test")
	cluster.Close()
	_, err := clusterview.Read(t.Context(), store, "service", "orders")
	require.ErrorIs(t, err, dcs.ErrClosed)
	require.ErrorContains(t, err, "read the records under /service/orders/: ")
	_, err = clusterview.Read(t.Context(), store, "service", "Orders")
	require.ErrorContains(t, err, `cluster name "Orders": want`)
}

func TestNode(t *testing.T) {
	t.Parallel()
	view := clusterview.View{Nodes: []clusterview.Node{{Name: "a"}, {Name: "b", Leader: true}}}
	node, ok := view.Node("b")
	require.True(t, ok)
	require.True(t, node.Leader)
	_, ok = view.Node("c")
	require.False(t, ok)
}
