package demo

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/workload"
)

func TestResult(t *testing.T) {
	t.Parallel()
	result := Result{Scenario: "rejoin", Acknowledged: 4000, Unknown: 4, OutageMS: 2700, Promoted: "b", Rejoined: true, Verdict: workload.VerdictOK}
	var out bytes.Buffer
	require.NoError(t, result.write(&out, true))
	require.Equal(t, 1, strings.Count(out.String(), "\n"), "one line")
	require.JSONEq(t, `{"scenario":"rejoin","acknowledged":4000,"failed":0,"unknown":4,"lost":0,"two_writers":0,"outage_ms":2700,
		"promoted":"b","rejoined":true,"verdict":"ok"}`, out.String())
	require.True(t, result.OK())
	out.Reset()
	result.Verdict = workload.VerdictLost
	require.NoError(t, result.write(&out, false))
	require.Contains(t, out.String(), "rejoin: lost")
	require.False(t, result.OK())
}

func TestResultOfSwitchovers(t *testing.T) {
	t.Parallel()
	result := Result{
		Scenario: "switchover", Verdict: workload.VerdictBroken,
		Switchovers: []Switchover{
			{From: "a", To: "b", Leader: "b", OutageMS: 180, TotalMS: 290, TookMS: 700, Followed: true, How: "follow"},
			{From: "b", How: "rewind, follow"},
		},
		Broken: []string{"b was rewound"},
	}
	var out bytes.Buffer
	require.NoError(t, result.write(&out, true))
	require.JSONEq(t, `{"scenario":"switchover","acknowledged":0,"failed":0,"unknown":0,"lost":0,"two_writers":0,"outage_ms":0,
		"promoted":"","rejoined":false,"verdict":"broken","broken":["b was rewound"],"switchovers":[
		{"from":"a","to":"b","leader":"b","outage_ms":180,"total_ms":290,"took_ms":700,"followed":true,"how":"follow"},
		{"from":"b","to":"","leader":"","outage_ms":0,"total_ms":0,"took_ms":0,"followed":false,"how":"rewind, follow"}]}`, out.String())
	out.Reset()
	require.NoError(t, result.write(&out, false))
	for _, want := range []string{
		"switchover: broken",
		"from a to b: writes stood still for 180 ms, 290 ms in all; done after 700 ms; b leads; a came back by: follow",
		"from b to the best: ", "nobody leads", "broken: b was rewound",
	} {
		require.Contains(t, out.String(), want)
	}
}

func TestResultOfALock(t *testing.T) {
	t.Parallel()
	result := Result{Lock: &Lock{Leader: "a", Kept: true, HeldAgainMS: 300, TermBefore: 1, TermAfter: 2}}
	var out bytes.Buffer
	require.NoError(t, result.write(&out, true))
	require.Contains(t, out.String(), `"lock":{"leader":"a","kept":true,"held_again_ms":300,"term_before":1,"term_after":2}`)
	require.Equal(t, "a held the leader's lock again after 300 ms; term 1 before, 2 after", result.Lock.String())
	require.Contains(t, Lock{Leader: "a"}.String(), "a has not kept")
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	broken := []string{"the term has changed"}
	require.Equal(t, workload.VerdictOK, verdict(workload.VerdictOK, false, nil))
	require.Equal(t, workload.VerdictBroken, verdict(workload.VerdictOK, false, broken))
	require.Equal(t, workload.VerdictStuck, verdict(workload.VerdictOK, true, broken))
	require.Equal(t, workload.VerdictLost, verdict(workload.VerdictLost, true, broken), "rows come first")
}
