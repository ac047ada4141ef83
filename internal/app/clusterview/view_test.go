package clusterview_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// TestGolden builds the picture of each testdata/*.records.json and compares
// its JSON and its table with the files beside it. -update rewrites them.
func TestGolden(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.records.json")
	require.NoError(t, err)
	require.NotEmpty(t, inputs)
	for _, input := range inputs {
		base := strings.TrimSuffix(input, ".records.json")
		t.Run(filepath.Base(base), func(t *testing.T) {
			t.Parallel()
			cluster := memory.New(memory.Config{})
			t.Cleanup(cluster.Close)
			store := cluster.Client("test")
			keys, err := record.NewKeys("service", "orders")
			require.NoError(t, err)
			for key, value := range records(t, input) {
				_, err := dcs.Put(t.Context(), store, keys.Prefix()+key, value)
				require.NoError(t, err)
			}
			view, err := clusterview.Read(t.Context(), store, "service", "orders")
			require.NoError(t, err)

			data, err := json.MarshalIndent(view, "", "  ")
			require.NoError(t, err)
			compare(t, base+".golden.json", append(data, '\n'))
			var table bytes.Buffer
			require.NoError(t, clusterview.WriteTable(&table, view))
			compare(t, base+".golden.txt", table.Bytes())
		})
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
