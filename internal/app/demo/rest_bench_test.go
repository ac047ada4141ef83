package demo_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
)

var (
	restWarmUp = flag.Duration("rest-warm-up", time.Minute, "BenchmarkRest: how long a whole cluster is left alone before it is measured")
	restLength = flag.Duration("rest-length", 2*time.Minute, "BenchmarkRest: how long it is measured, per iteration")
)

// BenchmarkRest measures what a cluster of three nodes costs that nobody uses, with
// guards, on an etcd, with the daemon's default timings:
//
//	go test ./internal/app/demo -run '^$' -bench Rest -benchtime 1x -rest-warm-up 10m -timeout 0
//
// Resident sets are read at the end of each iteration, in KiB, of the agents and of the
// guards; CPU time is that of an agent, in thousandths of a percent of a core. Requests
// are those that etcd was sent, by method, in thousandths per node and renewal period,
// and transactions also per node and publish interval.
func BenchmarkRest(b *testing.B) {
	testbed.NeedPostgres(b)
	testbed.NeedEtcd(b)
	c := newRestingCluster(b)
	<-time.After(*restWarmUp)
	report(b, func() []figure { return c.measure(b, *restLength) })
}

// restingCluster is a cluster of real nodes without clients.
type restingCluster struct {
	cluster *testbed.Cluster
	etcd    *testbed.EtcdServer
}

func newRestingCluster(tb testing.TB) *restingCluster {
	tb.Helper()
	dir := testbed.Dir(tb)
	program := filepath.Join(dir, "pghad")
	build(tb, program)
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	folder := filepath.Join(dir, "etcd")
	require.NoError(tb, os.Mkdir(folder, 0o700))
	etcd, err := testbed.NewEtcdServer(testbed.EtcdConfig{Dir: folder})
	require.NoError(tb, err)
	require.NoError(tb, etcd.Start(ctx))
	tb.Cleanup(func() { require.NoError(tb, etcd.Kill()) })
	cluster, err := testbed.NewCluster(testbed.ClusterConfig{
		Binary: program, Dir: dir, Endpoints: etcd.Endpoints(), Parameters: map[string]string{"shared_buffers": "32MB"},
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, cluster.Kill()) })
	require.NoError(tb, cluster.Start())
	_, err = cluster.WaitFor(ctx, "the cluster to be whole", func(l testbed.List) bool { return l.Whole(3, 1) })
	require.NoError(tb, err)
	return &restingCluster{cluster: cluster, etcd: etcd}
}

// measure leaves the cluster alone for a while and says what that has cost.
func (c *restingCluster) measure(tb testing.TB, length time.Duration) []figure {
	tb.Helper()
	timing := ha.Timing{}.Defaults()
	nodes := int64(len(c.cluster.Names()))
	before, cpu, began := c.requests(tb), c.cpu(tb), time.Now()
	<-time.After(length)
	took := time.Since(began)
	spent, after := c.cpu(tb), c.requests(tb)
	var all []figure
	for _, name := range c.cluster.Names() {
		agent, guard := c.processes(tb, name)
		all = append(all,
			figure{"agent-KiB", memoryOf(tb, agent, "VmRSS")},
			figure{"agent-anon-KiB", memoryOf(tb, agent, "RssAnon")},
			figure{"guard-KiB", memoryOf(tb, guard, "VmRSS")},
			figure{"agent-cpu-mpct", int64(float64(spent[name]-cpu[name]) / float64(took) * 1e5)},
		)
	}
	perPeriod := func(n int64, period time.Duration) int64 {
		return int64(1000 * float64(n) * float64(period) / float64(took) / float64(nodes))
	}
	for _, method := range slices.Sorted(maps.Keys(after)) {
		if n := after[method] - before[method]; n > 0 {
			all = append(all, figure{method + "-per-renewal", perPeriod(n, timing.RenewEvery)})
		}
	}
	return append(all, figure{"Txn-per-interval", perPeriod(after["Txn"]-before["Txn"], timing.Observe)})
}

// handled is a line of etcd's metrics.
var handled = regexp.MustCompile(`^grpc_server_(?:handled|msg_received)_total\{.*grpc_method="(\w+)".*\} (\S+)$`)

// requests are those that etcd has taken so far, by method. Of streams their messages
// count.
func (c *restingCluster) requests(tb testing.TB) map[string]int64 {
	tb.Helper()
	answer, err := http.Get(c.etcd.Endpoints()[0] + "/metrics")
	require.NoError(tb, err)
	defer func() { _ = answer.Body.Close() }()
	counts := make(map[string]int64)
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		found := handled.FindStringSubmatch(lines.Text())
		if found == nil || strings.HasPrefix(lines.Text(), "grpc_server_handled_total") {
			continue // received messages count requests and streams alike
		}
		n, err := strconv.ParseFloat(found[2], 64)
		require.NoError(tb, err)
		counts[found[1]] += int64(n)
	}
	return counts
}

// processes are a node's agent and guard.
func (c *restingCluster) processes(tb testing.TB, name string) (agent, guard int) {
	tb.Helper()
	agent, err := c.cluster.Agent(name)
	require.NoError(tb, err)
	postmaster, err := c.cluster.Postmaster(name)
	require.NoError(tb, err)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", postmaster))
	require.NoError(tb, err)
	_, parent, found := strings.Cut(string(stat), "PPid:")
	require.True(tb, found)
	guard, err = strconv.Atoi(strings.Fields(parent)[0])
	require.NoError(tb, err)
	require.NotEqual(tb, agent, guard, "a guard is its parent")
	return agent, guard
}

// cpu is the CPU time of each agent so far, to the hundredth of a second.
func (c *restingCluster) cpu(tb testing.TB) map[string]time.Duration {
	tb.Helper()
	times := make(map[string]time.Duration)
	for _, name := range c.cluster.Names() {
		agent, _ := c.processes(tb, name)
		times[name] = taskTime(tb, agent)
	}
	return times
}

// taskTime is the CPU time of a process so far.
func taskTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(tb, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const user, tick = 11, 10 * time.Millisecond // field 14 of stat, counted behind the name; USER_HZ is 100
	var sum time.Duration
	for _, field := range fields[user : user+2] {
		n, err := strconv.ParseInt(field, 10, 64)
		require.NoError(tb, err)
		sum += time.Duration(n) * tick
	}
	return sum
}

// memoryOf is a line of a process's status, in KiB.
func memoryOf(tb testing.TB, pid int, key string) int64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(tb, err)
	_, rest, found := strings.Cut(string(text), key+":")
	require.True(tb, found)
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(tb, err)
	return n
}
