package guard

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Of mlockall: what is there, what comes, and each page when it is first used. Go
// reserves far more than it uses.
const lockWhatIsUsed = 1 | 2 | 4 // MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT

// stayInMemory keeps the guard from waiting for a disk when it has to act: its
// program is read now, and what it uses is not swapped out. Whoever is not root may
// not be allowed to.
func stayInMemory() error {
	if _, _, errno := syscall.Syscall(syscall.SYS_MLOCKALL, lockWhatIsUsed, 0, 0); errno != 0 {
		return fmt.Errorf("keep what is used in memory: %w", errno)
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	defer maps.Close() //nolint:errcheck // read only
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		begin, end, is := mappingOf(lines.Text(), program)
		if !is {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MLOCK, begin, end-begin, 0); errno != 0 {
			return fmt.Errorf("keep the program in memory: %w", errno)
		}
	}
	return nil
}

// mappingOf reads "begin-end mode offset device inode path".
func mappingOf(line, path string) (begin, end uintptr, is bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || !strings.HasSuffix(line, " "+path) {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(from, 16, 8*int(unsafe.Sizeof(begin)))
	last, errLast := strconv.ParseUint(to, 16, 8*int(unsafe.Sizeof(end)))
	return uintptr(first), uintptr(last), err == nil && errLast == nil && first < last
}
