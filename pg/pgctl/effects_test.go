package pgctl_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// everyBoundary is for a run that takes an hour; without it a sample is tried.
var everyBoundary = flag.Bool("boundaries", false, "kill agents at every effect boundary of every runner instead of a sample")

// ranBy is a way to run the server under which agents are killed.
type ranBy struct {
	name        string
	edit        func(testing.TB) func(*pgctl.Config)
	first, step int // of the sample; no step, none
}

// runners are the ways to run a server. Where the way does not matter, because no
// server runs, the sample is of the first one only.
func runners(matters bool) []ranBy {
	all := []ranBy{
		{"child", func(testing.TB) func(*pgctl.Config) { return func(*pgctl.Config) {} }, 1, 7},
		{"guard", underGuard, 3, 17},
		{"commands", byCommands, 2, 17},
	}
	if !matters && !*everyBoundary {
		return all[:1]
	}
	return all
}

// underEach runs a test once for each runner.
func underEach(t *testing.T, matters bool, test func(t *testing.T, by ranBy)) {
	t.Helper()
	for _, by := range runners(matters) {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			test(t, by)
		})
	}
}

// runBy stops the server, and has it run in another way from now on.
func (n *node) runBy(by ranBy) {
	n.tb.Helper()
	require.NoError(n.tb, n.Stop(n.ctx(), pg.StopFast))
	require.NoError(n.tb, n.Close())
	by.edit(n.tb)(&n.cfg)
	n.open()
}

// permit lets the server run writable under a guard.
func permit(ctx context.Context, c *pgctl.Controller, cfg pgctl.Config) error {
	if cfg.Guard == nil {
		return nil
	}
	return c.SetDeadline(ctx, lasting(time.Hour))
}

// lead starts the node's server as a primary.
func (n *node) lead(setting pg.SyncSetting) {
	n.tb.Helper()
	require.NoError(n.tb, permit(n.ctx(), n.Controller, n.cfg))
	require.NoError(n.tb, n.StartPrimary(n.ctx(), warrant{}, setting))
}

// deadly makes effects that kill their process right before the effect of that
// number, or a pause after the first program was started.
func deadly(at int, pause time.Duration) (effects pgctl.Effects, armed *atomic.Bool) {
	armed = new(atomic.Bool)
	var count atomic.Int64
	return pgctl.Effects{Before: func(name string) {
		switch {
		case !armed.Load():
		case pause > 0 && strings.HasPrefix(name, "run ") && count.Add(1) == 1:
			say("dies", name)
			time.AfterFunc(pause, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
		case pause == 0 && int(count.Add(1)) == at:
			say("dies", name)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}}, armed
}

// image is a copy of a node's directories while nothing of it runs.
type image struct {
	n    *node
	path string
}

// image closes the controller and copies what there is.
func (n *node) image() image {
	n.tb.Helper()
	require.NoError(n.tb, n.Stop(n.ctx(), pg.StopImmediate))
	require.NoError(n.tb, n.Close())
	i := image{n, filepath.Dir(n.cfg.DataDir) + "/image"}
	require.NoError(n.tb, os.Mkdir(i.path, 0o755))
	i.copy(filepath.Dir(n.cfg.DataDir), i.path)
	return i
}

func (i image) copy(from, to string) {
	i.n.tb.Helper()
	for _, name := range []string{"data", "state"} {
		require.NoError(i.n.tb, os.RemoveAll(filepath.Join(to, name)))
		if _, err := os.Stat(filepath.Join(from, name)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		out, err := exec.CommandContext(i.n.ctx(), "cp", "-a", filepath.Join(from, name), filepath.Join(to, name)).CombinedOutput()
		require.NoError(i.n.tb, err, string(out))
	}
}

// back brings the node back to the image, with an open controller.
func (i image) back() {
	i.n.tb.Helper()
	root := filepath.Dir(i.n.cfg.DataDir)
	for _, rest := range []string{".new", ".old"} {
		require.NoError(i.n.tb, os.RemoveAll(i.n.cfg.DataDir+rest))
	}
	i.copy(i.path, root)
	i.n.open()
}

// killed is one operation whose agent is killed at its boundaries.
type killed struct {
	n      *node
	by     ranBy
	order  order
	before func() // brings the node into the state in which the operation begins; nil: the image
	finish func() // the next caller's way to the same end
}

// everywhere kills an agent at one boundary after the other, and has the next caller
// come to the end. It needs a node whose state is to be begun from.
func (k killed) everywhere(t *testing.T) {
	t.Helper()
	start := k.n.image()
	first, step := k.by.first, k.by.step
	if *everyBoundary {
		first, step = 1, 1
	}
	boundaries := 0
	for at := first; ; at += step {
		start.back()
		if k.before != nil {
			k.before()
		}
		k.order.KillAt = at
		agent := k.n.startAgent(k.order)
		point := agent.dies()
		agent.kill() // if it has come to the end
		k.n.open()
		k.n.requireNoTools()
		if point == "" {
			k.finish()
			require.NoError(t, k.n.Stop(k.n.ctx(), pg.StopImmediate))
			break
		}
		boundaries++
		t.Logf("%s, %s: killed at %d, before %q", k.order.Work, k.by.name, at, point)
		k.finish()
		require.NoError(t, k.n.Stop(k.n.ctx(), pg.StopImmediate))
		require.NoError(t, k.n.Close())
	}
	require.NotZero(t, boundaries)
	t.Logf("%s, %s: %d boundaries", k.order.Work, k.by.name, boundaries)
}

// dies reads how the agent has ended: before which effect, "" if it has done its work.
func (a *agent) dies() string {
	a.tb.Helper()
	point := ""
	for a.lines.Scan() {
		switch line := a.lines.Text(); {
		case strings.HasPrefix(line, "dies "):
			point = strings.TrimPrefix(line, "dies ")
		case strings.HasPrefix(line, "done"):
			return ""
		default:
			require.NotContains(a.tb, line, "error:")
		}
	}
	_ = a.cmd.Wait() // it was killed
	require.NotEmpty(a.tb, point, "the agent has ended in another way")
	return point
}

// requireNoTools checks that no program that a killed agent has run works on the data.
func (n *node) requireNoTools() {
	n.tb.Helper()
	names, err := os.ReadDir("/proc")
	require.NoError(n.tb, err)
	for _, name := range names {
		if _, err := strconv.Atoi(name.Name()); err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", name.Name(), "cmdline"))
		if err != nil || !strings.Contains(string(line), n.cfg.DataDir) {
			continue
		}
		program := filepath.Base(strings.SplitN(string(line), "\x00", 2)[0])
		require.NotContains(n.tb, []string{"pg_rewind", "pg_basebackup", "initdb"}, program)
	}
}

// keeping keeps all WAL: each copy ends a segment of its source.
func keeping(cfg *pgctl.Config) { cfg.Parameters["wal_keep_size"] = "8GB" }

// quick has initdb not wait for the disk.
func quick(cfg *pgctl.Config) {
	cfg.InitArgs = []string{"--encoding=UTF8", "--locale=C", "--data-checksums", "--no-sync"}
	cfg.ConnectTimeout = patience / 3 // how long a busy machine takes for it is not what is tested
}

func TestAgentKilledInInit(t *testing.T) {
	t.Parallel()
	underEach(t, false, func(t *testing.T, by ranBy) {
		a := newNode(t, "a", quick)
		a.runBy(by)
		killed{n: a, by: by, order: order{Work: "init"}, finish: func() {
			if disk, err := a.OnDisk(a.ctx()); err != nil {
				require.True(t, errors.Is(err, pg.ErrNoData) || errors.Is(err, pg.ErrIncompleteCopy), err.Error())
				require.Error(t, a.StartStandby(a.ctx(), pg.Upstream{}), "it is not started half-made")
				require.NoError(t, a.Init(a.ctx()))
			} else {
				require.True(t, disk.Clean)
			}
			a.lead(pg.SyncSetting{})
			require.Equal(t, "1", a.sql("SELECT count(*) FROM pg_roles WHERE rolreplication AND rolname = 'replicator'"))
		}}.everywhere(t)
	})
}

func TestAgentKilledInStartAndStop(t *testing.T) {
	t.Parallel()
	underEach(t, true, func(t *testing.T, by ranBy) {
		a := newPrimary(t, "a", quick)
		a.runBy(by)
		lead := func() {
			if a.status().Role != pg.RolePrimary {
				if a.status().Process == pg.ProcessStarting {
					require.NoError(t, a.Stop(a.ctx(), pg.StopImmediate))
				}
				a.lead(anyOf(1, "b"))
			}
			require.NoError(t, a.OpenGate(a.ctx()))
			status := a.status()
			require.True(t, status.GateOpen)
			require.True(t, status.Sync.Equal(anyOf(1, "b")))
		}
		killed{n: a, by: by, order: order{Work: "lead"}, finish: lead}.everywhere(t)
		a.lead(anyOf(1, "b"))
		require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
		require.NoError(t, os.RemoveAll(filepath.Dir(a.cfg.DataDir)+"/image"))
		by.first = 1 // it has few
		killed{n: a, by: by, order: order{Work: "stop"}, before: func() { a.lead(anyOf(1, "b")) }, finish: func() {
			require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
			disk, err := a.OnDisk(a.ctx())
			require.NoError(t, err)
			require.True(t, disk.Clean)
		}}.everywhere(t)
	})
}

func TestAgentKilledInFenceAndFollow(t *testing.T) {
	t.Parallel()
	underEach(t, true, func(t *testing.T, by ranBy) {
		a := newPrimary(t, "a", quick)
		b := newStandby(t, "b", a)
		b.runBy(by)
		follow := func() { require.NoError(t, b.StartStandby(b.ctx(), a.up("b"))) }
		killed{n: b, by: by, order: order{Work: "fence"}, before: func() {
			follow()
			b.awaitStreaming(a)
		}, finish: func() {
			require.NoError(t, b.Fence(b.ctx()))
			_, err := b.Position(b.ctx())
			require.NoError(t, err)
		}}.everywhere(t)
		require.NoError(t, os.RemoveAll(filepath.Dir(b.cfg.DataDir)+"/image"))
		killed{n: b, by: by, order: order{Work: "follow", Up: a.up("b")}, before: func() { require.NoError(t, b.Fence(b.ctx())) }, finish: func() {
			follow()
			b.awaitStreaming(a)
		}}.everywhere(t)
	})
}

func TestAgentKilledInPromote(t *testing.T) {
	t.Parallel()
	underEach(t, true, func(t *testing.T, by ranBy) {
		a := newPrimary(t, "a", quick)
		b := newStandby(t, "b", a)
		require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
		b.runBy(by)
		killed{n: b, by: by, order: order{Work: "promote", Next: 4}, before: func() { require.NoError(t, b.Fence(b.ctx())) }, finish: func() {
			require.NoError(t, permit(b.ctx(), b.Controller, b.cfg))
			b.await("the promotion has ended", func() bool {
				promotion, err := b.Promote(b.ctx(), warrant{}, 4)
				if errors.Is(err, pg.ErrNotFenced) || errors.Is(err, pg.ErrNotRunning) {
					require.NoError(t, b.Fence(b.ctx()))
				}
				return err == nil && promotion.Timeline == 4
			})
			require.Equal(t, pg.Timeline(4), b.status().Timeline)
			require.NoFileExists(t, filepath.Join(b.cfg.StateDir, "placeholders.json"))
		}}.everywhere(t)
	})
}

// startsWhole starts a standby whose copy may have been cut off: it is refused, or
// shows all of the old rows, or all of the new ones.
func (n *node) startsWhole(source *node, old, made string) {
	n.tb.Helper()
	err := n.StartStandby(n.ctx(), source.up(n.name))
	if err != nil {
		require.True(n.tb, errors.Is(err, pg.ErrNoData) || errors.Is(err, pg.ErrIncompleteCopy), err.Error())
		return
	}
	require.Contains(n.tb, []string{old, made}, n.sql("SELECT count(*) FROM t"))
	require.NoError(n.tb, n.Stop(n.ctx(), pg.StopFast))
}

// rejoin is what the next caller does after a rewind or clone that was cut off.
func (n *node) rejoin(source *node) {
	n.tb.Helper()
	_, err := n.Rewind(n.ctx(), source.up(n.name))
	if errors.Is(err, pg.ErrIncompleteCopy) || errors.Is(err, pg.ErrRewindImpossible) {
		_, err = n.Clone(n.ctx(), source.up(n.name))
	}
	require.NoError(n.tb, err)
	require.NoError(n.tb, n.StartStandby(n.ctx(), source.up(n.name)))
	n.awaitStreaming(source)
	require.Equal(n.tb, "1", n.sql("SELECT count(*) FROM t"))
	for _, left := range []string{n.cfg.DataDir + ".new", n.cfg.DataDir + ".old", filepath.Join(n.cfg.StateDir, "unfinished.json"), filepath.Join(n.cfg.StateDir, "clone.json")} {
		require.NoFileExists(n.tb, left)
		require.NoDirExists(n.tb, left)
	}
}

func TestAgentKilledInRewind(t *testing.T) {
	t.Parallel()
	underEach(t, false, func(t *testing.T, by ranBy) { killedInCopy(t, by, "rewind") })
}

func TestAgentKilledInClone(t *testing.T) {
	t.Parallel()
	underEach(t, false, func(t *testing.T, by ranBy) { killedInCopy(t, by, "clone") })
}

func killedInCopy(t *testing.T, by ranBy, work string) {
	t.Helper()
	a, b := diverge(t, quick, keeping)
	a.runBy(by)
	killed{n: a, by: by, order: order{Work: work, Up: b.up("a")}, finish: func() {
		a.startsWhole(b, "1000", "1")
		a.rejoin(b)
	}}.everywhere(t)
}

// The agent is killed while a program works on the data: the program ends with it,
// before the next controller can begin.
func TestAgentKilledWhileItsProgramsRun(t *testing.T) {
	t.Parallel()
	a, b := diverge(t, quick, keeping)
	b.sql("CREATE TABLE big AS SELECT generate_series(1, 300000) i")
	require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
	start := a.image()
	for _, work := range []string{"rewind", "clone"} {
		for _, pause := range []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond} {
			start.back()
			agent := a.startAgent(order{Work: work, Up: b.up("a"), KillRun: pause})
			t.Logf("%s: killed %s after a program was started: %q", work, pause, agent.dies())
			agent.kill()
			a.open()
			a.requireNoTools()
			a.startsWhole(b, "1000", "1")
			a.rejoin(b)
			require.Equal(t, "300000", a.sql("SELECT count(*) FROM big"))
			require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
			require.NoError(t, a.Close())
		}
	}
	start.back()
}

// What a program has started may outlive it and the agent, with the lock: the next
// controller ends it, and leaves living controllers alone.
func TestOrphansOfAProgramAreKilled(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", quick)
	b := newNode(t, "b", quick, func(cfg *pgctl.Config) {
		cfg.CloneCommand = []string{"sh", "-c", "setsid sleep 3600 & echo $! > {dir}/pid; wait"}
	})
	agent := b.startAgent(order{Work: "clone", Up: a.up("b")})
	note := filepath.Join(b.cfg.DataDir+".new", "pid")
	var pid int
	b.await("the clone has begun", func() bool {
		text, err := os.ReadFile(note)
		if err == nil && strings.HasSuffix(string(text), "\n") {
			pid = atoi(t, string(text))
		}
		return pid != 0
	})
	_, err := pgctl.New(b.cfg)
	require.ErrorContains(t, err, "another controller")
	require.NoError(t, syscall.Kill(pid, 0), "its agent lives")
	agent.kill()
	b.open()
	b.await("the orphan has ended", func() bool {
		state, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		return err != nil || strings.Contains(string(state), ") Z ")
	})
}
