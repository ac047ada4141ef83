package config_test

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/config"
)

var update = flag.Bool("update", false, "write the table of keys into docs/configuration.md")

// TestDocumentHasTheTable: the document for people says what the code does.
// "go test ./internal/app/config -run TestDocumentHasTheTable -update" writes it.
func TestDocumentHasTheTable(t *testing.T) {
	t.Parallel()
	const (
		name  = "../../../docs/configuration.md"
		begin = "<!-- The table of keys; written by a test of internal/app/config. -->\n"
		end   = "<!-- End of the table. -->\n"
	)
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(data), begin)
	require.True(t, ok, "the document has lost the mark where the table begins")
	held, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "the document has lost the mark where the table ends")
	var table bytes.Buffer
	require.NoError(t, config.WriteTable(&table))
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(before+begin+table.String()+end+after), 0o644))
		return
	}
	require.Equal(t, table.String(), held, "run the test with -update")
}
