package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/record"
	"github.com/pghad/pghad/internal/app/config"
)

// secretMark must stand in nothing that is said.
const secretMark = "sEcReTmArK"

// sayNothing checks what is said of a configuration: never the secret, also where a good
// one is printed.
func sayNothing(t *testing.T, cfg *config.Config, err error) {
	t.Helper()
	if err != nil {
		require.NotContains(t, err.Error(), secretMark)
		return
	}
	require.NotContains(t, fmt.Sprintf("%+v %#v", *cfg, *cfg), secretMark)
}

// FuzzFile: whatever follows in a file that holds a secret, loading ends, and no error
// tells the secret.
func FuzzFile(f *testing.F) {
	const before = "postgres:\n  data_dir: /data\n  replication:\n    password: " + secretMark + "\n"
	f.Add(before, "cluster: orders\nnode: a\ndcs:\n  endpoints: [http://127.0.0.1:2379]\n")
	f.Add(before, "timing: {ttl: 3s, margin: 9s}\ntags: {nofailover: true}\napi: {listen: ':8008', tls: {cert_file: /x}}\n")
	f.Add(before, "postgres:\n  port: 5433\n")
	f.Add(before, "dcs: [")
	f.Add(before, "a: &a [*a, *a]\nb: {<<: *a}\n")
	f.Add(before, "? {x: y}\n: !!binary \"\"\n---\nx: 1\n")
	f.Add("dcs: {username: u, password: "+secretMark+", ", "}")
	f.Add("api:\n  password: "+secretMark, "\n\t: x")
	f.Add("dcs:\n  password: "+secretMark+"\n  password: ", "x")
	f.Add("postgres: {replication: {password: ["+secretMark+", ", "1]}}")
	f.Fuzz(func(t *testing.T, before, after string) {
		if len(before)+len(after) > 1<<16 {
			return
		}
		// The mark is a secret where one is written; elsewhere it is a text like others.
		text := before + after
		secret := strings.Contains(before, "password: "+secretMark) && !strings.Contains(after, secretMark)
		path := filepath.Join(t.TempDir(), "pghad.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		cfg, err := config.Load(config.Options{File: path})
		if secret && strings.Count(before, secretMark) == 1 && strings.HasPrefix(before, "postgres:\n  data_dir: /data\n  replication:\n    password: "+secretMark+"\n") {
			sayNothing(t, cfg, err)
		}
	})
}

// FuzzEnvironment: the same for variables, of which one is a secret.
func FuzzEnvironment(f *testing.F) {
	for _, key := range config.Keys() {
		f.Add("PGHAD_"+strings.ToUpper(strings.ReplaceAll(key.Name, ".", "_")), "1")
	}
	f.Add("PGHAD_DCS_ENDPOINTS", "http://a:1,https://b:2")
	f.Add("PGHAD_POSTGRES_PARAMETERS", "{a: b, c: [1]}")
	f.Add("PGHAD_NOTHING", "x")
	f.Fuzz(func(t *testing.T, name, text string) {
		if len(text) > 1<<16 || strings.Contains(name+text, secretMark) {
			return
		}
		cfg, err := config.Load(config.Options{Env: []string{
			"PGHAD_CLUSTER=orders", "PGHAD_NODE=a", "PGHAD_DCS_ENDPOINTS=http://127.0.0.1:2379", "PGHAD_POSTGRES_DATA_DIR=/data",
			"PGHAD_POSTGRES_REPLICATION_PASSWORD=" + secretMark, "PGHAD_DCS_PASSWORD=" + secretMark, "PGHAD_API_PASSWORD=" + secretMark,
			name + "=" + text,
		}})
		sayNothing(t, cfg, err)
	})
}

// FuzzRecord: whatever stands in the cluster's record, a node finds out whether it can
// be used.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"format":1,"version":3,"nonce":"x","values":{"timing.ttl":"20s"}}`))
	f.Add([]byte(`{"format":1,"values":{"postgres.parameters":{"work_mem":"1MB"},"mode":"async","nothing":[null]}}`))
	f.Add([]byte(`null`))
	base, err := config.Load(config.Options{Env: []string{
		"PGHAD_CLUSTER=orders", "PGHAD_NODE=a", "PGHAD_DCS_ENDPOINTS=http://127.0.0.1:2379", "PGHAD_POSTGRES_DATA_DIR=/data",
		"PGHAD_POSTGRES_REPLICATION_PASSWORD=" + secretMark,
	}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		stored, err := record.Decode[record.Config]("config", data)
		if err != nil {
			return
		}
		decoded, err := config.DecodeRecord(stored)
		if err != nil {
			return
		}
		cfg, err := base.WithRecord(decoded)
		sayNothing(t, cfg, err)
	})
}
