package guard

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

const timerAbsolute = 1 // TFD_TIMER_ABSTIME

// alarm wakes the guard at an instant, by whichever of the two clocks gets there
// first: also when the machine was suspended, or the wall clock set, meanwhile.
type alarm struct {
	fired chan struct{}
	boot  *os.File
	wall  *os.File
	at    Instant
	some  bool // it is set
}

func newAlarm() (*alarm, error) {
	a := &alarm{fired: make(chan struct{}, 1)}
	var err error
	if a.boot, err = a.openTimer(clockBoottime); err != nil {
		return nil, err
	}
	if a.wall, err = a.openTimer(clockRealtime); err != nil {
		_ = a.boot.Close() // nothing is in it
		return nil, err
	}
	return a, nil
}

func (a *alarm) openTimer(clock uintptr) (*os.File, error) {
	fd, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clock, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return nil, fmt.Errorf("open a timer: %w", errno)
	}
	file := os.NewFile(fd, "timer")
	go func() { // its owner is the file: it ends when that is closed
		var count [8]byte
		for {
			if _, err := file.Read(count[:]); err != nil {
				return
			}
			select {
			case a.fired <- struct{}{}:
			default: // it is about to be seen
			}
		}
	}()
	return file, nil
}

// set sets the alarm to an instant, or switches it off.
func (a *alarm) set(at Instant, some bool) {
	if some == a.some && (!some || at == a.at) {
		return
	}
	a.at, a.some = at, some
	if !some {
		at = Instant{}
	} else {
		at = Instant{Boot: max(1, at.Boot), Wall: max(1, at.Wall)} // zero would switch it off
	}
	setTimer(a.boot, at.Boot)
	setTimer(a.wall, at.Wall)
}

func setTimer(timer *os.File, at int64) {
	spec := struct{ interval, value syscall.Timespec }{value: syscall.NsecToTimespec(at)}
	conn, err := timer.SyscallConn()
	if err != nil {
		return // it is closed
	}
	_ = conn.Control(func(fd uintptr) { // it fails for a closed file only
		_, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, timerAbsolute, uintptr(unsafe.Pointer(&spec)), 0, 0, 0) //nolint:gosec // the kernel reads the time there
		if errno != 0 {
			panic("set a timer: " + errno.Error()) // without it the deadline would pass unseen
		}
	})
}

func (a *alarm) close() {
	_ = a.boot.Close() // nothing is in them
	_ = a.wall.Close()
}
