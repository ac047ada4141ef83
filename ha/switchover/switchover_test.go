package switchover_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/switchover"
)

func member(node string) quorum.Member { return quorum.Member{Node: node, Incarnation: "1"} }

// scheduled is a healthy cluster of which somebody asks to be led by b.
func scheduled() switchover.View {
	return switchover.View{
		Self: member("a"), Term: 7, Timeline: 3,
		Recorded:   quorum.Config{Mode: quorum.ModeQuorum, Primary: member("a"), Members: []quorum.Member{member("b"), member("c")}, K: 1},
		Phase:      switchover.Scheduled,
		Request:    switchover.Request{Hostname: "a", Timeline: 3, Destination: "b"},
		Candidates: []switchover.Candidate{{Member: member("b"), Streams: true}, {Member: member("c"), Streams: true}},
		Prepare:    10 * time.Second,
	}
}

func accepted(phase switchover.Phase) func(*switchover.View) {
	return func(v *switchover.View) { v.Phase, v.Accepted, v.Target = phase, 7, member("b") }
}

func TestDecide(t *testing.T) {
	t.Parallel()
	type change = func(*switchover.View)
	preparing, stopping, committed := accepted(switchover.Preparing), accepted(switchover.Stopping), accepted(switchover.Committed)
	for name, c := range map[string]struct {
		change []change
		want   string
	}{
		"to a named node": {nil, "accept b.1"},
		"to the best, which is close": {[]change{func(v *switchover.View) {
			v.Request.Destination, v.Candidates[0].Lag = "", switchover.MaxLag+1
		}}, "accept c.1"},
		"to the best, by priority": {[]change{func(v *switchover.View) {
			v.Request.Destination, v.Candidates[1].Priority, v.Candidates[1].Lag = "", 2, 100
		}}, "accept c.1"},
		"to the best, by name": {[]change{func(v *switchover.View) { v.Request.Destination = "" }}, "accept b.1"},
		"asked of a node that is not the primary": {
			[]change{func(v *switchover.View) { v.Request.Hostname = "c" }},
			`fail: it asks "c" to hand over, and the primary is a`,
		},
		"asked of nobody": {[]change{func(v *switchover.View) { v.Request = switchover.Request{} }}, `fail: it asks "" to hand over, and the primary is a`},
		"asked of an earlier timeline": {
			[]change{func(v *switchover.View) { v.Request.Timeline = 2 }},
			"fail: it was asked for on timeline 2, and the primary is on 3",
		},
		"a record that cannot be read": {[]change{func(v *switchover.View) { v.Garbled = "bad" }}, "fail: bad"},
		"to itself":                    {[]change{func(v *switchover.View) { v.Request.Destination = "a" }}, "fail: a is the primary already"},
		"to a stranger": {
			[]change{func(v *switchover.View) { v.Request.Destination = "x" }},
			"fail: x is no recorded member of the quorum: only one that confirms commits can take over",
		},
		"to a node that may not lead": {
			[]change{func(v *switchover.View) { v.Candidates[0].NoFailover = true }}, "fail: b may not lead (nofailover)",
		},
		"to an incomplete copy": {
			[]change{func(v *switchover.View) { v.Candidates[0].BelowFloor = true }}, "fail: the copy of b is not complete yet",
		},
		"to the best, nobody may": {[]change{func(v *switchover.View) {
			v.Request.Destination, v.Candidates[0].NoFailover, v.Candidates[1].BelowFloor = "", true, true
		}}, "fail: nobody can take over: b may not lead (nofailover); the copy of c is not complete yet"},
		"nobody there": {
			[]change{func(v *switchover.View) { v.Request.Destination, v.Candidates = "", nil }},
			"fail: a is the only recorded member: there is nobody to hand over to",
		},
		"in maintenance":              {[]change{func(v *switchover.View) { v.Maintenance = true }}, "fail: maintenance is enabled: nobody changes roles"},
		"to one that does not stream": {[]change{func(v *switchover.View) { v.Candidates[0].Streams = false }}, "wait: no possible target streams"},
		"to one that does not come": {
			[]change{func(v *switchover.View) { v.Candidates[0].Streams, v.Elapsed = false, 11*time.Second }},
			"fail: no possible target has streamed for 10s",
		},

		"prepare":               {[]change{preparing}, "checkpoint b.1"},
		"prepare, behind":       {[]change{preparing, func(v *switchover.View) { v.Candidates[0].Lag = 2 << 20 }}, "wait b.1: b is 2097152 bytes of WAL behind, at most 1048576 are handed over"},
		"prepare, to replay":    {[]change{preparing, func(v *switchover.View) { v.Candidates[0].ReplayLag = 2 << 20 }}, "wait b.1: b has 2097152 bytes of WAL to replay, at most 1048576 are handed over"},
		"prepare, busy":         {[]change{preparing, func(v *switchover.View) { v.Busy = "the gate is closed" }}, "wait b.1: the gate is closed"},
		"prepare, too long":     {[]change{preparing, func(v *switchover.View) { v.Candidates[0].Streams, v.Elapsed = false, 11*time.Second }}, "fail: not ready in 10s: b does not stream"},
		"prepare, too late":     {[]change{preparing, func(v *switchover.View) { v.Prepared, v.Elapsed = true, 11*time.Second }}, "fail: not ready in 10s"},
		"prepare, maintenance":  {[]change{preparing, func(v *switchover.View) { v.Maintenance = true }}, "fail: maintenance was enabled"},
		"prepare, removed":      {[]change{preparing, func(v *switchover.View) { v.Candidates = v.Candidates[1:] }}, "fail: b.1 is no recorded member any more"},
		"prepare, another life": {[]change{preparing, func(v *switchover.View) { v.Candidates[0].Member.Incarnation = "2" }}, "fail: b.1 is no recorded member any more"},
		"prepared":              {[]change{preparing, func(v *switchover.View) { v.Prepared = true }}, "stop b.1"},
		"prepare, another term": {[]change{preparing, func(v *switchover.View) { v.Term = 8 }}, "fail: the primary of term 7 did not come to its end; a leads in term 8"},

		"stopping":                      {[]change{stopping}, "hand-over b.1"},
		"stopping, the target has gone": {[]change{stopping, func(v *switchover.View) { v.Candidates[0].Streams = false }}, "fail: b does not stream"},
		"stopping, not done":            {[]change{stopping, func(v *switchover.View) { v.Trouble = "frozen" }}, "fail: frozen"},
		"stopping, another term":        {[]change{stopping, func(v *switchover.View) { v.Term = 8 }}, "fail: the primary of term 7 did not come to its end; a leads in term 8"},
		"stopping, maintenance":         {[]change{stopping, func(v *switchover.View) { v.Maintenance = true }}, "fail: maintenance was enabled"},

		"committed, taken over": {[]change{committed, func(v *switchover.View) { v.Next, v.Term, v.Self = 8, 8, member("b") }}, "finish b.1"},
		"committed, another has won": {
			[]change{committed, func(v *switchover.View) { v.Next, v.Term, v.Self = 8, 9, member("c") }},
			"fail: b did not take over in term 8; c leads in term 9",
		},
		"done":   {[]change{accepted(switchover.Done)}, "idle"},
		"failed": {[]change{accepted(switchover.Failed)}, "idle"},
		"none":   {[]change{func(v *switchover.View) { v.Phase = switchover.None }}, "idle"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := scheduled()
			for _, f := range c.change {
				f(&v)
			}
			require.Equal(t, c.want, switchover.Decide(v).String())
		})
	}
}
