package daemon

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shed gives the pages of the program back to the system that this process does not
// use: most of it is for other commands, for the embedded store and for the start. What
// is used again comes back from the page cache.
func shed() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("find the pages of the own program: %w", err)
	}
	defer smaps.Close() //nolint:errcheck // read only
	for _, m := range cleanMappings(smaps, program) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give pages of the own program back: %w", errno)
		}
	}
	return nil
}

// mapping is a part of the address space.
type mapping struct{ begin, end uintptr }

// cleanMappings are those of a program in smaps that nobody can have changed: what is
// given back of them can be read again.
func cleanMappings(smaps io.Reader, program string) []mapping {
	var found []mapping
	at, clean := mapping{}, false
	take := func() {
		if clean {
			found = append(found, at)
		}
	}
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") { // begin-end mode offset device inode path
			take()
			at, clean = headOf(fields)
			clean = clean && strings.HasSuffix(lines.Text(), " "+program)
			continue
		}
		switch fields[0] {
		case "Anonymous:", "Locked:", "Swap:": // a page that was written to has become anonymous
			clean = clean && len(fields) > 1 && fields[1] == "0"
		}
	}
	take()
	return found
}

// headOf reads the first line of a mapping, and reports whether nobody may write there.
func headOf(fields []string) (mapping, bool) {
	if len(fields) < 6 {
		return mapping{}, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	begin, err := strconv.ParseUint(from, 16, strconv.IntSize)
	end, errEnd := strconv.ParseUint(to, 16, strconv.IntSize)
	whole := err == nil && errEnd == nil && begin < end
	return mapping{uintptr(begin), uintptr(end)}, whole && strings.HasPrefix(fields[1], "r") && !strings.Contains(fields[1], "w")
}
