package etcd_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
)

// programs are where the tests keep what they build.
var programs struct {
	once sync.Once
	dir  string
	etcd string
	err  error
}

func TestMain(m *testing.M) {
	atOnce()
	code := m.Run()
	if programs.dir != "" {
		if err := os.RemoveAll(programs.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// atOnce has more tests run at the same time than there are processors, unless
// -parallel says how many: they hardly do anything but wait.
func atOnce() {
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
}

// newest is the program of the etcd that the module is written for.
func newest(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("NOT TESTED: without the go command the newest etcd cannot be built: %v", err)
		}
		t.Skipf("NOT TESTED: without the go command the newest etcd cannot be built: %v", err)
	}
	programs.once.Do(func() {
		// It serves more tests than the one that comes first.
		if programs.dir, programs.err = os.MkdirTemp("", "pghad-etcd-*"); programs.err == nil { //nolint:usetesting // See above.
			programs.etcd, programs.err = testbed.BuildEtcd(context.Background(), programs.dir)
		}
	})
	require.NoError(t, programs.err)
	return programs.etcd
}

// packaged is the program of the etcd that is installed here, which is old.
func packaged(t *testing.T) string {
	t.Helper()
	return testbed.Need(t, "etcd", "apt-get install etcd-server")
}

// versions are both, by what they are called in the names of tests.
var versions = map[string]func(*testing.T) string{"newest": newest, "packaged": packaged}
