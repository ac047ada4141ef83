package repo

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// update makes TestAPI write the snapshot instead of comparing with it.
var update = flag.Bool("update", false, "write testdata/api.txt anew")

// TestAPI compares what go doc says of every public package with
// testdata/api.txt, so that a change of the API is seen in review. After a
// deliberate change run `make api` and commit the file with it.
func TestAPI(t *testing.T) {
	t.Parallel()
	var now strings.Builder
	for _, p := range list(t, "linux") {
		if !public(p) {
			continue
		}
		text := runGo(t, "linux", "doc", "-all", p.ImportPath)
		fmt.Fprintf(&now, "==== %s\n\n%s\n\n", p.ImportPath, strings.TrimSpace(string(text)))
	}

	path := filepath.Join(root(t), "testdata", "api.txt")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(now.String()), 0o644))
		return
	}
	before, err := os.ReadFile(path)
	require.NoError(t, err, "there is no snapshot of the API: make api writes it")
	if changes := lineChanges(string(before), now.String()); len(changes) > 0 {
		t.Errorf("the public API or its documentation differs from testdata/api.txt.\n"+
			"If that is on purpose: make api, and commit the file with the change.\n%s", strings.Join(changes, "\n"))
	}
}

// public reports whether users can import the package.
func public(p listed) bool {
	path := p.ImportPath + "/"
	return p.Name != "main" &&
		!strings.Contains(path, "/internal/") &&
		!strings.HasPrefix(path, module+"/cmd/") &&
		!strings.HasPrefix(path, module+"/examples/")
}

// lineChanges returns what distinguishes two snapshots: packages that only one
// has, and for the others the lines that only one has, each with its package,
// at most 40 in all. Snapshots that differ only in the order of their lines give
// one line that says so.
func lineChanges(before, after string) []string {
	if before == after {
		return nil
	}
	const most = 40
	was, is := byPackage(before), byPackage(after)
	var changes []string
	for _, path := range slices.Sorted(maps.Keys(was)) {
		if _, kept := is[path]; !kept {
			changes = append(changes, "- package "+path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(is)) {
		if _, known := was[path]; !known {
			changes = append(changes, "+ package "+path)
			continue
		}
		for _, line := range without(was[path], is[path]) {
			changes = append(changes, "- "+path+": "+line)
		}
		for _, line := range without(is[path], was[path]) {
			changes = append(changes, "+ "+path+": "+line)
		}
	}
	if len(changes) == 0 {
		return []string{"(the same lines in another order)"}
	}
	if n := len(changes); n > most {
		changes = append(changes[:most:most], fmt.Sprintf("(%d more lines)", n-most))
	}
	return changes
}

// byPackage returns the lines of each package that are not empty.
func byPackage(text string) map[string][]string {
	lines := make(map[string][]string)
	var in string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if path, ok := strings.CutPrefix(line, "==== "); ok {
			in = path
			lines[in] = nil
		} else if strings.TrimSpace(line) != "" {
			lines[in] = append(lines[in], line)
		}
	}
	return lines
}

// without returns the lines less the others, counting repetitions.
func without(lines, others []string) []string {
	spare := make(map[string]int, len(others))
	for _, line := range others {
		spare[line]++
	}
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		spare[line]--
		return spare[line] >= 0
	})
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"dcs": true, "ha/quorum": true, "pg/pgctl": true, "dcs/dcstest": true,
		"internal/timectx": false, "dcs/internal/outcome": false, "cmd/pghad/sub": false, "examples/agent": false,
	} {
		require.Equal(t, want, public(listed{ImportPath: module + "/" + path, Name: "p"}), path)
	}
	require.False(t, public(listed{ImportPath: module + "/tool", Name: "main"}))
}

func TestLineChanges(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, before, after string
		want                []string
	}{
		{"equal", "==== p\na\n", "==== p\na\n", nil},
		{"changed", "==== p\na\nb\n", "==== p\na\nc\n", []string{"- p: b", "+ p: c"}},
		{"new package", "==== p\na\n", "==== p\na\n==== q\na\n", []string{"+ package q"}},
		{"removed package", "==== p\na\n==== q\na\n", "==== p\na\n", []string{"- package q"}},
		{"one of two the same", "==== p\na\nb\na\n", "==== p\na\nb\n", []string{"- p: a"}},
		{"order", "==== p\na\nb\n", "==== p\nb\na\n", []string{"(the same lines in another order)"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, lineChanges(test.before, test.after))
		})
	}
}
