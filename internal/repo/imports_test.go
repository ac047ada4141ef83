package repo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestImports holds the module against the layers of ARCHITECTURE.md, as it is
// built for each platform that we support.
func TestImports(t *testing.T) {
	t.Parallel()
	for _, goos := range []string{"linux", "darwin"} {
		t.Run(goos, func(t *testing.T) {
			t.Parallel()
			packages := list(t, goos)
			for _, r := range rules {
				for _, violation := range r.violations(packages) {
					t.Error(violation)
				}
			}
		})
	}
}

// TestPureLeavesAskNoClock looks into the files of the pure leaves.
func TestPureLeavesAskNoClock(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "linux") {
		if !matches(pureLeaves, p.ImportPath) {
			continue
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			src, err := os.ReadFile(path)
			require.NoError(t, err)
			found, err := clockUses(path, src)
			require.NoError(t, err)
			for _, use := range found {
				t.Error(use)
			}
		}
	}
}

// TestRulesFindViolations checks the checker: for every rule, a package that
// breaks it is found, by that rule's sentence, and an allowed one is not.
func TestRulesFindViolations(t *testing.T) {
	t.Parallel()
	const ours = module + "/"
	direct := func(path string, imports ...string) listed {
		return listed{ImportPath: ours + path, Imports: imports, Deps: imports}
	}
	indirect := func(path string, deps ...string) listed {
		return listed{ImportPath: ours + path, Deps: deps}
	}

	broken := map[string]listed{
		"dcs knows neither":     indirect("dcs/memory", ours+"pg"),
		"pg knows neither":      direct("pg/pgctl", ours+"ha"),
		"the vocabulary dcs":    direct("dcs", "golang.org/x/sys/unix"),
		"the vocabulary pg":     direct("pg", ours+"internal/timectx"),
		"ha takes its store":    direct("ha", ours+"dcs/memory"),
		"whoever uses ha":       indirect("ha/api", "golang.org/x/sys/unix"),
		"ha/hatest and":         indirect("ha/hatest", "github.com/jackc/pgx/v5"),
		"a metrics library":     indirect("ha", "github.com/prometheus/client_golang/prometheus"),
		"a pure leaf imports":   direct("ha/election", ours+"ha/record"),
		"a pure leaf does not":  direct("ha/quorum", "math/rand/v2"),
		"etcd's client":         indirect("dcs/zk", "go.etcd.io/etcd/client/v3"),
		"ZooKeeper's client":    direct("dcs/etcd", "github.com/go-zookeeper/zk"),
		"pgx stays":             direct("pg/pgtest", "github.com/jackc/pgx/v5/pgconn"),
		"only test suites":      direct("ha/role", "testing/synctest"),
		"the library knows":     direct("dcs/dcstest", ours+"internal/testbed"),
		"an example is":         direct("examples/agent", ours+"internal/timectx"),
		"internal/app is":       direct("internal/testbed", ours+"internal/app/config"),
		"cmd/pghad-guard links": indirect("cmd/pghad-guard", "golang.org/x/sys/unix"),
	}
	allowed := []listed{
		direct("dcs", "context", ours+"dcs/internal/outcome"),
		direct("dcs/etcd", ours+"dcs", "go.etcd.io/etcd/client/v3", "google.golang.org/grpc/codes"),
		direct("pg/pgctl", ours+"pg", "github.com/jackc/pgx/v5"),
		direct("ha", ours+"dcs", ours+"pg", ours+"ha/quorum", ours+"internal/timectx", "github.com/benbjohnson/clock"),
		direct("ha/quorum", ours+"pg", "time", "slices"),
		direct("ha/hatest", ours+"dcs/memory", ours+"pg/pgtest", "testing", "github.com/stretchr/testify/require"),
		direct("ha/metrics", "github.com/prometheus/client_golang/prometheus"),
		direct("cmd/pghad", ours+"internal/app"),
		direct("internal/app", ours+"dcs/etcd", ours+"internal/testbed", "github.com/spf13/cobra"),
		direct("cmd/pghad-guard", "os", "syscall"),
	}

	for begin, p := range broken {
		found := false
		for _, r := range rules {
			if strings.HasPrefix(r.says, begin) {
				found = true
				require.NotEmpty(t, r.violations([]listed{p}), r.says)
			}
		}
		require.True(t, found, "no rule begins with %q", begin)
	}
	require.Len(t, broken, len(rules), "every rule is broken once above")
	for _, r := range rules {
		require.Empty(t, r.violations(allowed), r.says)
	}
}

func TestClockUsesFindsThem(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, src string
		want      int
	}{
		{"call", `package p; import "time"; var now = time.Now()`, 1},
		{"function value", `package p; import "time"; var wait = time.After`, 1},
		{"renamed import", `package p; import clock "time"; var t = clock.NewTimer(0)`, 1},
		{"types and units", `package p; import "time"; var d time.Duration = time.Second`, 0},
		{"methods of a time", `package p; import "time"; var b = time.Time{}.After(time.Time{})`, 0},
		{"something else called time", `package p; import "x/time"; var now = time.Now()`, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			found, err := clockUses("p.go", test.src)
			require.NoError(t, err)
			require.Len(t, found, test.want)
		})
	}
}
