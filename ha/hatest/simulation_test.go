package hatest_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/pghad/pghad/ha/hatest"
)

var (
	first = flag.Uint64("first", 1, "first seed of TestSimulation")
	seeds = flag.Int("seeds", 10, "number of seeds of TestSimulation")
	trace = flag.Bool("trace", false, "print the hash of each seed's trace")
	show  = flag.String("transcript", "", "write the transcript of the first seed to this file")
)

func TestSimulation(t *testing.T) {
	for n := range uint64(*seeds) {
		seed := *first + n
		plan := hatest.NewPlan(seed)
		var out *os.File
		var r hatest.Result
		if *show != "" {
			out, _ = os.Create(*show)
			fmt.Fprintln(out, plan)
			r = hatest.Simulate(t, plan, out)
			out.Close()
		} else {
			r = hatest.Simulate(t, plan, nil)
		}
		if *trace {
			fmt.Printf("seed=%d trace=%016x\n", seed, r.Trace)
		}
		fmt.Printf("seed=%d violation=%v excuse=%q events=%d simulated=%s failovers=%d ops=%d/%d\n", seed, r.Violation, r.Excuse, r.Events, r.Simulated, r.Failovers, r.Succeeded, r.Operations)
	}
}
