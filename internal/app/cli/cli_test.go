package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/cli"
)

// result is what one command line left.
type result struct {
	code     int
	out, err string
}

func pghad(ctx context.Context, args ...string) result {
	return pghadEnv(ctx, nil, args...)
}

func pghadEnv(ctx context.Context, env []string, args ...string) result {
	var out, errs bytes.Buffer
	code := cli.Run(ctx, args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Env: env})
	return result{code, out.String(), errs.String()}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "pghad.yaml")
	require.NoError(t, os.WriteFile(config, []byte("cluster: x\nnode: a\ndcs: {endpoints: [\"http://127.0.0.1:1\"]}\ntiming:\n  ttl: 10\n"), 0o600))
	tests := []struct {
		name string
		args string
		env  []string
		want result
	}{
		{"unknown command", "frobnicate", nil, result{2, "", "pghad: unknown command \"frobnicate\" for \"pghad\"; see pghad --help\n"}},
		{"unknown flag", "run --fast", nil, result{2, "", "pghad: unknown flag: --fast; see pghad --help\n"}},
		{"argument too many", "version now", nil, result{2, "", "pghad: unknown command \"now\" for \"pghad version\"; see pghad --help\n"}},
		{"form of output", "list -o yaml --cluster x --dcs-endpoints http://x:1", nil, result{2, "", "pghad: --output \"yaml\" is unknown: write table or json; see pghad --help\n"}},
		{"no such file", "run -c /nowhere/pghad.yaml", nil, result{2, "", "/nowhere/pghad.yaml: no such file\n"}},
		{
			"problem in the file", "run -c " + config, nil,
			result{
				2, "",
				config + ":5:8: timing.ttl: 10 has no unit; write 10s\n" +
					config + ": postgres.data_dir: is missing (data directory of the server); set it in the file or by PGHAD_POSTGRES_DATA_DIR\n",
			},
		},
		{
			"problem in a flag", "list --cluster X --dcs-endpoints http://x:1", nil,
			result{2, "", "--cluster: cluster: \"X\": want 1 to 63 of a-z, 0-9, - and _, starting with a letter or digit\n"},
		},
		{
			"problem in the environment", "list --cluster x",
			[]string{"PGHAD_DCS_ENDPOINTS=x"},
			result{2, "", "PGHAD_DCS_ENDPOINTS: dcs.endpoints: \"x\" is not an address; write it like http://10.0.0.1:2379\n"},
		},
		{"unknown script", "demo --script x", nil, result{2, "", "pghad: --script \"x\" is unknown: write one of dcs-freeze, dcs-outage, freeze-agent, freeze-node, hang-agent, kill-agent, kill-node, kill-postmaster, rejoin, restart-agent, switchover; see pghad --help\n"}},
		{
			"unknown sabotage", "demo --script rejoin --sabotage x", nil,
			result{2, "", "pghad: --sabotage \"x\" is unknown: write one of fail-write, lose, two-writers; see pghad --help\n"},
		},
		{"unknown store", "demo --dcs consul", nil, result{2, "", "pghad: --dcs \"consul\" is unknown: write one of embedded, etcd, zookeeper; see pghad --help\n"}},
		{"two servers", "demo --dcs etcd --dcs-members 2", nil, result{2, "", "pghad: --dcs-members 2 is not possible: write 1 or 3; see pghad --help\n"}},
		{
			"three embedded", "demo --dcs-members 3", nil,
			result{2, "", "pghad: --dcs-members 3 needs --dcs etcd or zookeeper: the embedded store has one member; see pghad --help\n"},
		},
		{
			"another kind of store", "list --cluster x --dcs-type zookeeper --dcs-endpoints http://x:1", nil,
			result{2, "", "--dcs-endpoints: dcs.endpoints: \"http://x:1\" is not an address of ZooKeeper; write it like 10.0.0.1:2181\n"},
		},
		{"result without a script", "demo --json", nil, result{2, "", "pghad: --json and --sabotage need a --script; see pghad --help\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, pghadEnv(t.Context(), tt.env, strings.Fields(tt.args)...))
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "--help", "help", "help run", "run --help", "list --help", "demo --help"} {
		got := pghad(t.Context(), strings.Fields(args)...)
		require.Equal(t, 0, got.code, args)
		require.Contains(t, got.out, "Usage:", args)
		require.NotContains(t, got.out, "demo-etcd", args)
		require.Empty(t, got.err, args)
	}
	got := pghad(t.Context(), "help", "config")
	require.Equal(t, 0, got.code)
	require.Contains(t, got.out, "PGHAD_POSTGRES_DATA_DIR")
}

func TestVersion(t *testing.T) {
	t.Parallel()
	got := pghad(t.Context(), "version")
	require.Equal(t, 0, got.code)
	require.Regexp(t, `^pghad \S+ \(go1\S*, \w+/\w+\)\n$`, got.out)
}

// TestListOfUnreachableStore: nobody listens, and somebody listens who never
// answers. Either way list gives up after the request timeout.
func TestListOfUnreachableStore(t *testing.T) {
	t.Parallel()
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, deaf.Close()) })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	for name, address := range map[string]string{"deaf": deaf.Addr().String(), "gone": gone.Addr().String()} {
		for kind, endpoint := range map[string]string{"etcd": "http://" + address, "zookeeper": address} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				got := pghadEnv(t.Context(), []string{"PGHAD_TIMING_REQUEST=200ms"}, "list", "--cluster", "x", "--dcs-type", kind, "--dcs-endpoints", endpoint)
				require.Equal(t, 3, got.code)
				require.Empty(t, got.out)
				require.Contains(t, got.err, "pghad: cluster x cannot be read from the store at "+endpoint+": ")
				require.Contains(t, got.err, "; is the store running, and is dcs.endpoints right?\n")
				require.Equal(t, 1, strings.Count(got.err, "\n"), got.err)
			})
		}
	}
}

// compact removes the white space of JSON.
func compact(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, json.Compact(&out, []byte(text)))
	return out.String()
}
