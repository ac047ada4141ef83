package memory_test

import (
	"testing"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/memory"
)

type cluster struct{ *memory.Cluster }

func (c cluster) Client(_ testing.TB, name string) (dcs.Store, clock.Clock) {
	return c.Cluster.Client(name), clock.New()
}

func (c cluster) True() clock.Clock { return clock.New() }

func newCluster(t *testing.T) dcstest.Cluster {
	t.Helper()
	c := memory.New(memory.Config{})
	t.Cleanup(c.Close)
	return cluster{c}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness{New: newCluster, Leaf: dcstest.Bubble})
}

func TestConformanceOutsideABubble(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness{
		New: newCluster,
		// How late a loaded machine fires a timer.
		Traits: dcstest.Traits{Linger: dcstest.RealTimeSlack},
	})
}
