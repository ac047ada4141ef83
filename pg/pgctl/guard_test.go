package pgctl_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/guard"
	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// heldFor is the deadline that the agents of these tests give: long enough for a
// busy machine to move it on, short enough to wait for.
const heldFor = 3 * time.Second

// builtGuard is where buildGuard has built, if it has.
var builtGuard atomic.Pointer[string]

// buildGuard builds pghad-guard as it is released, once.
var buildGuard = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pgctl-guard")
	if err != nil {
		return "", err
	}
	builtGuard.Store(&dir)
	program := filepath.Join(dir, "pghad-guard")
	cmd := exec.Command("go", "build", "-o", program, "../../cmd/pghad-guard")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return program, nil
})

// removeGuard removes what buildGuard has built.
func removeGuard() {
	if dir := builtGuard.Load(); dir != nil {
		_ = os.RemoveAll(*dir) // a temporary directory
	}
}

// needGuard is the path of pghad-guard.
func needGuard(tb testing.TB) string {
	tb.Helper()
	if runtime.GOOS != "linux" {
		testbed.Skipf(tb, "a guard needs Linux")
	}
	program, err := buildGuard()
	require.NoError(tb, err)
	return program
}

// underGuard runs a node's server under a guard, which has to end with it.
func underGuard(tb testing.TB) func(*pgctl.Config) {
	tb.Helper()
	program := needGuard(tb)
	return func(cfg *pgctl.Config) {
		cfg.Guard = &pgctl.Guard{Program: program}
		socket := filepath.Join(cfg.StateDir, "guard", "socket")
		tb.Cleanup(func() { // after the server has been stopped, before the directory is removed
			require.Eventually(tb, func() bool {
				_, err := guard.Dial(context.Background(), socket)
				return errors.Is(err, guard.ErrNoGuard)
			}, patience, 5*time.Millisecond, "the guard ends with its server")
			if tb.Failed() {
				log, _ := os.ReadFile(filepath.Join(cfg.StateDir, "guard.log"))
				tb.Logf("log of the guard:\n%s", log)
			}
		})
	}
}

// newHeld makes a running primary under a guard with a distant deadline.
func newHeld(tb testing.TB, name string) *node {
	tb.Helper()
	n := newNode(tb, name, underGuard(tb))
	require.NoError(tb, n.Init(n.ctx()))
	require.NoError(tb, n.SetDeadline(n.ctx(), lasting(time.Hour)))
	require.NoError(tb, n.StartPrimary(n.ctx(), warrant{}, pg.SyncSetting{}))
	return n
}

// lasting is a time that is always left.
func lasting(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// guardOf is the process id of the server's guard.
func (n *node) guardOf() int {
	n.tb.Helper()
	return n.parentOf(n.status().Postgres)
}

func (n *node) parentOf(pid int) int {
	n.tb.Helper()
	require.NotZero(n.tb, pid)
	out, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
	require.NoError(n.tb, err)
	return atoi(n.tb, string(out))
}

// awaitDead waits until the controller knows that no process of the server is
// left.
func (n *node) awaitDead() {
	n.tb.Helper()
	n.await("no process of the server is left", func() bool { return n.status().Health == pg.HealthDead })
}

// hold is the work of an agent that holds a primary by short deadlines.
func hold(ctx context.Context, c *pgctl.Controller, o order) error {
	if err := leadHeld(ctx, c, o); err != nil {
		return err
	}
	for pause := time.NewTicker(heldFor / 30); ; <-pause.C {
		if err := c.SetDeadline(ctx, lasting(heldFor)); err != nil {
			return err
		}
		say("moved")
	}
}

// leadHeld is the work of an agent that starts a primary with a distant deadline.
func leadHeld(ctx context.Context, c *pgctl.Controller, _ order) error {
	if err := c.SetDeadline(ctx, lasting(time.Hour)); err != nil {
		return err
	}
	return c.StartPrimary(ctx, warrant{}, pg.SyncSetting{})
}

func TestGuardedPrimary(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	for _, left := range []time.Duration{0, -time.Second, 1} {
		require.ErrorIs(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrNoWarrant)
		require.NoError(t, a.SetDeadline(a.ctx(), lasting(left)))
	}
	require.ErrorIs(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), pg.ErrNoWarrant)
	require.Equal(t, pg.HealthDead, a.status().Health)

	require.NoError(t, a.SetDeadline(a.ctx(), lasting(time.Hour)))
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, anyOf(1, "b")))
	status := a.status()
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.HealthAlive, status.Health)
	require.Equal(t, pg.ProcessRunning, status.Process)
	keeper := a.guardOf()
	require.NotEqual(t, os.Getpid(), keeper)
	require.Equal(t, os.Getpid(), a.parentOf(keeper))
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(2*time.Hour)))
	require.NoError(t, a.OpenGate(a.ctx()))

	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, pg.ProcessStopped, a.status().Process)
	disk, err := a.OnDisk(a.ctx())
	require.NoError(t, err)
	require.True(t, disk.Clean)
	a.await("the guard has ended", func() bool { return !alive(keeper) })

	// A standby needs no deadline, and loses nothing when one is revoked.
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(0)))
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	pid := a.status().Postgres
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(0)))
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(1)))
	require.Equal(t, pid, a.status().Postgres)
	require.Equal(t, pg.HealthAlive, a.status().Health)

	// It ends by itself: an event, as for a child.
	seen := a.status().Generation
	a.kill9()
	_, err = a.WaitChange(a.ctx(), seen)
	require.NoError(t, err)
	require.Equal(t, pg.ProcessCrashed, a.status().Process)
	require.Equal(t, pg.HealthDead, a.status().Health)
}

// A guard that was launched for nothing hangs up while it ends: its controller was
// killed before it asked for a server. The next one waits for its end.
func TestGuardThatEnds(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", quick, underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	socket := filepath.Join(a.cfg.StateDir, "guard", "socket")
	require.NoError(t, os.MkdirAll(filepath.Dir(socket), 0o700))
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var hung sync.WaitGroup
	hung.Go(func() {
		for range 3 {
			if conn, err := listener.Accept(); err == nil {
				_ = conn.Close()
			}
		}
		_ = listener.Close() // removes the socket
	})
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	hung.Wait()
	require.NotEqual(t, os.Getpid(), a.guardOf())
}

// alive reports whether there is a process that is no zombie.
func alive(pid int) bool {
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && len(out) > 0 && out[0] != 'Z'
}

func TestGuardedPromotion(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a, underGuard(t))
	require.NoError(t, b.Fence(b.ctx()))
	_, err := b.Promote(b.ctx(), warrant{}, 3)
	require.ErrorIs(t, err, pg.ErrNoWarrant)
	require.NoError(t, b.SetDeadline(b.ctx(), lasting(1)))
	_, err = b.Promote(b.ctx(), warrant{}, 3)
	require.ErrorIs(t, err, pg.ErrNoWarrant)
	_, err = b.Position(b.ctx())
	require.NoError(t, err, "it is a fenced standby, and its deadline that has passed is nothing to it")

	require.NoError(t, b.SetDeadline(b.ctx(), lasting(time.Hour)))
	promotion, err := b.Promote(b.ctx(), warrant{}, 3)
	require.NoError(t, err)
	require.Equal(t, pg.Timeline(3), promotion.Timeline)
	_, err = b.Promote(b.ctx(), warrant{}, 3)
	require.NoError(t, err, "again")
	seen := b.status().Generation
	require.NoError(t, b.SetDeadline(b.ctx(), lasting(0)), "revoked")
	_, err = b.WaitChange(b.ctx(), seen)
	require.NoError(t, err)
	b.awaitDead()
	require.Equal(t, pg.ProcessCrashed, b.status().Process)
	require.NoError(t, b.SetDeadline(b.ctx(), lasting(0)), "there is nothing left to stop")
}

// A primary whose agent is killed or frozen is gone when its deadline has passed.
func TestGuardStopsThePrimaryOfAnAgentThatFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*agent){
		"killed": (*agent).kill,
		"frozen": (*agent).freeze,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newNode(t, "a", underGuard(t))
			require.NoError(t, a.Init(a.ctx()))
			first := a.startAgent(order{Work: "hold"})
			for range 35 { // longer than one deadline
				first.await("moved")
			}
			client, err := a.connect("postgres")
			require.NoError(t, err)
			pid := int(client.PID())
			defer client.Close(a.ctx()) //nolint:errcheck // the server ends it
			fail(first)
			a.await("the server has ended the session", func() bool {
				_, err := client.Exec(a.ctx(), "SELECT 1").ReadAll()
				return err != nil
			})
			a.await("no process is left", func() bool { return !alive(pid) && !a.serverRuns() })
			if name == "frozen" {
				first.thaw()
			}
			first.kill()
			a.open()
			require.Equal(t, pg.HealthDead, a.status().Health)
			require.Equal(t, pg.ProcessCrashed, a.status().Process)
			require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
		})
	}
}

// serverRuns reports whether there is a process of the server, by its port's lock
// and by the process table.
func (n *node) serverRuns() bool {
	out, err := exec.Command("pgrep", "-f", "postgres.* -D "+n.cfg.DataDir).Output()
	return err == nil && len(out) > 0
}

func (a *agent) freeze() {
	a.tb.Helper()
	require.NoError(a.tb, a.cmd.Process.Signal(syscall.SIGSTOP))
}

func (a *agent) thaw() {
	a.tb.Helper()
	require.NoError(a.tb, a.cmd.Process.Signal(syscall.SIGCONT))
}

// Agents come and go: the server stays.
func TestGuardedServerOutlivesItsAgents(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	first := a.startAgent(order{Work: "lead-held"})
	first.await("done")
	first.kill()
	a.open()
	status := a.status()
	require.Equal(t, pg.RolePrimary, status.Role)
	keeper := a.guardOf()
	for range 3 {
		require.NoError(t, a.SetDeadline(a.ctx(), lasting(time.Hour)))
		require.NoError(t, a.SelfCheck(a.ctx()))
		require.NoError(t, a.Close())
		require.ErrorContains(t, a.SetDeadline(a.ctx(), lasting(time.Hour)), "closed")
		a.open()
		require.Equal(t, status.Postgres, a.status().Postgres)
		require.Equal(t, keeper, a.guardOf())
	}
	// The deadline that the first agent gave is still in force, and so is the next.
	seen := a.status().Generation
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(time.Millisecond)))
	_, err := a.WaitChange(a.ctx(), seen)
	require.NoError(t, err)
	a.awaitDead()
	require.False(t, a.serverRuns())
}

// The end of the guard is the end of the server, even of one that the kernel's
// signal does not reach.
func TestGuardDies(t *testing.T) {
	t.Parallel()
	for name, freeze := range map[string]bool{"": false, "and the postmaster is frozen": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newHeld(t, "a")
			client, err := a.connect("postgres")
			require.NoError(t, err)
			defer client.Close(a.ctx()) //nolint:errcheck // the server ends it
			status := a.status()
			keeper := a.guardOf()
			if freeze {
				require.NoError(t, syscall.Kill(status.Postgres, syscall.SIGSTOP))
			}
			require.NoError(t, syscall.Kill(keeper, syscall.SIGKILL))
			_, err = a.WaitChange(a.ctx(), status.Generation)
			require.NoError(t, err)
			a.awaitDead()
			require.Equal(t, pg.ProcessCrashed, a.status().Process)
			require.False(t, a.serverRuns())
			require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}), "under the next guard, by the deadline that is still ahead")
			require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
		})
	}
}

// A frozen guard takes no deadline, and holds nothing up.
func TestGuardIsFrozen(t *testing.T) {
	t.Parallel()
	a := newHeld(t, "a")
	keeper := a.guardOf()
	require.NoError(t, syscall.Kill(keeper, syscall.SIGSTOP))
	short, cancel := context.WithTimeout(a.ctx(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.SetDeadline(short, lasting(time.Hour)), context.DeadlineExceeded)
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.Equal(t, pg.ProcessStopped, a.status().Process)
	require.True(t, alive(keeper))
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	require.False(t, alive(keeper), "the next start has put an end to it")
	require.NotEqual(t, keeper, a.guardOf())
}

// The machine stands still, guard and agent: what runs on is stopped as soon as
// the guard can.
func TestGuardAndAgentAreFrozen(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	first := a.startAgent(order{Work: "hold"})
	first.await("moved")
	postmaster := a.postmaster()
	keeper := a.parentOf(postmaster)
	first.freeze()
	require.NoError(t, syscall.Kill(keeper, syscall.SIGSTOP))
	passes := guard.Now().Add(heldFor)
	a.await("the deadline has passed", func() bool { return passes.Reached(guard.Now()) })
	require.True(t, alive(postmaster))
	first.thaw()
	require.NoError(t, syscall.Kill(keeper, syscall.SIGCONT))
	a.await("the server is gone", func() bool { return !a.serverRuns() })
	first.kill()
	a.open()
	require.Equal(t, pg.ProcessCrashed, a.status().Process)
}

// postmaster is what postmaster.pid says.
func (n *node) postmaster() int {
	n.tb.Helper()
	text, err := os.ReadFile(filepath.Join(n.cfg.DataDir, "postmaster.pid"))
	require.NoError(n.tb, err)
	pid, _, _ := strings.Cut(string(text), "\n")
	return atoi(n.tb, pid)
}

// Agents are killed in the middle of a start: the next one can start again.
func TestAgentsKilledInGuardedStarts(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	guardLog := filepath.Join(a.cfg.StateDir, "guard.log")
	for round, moment := range []func() bool{
		func() bool { return true },
		func() bool { _, err := os.Stat(filepath.Join(a.cfg.StateDir, "guard", "socket")); return err == nil },
		func() bool { info, err := os.Stat(guardLog); return err == nil && info.Size() > 0 },
		func() bool { _, err := os.Stat(filepath.Join(a.cfg.DataDir, "postmaster.pid")); return err == nil },
	} {
		require.NoError(t, os.RemoveAll(guardLog))
		first := a.startAgent(order{Work: "lead-held"})
		a.await("the agent has come so far", moment)
		first.kill()
		a.open()
		t.Logf("round %d: the next agent finds %s", round, a.status().Process)
		if a.status().Process == pg.ProcessStarting || a.status().Process == pg.ProcessRunning {
			require.NoError(t, a.SetDeadline(a.ctx(), lasting(time.Hour)))
			require.NoError(t, a.Stop(a.ctx(), pg.StopImmediate))
		}
		require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
		require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	}
}

// A server that was started without a guard runs on without one.
func TestServerWithoutItsGuard(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	require.ErrorIs(t, a.SetDeadline(a.ctx(), lasting(time.Hour)), errors.ErrUnsupported)
	program := needGuard(t)
	for _, n := range []*node{a, b} {
		require.NoError(t, n.Close())
		n.cfg.Guard = &pgctl.Guard{Program: program}
		n.open()
		require.Equal(t, pg.HealthAlive, n.status().Health)
	}
	require.ErrorIs(t, a.SetDeadline(a.ctx(), lasting(time.Hour)), errors.ErrUnsupported)
	require.NoError(t, b.SetDeadline(b.ctx(), lasting(time.Hour)), "a standby has none")
	require.NoError(t, b.Fence(b.ctx()))
	_, err := b.Promote(b.ctx(), warrant{}, 2)
	require.ErrorContains(t, err, "has no guard")
	_, err = b.Position(b.ctx())
	require.NoError(t, err, "it was not promoted")
	require.NoError(t, b.Stop(b.ctx(), pg.StopFast))
	require.NoError(t, b.StartStandby(b.ctx(), a.up("b")))
	require.NoError(t, b.Fence(b.ctx()))
	_, err = b.Promote(b.ctx(), warrant{}, 2)
	require.NoError(t, err)

	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(time.Hour)), "the server that had none has ended")
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
	require.NoError(t, a.SetDeadline(a.ctx(), lasting(2*time.Hour)))
}

func TestGuardThatDoesNotComeUp(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	require.NoError(t, os.MkdirAll(filepath.Join(a.cfg.StateDir, "guard"), 0o755))
	require.NoError(t, os.Chmod(filepath.Join(a.cfg.StateDir, "guard"), 0o755))
	require.ErrorContains(t, a.StartStandby(a.ctx(), pg.Upstream{}), "chmod it to 0700")
	require.NoError(t, os.Chmod(filepath.Join(a.cfg.StateDir, "guard"), 0o700))
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	a.place(filepath.Join(a.cfg.DataDir, "pg_hba.conf"), "")
	a.cfg.HBA = []string{"local all all nonsense"}
	require.NoError(t, a.Close())
	a.open()
	require.ErrorContains(t, a.StartStandby(a.ctx(), pg.Upstream{}), "pg_hba.conf", "the server says why it has ended")
}

func TestGuardConfigIsChecked(t *testing.T) {
	t.Parallel()
	needGuard(t)
	cfg := validConfig(t)
	for want, edit := range map[string]func(*pgctl.Config){
		"no such file":    func(c *pgctl.Config) { c.Guard.Program = "/nowhere/pghad-guard" },
		"absolute path":   func(c *pgctl.Config) { c.Guard.Program = "." },
		"whole seconds":   func(c *pgctl.Config) { c.Guard.WatchdogTimeout = time.Millisecond },
		"not by both":     func(c *pgctl.Config) { c.Commands = &pgctl.Commands{Start: []string{"a"}, Stop: []string{"b"}} },
		"a unix socket's": func(c *pgctl.Config) { c.SocketDir = c.StateDir; c.StateDir += "/" + longName },
	} {
		wrong := cfg
		wrong.Guard = &pgctl.Guard{Program: "/bin/true"}
		edit(&wrong)
		_, err := pgctl.New(wrong)
		require.ErrorContains(t, err, want, want)
	}
	for want, commands := range map[string]pgctl.Commands{
		"command Start": {Stop: []string{"a"}},
		"command Stop":  {Start: []string{"a"}, Stop: []string{""}},
	} {
		wrong := cfg
		wrong.Commands = &commands
		_, err := pgctl.New(wrong)
		require.ErrorContains(t, err, want)
	}
}

const longName = "a-name-that-is-far-too-long-for-the-path-of-a-socket-and-that-nobody-would-give-to-a-directory"

// The user may want the server's log elsewhere, and has made a link.
func TestGuardedServerWhoseLogIsALink(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a", underGuard(t))
	require.NoError(t, a.Init(a.ctx()))
	elsewhere := filepath.Join(filepath.Dir(a.cfg.StateDir), "elsewhere.log")
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(a.cfg.StateDir, "postgresql.log")))
	require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
	text, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.Contains(t, string(text), "starting PostgreSQL")
}
