package guard

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A file stands for the device.
func device(t *testing.T) (path string, fed func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "watchdog")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path, func() string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(text)
	}
}

func TestWatchdogIsFedWhileTheDeadlineAllows(t *testing.T) {
	t.Parallel()
	path, fed := device(t)
	w, err := openWatchdog(WatchdogConfig{Device: path, Timeout: 4 * time.Second, Margin: 2 * time.Second}, 8*time.Second)
	require.NoError(t, err)
	now := Instant{Boot: int64(time.Hour), Wall: int64(time.Hour)}
	deadline := now.Add(8 * time.Second)
	next := w.feed(now, deadline)
	require.Equal(t, now.Add(time.Second), next)
	require.Equal(t, next, w.feed(now.Add(time.Second-1), deadline), "not before it is time to")
	require.Equal(t, ".", fed())
	for second := 1; second < 6; second++ {
		w.feed(now.Add(time.Duration(second)*time.Second), deadline)
	}
	require.Equal(t, "......", fed(), "until 5s: the reset would come at 9s, before 8s and the margin have passed")
	for second := 6; second < 12; second++ {
		w.feed(now.Add(time.Duration(second)*time.Second), deadline)
	}
	require.Equal(t, "......", fed(), "from 6s on it would come too late")
	w.feed(now.Add(12*time.Second), now.Add(20*time.Second))
	require.Equal(t, ".......", fed(), "the deadline was moved on in time")
	w.close()
	require.Equal(t, ".......V", fed())
}

func TestWatchdogIsRefused(t *testing.T) {
	t.Parallel()
	path, fed := device(t)
	_, err := openWatchdog(WatchdogConfig{Device: path, Timeout: 10 * time.Second, Margin: 2 * time.Second}, 8*time.Second)
	require.ErrorContains(t, err, "shorter timeout")
	require.Empty(t, fed(), "it is not armed")
	_, err = openWatchdog(WatchdogConfig{Device: "/nowhere/watchdog", Timeout: time.Second, Margin: time.Second}, time.Hour)
	require.ErrorContains(t, err, "/nowhere/watchdog")
	// A pipe that nobody reads is not waited for.
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err = openWatchdog(WatchdogConfig{Device: pipe, Timeout: time.Second, Margin: time.Second}, time.Hour)
	require.ErrorIs(t, err, syscall.ENXIO)
}

func TestWatchdogOnAPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer reader.Close() //nolint:errcheck // read only
	w, err := openWatchdog(WatchdogConfig{Device: path, Timeout: time.Second, Margin: time.Second}, time.Hour)
	require.NoError(t, err)
	now := Now()
	w.feed(now, now.Add(time.Hour))
	w.close()
	text := make([]byte, 8)
	n, err := reader.Read(text)
	require.NoError(t, err)
	require.Equal(t, ".V", string(text[:n]))
}

func TestAlarmGoesByEitherClock(t *testing.T) {
	t.Parallel()
	a, err := newAlarm()
	require.NoError(t, err)
	defer a.close()
	now := Now()
	for name, at := range map[string]Instant{
		"boot":            {Boot: now.Boot + int64(time.Millisecond), Wall: now.Wall + int64(time.Hour)},
		"wall":            {Boot: now.Boot + int64(time.Hour), Wall: now.Wall + int64(time.Millisecond)},
		"long ago":        {Boot: 0, Wall: -1},
		"farther than it": now.Add(time.Millisecond).earlier(now.Add(1<<63 - 1)),
	} {
		a.set(at, true)
		select {
		case <-a.fired:
		case <-time.After(time.Minute):
			require.Fail(t, "it does not fire", name)
		}
	}
	a.set(Instant{}, false)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	cfg := Config{Socket: "/run/guard/socket", Watchdog: WatchdogConfig{Timeout: 1500 * time.Millisecond}}
	cfg.defaults()
	require.Equal(t, 2*time.Second, cfg.Watchdog.Margin)
	require.ErrorContains(t, cfg.check(), "whole seconds")
}

func TestIsLivingChild(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]bool{
		"7 (sleep) S 42 7 7":            true,
		"7 (a) R 42 (b) Z) D 42 7 7":    true,
		"7 (sleep) Z 42 7 7":            false,
		"7 (sleep) S 421 7 7":           false,
		"7 (S 42":                       false,
		"":                              false,
		"7 (" + strings.Repeat(")", 9):  false,
		"7 (postgres: a b) S 42 7 7\n":  true,
		"7 (postgres: a b) S":           false,
		"7 (postgres: a b) S 4\x002 7 ": false,
	} {
		require.Equal(t, want, isLivingChild([]byte(stat), "42"), stat)
	}
}

func TestMappingOf(t *testing.T) {
	t.Parallel()
	begin, end, is := mappingOf("00400000-0052e000 r-xp 00000000 fe:00 12345                              /usr/bin/pghad-guard", "/usr/bin/pghad-guard")
	require.True(t, is)
	require.Equal(t, uintptr(0x400000), begin)
	require.Equal(t, uintptr(0x52e000), end)
	for _, line := range []string{
		"00400000-0052e000 r-xp 00000000 fe:00 12345 /usr/bin/pghad",
		"c000000000-c000400000 rw-p 00000000 00:00 0",
		"00400000 r-xp 00000000 fe:00 12345 /usr/bin/pghad-guard",
		"",
	} {
		_, _, is := mappingOf(line, "/usr/bin/pghad-guard")
		require.False(t, is, line)
	}
}
