package mutant

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPatch(t *testing.T) {
	t.Parallel()
	const source = "one\ntwo\nthree\nfour\nthree\n"
	for _, tc := range []struct{ name, patch, want, err string }{
		{"replaces", "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n", "one\n2\nthree\nfour\nthree\n", ""},
		{"wherever it is now", "--- a/x\n+++ b/x\n@@ -9,2 +9,3 @@\n four\n+four and a half\n three\n", "one\ntwo\nthree\nfour\nfour and a half\nthree\n", ""},
		{"gone", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-five\n+5\n", "", "are not there"},
		{"not whole lines", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-ree\n+3\n", "", "are not there"},
		{"ambiguous", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-three\n+3\n", "", "2 times"},
		{"nothing", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n one\n", "", "changes nothing"},
		{"no diff", "one\n", "", "before the first file"},
		{"no hunk", "--- a/x\n+++ b/x\n-one\n", "", "before the first hunk"},
		{"no line of a diff", "--- a/x\n+++ b/x\n@@ -1 +1 @@\none\n", "", "no line of a unified diff"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files, err := parse(tc.patch)
			got := ""
			if err == nil {
				require.Len(t, files, 1)
				got, err = files[0].apply(source)
			}
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestMutant(t *testing.T) {
	t.Parallel()
	root, dir := t.TempDir(), t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	source := write("p/q.go", "one\ntwo\n")
	const header = "# Rule: one comes first.\n# Broken: it is\n# said: not to.\n# Case: A\n# Case: B\n"
	patch := write("two-first.patch", header+"--- a/p/q.go\n+++ b/p/q.go\n@@ -1,2 +1,1 @@\n-one\n two\n")

	m, err := Read(patch)
	require.NoError(t, err)
	require.Equal(t, "two-first", m.Name)
	require.Equal(t, []string{"A", "B"}, m.Header["Case"])
	overlay, err := m.Overlay(dir, root)
	require.NoError(t, err)
	text, err := os.ReadFile(overlay)
	require.NoError(t, err)
	var said struct {
		Replace map[string]string `json:"Replace"`
	}
	require.NoError(t, json.Unmarshal(text, &said))
	require.Len(t, said.Replace, 1)
	patched, err := os.ReadFile(said.Replace[source])
	require.NoError(t, err)
	require.Equal(t, "two\n", string(patched))

	write("p/q.go", "three\n")
	_, err = m.Overlay(dir, root)
	require.ErrorContains(t, err, "does not apply any more")
	require.NoError(t, os.Remove(source))
	_, err = m.Overlay(dir, root)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Read(source)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Read(write("empty.patch", header))
	require.ErrorContains(t, err, "mutant empty: patch: no file")
}
