package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/config"
)

func written(t *testing.T, cfg *config.Config, explain bool) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, cfg.Write(&out, explain))
	return out.String()
}

// TestWrittenConfigMeansTheSame: what is written is read back as it was, but for
// secrets, which are not written.
func TestWrittenConfigMeansTheSame(t *testing.T) {
	t.Parallel()
	const strange = "it's \"50 %\": #1 {\\}\tä"
	cfg := load(t, minimal, "PGHAD_BOOTSTRAP=true", "PGHAD_TIMING_OBSERVE=1500ms",
		"PGHAD_POSTGRES_PARAMETERS={work_mem: 64MB, search_path: '\"$user\", public'}",
		"PGHAD_POSTGRES_DATABASE="+strange, "PGHAD_POSTGRES_REPLICATION_PASSWORD=hidden thing")
	for _, explain := range []bool{false, true} {
		text := written(t, cfg, explain)
		require.NotContains(t, text, "hidden thing")
		again := load(t, text, "PGHAD_POSTGRES_REPLICATION_PASSWORD=hidden thing")
		require.Empty(t, diff("", reflect.ValueOf(*cfg), reflect.ValueOf(*again)), text)
		require.Contains(t, text, "work_mem: \"64MB\"")
	}
}

func TestExplanationNamesEveryKeyAndItsSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "pghad.yaml"), filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("hidden thing\n"), 0o600))
	require.NoError(t, os.WriteFile(file, []byte("cluster: orders\nnode: a\nbootstrap: true\ndcs:\n  endpoints: [http://127.0.0.1:1]\n"+
		"postgres:\n  data_dir: /srv/data\n  replication: {password_file: "+secret+"}\n"), 0o600))
	cfg, err := config.Load(config.Options{File: file, Env: []string{"PGHAD_TIMING_TTL=20s"}})
	require.NoError(t, err)
	text := written(t, cfg, true)
	for _, key := range config.Keys() {
		require.Contains(t, text, key.Doc)
	}
	require.NotContains(t, text, "hidden thing")
	require.Contains(t, text, "("+file+":3:12)\nbootstrap: true\n")
	require.Contains(t, text, "(PGHAD_TIMING_TTL)\n  ttl: 20s\n")
	require.Contains(t, text, "(default)\n  renew: 3s\n")
	require.Contains(t, text, "# password: [redacted]\n")
}
