package workload_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/workload"
)

func ms(n ...int) []time.Duration {
	out := make([]time.Duration, len(n))
	for i, v := range n {
		out[i] = time.Duration(v) * time.Millisecond
	}
	return out
}

func gap(from, to int) workload.Gap {
	return workload.Gap{From: time.Duration(from) * time.Millisecond, To: time.Duration(to) * time.Millisecond}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		acks  []int
		end   int // 0: not ended
		since int
		all   []workload.Gap
		worst workload.Gap
		open  int // at 10 s
	}{
		"no acknowledgement is no measuring":        {end: 9000},
		"the time before the first does not count":  {acks: []int{5000}, end: 5050},
		"99 ms is noise":                            {acks: []int{0, 99, 198}, end: 200},
		"100 ms counts":                             {acks: []int{0, 100}, end: 101, all: []workload.Gap{gap(0, 100)}, worst: gap(0, 100)},
		"an open gap grows":                         {acks: []int{0, 50}, open: 9950},
		"the end closes an open gap":                {acks: []int{0, 50}, end: 3050, all: []workload.Gap{gap(50, 3050)}, worst: gap(50, 3050)},
		"acknowledgements after the end":            {acks: []int{0, 50, -1, 2000}, end: 60},
		"slightly out of order":                     {acks: []int{0, 90, 80, 170}, end: 180},
		"the longest of several":                    {acks: []int{0, 200, 900, 1100}, end: 1100, all: []workload.Gap{gap(0, 200), gap(200, 900), gap(900, 1100)}, worst: gap(200, 900)},
		"since a fault: not what was over before":   {acks: []int{0, 900, 990, 1000, 1300}, end: 1300, since: 950, all: []workload.Gap{gap(0, 900), gap(1000, 1300)}, worst: gap(1000, 1300)},
		"since a fault: from the last ack before":   {acks: []int{0, 50, 650}, end: 700, since: 100, all: []workload.Gap{gap(50, 650)}, worst: gap(50, 650)},
		"a gap that ended at the fault is not its":  {acks: []int{0, 500, 550}, end: 560, since: 500, all: []workload.Gap{gap(0, 500)}},
		"two of the same length: the first is told": {acks: []int{0, 200, 400}, end: 400, all: []workload.Gap{gap(0, 200), gap(200, 400)}, worst: gap(0, 200)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var gaps workload.Gaps
			for _, at := range ms(test.acks...) {
				if at < 0 {
					gaps.End(time.Duration(test.end) * time.Millisecond)
					continue
				}
				gaps.Acknowledged(at)
			}
			if test.end > 0 {
				gaps.End(time.Duration(test.end) * time.Millisecond)
			}
			require.Equal(t, test.all, gaps.All())
			require.Equal(t, test.worst, gaps.Longest(time.Duration(test.since)*time.Millisecond))
			require.Equal(t, time.Duration(test.open)*time.Millisecond, gaps.Open(10*time.Second))
		})
	}
}

func TestGapsBetween(t *testing.T) {
	t.Parallel()
	var gaps workload.Gaps
	for _, at := range ms(0, 200, 250, 1000, 1050, 2000) {
		gaps.Acknowledged(at)
	}
	require.Equal(t, []workload.Gap{gap(0, 200), gap(250, 1000), gap(1050, 2000)}, gaps.All())
	require.Equal(t, []workload.Gap{gap(250, 1000)}, gaps.Between(ms(200)[0], ms(1050)[0]), "what ends or begins at the edge is outside")
	require.Equal(t, gaps.All(), gaps.Between(ms(199)[0], ms(1051)[0]), "what reaches in counts whole")
	require.Empty(t, gaps.Between(ms(200)[0], ms(250)[0]))
}
