package reaper_test

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pghad/pghad/internal/reaper"
)

// patience bounds the wait for an event that comes within milliseconds.
const patience = 20 * time.Second

// start starts a reaper whose reaped orphans come through the channel.
func start(t *testing.T) <-chan int {
	t.Helper()
	reaped := make(chan int, 100)
	r, err := reaper.Start(reaper.Config{Reaped: func(pid int) { reaped <- pid }})
	require.NoError(t, err)
	t.Cleanup(r.Stop)
	return reaped
}

// orphan makes a process whose parent has ended, and returns it with the end
// that keeps it alive.
func orphan(t *testing.T) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "exec 3<&0; (read line <&3) >/dev/null & echo $!")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	_, err = cmd.Process.Wait() // not cmd.Wait, which would close the input
	require.NoError(t, err)
	return pid, func() { require.NoError(t, in.Close()) }
}

func TestOrphanIsReaped(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	reaped := start(t)
	pid, end := orphan(t)
	require.NoError(t, unix.Kill(pid, 0), "the orphan lives")
	end()
	select {
	case got := <-reaped:
		require.Equal(t, pid, got)
	case <-time.After(patience):
		require.FailNow(t, "the orphan was not reaped")
	}
	require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH, "nothing is left of it")
}

func TestChildrenOfExecKeepTheirStatus(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	reaped := start(t)
	const children = 20
	cmds := make([]*exec.Cmd, children)
	for i := range cmds {
		cmds[i] = exec.Command("sh", "-c", "exit "+strconv.Itoa(i+1))
		require.NoError(t, cmds[i].Start())
	}
	// All have ended, nobody has waited yet: the reaper has every chance. That
	// it has looked is proven by an orphan that it reaps after the last of them.
	for _, cmd := range cmds {
		var info unix.Siginfo
		require.NoError(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil))
	}
	pid, end := orphan(t)
	end()
	require.Equal(t, pid, <-reaped)
	for i, cmd := range cmds {
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, i+1, exit.ExitCode())
	}
}

func TestStopRestoresTheAttribute(t *testing.T) { //nolint:paralleltest // the reaper is a property of the process
	r, err := reaper.Start(reaper.Config{})
	require.NoError(t, err)
	require.EqualValues(t, 1, attribute(t))
	r.Stop()
	r.Stop()
	require.EqualValues(t, 0, attribute(t))
}
