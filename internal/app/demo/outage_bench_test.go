package demo_test

import (
	"bytes"
	"context"
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
//	go test ./internal/app/demo -run '^$' -bench Outage -benchtime 10x
//
// One iteration is one run of the script. The figures are milliseconds.
func BenchmarkOutage(b *testing.B) {
	testbed.NeedPostgres(b)
	program := filepath.Join(testbed.Dir(b), "pghad")
	build(b, program)
	b.Run("one server restarted", func(b *testing.B) {
		report(b, func() int64 { return restartedServer(b) })
	})
	for _, script := range demo.Scripts() {
		b.Run(script, func(b *testing.B) {
			report(b, func() int64 {
				var progress bytes.Buffer
				result, err := demo.Run(b.Context(), demo.Options{Script: script, JSON: true, Program: program, Stdout: &progress, Stderr: &progress})
				require.NoError(b, err, "%s", &progress)
				require.True(b, result.OK(), "%s", &progress)
				return result.OutageMS
			})
		})
	}
}

// report runs one script per iteration and reports the outages.
func report(b *testing.B, run func() int64) {
	b.Helper()
	var outages []int64
	for b.Loop() {
		outages = append(outages, run())
	}
	b.Logf("outages in ms: %v", outages)
	slices.Sort(outages)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(outages[0]), "min-ms")
	b.ReportMetric(float64(outages[len(outages)/2]+outages[(len(outages)-1)/2])/2, "median-ms")
	b.ReportMetric(float64(outages[len(outages)-1]), "max-ms")
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
