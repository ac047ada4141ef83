package api

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
)

// sayEvery is how often something of which there may be very much is logged.
const sayEvery = time.Minute

// seldom logs one kind of thing at once, and then at most once a minute. The
// others it counts.
type seldom struct {
	clock   clock.Clock
	logger  *slog.Logger
	message string

	mu      sync.Mutex // guards what follows; never held over anything that waits
	said    time.Time  // zero: never
	skipped int
}

func (s *seldom) warn(ctx context.Context, attributes ...any) {
	s.mu.Lock()
	now := s.clock.Now()
	if !s.said.IsZero() && now.Sub(s.said) < sayEvery {
		s.skipped++
		s.mu.Unlock()
		return
	}
	skipped := s.skipped
	s.said, s.skipped = now, 0
	s.mu.Unlock()
	s.logger.WarnContext(ctx, s.message, append(attributes, "others_not_logged", skipped)...) //nolint:sloglint // a constant, see where it is made
}

// Write takes what an http.Server has to say of connections that came to
// nothing.
func (s *seldom) Write(line []byte) (int, error) {
	s.warn(context.Background(), "reason", string(bytes.TrimSpace(line)))
	return len(line), nil
}
