package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/cli"
	"github.com/pghad/pghad/internal/testbed"
)

func TestEditConfigUsage(t *testing.T) {
	t.Parallel()
	const where = " --cluster x --dcs-endpoints http://127.0.0.1:1"
	for args, want := range map[string]string{
		"edit-config":                                   "there is no terminal to ask on: write --yes",
		"edit-config --yes --timeout 5s":                "--timeout needs --wait",
		"edit-config --yes --wait --timeout -1s":        "--timeout -1s is not above zero",
		"edit-config --yes --replace x --set mode=sync": "--replace sets everything: leave out --set and --unset",
		"edit-config --replace -":                       "standard input is the record, so nobody can be asked on it: write --yes",
		"edit-config --yes -o yaml":                     `--output "yaml" is unknown: write table or json`,
		"show-config --record --local":                  "--record shows the cluster's record alone: leave out --local and --explain",
		"show-config -o json":                           "-o is for --record",
	} {
		got := pghad(t.Context(), strings.Fields(args+where)...)
		require.Equal(t, result{2, "", "pghad: " + want + "; see pghad --help\n"}, got, args)
	}
	got := pghad(t.Context(), strings.Fields("edit-config --yes --set mode=async"+where)...)
	require.Equal(t, 3, got.code)
	require.Contains(t, got.err, "cluster x cannot be read from the store at http://127.0.0.1:1: ")
}

// TestEditConfig: what is asked for is checked, shown, confirmed and written, once.
func TestEditConfig(t *testing.T) {
	t.Parallel()
	s := newStage(t, testbed.StartEtcd(t), "orders")
	require.Equal(t, result{0, `# The cluster has no record yet: nothing is set for all nodes.
# node a goes by version 0
# node b goes by version 0
# node c goes by version 0
`, ""}, s.run(t.Context(), "show-config", "--record"))

	got := s.run(t.Context(), "edit-config", "--yes", "--set", "mode=async", "--set", "postgres.parameters.work_mem=64MB", "--set", "timing.ttl=20s", "-o", "json")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, `+ postgres.parameters.work_mem: "64MB"
+ timing.ttl: 20s
+ mode: async
timing.ttl comes into force at the next start of each pghad.
In mode async a failover may lose commits that were acknowledged.
`, got.err)
	require.JSONEq(t, `{"version": 1, "changed": [
		{"key": "postgres.parameters.work_mem", "before": "", "after": "\"64MB\"", "live": true},
		{"key": "timing.ttl", "before": "", "after": "20s", "live": false},
		{"key": "mode", "before": "", "after": "async", "live": true}],
		"nodes": [{"name": "a", "version": 0}, {"name": "b", "version": 0}, {"name": "c", "version": 0}]}`, got.out)
	held := s.records().Config.Value
	require.EqualValues(t, 1, held.Version)
	require.Regexp(t, "^jo@", held.By)

	require.Equal(t, result{0, "the cluster's record is version 1\n", "Nothing changes.\n"},
		s.run(t.Context(), "edit-config", "--yes", "--set", "mode=async", "--unset", "strict"))
	got = s.run(t.Context(), "edit-config", "--yes", "--unset", "mode")
	require.Equal(t, result{0, "the cluster's record is version 2\n", "- mode: async\nThe mode stays as it is; mode: in a node's file is for a new cluster.\n"}, got)

	for args, want := range map[string]string{
		"--set mode=sync":                      `--set: mode: "sync" is unknown; write one of quorum, async`,
		"--set mode":                           `pghad: --set "mode" is not KEY=VALUE; see pghad --help`,
		"--set node=b":                         "--set: node: is not cluster-wide; set it in the file of each node",
		"--unset ttl":                          "--unset: ttl: unknown key; did you mean timing.ttl?",
		"--set timing.ttl=7s":                  "--set: timing: margin 2s + 2 × renew 3s = 8s ≥ ttl 7s: a lease would end before its second renewal; raise ttl above 8s, or lower renew or margin",
		"--set postgres.parameters.fsync=off":  "--set: postgres.parameters: fsync = off: it must stay on: a crash would lose acknowledged commits",
		"--set postgres.rejoin.attempts=0":     "--set: postgres.rejoin.attempts: 0 permits no copy at all; write a number above zero",
		"--replace /nowhere/x.yaml":            "pghad: --replace: open /nowhere/x.yaml: no such file or directory; see pghad --help",
		"--set mode=async --set strict=maybe=": `--set: strict: "maybe=" is neither true nor false`,
	} {
		require.Equal(t, result{2, "", want + "\n"}, s.run(t.Context(), append([]string{"edit-config", "--yes"}, strings.Fields(args)...)...), args)
	}
	require.EqualValues(t, 2, s.records().Config.Value.Version, "nothing was written")

	got = s.asked(t.Context(), "no\n", "edit-config", "--set", "strict=false")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "+ strict: false\n")
	require.EqualValues(t, 2, s.records().Config.Value.Version)
	got = s.asked(t.Context(), "yes\n", "edit-config", "--set", "strict=false")
	require.Equal(t, 0, got.code, got.err)
	require.EqualValues(t, 3, s.records().Config.Value.Version)

	s.put(map[string]any{
		s.keys.Member("a"): record.Member{Format: 1, Config: &record.ConfigState{Version: 3, Pending: []string{"timing.ttl"}}, Pending: []string{"max_connections"}},
		s.keys.Member("b"): record.Member{Format: 1, Config: &record.ConfigState{Version: 2, Problem: "version 3: it does\nnot fit"}},
		s.keys.Member("c"): nil,
	})
	got = s.run(t.Context(), "show-config", "--record")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, `# The cluster's record: version 3, of TIME, by jo@HOST.
# node a goes by version 3; not in force until a restart of pghad: timing.ttl; not in force until a restart of PostgreSQL: max_connections
# node b goes by version 2; version 3: it does not fit
postgres:
  parameters: {work_mem: "64MB"}
timing:
  ttl: 20s
strict: false
`, regexp.MustCompile(`of [-0-9T:]+Z, by [a-z]+@[^ ]+\.`).ReplaceAllString(got.out, "of TIME, by jo@HOST."))
	got = s.run(t.Context(), "show-config", "--record", "-o", "json")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, compact(t, got.out), `"values":{"postgres.parameters":{"work_mem":"64MB"},"strict":false,"timing.ttl":"20s"}`)
}

// TestEditConfigReplace: from a file or from standard input, and what cannot be read
// can only be replaced.
func TestEditConfigReplace(t *testing.T) {
	t.Parallel()
	s := newStage(t, testbed.StartEtcd(t), "orders")
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	require.NoError(t, os.WriteFile(file, []byte("mode: async\ntiming: {ttl: 20s}\n"), 0o600))
	got := s.run(t.Context(), "edit-config", "--yes", "--replace", file)
	require.Equal(t, 0, got.code, got.err)
	require.NoError(t, os.WriteFile(file, []byte("mode: async\nshiny: 1\n"), 0o600))
	got = s.run(t.Context(), "edit-config", "--yes", "--replace", file)
	require.Equal(t, 2, got.code)
	require.True(t, strings.HasPrefix(got.err, file+":2:1: shiny: unknown key; those that are cluster-wide are "), got.err)

	var out, errs strings.Builder
	code := cli.Run(t.Context(), append([]string{"edit-config", "--yes", "--replace", "-"}, s.flags...),
		cli.Streams{In: strings.NewReader("strict: false\n"), Out: &out, Err: &errs})
	require.Equal(t, 0, code, errs.String())
	require.Equal(t, "- timing.ttl: 20s\n- mode: async\n+ strict: false\n"+
		"timing.ttl comes into force at the next start of each pghad.\nThe mode stays as it is; mode: in a node's file is for a new cluster.\n", errs.String())

	s.put(map[string]any{s.keys.Config(): `{"format":1,"version":7,"nonce":"x","changed":"2026-11-20T10:00:00Z","values":{"shiny":1}}`})
	got = s.run(t.Context(), "edit-config", "--yes", "--set", "strict=true")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "cluster's record, version 7: shiny: unknown key; ")
	require.Contains(t, got.err, "nothing was changed: set the whole record anew by --replace")
	got = s.run(t.Context(), "show-config", "--record")
	require.Equal(t, 3, got.code)
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	got = s.run(t.Context(), "edit-config", "--yes", "--replace", file)
	require.Equal(t, 0, got.code, got.err)
	require.EqualValues(t, 8, s.records().Config.Value.Version)
	require.Empty(t, s.records().Config.Value.Values)

	s.put(map[string]any{s.keys.Config(): `{"format":9}`})
	got = s.run(t.Context(), "edit-config", "--yes", "--replace", file)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "format 9, this version reads up to 1; upgrade this node; nothing was changed")
}

// TestEditConfigInEditor: the editor gets the record, and two of them cannot overwrite
// each other.
func TestEditConfigInEditor(t *testing.T) {
	t.Parallel()
	s := newStage(t, testbed.StartEtcd(t), "orders")
	dir := t.TempDir()
	editor := func(name, script string) []string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
		return []string{"EDITOR=" + path, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
	}
	edit := func(env []string, more ...string) result {
		return pghadEnv(t.Context(), env, append(append([]string{"edit-config", "--yes"}, more...), s.flags...)...)
	}
	got := edit(editor("first", `cp "$1" `+dir+`/seen; echo "mode: async" >> "$1"`))
	require.Equal(t, result{0, "the cluster's record is version 1\n", "+ mode: async\nIn mode async a failover may lose commits that were acknowledged.\n"}, got)
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	require.NoError(t, err)
	require.Contains(t, string(seen), "# What is set for all nodes of cluster orders, version 0; over their files and environment.\n")
	require.Contains(t, string(seen), "#   maximum_lag_on_failover: in mode async, ")
	require.Equal(t, result{0, "the cluster's record is version 1\n", "Nothing changes.\n"}, edit(editor("idle", "exit 0")))

	got = edit(editor("wrong", `echo "shiny: 1" >> "$1"`))
	require.Equal(t, 2, got.code)
	kept := regexp.MustCompile(`What you have written is kept in (.*); use it by --replace\.`).FindStringSubmatch(got.err)
	require.NotNil(t, kept, got.err)
	require.Contains(t, got.err, kept[1]+":")
	require.Contains(t, got.err, ": shiny: unknown key; ")
	text, err := os.ReadFile(kept[1])
	require.NoError(t, err)
	require.Contains(t, string(text), "mode: async\nshiny: 1\n")
	require.NoError(t, os.Remove(kept[1]))

	got = edit(editor("fails", "exit 7"))
	require.Equal(t, 3, got.code)
	require.Contains(t, got.err, "exit status 7; nothing was changed\n")

	// While this editor is open, jim changes something.
	slow := editor("slow", `touch `+dir+`/open; while [ ! -e `+dir+`/go ]; do sleep 0.01; done; echo "strict: false" >> "$1"`)
	done := make(chan result, 1)
	go func() { done <- edit(slow) }()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "open"))
		return err == nil
	}, patience, 10*time.Millisecond)
	require.Equal(t, 0, s.run(t.Context(), "edit-config", "--yes", "--set", "maximum_lag_on_failover=5").code)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	got = <-done
	require.Equal(t, 1, got.code)
	require.Regexp(t, `pghad: somebody else has changed the configuration meanwhile: it is version 2 now, by jo@[^;]*; nothing was changed, look and try again\n$`, got.err)
	require.NotContains(t, string(s.records().Config.Value.Values["strict"]), "false")
}

// TestEditConfigWaits: until the nodes go by it, and says which do not.
func TestEditConfigWaits(t *testing.T) {
	t.Parallel()
	s := newStage(t, testbed.StartEtcd(t), "orders")
	got := s.run(t.Context(), "edit-config", "--yes", "--set", "strict=false", "--wait", "--timeout", "300ms")
	require.Equal(t, 3, got.code)
	require.Contains(t, got.err, "pghad: not complete in 300ms; version 1 is written, and these do not go by it yet: a, b, c\n")
	state := func(version uint64, problem string) record.Member {
		return record.Member{Format: 1, Config: &record.ConfigState{Version: version, Problem: problem}}
	}
	wait := s.when(func(now record.Cluster) bool { return now.Config.Value.Version == 2 }, func() {
		s.put(map[string]any{s.keys.Member("a"): state(2, ""), s.keys.Member("b"): state(2, ""), s.keys.Member("c"): state(2, "")})
	})
	got = s.run(t.Context(), "edit-config", "--yes", "--set", "strict=true", "--wait")
	wait()
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "the cluster's record is version 2\n# node a goes by version 2\n")
	wait = s.when(func(now record.Cluster) bool { return now.Config.Value.Version == 3 }, func() {
		s.put(map[string]any{s.keys.Member("a"): state(3, ""), s.keys.Member("b"): state(2, "version 3: no"), s.keys.Member("c"): state(3, "")})
	})
	got = s.run(t.Context(), "edit-config", "--yes", "--set", "strict=false", "--wait")
	wait()
	require.Equal(t, 3, got.code)
	require.Contains(t, got.err, "pghad: version 3 is written, but node b does not go by it: version 3: no\n")
}
