package ha_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/mutant"
)

// TestLockerMutants shows that the tests of locks find defects. Each patch in
// testdata/mutants plants one: every test that the patch names must fail with it.
// That the tests pass without it, their own run shows.
func TestLockerMutants(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds and runs a test binary for each mutant")
	}
	patches, err := filepath.Glob("testdata/mutants/*.patch")
	require.NoError(t, err)
	require.NotEmpty(t, patches)
	for _, patch := range patches {
		t.Run(strings.TrimSuffix(filepath.Base(patch), ".patch"), func(t *testing.T) {
			t.Parallel()
			m, err := mutant.Read(patch)
			require.NoError(t, err)
			found := m.Header["Found"]
			require.NotEmpty(t, found, "the patch does not say what finds its defect")
			overlay, err := m.Overlay(t.TempDir(), "..")
			require.NoError(t, err)
			binary := filepath.Join(t.TempDir(), "locks.test")
			out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, ".").CombinedOutput()
			require.NoError(t, err, "%s", out)

			out, err = exec.CommandContext(t.Context(), binary, "-test.v", "-test.run", exactly(found)).CombinedOutput()
			require.Error(t, err, "nothing finds the defect:\n%s", out)
			for _, name := range found {
				if backend, _, _ := cutLast(name); strings.Contains(string(out), "--- SKIP: "+backend+" ") {
					t.Logf("NOT TESTED: %s was skipped", backend)
					continue
				}
				require.Contains(t, string(out), "--- FAIL: "+name+" ", "%s does not find the defect:\n%s", name, out)
			}
		})
	}
}

// exactly is the -run for tests of these names.
func exactly(names []string) string {
	patterns := make([]string, len(names))
	for i, name := range names {
		patterns[i] = "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
	}
	return strings.Join(patterns, "|")
}

// cutLast cuts a name of a test before its last slash.
func cutLast(name string) (before, after string, found bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}
