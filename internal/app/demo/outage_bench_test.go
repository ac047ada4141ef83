package demo_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/demo"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/internal/workload"
)

// BenchmarkOutage measures how long clients cannot write, with the daemon's
// default timings, beside the same clients on one server without any manager
// that a script restarts at once:
//
//	go test ./internal/app/demo -run '^$' -bench Outage -benchtime 10x -timeout 0
//
// One iteration is one run of the script. The figures are milliseconds, and
// writes of a run that were not acknowledged.
func BenchmarkOutage(b *testing.B) {
	testbed.NeedPostgres(b)
	program := filepath.Join(testbed.Dir(b), "pghad")
	build(b, program)
	b.Run("one server restarted", func(b *testing.B) {
		report(b, func() []figure { return []figure{{"ms", restartedServer(b)}} })
	})
	for _, script := range demo.Scripts() {
		b.Run(script, func(b *testing.B) {
			report(b, func() []figure {
				var progress bytes.Buffer
				result, err := demo.Run(b.Context(), demo.Options{Script: script, JSON: true, Program: program, Stdout: &progress, Stderr: &progress})
				require.NoError(b, err, "%s", &progress)
				require.True(b, result.OK(), "%s", &progress)
				return figures(result)
			})
		})
	}
}

// BenchmarkThaw measures for how long a server acknowledges writes that has stood still
// with its guard until another node led, in mode async, until that guard has run:
//
//	go test ./internal/app/demo -run '^$' -bench Thaw -benchtime 10x -timeout 0
//
// The figures are microseconds since before the node went on, and acknowledged writes.
func BenchmarkThaw(b *testing.B) {
	testbed.NeedPostgres(b)
	program := filepath.Join(testbed.Dir(b), "pghad")
	build(b, program)
	report(b, func() []figure {
		var progress bytes.Buffer
		result, err := demo.Run(b.Context(), demo.Options{
			Script: "freeze-node", Mode: demo.ModeAsync, Quick: true, JSON: true, Program: program, Stdout: &progress, Stderr: &progress,
		})
		require.NoError(b, err, "%s", &progress)
		require.True(b, result.OK(), "%s", &progress)
		return []figure{
			{"window-us", int64(1000 * result.Thaw.WindowMS)},
			{"gone-us", int64(1000 * result.Thaw.GoneMS)},
			{"acknowledged", int64(result.Thaw.Acknowledged)},
		}
	})
}

// figure is one number of a run.
type figure struct {
	unit  string
	value int64
}

// figures are what is measured of a run: the longest outage, the writes that were
// not acknowledged, and what its script has besides.
func figures(result demo.Result) []figure {
	all := []figure{{"ms", result.OutageMS}, {"unacknowledged", int64(result.Failed + result.Unknown)}}
	for i, s := range result.Switchovers {
		move := fmt.Sprintf("switchover-%d-", i+1)
		all = append(all, figure{move + "ms", s.OutageMS}, figure{move + "took-ms", s.TookMS})
	}
	if result.Lock != nil {
		all = append(all, figure{"lock-ms", result.Lock.HeldAgainMS})
	}
	return all
}

// report runs one script per iteration and reports the median of each figure and
// its spread.
func report(b *testing.B, run func() []figure) {
	b.Helper()
	var units []string
	series := make(map[string][]int64)
	for b.Loop() {
		for _, f := range run() {
			if _, known := series[f.unit]; !known {
				units = append(units, f.unit)
			}
			series[f.unit] = append(series[f.unit], f.value)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, unit := range units {
		values := series[unit]
		b.Logf("%s: %v", unit, values)
		slices.Sort(values)
		b.ReportMetric(float64(values[0]), "min-"+unit)
		b.ReportMetric(float64(values[len(values)/2]+values[(len(values)-1)/2])/2, "median-"+unit)
		b.ReportMetric(float64(values[len(values)-1]), "max-"+unit)
	}
}

// restartedServer kills the postmaster of a server that nobody manages, and
// starts it again as soon as nothing of it is left.
func restartedServer(b *testing.B) int64 {
	b.Helper()
	server := testbed.StartPostgres(b, map[string]string{"shared_buffers": "32MB"})
	target := workload.Target{
		Nodes: []workload.Node{{Name: "a", Host: server.Host(), Port: server.Port()}},
		User:  server.Superuser, Password: server.Password,
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	require.NoError(b, workload.CreateTable(ctx, target))
	ledger, err := workload.OpenLedger(filepath.Join(b.TempDir(), "ledger"))
	require.NoError(b, err)
	writers, err := workload.StartWriters(workload.WritersConfig{Target: target, Ledger: ledger})
	require.NoError(b, err)
	<-time.After(2*time.Second + rand.N(time.Second)) // undisturbed writing, as in the scripts
	fault := ledger.Now()
	require.NoError(b, server.Kill())
	require.NoError(b, server.Start(ctx))
	require.Eventually(b, func() bool { return writers.Resumed(fault) }, time.Minute, 5*time.Millisecond)
	<-time.After(time.Second)
	require.NoError(b, writers.Stop())
	outage := writers.Gaps().Longest(fault).Length().Milliseconds()
	require.NoError(b, ledger.Close())
	require.NoError(b, server.Stop())
	return outage
}
