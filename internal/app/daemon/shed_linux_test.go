package daemon

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCleanMappings(t *testing.T) {
	t.Parallel()
	const program = "/usr/bin/pghad"
	head := func(at, mode, path string) string { return at + " " + mode + " 00000000 fe:00 12345    " + path + "\n" }
	const clean = "Rss: 100 kB\nPrivate_Dirty: 8 kB\nAnonymous: 0 kB\n"
	smaps := head("1000-2000", "r-xp", program) + clean +
		head("2000-3000", "r--p", program) + clean +
		head("3000-4000", "r--p", program) + "Rss: 100 kB\nPrivate_Dirty: 4 kB\nAnonymous: 4 kB\n" + // relocated
		head("4000-5000", "rw-p", program) + clean +
		head("5000-6000", "r-xp", "/lib/libc.so.6") + clean +
		head("6000-7000", "r-xp", "/opt"+program) + clean +
		"7000-8000 r-xp 00000000 00:00 0\n" + clean +
		head("9000-8000", "r-xp", program) + clean +
		head("z-8000", "r-xp", program) + clean +
		head("8000-9000", "r--p", program) + clean
	require.Equal(t, []mapping{{0x1000, 0x2000}, {0x2000, 0x3000}, {0x8000, 0x9000}}, cleanMappings(strings.NewReader(smaps), program))
}

// What is given back is there again as soon as it is used.
func TestShed(t *testing.T) {
	t.Parallel()
	before := residentFile(t)
	require.NoError(t, shed())
	require.Less(t, residentFile(t), before)
	require.NoError(t, shed(), "and can be given back again")
}

// residentFile is how much of files is resident, in KiB.
func residentFile(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "RssFile:")
	require.True(t, found)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}
