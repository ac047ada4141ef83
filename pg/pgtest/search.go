package pgtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
)

// searchBudget is how many schedules of the model are tried before it is said
// not to allow a trace.
const searchBudget = 2000

// verdict says whether the model allows a trace.
type verdict struct {
	allowed bool
	tried   int
	best    error  // why the schedule that came furthest ended
	seen    string // what it saw, up to there
}

// String is for people.
func (v verdict) String() string {
	if v.allowed {
		return fmt.Sprintf("allowed, by schedule %d", v.tried)
	}
	return fmt.Sprintf("none of %d schedules shows it; the one that comes furthest:\n%s%v", v.tried, v.seen, v.best)
}

// explain looks for a schedule of the model by which it shows what a trace says.
// A schedule is one number for each step; the search changes some of the last
// ones that it has got along with so far.
func explain(t *trace, without []Rule, budget int) verdict {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // reproducible on purpose
	seeds := make([]uint64, len(t.seen))
	var v verdict
	furthest := -1
	for v.tried = 1; v.tried <= budget; v.tried++ {
		attempt := slices.Clone(seeds)
		if furthest >= 0 {
			back := r.IntN(1 + min(furthest, 1<<r.IntN(7)))
			for i := furthest - back; i < len(attempt); i++ {
				attempt[i] = r.Uint64()
				if r.IntN(4) == 0 {
					attempt[i] = 0 // as they come
				}
			}
		}
		p, err := replay(t, attempt, without)
		if err == nil {
			v.allowed = true
			return v
		}
		if reached := len(p.seen) - 1; reached >= furthest {
			if reached > furthest || v.best == nil {
				v.best, v.seen = err, p.transcript()
			}
			seeds, furthest = attempt, max(reached, 0)
		}
	}
	v.tried--
	return v
}

// replay plays a recipe on the model by one schedule, and holds it to a trace.
func replay(t *trace, seeds []uint64, without []Rule) (*player, error) {
	p := &player{recipe: t.recipe}
	m, err := newModelServers(t.recipe.names, without)
	if err != nil {
		return p, err
	}
	defer m.close()
	m.seed = func(step int) uint64 { return seeds[step] }
	p.servers = m
	return p, p.run(context.Background(), t.seen)
}
