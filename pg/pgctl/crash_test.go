package pgctl_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

func TestCrashIsNoticedAndRestartedInPlace(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	client, err := a.connect("client")
	require.NoError(t, err)
	defer client.Close(a.ctx()) //nolint:errcheck // it has ended anyway
	seen := a.status().Generation
	a.kill9()
	grown, err := a.WaitChange(a.ctx(), seen)
	require.NoError(t, err)
	require.Equal(t, seen+1, grown)
	status := a.status()
	require.Equal(t, pg.ProcessCrashed, status.Process)
	require.Equal(t, pg.HealthDead, status.Health, "no process of it is left")

	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, anyOf(1, "b")))
	status = a.status()
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.Timeline(1), status.Timeline)
	require.True(t, status.Sync.Equal(anyOf(1, "b")))
	require.False(t, status.GateOpen)
	_, err = a.connect("client")
	require.ErrorContains(t, err, "pg_hba")
	require.NoError(t, a.OpenGate(a.ctx()))
	require.True(t, a.status().GateOpen)
	_, err = a.connect("client")
	require.NoError(t, err)
}

func TestBackendCrashStopsTheServer(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	seen := a.status().Generation
	pid := atoi(t, a.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"))
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	_, err := a.WaitChange(a.ctx(), seen)
	require.NoError(t, err, "restart_after_crash is off")
	require.Equal(t, pg.ProcessCrashed, a.status().Process)
}

// The agent is restarted, the server lives on: it is found, watched and
// stopped.
func TestServerIsTakenOver(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	require.NoError(t, a.SetSync(a.ctx(), anyOf(2, "b", "c")))
	pid := a.status().Postgres
	_, err := pgctl.New(a.cfg)
	require.ErrorContains(t, err, "another controller")
	require.NoError(t, a.Close())
	_, err = a.WaitChange(a.ctx(), a.status().Generation)
	require.Error(t, err)

	a.open()
	status := a.status()
	require.Equal(t, pid, status.Postgres)
	require.Equal(t, pg.HealthAlive, status.Health)
	require.True(t, status.GateOpen)
	require.NoError(t, a.SelfCheck(a.ctx()))
	a.kill9()
	_, err = a.WaitChange(a.ctx(), status.Generation)
	require.NoError(t, err)
	require.Equal(t, pg.ProcessCrashed, a.status().Process)

	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	require.True(t, a.status().Sync.Equal(anyOf(2, "b", "c")), "the setting survives restarts of both")
	require.NoError(t, a.Close())
	a.open()
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, pg.ProcessStopped, a.status().Process)
	require.NoError(t, a.Close())
	a.open()
	require.Equal(t, pg.ProcessStopped, a.status().Process, "as the control file says")
}

func TestStalePidFile(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	path := filepath.Join(a.cfg.DataDir, "postmaster.pid")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	a.crash()
	require.FileExists(t, path)
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}), "of a dead process")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))

	// The number belongs to somebody else now: PostgreSQL alone would refuse.
	lines := append([]byte(strconv.Itoa(os.Getppid())), text[len(strconv.Itoa(a.status().Postgres)):]...)
	a.place(path, string(lines))
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
}

// An immediate stop gets rid of what does not react any more.
func TestImmediateStopOfAFrozenServer(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	backend, err := a.connect("client")
	require.NoError(t, err)
	defer backend.Close(a.ctx()) //nolint:errcheck // it is killed
	pid := a.status().Postgres
	require.NoError(t, syscall.Kill(int(backend.PID()), syscall.SIGSTOP))
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))

	require.Equal(t, pg.HealthAlive, a.status().Health, "the kept session still answers")
	short, cancel := context.WithTimeout(a.ctx(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, a.SelfCheck(short), "a new one does not")

	require.NoError(t, a.Stop(a.ctx(), pg.StopImmediate))
	state, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(int(backend.PID())), "stat"))
	if err == nil {
		require.Contains(t, string(state), ") Z ", "at most a zombie is left")
	}
	require.Equal(t, pg.HealthDead, a.status().Health)
}

func TestStopWinsOverAnOperation(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	startup := atoi(t, b.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"))
	require.NoError(t, syscall.Kill(startup, syscall.SIGSTOP)) // the fence has to wait
	fenced := make(chan error, 1)
	go func() { fenced <- b.Fence(b.ctx()) }()
	b.await("the fence has begun", func() bool {
		conninfo, err := b.trySQL("SHOW primary_conninfo")
		return err == nil && conninfo == ""
	})
	require.NoError(t, b.Stop(b.ctx(), pg.StopImmediate))
	require.ErrorContains(t, <-fenced, "being stopped")
	require.Equal(t, pg.HealthDead, b.status().Health)
	require.Equal(t, pg.ProcessStopped, b.status().Process)
}

func TestFastStopThatIsCutOff(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	receiver := atoi(t, b.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'"))
	require.NoError(t, syscall.Kill(receiver, syscall.SIGSTOP)) // the primary waits for it
	short, cancel := context.WithTimeout(a.ctx(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.Stop(short, pg.StopFast), context.DeadlineExceeded)
	require.Equal(t, pg.ProcessStopping, a.status().Process)
	require.NoError(t, syscall.Kill(receiver, syscall.SIGCONT))
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	disk, err := a.OnDisk(a.ctx())
	require.NoError(t, err)
	require.True(t, disk.Clean)
}

func TestStartThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", func(cfg *pgctl.Config) { cfg.HBA = []string{"local all client nonsense"} })
	require.NoError(t, a.Init(a.ctx()))
	require.ErrorContains(t, a.StartStandby(a.ctx(), pg.Upstream{}), "pg_hba.conf")
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.ErrorContains(t, a.OpenGate(a.ctx()), "nonsense")
	require.False(t, a.status().GateOpen)
}

func TestStartPrimaryNeedsAWarrant(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	require.NoError(t, a.Init(a.ctx()))
	require.ErrorIs(t, a.StartPrimary(a.ctx(), nil, pg.SyncSetting{}), pg.ErrNoWarrant)
	for until := range 2 {
		checks := 0
		require.ErrorIs(t, a.StartPrimary(a.ctx(), countedWarrant{checks: &checks, until: until}, pg.SyncSetting{}), pg.ErrNoWarrant)
		require.Equal(t, pg.HealthDead, a.status().Health)
	}
}
