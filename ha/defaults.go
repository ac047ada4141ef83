package ha

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/benbjohnson/clock"
)

// realIfNil fills in the real clock, wall clock and randomness, and a logger
// that discards.
func realIfNil(clk clock.Clock, wall func() time.Time, random io.Reader, logger *slog.Logger) (
	clock.Clock, func() time.Time, io.Reader, *slog.Logger,
) {
	if clk == nil {
		clk = clock.New()
	}
	if wall == nil {
		wall = func() time.Time { return clk.Now().Round(0) }
	}
	if random == nil {
		random = rand.Reader
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return clk, wall, random, logger
}

// newNonce makes two equal numbers of different origin differ.
func newNonce(random io.Reader) (string, error) {
	var raw [8]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("nonce: %w", err)
	}
	return hex.EncodeToString(raw[:]), nil
}
