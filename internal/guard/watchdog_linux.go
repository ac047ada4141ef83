package guard

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const setTimeout = 0xC0045706 // WDIOC_SETTIMEOUT

// watchdog is an armed watchdog device.
type watchdog struct {
	fd      int
	timeout time.Duration
	margin  time.Duration
	next    Instant // when it is to be fed again
}

// openWatchdog arms the device, if a deadline that is left away leaves room for
// it.
func openWatchdog(cfg WatchdogConfig, left time.Duration) (*watchdog, error) {
	w := &watchdog{timeout: cfg.Timeout, margin: cfg.Margin}
	if left+w.margin <= w.timeout+w.period() {
		return nil, fmt.Errorf("the watchdog resets the machine %s after the last sign of life, which may be later than the deadline, %s away, and the margin of %s: give the watchdog a shorter timeout",
			w.timeout, left.Round(time.Millisecond), w.margin)
	}
	var err error
	// Not to be waited for: a pipe that stands for the device may have no reader.
	w.fd, err = syscall.Open(cfg.Device, syscall.O_WRONLY|syscall.O_APPEND|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the watchdog: %w", &os.PathError{Op: "open", Path: cfg.Device, Err: err})
	}
	seconds := int32(cfg.Timeout / time.Second)                                                                     //nolint:gosec // some seconds
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(w.fd), setTimeout, uintptr(unsafe.Pointer(&seconds))) //nolint:gosec // the kernel reads and writes the seconds there
	switch {
	case errno == 0 && time.Duration(seconds)*time.Second > cfg.Timeout:
		w.close()
		return nil, fmt.Errorf("the watchdog takes a timeout of %ds instead of %s: set one that the device can do", seconds, cfg.Timeout)
	case errno != 0 && !errors.Is(errno, syscall.ENOTTY): // a file or a pipe that stands for a device has no timeout
		w.close()
		return nil, fmt.Errorf("set the timeout of the watchdog: %w", errno)
	}
	return w, nil
}

// period is how often the device is fed.
func (w *watchdog) period() time.Duration { return min(w.timeout/4, time.Second) }

// feed writes to the device if it is time to, and returns when it is next. From
// what it is fed with the machine may live for timeout; where that could be
// longer than margin after the deadline, it gets nothing more.
func (w *watchdog) feed(now, deadline Instant) Instant {
	if !w.next.Reached(now) {
		return w.next
	}
	w.next = now.Add(w.period())
	if !deadline.Add(w.margin - w.timeout).Reached(now) {
		_, _ = syscall.Write(w.fd, []byte{'.'}) // it resets the machine if it is not fed
	}
	return w.next
}

// close disarms the device: V is the magic character.
func (w *watchdog) close() {
	_, _ = syscall.Write(w.fd, []byte{'V'})
	_ = syscall.Close(w.fd)
}
