package reaper_test

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// attribute reads whether this process is a subreaper.
func attribute(t *testing.T) int32 {
	t.Helper()
	var value int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&value)), 0, 0, 0)
	require.NoError(t, err)
	return value
}
