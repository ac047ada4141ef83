package config_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
)

const fullRecord = `timing:
  ttl: 20s
mode: async
maximum_lag_on_failover: 4096
strict: false
postgres:
  parameters: {Work_Mem: 64MB, max_connections: 50}
  hba: ["host all all all scram-sha-256"]
`

func parseRecord(t *testing.T, text string) *config.Record {
	t.Helper()
	r, err := config.ParseRecord("edited", []byte(text))
	require.NoError(t, err)
	return r
}

// stored is a record as it comes back from the store.
func stored(t *testing.T, text string, version uint64) *config.Record {
	t.Helper()
	r, err := config.DecodeRecord(record.Config{Format: 1, Version: version, Nonce: "n", Values: parseRecord(t, text).Values()})
	require.NoError(t, err)
	return r
}

func TestRecordThereAndBack(t *testing.T) {
	t.Parallel()
	edited := parseRecord(t, fullRecord)
	data, err := json.Marshal(edited.Values())
	require.NoError(t, err)
	require.JSONEq(t, `{"timing.ttl":"20s","mode":"async","maximum_lag_on_failover":4096,"strict":false,
		"postgres.parameters":{"Work_Mem":"64MB","max_connections":"50"},"postgres.hba":["host all all all scram-sha-256"]}`, string(data))
	back := stored(t, fullRecord, 7)
	require.EqualValues(t, 7, back.Version())
	require.Empty(t, config.Changes(edited, back))
	require.Empty(t, config.Changes(back, parseRecord(t, back.YAML())))
	require.Equal(t, `postgres:
  parameters: {Work_Mem: "64MB", max_connections: "50"}
  hba: ["host all all all scram-sha-256"]
timing:
  ttl: 20s
mode: async
maximum_lag_on_failover: 4096
strict: false
`, back.YAML())
	var none *config.Record
	require.True(t, none.Empty())
	require.Empty(t, none.YAML())
	require.Empty(t, none.Values())
}

func TestRecordThatIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"mode: async\nttl: 5s\n":                   "edited:2:1: ttl: unknown key; did you mean timing.ttl?",
		"modes: async\n":                           "edited:1:1: modes: unknown key; did you mean mode?",
		"node: b\n":                                "edited:1:1: node: is not cluster-wide; set it in the file of each node",
		"postgres: {data_dir: /x}\n":               "edited:1:12: postgres.data_dir: is not cluster-wide; set it in the file of each node",
		"timing: {ttl: 20}\n":                      "edited:1:15: timing.ttl: 20 has no unit; write 20s",
		"mode:\n":                                  "edited:1:1: mode: has no value; write one or remove the key",
		"mode: [a]\n":                              "edited:1:7: mode: has a list; write a single value",
		"mode: async\n---\nmode: quorum\n":         "edited:2:1: a second YAML document begins here; write one only",
		"postgres:\n  parameters: {work_mem: [1]}": "edited:2:16: postgres.parameters: has a list as value of work_mem; write a single value",
	} {
		_, err := config.ParseRecord("edited", []byte(text))
		require.EqualError(t, err, want, text)
	}
	_, err := config.ParseRecord("edited", []byte("nonsense: 1\n"))
	require.ErrorContains(t, err, "edited:1:1: nonsense: unknown key; those that are cluster-wide are postgres.parameters, ")

	_, err = config.DecodeRecord(record.Config{Format: 1, Version: 4, Values: map[string]json.RawMessage{
		"mode": json.RawMessage(`"async"`), "shiny": json.RawMessage(`1`), "glossy": json.RawMessage(`2`),
	}})
	require.ErrorContains(t, err, "cluster's record, version 4: glossy: unknown key; ")
	require.ErrorContains(t, err, "\ncluster's record, version 4: shiny: unknown key; ", "both are named")
	_, err = config.DecodeRecord(record.Config{Format: 1, Version: 4, Values: map[string]json.RawMessage{"strict": json.RawMessage(`null`)}})
	require.EqualError(t, err, "cluster's record, version 4: strict: has no value; write one or remove the key")
	_, err = config.DecodeRecord(record.Config{Format: 1, Version: 4, Values: map[string]json.RawMessage{"strict": json.RawMessage(`1`)}})
	require.EqualError(t, err, `cluster's record, version 4: strict: "1" is neither true nor false`)
}

// TestRecordWins: over environment and file, element by element in a map.
func TestRecordWins(t *testing.T) {
	t.Parallel()
	cfg := load(t, minimal+"  parameters: {work_mem: 4MB, jit: off}\nstrict: true\n", "PGHAD_TIMING_TTL=12s")
	mixed, err := cfg.WithRecord(stored(t, fullRecord, 3))
	require.NoError(t, err)
	require.Equal(t, "async", mixed.Mode)
	require.False(t, mixed.Strict)
	require.Equal(t, 20*time.Second, mixed.Timing.TTL)
	require.Equal(t, map[string]string{"Work_Mem": "64MB", "max_connections": "50", "jit": "off"}, mixed.Postgres.Parameters)
	require.Equal(t, 12*time.Second, cfg.Timing.TTL, "what it was made of stays")
	require.Equal(t, map[string]string{"work_mem": "4MB", "jit": "off"}, cfg.Postgres.Parameters)

	text := written(t, mixed, true)
	require.Contains(t, text, "(cluster's record, version 3, over PGHAD_TIMING_TTL)\n  ttl: 20s\n")
	require.Contains(t, text, "(cluster's record, version 3)\nmode: async\n")
	require.Regexp(t, `\(cluster's record, version 3, over /[^ ]*pghad.yaml:\d+:\d+\)`, text)

	back, err := mixed.WithRecord(nil)
	require.NoError(t, err)
	require.Equal(t, written(t, cfg, true), written(t, back, true))
}

// TestRecordThatDoesNotFit: values that are good in themselves and not with those
// of a node are refused with the arithmetic.
func TestRecordThatDoesNotFit(t *testing.T) {
	t.Parallel()
	cfg := load(t, minimal+"timing: {margin: 3s}\n")
	_, err := cfg.WithRecord(stored(t, "timing: {ttl: 9s}\n", 3))
	require.ErrorContains(t, err, "margin 3s + 2 × renew 3s = 9s ≥ ttl 9s")
	_, err = cfg.WithRecord(stored(t, "postgres: {parameters: {listen_addresses: \"*\"}}\n", 3))
	require.ErrorContains(t, err, "cluster's record, version 3: postgres.parameters: listen_addresses is managed by this software")
	_, err = cfg.WithRecord(stored(t, "mode: sync\n", 3))
	require.EqualError(t, err, `cluster's record, version 3: mode: "sync" is unknown; write one of quorum, async`)
	client, err := config.Load(config.Options{Client: true, Env: []string{"PGHAD_CLUSTER=x", "PGHAD_DCS_ENDPOINTS=http://127.0.0.1:1"}})
	require.NoError(t, err)
	_, err = client.WithRecord(stored(t, "postgres: {hba: [\"a\\nb\"]}\n", 3))
	require.ErrorContains(t, err, "postgres.hba: an element has several lines")
}

func TestEdits(t *testing.T) {
	t.Parallel()
	before := stored(t, fullRecord, 3)
	edit := func(text string) config.Edit {
		e, err := config.ParseEdit(text)
		require.NoError(t, err)
		return e
	}
	after, err := before.With([]config.Edit{
		edit("mode=quorum"), edit("postgres.parameters.work_mem=8MB"), edit("postgres.parameters.jit=a=b"), edit("timing.renew=4s"),
		{Key: "postgres.parameters.max_connections", Unset: true},
		{Key: "strict", Unset: true},
		{Key: "timing.margin", Unset: true},
	})
	require.NoError(t, err)
	require.Equal(t, []config.Change{
		{Key: "postgres.parameters.Work_Mem", Before: `"64MB"`, After: "", Live: true},
		{Key: "postgres.parameters.jit", Before: "", After: `"a=b"`, Live: true},
		{Key: "postgres.parameters.max_connections", Before: `"50"`, After: "", Live: true},
		{Key: "postgres.parameters.work_mem", Before: "", After: `"8MB"`, Live: true},
		{Key: "timing.renew", Before: "", After: "4s", Live: false},
		{Key: "mode", Before: "async", After: "quorum", Live: true},
		{Key: "strict", Before: "false", After: "", Live: true},
	}, config.Changes(before, after))
	empty, err := before.With([]config.Edit{
		{Key: "postgres.parameters", Unset: true},
		{Key: "postgres.hba", Unset: true},
		{Key: "timing.ttl", Unset: true},
		{Key: "mode", Unset: true},
		{Key: "strict", Unset: true},
		{Key: "maximum_lag_on_failover", Unset: true},
	})
	require.NoError(t, err)
	require.True(t, empty.Empty())
	last, err := empty.With([]config.Edit{edit("postgres.parameters.jit=off"), {Key: "postgres.parameters.JIT", Unset: true}})
	require.NoError(t, err)
	require.True(t, last.Empty(), "a map without elements is none")

	for text, want := range map[string]string{
		"strict=maybe":                "--set: strict: \"maybe\" is neither true nor false",
		"node=b":                      "--set: node: is not cluster-wide; set it in the file of each node",
		"mod=async":                   "--set: mod: unknown key; did you mean mode?",
		"postgres.parameters=x":       "--set: postgres.parameters: not a map; write {name: value, name: value}",
		"maximum_lag_on_failover=1MB": `--set: maximum_lag_on_failover: "1MB" is not a whole number`,
	} {
		_, err := before.With([]config.Edit{edit(text)})
		require.EqualError(t, err, want, text)
	}
	_, err = before.With([]config.Edit{{Key: "a", Unset: true}, {Key: "b", Unset: true}})
	require.Len(t, strings.Split(err.Error(), "\n"), 2)
	for _, text := range []string{"", "mode", "=x"} {
		_, err := config.ParseEdit(text)
		require.Error(t, err)
	}
}

// TestEffective: what can change without a restart does, the rest keeps its value
// and is named.
func TestEffective(t *testing.T) {
	t.Parallel()
	running := load(t, minimal+"  port: 5433\nlog: {level: warn}\n", "PGHAD_API_PASSWORD=one", "PGHAD_API_USERNAME=u")
	wanted := load(t, minimal+"  port: 5434\n  parameters: {jit: off}\nlog: {level: debug}\ntiming: {ttl: 30s}\n", "PGHAD_API_PASSWORD=two", "PGHAD_API_USERNAME=u")
	mixed, live, pending, err := running.Effective(wanted)
	require.NoError(t, err)
	require.Equal(t, []string{"postgres.parameters", "api.password", "log.level"}, live)
	require.Equal(t, []string{"postgres.port", "timing.ttl"}, pending)
	require.Equal(t, 5433, mixed.Postgres.Port)
	require.Equal(t, 10*time.Second, mixed.Timing.TTL)
	require.Equal(t, "debug", mixed.Log.Level)
	require.Equal(t, "two", mixed.API.Password.Reveal())
	require.Equal(t, map[string]string{"jit": "off"}, mixed.Postgres.Parameters)

	again, live, pending, err := mixed.Effective(wanted)
	require.NoError(t, err)
	require.Empty(t, live)
	require.Equal(t, []string{"postgres.port", "timing.ttl"}, pending)
	require.Equal(t, mixed.Postgres, again.Postgres)

	// Good for a start, and not for what runs.
	guarded := load(t, minimal+"guard: {use: never}\n")
	mixed, _, _, err = guarded.Effective(load(t, minimal+"guard: {use: always}\non_exit: keep\n"))
	require.Nil(t, mixed)
	require.ErrorContains(t, err, "on_exit: keep leaves PostgreSQL to its guard, and guard.use is never")
}

// TestPasswordOfTheStore: one from a file is read anew by the store, any other needs a
// restart.
func TestPasswordOfTheStore(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	with := func(content string, env ...string) *config.Config {
		require.NoError(t, os.WriteFile(file, []byte(content+"\n"), 0o600))
		return load(t, minimal, append(env, "PGHAD_DCS_USERNAME=u")...)
	}
	fromFile := "PGHAD_DCS_PASSWORD_FILE=" + file
	running := with("one", fromFile)
	_, live, pending, err := running.Effective(with("two", fromFile))
	require.NoError(t, err)
	require.Empty(t, live)
	require.Empty(t, pending)
	_, _, pending, err = running.Effective(with("two", "PGHAD_DCS_PASSWORD=two"))
	require.NoError(t, err)
	require.Equal(t, []string{"dcs.password", "dcs.password_file"}, pending)
}
