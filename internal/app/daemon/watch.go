package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/pghad/pghad/ha"
)

const (
	storeLookEvery = time.Second
	storeSayEvery  = time.Minute
)

// storeWatch says that the store cannot be reached: at once, and then once a
// minute while it lasts; and when it is over.
type storeWatch struct {
	logger *slog.Logger
	since  time.Time // zero while the store is reached
	said   time.Time
}

// look takes the node's present view: what is wrong with the store, "" if
// nothing is.
func (w *storeWatch) look(ctx context.Context, now time.Time, problem string) {
	switch {
	case problem == "" && w.since.IsZero():
	case problem == "":
		w.logger.InfoContext(ctx, "store is reached again", "after", now.Sub(w.since).Round(time.Second).String())
		w.since = time.Time{}
	case w.since.IsZero():
		w.since, w.said = now, now
		w.logger.ErrorContext(ctx, "store cannot be reached; trying again", "error", problem)
	case now.Sub(w.said) >= storeSayEvery:
		w.said = now
		w.logger.ErrorContext(ctx, "store still cannot be reached; trying again",
			"since", now.Sub(w.since).Round(time.Second).String(), "error", problem)
	}
}

// run looks at the node until ctx ends. Before its first look at the store the
// node has nothing to say about it.
func (w *storeWatch) run(ctx context.Context, node interface{ Status() ha.NodeStatus }) {
	ticker := time.NewTicker(storeLookEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if status := node.Status(); !status.At.IsZero() {
				w.look(ctx, now, status.StoreErr)
			}
		case <-ctx.Done():
			return
		}
	}
}
