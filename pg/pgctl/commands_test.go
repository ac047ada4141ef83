package pgctl_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// byCommands runs a node's server by pg_ctl, which stands for whoever runs the
// user's servers. It notes each start and stop.
func byCommands(tb testing.TB) func(*pgctl.Config) {
	tb.Helper()
	if _, err := exec.LookPath("runuser"); err != nil && os.Geteuid() == 0 {
		testbed.Skipf(tb, "as root this needs runuser of util-linux")
	}
	return func(cfg *pgctl.Config) {
		as := ""
		if os.Geteuid() == 0 {
			as = "runuser -u postgres -- "
		}
		ctl := as + filepath.Join(cfg.BinDir, "pg_ctl") + " -D " + cfg.DataDir
		noted := filepath.Join(filepath.Dir(cfg.DataDir), "noted")
		cfg.Commands = &pgctl.Commands{
			Start:   []string{"sh", "-c", "echo start >> " + noted + "; exec " + ctl + " -w start"},
			Stop:    []string{"sh", "-c", "echo stop >> " + noted + "; exec " + ctl + " -m fast stop"},
			Status:  []string{"sh", "-c", "exec " + ctl + " status"},
			Timeout: patience,
		}
	}
}

// notes is the file in which the commands note what they do.
func (n *node) notes() string { return filepath.Join(filepath.Dir(n.cfg.DataDir), "noted") }

// noted is what the commands have noted.
func (n *node) noted() string {
	n.tb.Helper()
	text, err := os.ReadFile(n.notes())
	require.NoError(n.tb, err)
	return string(text)
}

func TestServerRunByCommands(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", byCommands(t))
	b := newStandby(t, "b", a, byCommands(t))
	status := a.status()
	require.Equal(t, pg.ProcessRunning, status.Process)
	require.NotEqual(t, os.Getpid(), a.parentOf(status.Postgres))

	// The controller is made anew, the server stays.
	require.NoError(t, a.Close())
	a.open()
	require.Equal(t, status.Postgres, a.status().Postgres)
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "b")))
	a.sql("INSERT INTO t VALUES (1)")

	// Its end is an event, and so is the next start.
	seen := a.status().Generation
	a.kill9()
	_, err := a.WaitChange(a.ctx(), seen)
	require.NoError(t, err)
	require.Equal(t, pg.ProcessCrashed, a.status().Process)
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, anyOf(1, "b")))
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, pg.ProcessStopped, a.status().Process)
	disk, err := a.OnDisk(a.ctx())
	require.NoError(t, err)
	require.True(t, disk.Clean)
	require.Equal(t, "start\nstart\nstop\n", a.noted())

	require.NoError(t, b.Fence(b.ctx()))
	_, err = b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)
	require.NoError(t, b.Stop(b.ctx(), pg.StopImmediate))
	require.Equal(t, pg.HealthDead, b.status().Health)
	require.Equal(t, "start\n", b.noted(), "an immediate stop waits for no command")
}

func TestCommandsThatFail(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", byCommands(t))
	require.NoError(t, a.Init(a.ctx()))
	start := func(edit func(*pgctl.Commands)) error {
		commands := *a.cfg.Commands
		edit(&commands)
		whole := a.cfg.Commands
		a.cfg.Commands = &commands
		defer func() { a.cfg.Commands = whole }()
		require.NoError(t, a.Close())
		a.open()
		return a.StartStandby(a.ctx(), pg.Upstream{})
	}
	require.ErrorContains(t, start(func(c *pgctl.Commands) {
		c.Start = []string{"sh", "-c", "echo 'error: the unit is masked' >&2; exit 5"}
	}), "the unit is masked")
	require.ErrorContains(t, start(func(c *pgctl.Commands) { c.Start = []string{"/nowhere/systemctl"} }), "/nowhere/systemctl")
	require.ErrorContains(t, start(func(c *pgctl.Commands) { c.Start = []string{"true"} }), "no server running")
	require.ErrorContains(t, start(func(c *pgctl.Commands) {
		c.Start, c.Status, c.Timeout = []string{"true"}, nil, 100*time.Millisecond
	}), "start of the postmaster after the start command took longer than 100ms")
	require.ErrorContains(t, start(func(c *pgctl.Commands) {
		c.Start, c.Timeout = []string{"sh", "-c", "sleep 1000 & wait"}, 100*time.Millisecond
	}), "start command sh took longer than 100ms")
	require.Equal(t, pg.HealthDead, a.status().Health)

	// A stop command that fails does not keep the server from being stopped.
	require.NoError(t, start(func(c *pgctl.Commands) { c.Stop = []string{"false"} }))
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, pg.ProcessStopped, a.status().Process)

	// A start that is cut off is undone.
	require.NoError(t, start(func(*pgctl.Commands) {}))
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	short, cancel := context.WithCancel(a.ctx())
	started := make(chan error, 1)
	go func() { started <- a.StartStandby(short, pg.Upstream{}) }()
	a.await("the server is being started", func() bool { return a.serverRuns() })
	cancel()
	if err := <-started; err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.False(t, a.serverRuns())
}

// pg_ctl puts the postmaster into a session of its own, and systemctl leaves it to
// systemd: the death of the start command does not end what it has begun.
func TestStartCommandCutOffBeforeItsPostmaster(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", byCommands(t))
	require.NoError(t, a.Init(a.ctx()))
	begun, proceed := filepath.Join(t.TempDir(), "begun"), filepath.Join(t.TempDir(), "proceed")
	whole := a.cfg.Commands.Start
	a.cfg.Commands.Start = []string{"sh", "-c", "touch " + begun +
		"; setsid sh -c 'until test -e " + proceed + "; do sleep 0.01; done; exec \"$@\"' - \"$@\" & wait", "-"}
	a.cfg.Commands.Start = append(a.cfg.Commands.Start, whole...)
	require.NoError(t, a.Close())
	a.open()

	short, cancel := context.WithCancel(a.ctx())
	started := make(chan error, 1)
	go func() { started <- a.StartStandby(short, pg.Upstream{}) }()
	a.await("the start command runs", func() bool { _, err := os.Stat(begun); return err == nil })
	cancel()
	a.await("the stop command has been run", func() bool {
		text, err := os.ReadFile(a.notes())
		return err == nil && strings.Contains(string(text), "stop")
	})
	require.NoError(t, os.WriteFile(proceed, nil, 0o600))
	require.ErrorIs(t, <-started, context.Canceled)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, "stop\nstart\nstop\n", a.noted(), "the server that came is stopped")
	require.False(t, a.serverRuns())
}
