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

func newCluster(cfg memory.Config) func(*testing.T) dcstest.Cluster {
	return func(t *testing.T) dcstest.Cluster {
		t.Helper()
		c := memory.New(cfg)
		t.Cleanup(c.Close)
		return cluster{c}
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness{New: newCluster(memory.Config{}), Leaf: dcstest.Bubble})
}

func TestConformanceWhereAMoveCreates(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness{New: newCluster(memory.Config{MoveCreates: true}), Leaf: dcstest.Bubble})
}

func TestConformanceOutsideABubble(t *testing.T) {
	t.Parallel()
	dcstest.Run(t, dcstest.Harness{
		New: newCluster(memory.Config{}),
		// How late a loaded machine fires a timer.
		Traits: dcstest.Traits{Linger: dcstest.RealTimeSlack},
	})
}
