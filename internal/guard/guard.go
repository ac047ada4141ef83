package guard

import (
	"errors"
	"io"
	"time"
)

// Config says what a guard does. Zero fields mean the default that their comment
// names.
type Config struct {
	// Socket is where agents connect, an absolute path. Its directory is made if
	// it is missing; it must belong to the guard's user and be open to nobody else.
	// Default: nobody can connect, the server is the one of Start.
	Socket string
	// Start is the server to start at once. Default: an agent starts it.
	Start *Start
	// KillAfter is how long an immediate stop waits before it sends SIGKILL, and
	// how long what a postmaster leaves behind may live on. Default: 1 s.
	KillAfter time.Duration
	// Patience is how long a guard without a server waits for an agent before it
	// ends. Default: 10 s.
	Patience time.Duration
	// Watchdog is the device that resets the machine when nobody writes to it.
	Watchdog WatchdogConfig
	// Ready, if set, is called once agents can connect.
	Ready func()
	// Log takes the guard's messages, a line for each. Default: nowhere.
	Log io.Writer
}

// WatchdogConfig is the second layer, for a machine that is frozen as a whole. The
// device is opened when the server is declared writable and closed, disarmed,
// when no process of the server is left. In between it is written to only as long
// as its timeout ends before deadline + Margin, however soon the machine freezes
// afterwards; so a server that writes later than that is reset with its machine.
type WatchdogConfig struct {
	// Device is the path, for example /dev/watchdog. Its driver must honour the
	// magic close (nowayout off). Default: none.
	Device string
	// Timeout is after how long the device resets the machine, in whole seconds. A
	// deadline that is so close that the device could not be fed even once is
	// refused, so it must be well below the shortest one. Default: 5 s.
	Timeout time.Duration
	// Margin is how long after the deadline the machine is reset at the latest: the
	// time in which the guard itself stops the server. Default: KillAfter + 1 s.
	Margin time.Duration
}

func (cfg *Config) defaults() {
	for field, value := range map[*time.Duration]time.Duration{
		&cfg.KillAfter:        time.Second,
		&cfg.Patience:         10 * time.Second,
		&cfg.Watchdog.Timeout: 5 * time.Second,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	if cfg.Watchdog.Margin <= 0 {
		cfg.Watchdog.Margin = cfg.KillAfter + time.Second
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
}

func (cfg *Config) check() error {
	if cfg.Socket == "" && cfg.Start == nil {
		return errors.New("there is neither a server to start nor a socket on which to be told: give one of them")
	}
	if cfg.Watchdog.Timeout%time.Second != 0 {
		return errors.New("the timeout of a watchdog device is in whole seconds")
	}
	return nil
}
