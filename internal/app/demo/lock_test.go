package demo

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/app/clusterview"
)

func TestHolding(t *testing.T) {
	t.Parallel()
	const none = -1
	a, b := clusterview.View{Leader: "a", Term: 1}, clusterview.View{Leader: "b", Term: 2}
	down := errors.New("no answer")
	type look struct {
		view clusterview.View
		err  error
	}
	tests := map[string]struct {
		looks []look // one a second
		since int    // seconds
		moved bool
	}{
		"held all the time":           {looks: []look{{view: a}, {view: a}, {view: a}}, since: 0},
		"not long enough":             {looks: []look{{view: a}, {view: a}}, since: none},
		"nobody at first":             {looks: []look{{}, {}, {view: a}, {view: a}, {view: a}}, since: 2},
		"a lock that was only left":   {looks: []look{{view: a}, {view: a}, {}, {view: a}, {view: a}, {view: a}}, since: 3},
		"no answer counts as none":    {looks: []look{{view: a}, {err: down}, {view: a}, {view: a}, {view: a}}, since: 2},
		"held, but not in office":     {looks: []look{{view: clusterview.View{Leader: "a"}}, {view: a}, {view: a}, {view: a}}, since: 1},
		"another node":                {looks: []look{{view: a}, {view: b}}, moved: true, since: none},
		"another node after a while":  {looks: []look{{}, {err: down}, {view: b}}, moved: true, since: none},
		"another node not in office ": {looks: []look{{view: clusterview.View{Leader: "b"}}}, moved: true, since: none},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := holding{leader: "a", need: 2 * time.Second}
			var err error
			for i, look := range test.looks {
				if err = h.look(look.view, look.err, time.Duration(i)*time.Second); err == nil {
					require.Equal(t, len(test.looks)-1, i, "not before the end")
				}
			}
			_, final := errors.AsType[fatal](err)
			require.Equal(t, test.moved, final)
			require.Equal(t, test.moved, errors.Is(err, errMoved))
			require.Equal(t, test.since != none, err == nil, "%v", err)
			if err == nil {
				require.Equal(t, time.Duration(test.since)*time.Second, h.since)
			}
		})
	}
}
