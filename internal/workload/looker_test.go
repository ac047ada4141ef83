package workload_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/workload"
)

func TestWhole(t *testing.T) {
	t.Parallel()
	primary := workload.Look{Node: "a", Primary: true, Counted: 2}
	standby := workload.Look{Node: "b", Receiving: true}
	tests := map[string]struct {
		looks []workload.Look
		want  bool
	}{
		"all":                         {[]workload.Look{primary, standby, standby}, true},
		"a primary alone":             {[]workload.Look{{Primary: true}}, true},
		"nobody":                      {nil, false},
		"one is down":                 {[]workload.Look{primary, standby, {Node: "c", Err: "refused"}}, false},
		"one waits for its stream":    {[]workload.Look{primary, standby, {Node: "c"}}, false},
		"one streams, does not count": {[]workload.Look{{Primary: true, Counted: 1}, standby, standby}, false},
		"two primaries":               {[]workload.Look{primary, primary, standby}, false},
		"no primary":                  {[]workload.Look{standby, standby, standby}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, workload.Whole(test.looks))
		})
	}
}
