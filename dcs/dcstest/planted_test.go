package dcstest_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/internal/lockertest"
)

// defect is something that is wrong with a backend, and the cases that find it.
type defect struct {
	name string
	// plant puts the defect into a connection to the cluster.
	plant func(c *cluster, client string, s dcs.Store) dcs.Store
	// lock is a defect of a lock instead.
	lock func(ctx context.Context, c dcstest.Contender) error
	// killed is a defect of how a crash of a server ends.
	killed   func(c *cluster)
	realTime bool // it would make a bubble panic
	found    []string
}

// cluster is a Memory with all abilities, and with a defect.
type cluster struct {
	*dcstest.Memory
	defect *defect

	mu        sync.Mutex
	first     string       // client
	compacted dcs.Revision // what was written before is forgotten; zero: nothing is
	shared    map[string]any
}

func (c *cluster) Client(tb testing.TB, name string) (dcs.Store, clock.Clock) {
	s, clk := c.Memory.Client(tb, name)
	c.mu.Lock()
	c.first = cmp.Or(c.first, name)
	c.mu.Unlock()
	if c.defect != nil && c.defect.plant != nil {
		s = c.defect.plant(c, name, s)
	}
	return s, clk
}

func (c *cluster) KillLeader(ctx context.Context) error {
	if c.defect != nil && c.defect.killed != nil {
		c.defect.killed(c)
	}
	return c.Memory.KillLeader(ctx)
}

// KillFollower makes one client find no server for a while.
func (c *cluster) KillFollower(ctx context.Context) error {
	if c.defect != nil && c.defect.killed != nil {
		c.defect.killed(c)
	}
	c.mu.Lock()
	link := c.Link(c.first)
	c.mu.Unlock()
	link.Refuse()
	clock.New().AfterFunc(time.Second, link.Heal)
	return nil
}

// Compact forgets nothing, unless a defect makes something of it.
func (c *cluster) Compact(ctx context.Context) error {
	rev, err := dcs.Put(ctx, c.Cluster.Client("compacter"), "/compacted", nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compacted = rev
	return err
}

func (c *cluster) forgotten() dcs.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.compacted
}

// share is a value that all connections of the cluster have in common.
func share[T any](c *cluster, name string, initial func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared[name] == nil {
		c.shared[name] = initial()
	}
	value, _ := c.shared[name].(T)
	return value
}

func harness(d *defect) dcstest.Harness[*cluster] {
	h := dcstest.Harness[*cluster]{
		New: func(t *testing.T) *cluster {
			t.Helper()
			return &cluster{
				Memory: dcstest.NewMemory(t, memory.Config{}),
				defect: d,
				shared: map[string]any{},
			}
		},
		Traits: dcstest.Traits{MaxTxnKeys: memory.DefaultMaxTxn, Linger: time.Second},
		Leaf:   dcstest.Bubble,
		Lock:   lockertest.Contend,
	}
	if d != nil && d.lock != nil {
		h.Lock = d.lock
	}
	if d != nil && d.realTime {
		h.Leaf = nil
		h = h.Impatient()
	}
	return h
}

func TestSuiteFindsNothingWithoutADefect(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, harness(nil))
}

func TestEveryCaseSaysWhatItsFailureMeans(t *testing.T) {
	t.Parallel()
	said := map[string]string{}
	for _, c := range dcstest.Cases() {
		require.Regexp(t, `^[a-z].*\.$`, c.Meaning, c.Name)
		require.Empty(t, said[c.Meaning], "%s means the same as %s", c.Name, said[c.Meaning])
		said[c.Meaning] = c.Name
	}
}

// inChild says that this process runs the suite on the defects.
const inChild = "PGHAD_TEST_PLANTED_DEFECTS"

// TestPlantedDefects runs the suite on backends with one defect each, in another
// process, since it fails there, and holds its output against what must have
// been found. Every case has a defect that it finds.
func TestPlantedDefects(t *testing.T) {
	t.Parallel()
	if os.Getenv(inChild) != "" {
		for _, d := range defects() {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				dcstest.Run(t, harness(&d).Only(d.found...))
			})
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPlantedDefects$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inChild+"=1")
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "the suite has found nothing")

	failed := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, len(output)+1)
	for lines.Scan() {
		if _, test, ok := strings.Cut(lines.Text(), "--- FAIL: TestPlantedDefects/"); ok {
			name, _, _ := strings.Cut(test, " ")
			failed[name] = true
		}
	}
	meanings := map[string]string{}
	for _, c := range dcstest.Cases() {
		meanings[c.Name] = c.Meaning
	}
	finds := map[string]bool{}
	for _, d := range defects() {
		for _, name := range d.found {
			require.Contains(t, meanings, name, "there is no such case")
			finds[name] = true
			if !failed[strings.ReplaceAll(d.name, " ", "_")+"/"+name] {
				t.Errorf("%s does not find the defect %q", name, d.name)
			}
			if !bytes.Contains(output, []byte("what this failure means: "+meanings[name])) {
				t.Errorf("the failure of %s is not explained", name)
			}
		}
	}
	for name := range meanings {
		if !finds[name] {
			t.Errorf("%s: there is no defect for it to find", name)
		}
	}
	if t.Failed() {
		t.Logf("the suite says:\n%s", output)
	}
}
