package demo

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/clusterview"
	"github.com/pghad/pghad/internal/workload"
)

func TestRoute(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	tests := map[string]struct {
		leaders, targets []string
	}{
		"back to the first":                   {leaders: []string{"a", "b", "c"}, targets: []string{"b", "", "a"}},
		"the best was the first: a step back": {leaders: []string{"a", "b", "a"}, targets: []string{"b", "", "b"}},
		"another beginning":                   {leaders: []string{"b", "a", "c"}, targets: []string{"a", "", "b"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := route{first: test.leaders[0]}
			for i, leader := range test.leaders {
				require.Equal(t, test.targets[i], r.next(clusterview.View{Leader: leader}, names), "step %d", i+1)
			}
		})
	}
}

func TestJudgeMove(t *testing.T) {
	t.Parallel()
	good := Switchover{From: "a", To: "b", Leader: "b", Followed: true, How: "follow"}
	tests := map[string]struct {
		spoil   func(*Switchover)
		refused error
		broken  string
	}{
		"as asked":             {spoil: func(*Switchover) {}},
		"to the best":          {spoil: func(s *Switchover) { s.To, s.Leader = "", "c" }},
		"not moved":            {spoil: func(s *Switchover) { s.Leader = "a" }, broken: "a leads again"},
		"to somebody else":     {spoil: func(s *Switchover) { s.Leader = "c" }, broken: "c leads, and the switchover was to b"},
		"rewound":              {spoil: func(s *Switchover) { s.Followed, s.How = false, "rewind, follow" }, broken: "a did not simply follow b: rewind, follow"},
		"refused: said before": {spoil: func(s *Switchover) { s.Leader = "a" }, refused: errors.New("no")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &play{stage: &stage{err: &bytes.Buffer{}}}
			s := good
			test.spoil(&s)
			p.judgeMove(s, test.refused)
			if test.broken == "" {
				require.Empty(t, p.broken)
				return
			}
			require.Len(t, p.broken, 1)
			require.Contains(t, p.broken[0], test.broken)
		})
	}
}

func TestStandstill(t *testing.T) {
	t.Parallel()
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	longest, total := standstill([]workload.Gap{{From: ms(10), To: ms(200)}, {From: ms(300), To: ms(420)}})
	require.Equal(t, int64(190), longest)
	require.Equal(t, int64(310), total)
	longest, total = standstill(nil)
	require.Zero(t, longest)
	require.Zero(t, total)
}
