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
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&boot)), 0) //nolint:gosec // the kernel writes the time there
	if errno != 0 {
		panic("read the clock: " + errno.Error()) // it exists since Linux 2.6.39; without it there is no deadline
	}
	return Instant{Boot: boot.Nano(), Wall: time.Now().UnixNano()}
}
