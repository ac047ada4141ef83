//go:build !linux

package guard

import (
	"errors"
	"fmt"
)

// Run returns errors.ErrUnsupported: the guard needs signals at the death of a
// parent, subreapers and timers of Linux.
func Run(Config) (int, error) {
	return 0, fmt.Errorf("the guard runs on Linux only: %w", errors.ErrUnsupported)
}
