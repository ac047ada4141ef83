package hatest_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/hatest"
)

var (
	first = flag.Uint64("first", 1, "first seed of TestSimulation")
	seeds = flag.Int("seeds", 8, "number of seeds of TestSimulation")
	again = flag.Uint64("again", 3, "number of seeds of TestDeterminism")
	trace = flag.Bool("trace", false, "print the hash of each seed's trace")
	save  = flag.String("save", "", "directory in which failures are saved: plan, shrunk plan and transcript")
	marks = flag.Bool("marks", false, "print how often each crash point was passed and each situation was visited")
	sweep = flag.Bool("sweep", false, "TestCrashPoints, TestPairsOfCrashPoints and TestPlans: everything, not a sample")
	plan  = flag.String("plan", "", "TestPlan: run this plan, or seed:N, once and print its transcript")
)

// TestMain lets garbage pile up: the runs are short, and much of it is theirs.
func TestMain(m *testing.M) {
	debug.SetGCPercent(2000)
	m.Run()
}

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// summary adds up runs.
type summary struct {
	runs, failures, excused, faulty, withFailover, failovers int
	events, storeCalls                                       uint64
	simulated                                                time.Duration
	operations, succeeded                                    int
	points, reached, excuses                                 map[string]int
}

func newSummary() *summary {
	return &summary{points: map[string]int{}, reached: map[string]int{}, excuses: map[string]int{}}
}

func (s *summary) add(r hatest.Result) {
	s.runs++
	if r.Violation != nil {
		s.failures++
	}
	if r.Excuse != "" {
		s.excused++
		kind, _, _ := strings.Cut(r.Excuse, ":")
		s.excuses[kind]++
	}
	if len(r.Plan.Incidents) > 0 {
		s.faulty++
		if r.Failovers > 0 {
			s.withFailover++
		}
	}
	s.failovers += r.Failovers
	s.events += r.Events
	s.storeCalls += r.StoreCalls
	s.simulated += r.Simulated
	s.operations += r.Operations
	s.succeeded += r.Succeeded
	for k, n := range r.Points {
		s.points[k] += n
	}
	for k, n := range r.Reached {
		s.reached[k] += n
	}
}

func (s *summary) line(cpu time.Duration) string {
	return fmt.Sprintf("seeds=%d failures=%d excused=%d events=%d simulated=%s failovers=%d speed=%.0fx",
		s.runs, s.failures, s.excused, s.events, s.simulated.Round(time.Second), s.failovers, s.simulated.Seconds()/cpu.Seconds())
}

// idle says why the runs have not shown much: too little happened in them.
func (s *summary) idle() error {
	seconds := s.simulated.Seconds()
	switch {
	case s.faulty >= 20 && s.withFailover*10 < s.faulty*7:
		return fmt.Errorf("of %d seeds with faults only %d have a failover", s.faulty, s.withFailover)
	case s.succeeded*10 < s.operations*3:
		return fmt.Errorf("of %d client operations only %d succeeded", s.operations, s.succeeded)
	case float64(s.operations) < 5*seconds:
		return fmt.Errorf("only %.1f client operations a simulated second", float64(s.operations)/seconds)
	case float64(s.storeCalls) < 10*seconds: // a node at rest reads once a second, and writes seldom
		return fmt.Errorf("only %.1f calls to the store a simulated second", float64(s.storeCalls)/seconds)
	}
	return nil
}

// sayf prints a line as it is, for whoever reads the output by a program.
func sayf(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format, args...) }

func simulate(t *testing.T, p hatest.Plan) hatest.Result { return hatest.Simulate(t, p, nil) }

func saveFailure(t *testing.T, r hatest.Result) {
	saveFailureAs(t, r, fmt.Sprintf("seed-%d", r.Plan.Seed))
}

// saveFailureAs shrinks a failure and writes down what a person needs.
func saveFailureAs(t *testing.T, r hatest.Result, name string) {
	if *save == "" {
		return
	}
	require.NoError(t, os.MkdirAll(*save, 0o755))
	name = filepath.Join(*save, name)
	small := hatest.Shrink(t, r, 150, simulate)
	head := func(r hatest.Result) string { return fmt.Sprintf("# %s\n%s", r.Violation, r.Plan) }
	require.NoError(t, os.WriteFile(name+".plan", []byte(head(r)), 0o644))
	require.NoError(t, os.WriteFile(name+".small.plan", []byte(head(small)), 0o644))
	out, err := os.Create(name + ".transcript")
	require.NoError(t, err)
	hatest.Simulate(t, small.Plan, out)
	require.NoError(t, out.Close())
}

func TestSimulation(t *testing.T) {
	sum, began := newSummary(), cpuTime()
	for n := range *seeds {
		seed := *first + uint64(n)
		r := simulate(t, hatest.NewPlan(seed))
		sum.add(r)
		if *trace {
			sayf("seed=%d trace=%016x\n", seed, r.Trace)
		}
		if r.Excuse != "" && *marks {
			sayf("seed=%d excuse=%q nodes=%d core=%v leaves=%q\n", seed, r.Excuse, r.Plan.Nodes, r.Plan.Core, r.Plan.Leaves)
		}
		if r.Violation != nil {
			t.Errorf("seed %d: %s", seed, r.Violation)
			sayf("seed=%d failure=%q\n", seed, r.Violation)
			saveFailure(t, r)
		}
	}
	sayf("%s\n", sum.line(cpuTime()-began))
	if *marks {
		for _, m := range []map[string]int{sum.points, sum.reached, sum.excuses} {
			for _, k := range slices.Sorted(maps.Keys(m)) {
				sayf("%8d %s\n", m[k], k)
			}
		}
		sayf("with faults %d, of these with a failover %d; operations %d, succeeded %d; store calls %d\n",
			sum.faulty, sum.withFailover, sum.operations, sum.succeeded, sum.storeCalls)
	}
	if *seeds >= 100 {
		require.NoError(t, sum.idle())
	}
}

// TestDeterminism runs a few seeds again, on one processor and on several.
func TestDeterminism(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for seed := range *again {
		p := hatest.NewPlan(99 + *first + seed)
		if seed == 2 {
			p = readPlan(t, "everything-planned-at-once")
		}
		p.Length = min(p.Length, 80*time.Second)
		want := simulate(t, p)
		for n := range 3 {
			runtime.GOMAXPROCS(1 + n%3)
			got := simulate(t, p)
			require.Equal(t, want.Trace, got.Trace, "seed %d", seed)
			require.Equal(t, want.Events, got.Events, "seed %d", seed)
		}
	}
}

// TestPlan runs one plan, for whoever looks into a failure.
func TestPlan(t *testing.T) {
	if *plan == "" {
		t.Skip("no -plan")
	}
	text, err := os.ReadFile(*plan)
	if seed, isSeed := strings.CutPrefix(*plan, "seed:"); isSeed {
		var n uint64
		n, err = strconv.ParseUint(seed, 10, 64)
		text = []byte(hatest.NewPlan(n).String())
	}
	require.NoError(t, err)
	p, err := hatest.ParsePlan(string(text))
	require.NoError(t, err)
	r := hatest.Simulate(t, p, os.Stdout)
	sayf("violation=%v excuse=%q failovers=%d trace=%016x\n", r.Violation, r.Excuse, r.Failovers, r.Trace)
}

// TestPlans replays everything that was ever found, and what the documents
// tell; every third one twice, or all with -sweep: it must be the same run.
func TestPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/plans/*.plan")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for n, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".plan"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			p, err := hatest.ParsePlan(string(text))
			require.NoError(t, err)
			again, err := hatest.ParsePlan(p.String())
			require.NoError(t, err)
			require.Equal(t, p, again, "a plan reads what it writes")
			r := simulate(t, p)
			require.Nil(t, r.Violation, "%s", r.Violation)
			require.Empty(t, r.Excuse)
			if n%3 == 0 || *sweep {
				require.Equal(t, r.Trace, simulate(t, p).Trace)
			}
		})
	}
}

// BenchmarkSimulation reports simulated seconds and failovers per second of the
// process's CPU time. Bubbles need a test, so it runs its seeds in one.
func BenchmarkSimulation(b *testing.B) {
	sum, began, seed := newSummary(), cpuTime(), *first
	ok := testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: b.Name(),
		F: func(t *testing.T) {
			for b.Loop() {
				sum.add(simulate(t, hatest.NewPlan(seed)))
				seed++
			}
		},
	}})
	if !ok {
		b.Fatal("the simulation did not end")
	}
	cpu := (cpuTime() - began).Seconds()
	b.ReportMetric(sum.simulated.Seconds()/cpu, "simulated-s/cpu-s")
	b.ReportMetric(float64(sum.failovers)/cpu, "failovers/cpu-s")
	b.ReportMetric(float64(sum.events)/cpu, "events/cpu-s")
}
