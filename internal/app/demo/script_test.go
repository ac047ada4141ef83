package demo_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/demo"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/internal/workload"
)

// limit is far beyond what a script takes: a busy machine is not a failure.
const limit = 5 * time.Minute

// buildProgram builds pghad, and its guard beside it.
func buildProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(testbed.Dir(t), "pghad")
	build(t, path)
	return path
}

func build(tb testing.TB, path string) {
	tb.Helper()
	for program, main := range map[string]string{path: "pghad", filepath.Join(filepath.Dir(path), "pghad-guard"): "pghad-guard"} {
		cmd := exec.Command("go", "build", "-o", program, "github.com/pghad/pghad/cmd/"+main)
		if main == "pghad-guard" {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
		}
		output, err := cmd.CombinedOutput()
		require.NoError(tb, err, "%s", output)
	}
}

// planted is how many writes SabotageFailWrite makes fail: one of each session,
// those of the four writers and of the pinned one.
const planted = 5

// Scripts on real nodes, and each sabotage, which the verdict must find: what a
// script promises must hold beside it. One after the other: several clusters at a
// time would only measure the machine.
func TestScripts(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	testbed.NeedPostgres(t)
	program := buildProgram(t)
	tests := []scriptTest{
		{script: "rejoin", want: workload.VerdictOK},
		{script: "switchover", want: workload.VerdictOK},
		{script: "dcs-outage", want: workload.VerdictOK},
		{script: "kill-agent", want: workload.VerdictOK},
		{script: "hang-agent", mode: demo.ModeAsync, want: workload.VerdictOK},
		{script: "kill-postmaster", sabotage: demo.SabotageLose, want: workload.VerdictLost},
		{script: "dcs-freeze", sabotage: demo.SabotageTwoWriters, want: workload.VerdictTwoWriters},
		{script: "restart-agent", sabotage: demo.SabotageFailWrite, want: workload.VerdictBroken},
	}
	for _, test := range tests {
		t.Run(test.script+" "+test.sabotage, func(t *testing.T) { test.run(t, program) })
	}
}

// The same on the stores of this machine, with the timings of a user: more servers
// take their time on a loaded machine.
func TestScriptsOnOtherStores(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	testbed.NeedPostgres(t)
	testbed.NeedEtcd(t)
	testbed.NeedZooKeeper(t)
	program := buildProgram(t)
	for _, test := range []scriptTest{
		{dcs: demo.DCSZooKeeper, members: 1, script: "kill-postmaster", want: workload.VerdictOK},
		{dcs: demo.DCSZooKeeper, members: 1, script: "switchover", want: workload.VerdictOK},
		{dcs: demo.DCSEtcd, members: 3, script: "restart-agent", want: workload.VerdictOK},
	} {
		test.patient = true
		t.Run(test.dcs+" "+test.script, func(t *testing.T) { test.run(t, program) })
	}
}

// scriptTest is one run of a script.
type scriptTest struct {
	dcs              string
	members          int
	mode             string
	script, sabotage string
	patient          bool // not with short timings
	want             workload.Verdict
}

func (test scriptTest) run(t *testing.T, program string) {
	t.Helper()
	temp := testbed.Dir(t)
	t.Setenv("TMPDIR", temp)
	var out, progress bytes.Buffer
	result, err := demo.Run(t.Context(), demo.Options{
		DCS: test.dcs, DCSMembers: test.members, Mode: test.mode, Script: test.script, Sabotage: test.sabotage,
		JSON: true, Quick: !test.patient, Limit: limit, Program: program, Stdout: &out, Stderr: &progress,
	})
	require.NoError(t, err, "%s", &progress)
	require.Equal(t, test.want, result.Verdict, "%s", &progress)
	require.Equal(t, 1, strings.Count(out.String(), "\n"), "one line of JSON")
	require.Positive(t, result.Acknowledged)
	require.Equal(t, test.want == workload.VerdictOK, result.OK())
	require.True(t, result.Rejoined)
	if test.sabotage != demo.SabotageLose {
		require.Equal(t, test.sabotage == demo.SabotageTwoWriters, result.Lost > 0)
	}
	require.Equal(t, test.sabotage == demo.SabotageTwoWriters, result.TwoWriters > 0)
	if test.sabotage == "" { // else it is about what was planted
		require.Empty(t, result.Broken)
	}
	lookInto(t, result)
	nothingIsLeft(t, temp)
}

// What is not installed is said in one sentence, with the package that has it,
// and nothing is left.
func TestMissingServer(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	program := buildProgram(t)
	for dcs, want := range map[string]string{
		demo.DCSEtcd:      "pghad: demo: etcd is not installed; on Debian it is in the package etcd-server: apt-get install etcd-server\n",
		demo.DCSZooKeeper: "pghad: demo: java is not installed, without which ZooKeeper does not run; on Debian it comes with the package zookeeper: apt-get install zookeeper\n",
	} {
		t.Run(dcs, func(t *testing.T) {
			t.Parallel()
			temp := testbed.Dir(t)
			cmd := exec.Command(program, "demo", "--dcs", dcs, "--script", "rejoin")
			cmd.Env = []string{"PATH=/nowhere", "TMPDIR=" + temp}
			var errs bytes.Buffer
			cmd.Stderr = &errs
			require.Error(t, cmd.Run())
			require.Equal(t, 3, cmd.ProcessState.ExitCode())
			require.Equal(t, want, errs.String())
			nothingIsLeft(t, temp)
		})
	}
}

func TestOptionsOfStores(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]demo.Options{
		`there is no store "consul"; use one of embedded, etcd, zookeeper`: {DCS: "consul"},
		"a store of 2 members is not offered; use 1 or 3":                  {DCS: demo.DCSEtcd, DCSMembers: 2},
		"the embedded store has one member; use 3 with etcd or zookeeper":  {DCSMembers: 3},
	} {
		_, err := demo.Run(t.Context(), o)
		require.EqualError(t, err, want)
	}
}

// lookInto looks at what a script has measured besides.
func lookInto(t *testing.T, result demo.Result) {
	t.Helper()
	switch result.Scenario {
	case "switchover":
		require.Len(t, result.Switchovers, 3)
		require.NotEmpty(t, result.Switchovers[0].To, "a named one")
		require.Empty(t, result.Switchovers[1].To, "the best")
		for _, s := range result.Switchovers {
			require.True(t, s.Followed, "%s", s)
			require.NotEqual(t, s.From, s.Leader)
		}
	case "dcs-outage", "dcs-freeze":
		require.Zero(t, result.Failed+result.Unknown)
		require.Empty(t, result.Promoted)
		require.True(t, result.Lock.Kept)
	case "restart-agent":
		if !result.OK() { // as planted
			require.Len(t, result.Broken, 1, "the same term, the same postmaster")
			require.Contains(t, result.Broken[0], "writes failed")
		}
		require.LessOrEqual(t, result.Failed+result.Unknown, planted)
		require.Empty(t, result.Promoted)
		require.True(t, result.Lock.Kept)
	case "kill-postmaster":
		require.Positive(t, result.OutageMS)
	case "kill-agent":
		require.NotEmpty(t, result.Promoted)
	case "hang-agent":
		require.NotEmpty(t, result.Promoted)
		require.Positive(t, result.Hang.DeposedMS)
	}
}

func nothingIsLeft(t *testing.T, temp string) {
	t.Helper()
	require.Empty(t, testbed.Running(temp))
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Without a terminal the live demo prints lines, and an interrupt ends it with
// the same check as a script's.
func TestLiveWithoutTerminal(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	testbed.NeedPostgres(t)
	program := buildProgram(t)
	temp := testbed.Dir(t)
	t.Setenv("TMPDIR", temp)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	lines, out := io.Pipe()
	var seen bytes.Buffer
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for scanner := bufio.NewScanner(lines); scanner.Scan(); {
			_, _ = seen.WriteString(scanner.Text() + "\n") // a buffer
			if strings.Contains(scanner.Text(), "leader a") && !strings.Contains(scanner.Text(), " 0 acknowledged") {
				interrupt()
			}
		}
	}()
	var progress bytes.Buffer
	result, err := demo.Run(ctx, demo.Options{Quick: true, Program: program, Stdout: out, Stderr: &progress})
	require.NoError(t, out.Close())
	<-reading
	require.NoError(t, err, "%s", &progress)
	require.True(t, result.OK(), "%s%s", &seen, &progress)
	require.Positive(t, result.Acknowledged)
	require.Contains(t, seen.String(), "live: ok")
	nothingIsLeft(t, temp)
}

// However a demo ends, nothing of it is left: when it is asked to end, by its
// own doing; when it is killed, by its sweeper's. Not an agent, nor a server that
// has lost its own, nor an etcd that stands still.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	testbed.NeedPostgres(t)
	program := buildProgram(t)
	tests := []struct {
		sig         syscall.Signal
		script, say string // ended when it says this
	}{
		{sig: syscall.SIGINT, script: "kill-agent", say: "the agent of a is killed"},
		{sig: syscall.SIGKILL, script: "kill-agent", say: "the agent of a is killed"},
		{sig: syscall.SIGKILL, script: "dcs-freeze", say: "etcd is frozen"},
	}
	for _, test := range tests {
		t.Run(test.script+" "+test.sig.String(), func(t *testing.T) {
			t.Parallel()
			temp := testbed.Dir(t)
			cmd := exec.Command(program, "demo", "--script", test.script, "--json", "--quick")
			cmd.Env = append(os.Environ(), "TMPDIR="+temp)
			progress, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewReader(progress)
			for {
				line, err := lines.ReadString('\n')
				require.NoError(t, err, "the demo ended before it said %q", test.say)
				if strings.Contains(line, test.say) {
					break
				}
			}
			require.NotEmpty(t, testbed.Running(temp))
			require.NoError(t, cmd.Process.Signal(test.sig))
			_, err = cmd.Process.Wait()
			require.NoError(t, err)
			if test.sig == syscall.SIGKILL {
				require.Eventually(t, func() bool {
					left, err := os.ReadDir(temp)
					return err == nil && len(left) == 0 && len(testbed.Running(temp)) == 0 // its sweeper goes last
				}, limit, 50*time.Millisecond)
			}
			nothingIsLeft(t, temp)
		})
	}
}
