package rejoin_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/ha/rejoin"
	"github.com/pghad/pghad/pg"
)

// former is a former primary on timeline 3; the new one left it at 0/5000148
// for timeline 4.
func former(at pg.LSN) rejoin.View {
	return rejoin.View{
		HasData: true, Own: pg.Position{Timeline: 3, LSN: at},
		Remote:   pg.Lineage{Timeline: 4, History: pg.History{{Timeline: 1, At: 0x1000}, {Timeline: 3, At: 0x5000148}}},
		Expected: 4, Checkpointed: 4, Recorded: true,
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	const within, past = pg.LSN(0x5000148), pg.LSN(0x5000149)
	for name, c := range map[string]struct {
		at     pg.LSN
		change func(*rejoin.View)
		want   rejoin.Action
	}{
		"contained up to the switch":              {within, func(*rejoin.View) {}, rejoin.Follow},
		"on the primary's timeline":               {0x9000000, func(v *rejoin.View) { v.Own.Timeline = 4 }, rejoin.Follow},
		"one byte past the switch":                {past, func(v *rejoin.View) { v.Spared = true }, rejoin.Rewind},
		"on a timeline that never was":            {within, func(v *rejoin.View) { v.Own.Timeline, v.Spared = 2, true }, rejoin.Rewind},
		"diverged, the copy may be needed":        {past, func(*rejoin.View) {}, rejoin.Ask},
		"diverged, this life is not recorded":     {past, func(v *rejoin.View) { v.Recorded = false }, rejoin.Rewind},
		"diverged while an election is open":      {past, func(v *rejoin.View) { v.Spared, v.ElectionOpen = true, true }, rejoin.Wait},
		"rewind is impossible":                    {past, func(v *rejoin.View) { v.Spared, v.NoRewind = true, "no common ancestor" }, rejoin.Clone},
		"rewind is impossible and copy needed":    {past, func(v *rejoin.View) { v.NoRewind = "no common ancestor" }, rejoin.Ask},
		"primary has not checkpointed":            {past, func(v *rejoin.View) { v.Spared, v.Checkpointed = true, 3 }, rejoin.Wait},
		"primary not on its timeline yet":         {within, func(v *rejoin.View) { v.Remote.Timeline = 3 }, rejoin.Wait},
		"primary on a timeline of another term":   {within, func(v *rejoin.View) { v.Expected = 5 }, rejoin.Wait},
		"contained, and the WAL it needs is gone": {within, func(v *rejoin.View) { v.NoStream, v.Spared = "removed", true }, rejoin.Clone},
		"WAL is gone, the copy may be needed":     {within, func(v *rejoin.View) { v.NoStream = "removed" }, rejoin.Ask},
		"no data":                                 {0, func(v *rejoin.View) { v.HasData = false }, rejoin.Clone},
		"no data, primary not there yet":          {0, func(v *rejoin.View) { v.HasData, v.Expected = false, 5 }, rejoin.Wait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := former(c.at)
			c.change(&v)
			plan := rejoin.Decide(v)
			require.Equal(t, c.want, plan.Action, plan.String())
			require.NotEmpty(t, plan.Why)
		})
	}
}
