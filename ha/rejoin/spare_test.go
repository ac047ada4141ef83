package rejoin_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/rejoin"
	"github.com/pghad/pghad/pg"
)

func TestSpared(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		view rejoin.SpareView
		want bool
	}{
		"nobody else holds it":                 {rejoin.SpareView{K: 1}, false},
		"k others have flushed":                {rejoin.SpareView{K: 1, Flushed: 1, Admitted: true}, true},
		"one of two":                           {rejoin.SpareView{K: 2, Flushed: 1, Admitted: true}, false},
		"the other lies still":                 {rejoin.SpareView{K: 1, Resting: 1}, true},
		"one streams and one lies still":       {rejoin.SpareView{K: 2, Flushed: 1, Resting: 1}, true},
		"the other lies still, clients came":   {rejoin.SpareView{K: 1, Resting: 1, Admitted: true}, false},
		"another one's copy is gone already":   {rejoin.SpareView{K: 1, Resting: 1, Pending: true}, false},
		"another's is gone, but k have it all": {rejoin.SpareView{K: 1, Flushed: 1, Pending: true}, true},
		"nothing is waited for":                {rejoin.SpareView{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, rejoin.Spared(c.view))
		})
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	left := pg.Lineage{Timeline: 4, History: pg.History{{Timeline: 3, At: 500}}}
	for name, c := range map[string]struct {
		own  pg.Position
		line pg.Timeline
		at   pg.LSN
		want bool
	}{
		"same timeline, as far":               {pg.Position{Timeline: 3, LSN: 500}, 3, 500, true},
		"same timeline, one byte short":       {pg.Position{Timeline: 3, LSN: 499}, 3, 500, false},
		"a later timeline, left further on":   {pg.Position{Timeline: 4, LSN: 900}, 3, 500, true},
		"a later timeline, left too early":    {pg.Position{Timeline: 4, LSN: 900}, 3, 501, false},
		"a timeline that is no descendant":    {pg.Position{Timeline: 4, LSN: 900}, 2, 1, false},
		"a timeline whose lineage is unknown": {pg.Position{Timeline: 5, LSN: 900}, 3, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, rejoin.Holds(c.own, left, c.line, c.at))
		})
	}
}
