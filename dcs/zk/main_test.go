package zk_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/internal/testbed"
)

// common is the server of all tests that do not break theirs: to start one costs
// seconds of a processor.
var common struct {
	once   sync.Once
	dir    string
	server *testbed.ZooKeeperServer
	err    error
}

// TestMain has more tests run at the same time than there are processors, unless
// -parallel says how many: they hardly do anything but wait.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	code := m.Run()
	if common.dir != "" {
		if err := endCommon(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func endCommon() error {
	if common.server != nil {
		if err := common.server.Kill(); err != nil {
			return err
		}
	}
	return os.RemoveAll(common.dir)
}

// onCommon configures a store on the common server, under a root of the test's own.
func onCommon(t *testing.T) zk.Config {
	t.Helper()
	testbed.Need(t, "java", "apt-get install zookeeper")
	common.once.Do(func() {
		if common.dir, common.err = os.MkdirTemp("", "pghad-zk-*"); common.err != nil { //nolint:usetesting // It outlives the test that comes first.
			return
		}
		if common.server, common.err = testbed.NewZooKeeperServer(testbed.ZooKeeperConfig{Dir: common.dir}); common.err == nil {
			common.err = common.server.Start(context.Background())
		}
	})
	require.NoError(t, common.err)
	return zk.Config{Servers: []string{common.server.Address()}, Chroot: "/" + strings.ReplaceAll(t.Name(), "/", "-")}
}
