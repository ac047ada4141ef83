package daemon

import (
	"context"
	"log/slog"
	"time"
)

const (
	// shedFirst is when the start of a node is surely over.
	shedFirst = 30 * time.Second
	// shedEvery is how often it is done from then on: a failover needs more of the
	// program than what follows it.
	shedEvery = 10 * time.Minute
)

// shedding keeps small what is resident of the program, until ctx ends.
func shedding(ctx context.Context, logger *slog.Logger) {
	timer := time.NewTimer(shedFirst)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if err := shed(); err != nil {
				logger.DebugContext(ctx, "more of the program than is used stays resident", "error", err)
				return
			}
			timer.Reset(shedEvery)
		case <-ctx.Done():
			return
		}
	}
}
