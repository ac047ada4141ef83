package guard

import (
	"math"
	"time"
)

// Instant is one moment on two clocks, each in nanoseconds.
type Instant struct {
	Boot int64 `json:"boot"` // since the machine was booted, suspended or not
	Wall int64 `json:"wall"` // since 1970
}

// Add returns the instant that is d later on both clocks.
func (i Instant) Add(d time.Duration) Instant {
	return Instant{Boot: addSaturated(i.Boot, int64(d)), Wall: addSaturated(i.Wall, int64(d))}
}

// Reached reports whether it is i already, by either clock.
func (i Instant) Reached(now Instant) bool { return now.Boot >= i.Boot || now.Wall >= i.Wall }

// Left is how long it takes until i by the clock that gets there first; at most
// zero if it is reached.
func (i Instant) Left(now Instant) time.Duration {
	return time.Duration(min(subSaturated(i.Boot, now.Boot), subSaturated(i.Wall, now.Wall)))
}

// earlier takes the earlier reading of each clock.
func (i Instant) earlier(j Instant) Instant {
	return Instant{Boot: min(i.Boot, j.Boot), Wall: min(i.Wall, j.Wall)}
}

func addSaturated(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

func subSaturated(a, b int64) int64 {
	if b == math.MinInt64 {
		return addSaturated(addSaturated(a, math.MaxInt64), 1)
	}
	return addSaturated(a, -b)
}
