package guard

import (
	"syscall"
	"time"
	"unsafe"
)

const (
	clockRealtime = 0
	clockBoottime = 7
)

// Now reads both clocks.
func Now() Instant {
	var boot syscall.Timespec
	// It cannot fail: the clock exists since Linux 2.6.39, and the address is ours.
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&boot)), 0) //nolint:gosec // the kernel writes the time there
	return Instant{Boot: boot.Nano(), Wall: time.Now().UnixNano()}
}
