package memory_test

import (
	"testing"

	"github.com/pghad/pghad/dcs/dcstest"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/internal/lockertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]memory.Config{
		"as it is":             {},
		"where a move creates": {MoveCreates: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := dcstest.MemoryHarness(cfg)
			h.Traits.MaxTxnKeys = memory.DefaultMaxTxn
			h.Lock = lockertest.Contend
			dcstest.Run(t, h)
		})
	}
}

func TestConformanceOutsideABubble(t *testing.T) {
	t.Parallel()
	h := dcstest.MemoryHarness(memory.Config{})
	h.Leaf = nil
	h.Traits.Linger = dcstest.RealTimeSlack // how late a loaded machine fires a timer
	dcstest.Run(t, h)
}
