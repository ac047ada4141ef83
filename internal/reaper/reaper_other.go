//go:build !linux

package reaper

// Reaper reaps the orphans of this process. It exists on Linux only.
type Reaper struct{}

// Start returns ErrUnsupported.
func Start(Config) (*Reaper, error) { return nil, ErrUnsupported }

// Stop does nothing.
func (*Reaper) Stop() {}
