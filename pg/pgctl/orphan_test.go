package pgctl_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// agentVariable makes the test binary an agent, which is killed in the middle of
// its work. It holds an order.
const agentVariable = "PGCTL_TEST_AGENT"

// order is what an agent does with its controller.
type order struct {
	Config pgctl.Config `json:"config"`
	Work   string       `json:"work"` // a key of works
	Up     pg.Upstream  `json:"up"`
	Next   pg.Timeline  `json:"next"`
	Backup pgctl.Backup `json:"backup"`
	// KillAt, if set, is the effect before which the agent kills itself.
	KillAt int `json:"kill_at"`
	// KillRun, if set, is how long the first program runs before it does.
	KillRun time.Duration `json:"kill_run"`
}

// say tells the parent how far the agent has come.
func say(words ...any) { _, _ = fmt.Fprintln(os.Stdout, words...) } // the parent may have gone

// works are what agents do until they are killed.
var works = map[string]func(context.Context, *pgctl.Controller, order) error{
	"lead": func(ctx context.Context, c *pgctl.Controller, o order) error {
		if err := permit(ctx, c, o.Config); err != nil {
			return err
		}
		if err := c.StartPrimary(ctx, warrant{}, anyOf(1, "b")); err != nil {
			return err
		}
		return c.OpenGate(ctx)
	},
	"follow": func(ctx context.Context, c *pgctl.Controller, o order) error { return c.StartStandby(ctx, o.Up) },
	"stop":   func(ctx context.Context, c *pgctl.Controller, _ order) error { return c.Stop(ctx, pg.StopFast) },
	"promote": func(ctx context.Context, c *pgctl.Controller, o order) error {
		if err := permit(ctx, c, o.Config); err != nil {
			return err
		}
		_, err := c.Promote(ctx, warrant{}, o.Next)
		return err
	},
	"init":  func(ctx context.Context, c *pgctl.Controller, _ order) error { return c.Init(ctx) },
	"fence": func(ctx context.Context, c *pgctl.Controller, _ order) error { return c.Fence(ctx) },
	"rewind": func(ctx context.Context, c *pgctl.Controller, o order) error {
		_, err := c.Rewind(ctx, o.Up)
		return err
	},
	"clone": func(ctx context.Context, c *pgctl.Controller, o order) error {
		_, err := c.Clone(ctx, o.Up)
		return err
	},
	"restore":   func(ctx context.Context, c *pgctl.Controller, o order) error { return c.Restore(ctx, o.Backup) },
	"hold":      hold,
	"lead-held": leadHeld,
	"change": func(ctx context.Context, c *pgctl.Controller, _ order) error {
		for i := 0; ; i++ {
			if err := c.SetSync(ctx, anyOf(1, "b"+strconv.Itoa(i))); err != nil {
				return err
			}
			say("changed", i)
		}
	},
}

func TestMain(m *testing.M) {
	if text := os.Getenv(agentVariable); text != "" {
		beAgent(text)
		os.Exit(0)
	}
	code := m.Run()
	removeGuard()
	os.Exit(code)
}

// beAgent works until its parent kills it or ends.
func beAgent(text string) {
	var o order
	err := json.Unmarshal([]byte(text), &o) //nolint:musttag // a test's own way to pass a Config
	if err == nil {
		var c *pgctl.Controller
		effects, armed := deadly(o.KillAt, o.KillRun)
		o.Config.Effects = effects
		if c, err = pgctl.New(o.Config); err == nil {
			armed.Store(true)
			say("begun")
			err = works[o.Work](context.Background(), c, o)
		}
	}
	if err != nil {
		say("error:", err)
	} else {
		say("done")
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // the parent never writes
}

// agent is a running agent.
type agent struct {
	tb    testing.TB
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// startAgent closes the node's controller and has another process do something.
func (n *node) startAgent(o order) *agent {
	n.tb.Helper()
	require.NoError(n.tb, n.Close())
	o.Config = n.cfg
	o.Config.Logger = nil
	text, err := json.Marshal(o) //nolint:musttag // a test's own way to pass a Config
	require.NoError(n.tb, err)
	self, err := os.Executable()
	require.NoError(n.tb, err)
	a := &agent{tb: n.tb, cmd: exec.Command(self)}
	a.cmd.Env = append(os.Environ(), agentVariable+"="+string(text))
	a.cmd.Stderr = os.Stderr
	out, err := a.cmd.StdoutPipe()
	require.NoError(n.tb, err)
	_, err = a.cmd.StdinPipe()
	require.NoError(n.tb, err)
	a.lines = bufio.NewScanner(out)
	require.NoError(n.tb, a.cmd.Start())
	n.tb.Cleanup(a.kill)
	a.await("begun")
	return a
}

// await reads the agent's output up to a line.
func (a *agent) await(prefix string) {
	a.tb.Helper()
	for a.lines.Scan() {
		if strings.HasPrefix(a.lines.Text(), prefix) {
			return
		}
		require.NotContains(a.tb, a.lines.Text(), "error:")
	}
	a.tb.Fatalf("the agent has ended and not said %q: %v", prefix, a.lines.Err())
}

func (a *agent) kill() {
	if a.cmd.ProcessState == nil {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait() // it was killed
	}
}

func TestOrphanIsTakenOver(t *testing.T) {
	t.Parallel()
	a := newNode(t, "a")
	require.NoError(t, a.Init(a.ctx()))
	first := a.startAgent(order{Work: "lead"})
	first.await("done")
	first.kill()

	a.open()
	status := a.status()
	require.Equal(t, pg.ProcessRunning, status.Process)
	require.Equal(t, pg.HealthAlive, status.Health)
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.Timeline(1), status.Timeline)
	require.True(t, status.GateOpen)
	require.True(t, status.Sync.Equal(anyOf(1, "b")))
	view, err := a.SyncView(a.ctx())
	require.NoError(t, err)
	require.True(t, view.Setting.Equal(anyOf(1, "b")))
	require.Equal(t, "f", a.sql("SELECT pg_is_in_recovery()"))

	// Its end is an event, long before process 1 has reaped it.
	a.kill9()
	_, err = a.WaitChange(a.ctx(), status.Generation)
	require.NoError(t, err)
	status = a.status()
	require.Equal(t, pg.ProcessCrashed, status.Process)
	require.Equal(t, pg.HealthDead, status.Health)
	require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, pg.SyncSetting{}))
}

func TestOrphanIsStopped(t *testing.T) {
	t.Parallel()
	for _, mode := range []pg.StopMode{pg.StopFast, pg.StopImmediate} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			a := newNode(t, "a")
			require.NoError(t, a.Init(a.ctx()))
			first := a.startAgent(order{Work: "lead"})
			first.await("done")
			first.kill()
			a.open()
			seen := a.status()
			require.NoError(t, a.Stop(a.ctx(), mode))
			status := a.status()
			require.Equal(t, pg.HealthDead, status.Health)
			require.Equal(t, pg.ProcessStopped, status.Process)
			require.Equal(t, seen.Generation+1, status.Generation)
			requireGone(t, seen.Postgres)
			disk, err := a.OnDisk(a.ctx())
			require.NoError(t, err)
			require.Equal(t, mode == pg.StopFast, disk.Clean)
			require.NoError(t, a.StartStandby(a.ctx(), pg.Upstream{}))
		})
	}
}

// requireGone checks that at most a zombie is left of a process.
func requireGone(tb testing.TB, pid int) {
	tb.Helper()
	state, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err == nil {
		require.Contains(tb, string(state), ") Z ")
	}
}

// The next agent meets a server that cannot be asked yet.
func TestOrphanThatStarts(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newNode(t, "b")
	_, err := b.Clone(b.ctx(), a.up("b"))
	require.NoError(t, err)
	// Without the WAL of its end a copy is not consistent, and admits nobody.
	segments, err := filepath.Glob(filepath.Join(b.cfg.DataDir, "pg_wal", "0*"))
	require.NoError(t, err)
	require.NotEmpty(t, segments)
	for _, path := range segments {
		require.NoError(t, os.Remove(path))
	}
	up := a.up("b")
	up.Port = freePort(t) // nobody is there
	first := b.startAgent(order{Work: "follow", Up: up})
	started := func() bool {
		text, err := os.ReadFile(filepath.Join(b.cfg.DataDir, "postmaster.pid"))
		return err == nil && strings.Contains(string(text), "starting")
	}
	b.await("the server starts", started)
	first.kill()

	b.open()
	status := b.status()
	require.Equal(t, pg.ProcessStarting, status.Process)
	require.Equal(t, pg.HealthUnknown, status.Health)
	require.NotEmpty(t, status.Err)
	short, cancel := context.WithTimeout(b.ctx(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, b.StartStandby(short, a.up("b")))
	require.NoError(t, b.Stop(b.ctx(), pg.StopImmediate))
	require.Equal(t, pg.HealthDead, b.status().Health)
}

// The agent was killed while it stopped the server, which a standby holds up.
func TestOrphanThatStops(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a", slowly)
	b := newStandby(t, "b", a)
	thaw := b.freeze(b.receiver())
	first := a.startAgent(order{Work: "stop"})
	a.await("the server is stopping", func() bool {
		text, err := os.ReadFile(filepath.Join(a.cfg.DataDir, "postmaster.pid"))
		return err == nil && strings.Contains(string(text), "stopping")
	})
	first.kill()

	a.open()
	status := a.status()
	require.Equal(t, pg.ProcessStopping, status.Process)
	require.Equal(t, pg.HealthUnknown, status.Health)
	thaw()
	_, err := a.WaitChange(a.ctx(), status.Generation)
	require.NoError(t, err)
	status = a.status()
	require.Equal(t, pg.ProcessStopped, status.Process, "as the control file says")
	require.Equal(t, pg.HealthDead, status.Health)
}

// The agent was killed while it promoted the server; the next one finishes that.
func TestOrphanThatIsPromoted(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	b := newStandby(t, "b", a)
	a.crash()
	require.NoError(t, b.Fence(b.ctx()))
	startup := atoi(t, b.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"))
	thaw := b.freeze(startup)
	first := b.startAgent(order{Work: "promote", Next: 4})
	b.await("the promotion is asked for", func() bool {
		_, err := os.Stat(filepath.Join(b.cfg.DataDir, "promote"))
		return err == nil
	})
	first.kill()

	b.open()
	status := b.status()
	require.Equal(t, pg.ProcessRunning, status.Process)
	require.Equal(t, pg.RoleStandby, status.Role)
	require.False(t, status.GateOpen)
	thaw()
	b.await("the promotion has ended", func() bool {
		promotion, err := b.Promote(b.ctx(), warrant{}, 4)
		return err == nil && promotion.Timeline == 4
	})
	status = b.status()
	require.Equal(t, pg.RolePrimary, status.Role)
	require.Equal(t, pg.Timeline(4), status.Timeline)
}

// Agents are killed at any moment of a change of the settings: what the next one
// sees is in force, and stays in force.
func TestAgentsKilledInChanges(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	require.NoError(t, a.Checkpoint(a.ctx()))
	for round := range 8 {
		first := a.startAgent(order{Work: "change"})
		for range round {
			first.await("changed")
		}
		first.kill()
		a.open()
		status := a.status()
		require.Equal(t, a.sql("SHOW synchronous_standby_names"), status.Sync.String())
		view, err := a.SyncView(a.ctx())
		require.NoError(t, err)
		a.requireSettled(view)
	}
}

// requireSettled checks that no other setting than a view's is on its way into
// force: by a reload, or by a restart.
func (n *node) requireSettled(view pg.SyncView) {
	n.tb.Helper()
	require.Equal(n.tb, view.Setting.String(), n.sql("SHOW synchronous_standby_names"))
	require.Equal(n.tb, view.Setting.String(), n.sql("SELECT setting FROM pg_file_settings WHERE name = 'synchronous_standby_names' AND applied"))
	var note struct {
		Sync string `json:"synchronous_standby_names"`
	}
	text, err := os.ReadFile(filepath.Join(n.cfg.StateDir, "settings.json"))
	require.NoError(n.tb, err)
	require.NoError(n.tb, json.Unmarshal(text, &note))
	require.Equal(n.tb, view.Setting.String(), note.Sync)
}

// The points at which a change can be cut off: the note, then pg_hba.conf, then
// postgresql.conf are written, then the server reads them.
func TestChangeIsCutOff(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	files := []string{"settings.json", "pg_hba.conf", "pghad.conf"}
	for written := 1; written <= len(files); written++ {
		for _, opens := range []bool{false, true} {
			t.Logf("cut off after %s, the gate opens: %t", files[written-1], opens)
			require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "old")))
			if opens {
				// A primary whose gate is closed.
				require.NoError(t, a.Stop(a.ctx(), pg.StopFast))
				require.NoError(t, a.StartPrimary(a.ctx(), warrant{}, anyOf(1, "old")))
			}
			a.cutOff(files[:written], opens)
			a.open()

			status := a.status()
			require.True(t, status.Sync.Equal(anyOf(1, "old")), "what is in force")
			require.False(t, status.GateOpen, "nobody knows, or it is closed")
			view, err := a.SyncView(a.ctx())
			require.NoError(t, err)
			require.True(t, view.Setting.Equal(anyOf(1, "new")), "the change has ended before anything is built on it")
			a.requireSettled(view)
			require.Equal(t, opens, a.status().GateOpen)
			require.Equal(t, opens, a.admitsClients())

			require.NoError(t, a.OpenGate(a.ctx()))
			require.True(t, a.status().GateOpen)
			require.True(t, a.admitsClients())
			view, err = a.SyncView(a.ctx())
			require.NoError(t, err)
			a.requireSettled(view)
		}
	}
}

func (n *node) admitsClients() bool {
	client, err := n.connect("client")
	if err != nil {
		require.ErrorContains(n.tb, err, "pg_hba")
		return false
	}
	require.NoError(n.tb, client.Close(n.ctx()))
	return true
}

// cutOff leaves the traces of an agent that was killed while it changed the
// setting to "new" and the gate: only the given files are written.
func (n *node) cutOff(files []string, gateOpen bool) {
	n.tb.Helper()
	require.NoError(n.tb, n.Close())
	for _, name := range files {
		path := filepath.Join(n.cfg.DataDir, name)
		if name == "settings.json" {
			path = filepath.Join(n.cfg.StateDir, name)
		}
		text, err := os.ReadFile(path)
		require.NoError(n.tb, err)
		content := string(text)
		switch name {
		case "settings.json":
			var note map[string]any
			require.NoError(n.tb, json.Unmarshal(text, &note))
			revision, ok := note["revision"].(float64)
			require.True(n.tb, ok)
			note["revision"] = revision + 1
			note["gate_open"] = gateOpen
			note["synchronous_standby_names"] = anyOf(1, "new").String()
			changed, err := json.Marshal(note)
			require.NoError(n.tb, err)
			content = string(changed)
		case "pg_hba.conf":
			content = strings.ReplaceAll(content, n.cfg.HBA[0], "")
			if gateOpen {
				content += n.cfg.HBA[0] + "\n"
			}
		default:
			revision := atoi(n.tb, n.sql("SHOW pghad.revision"))
			content = strings.ReplaceAll(content, `"old"`, `"new"`)
			content = strings.ReplaceAll(content, "'"+strconv.Itoa(revision)+"'", "'"+strconv.Itoa(revision+1)+"'")
		}
		require.NotEqual(n.tb, string(text), content)
		n.place(path, content)
	}
}

// A change that was cut off by its context comes to its end before its effect is
// looked at.
func TestChangeIsCutOffByItsContext(t *testing.T) {
	t.Parallel()
	a := newPrimary(t, "a")
	require.NoError(t, a.SetSync(a.ctx(), anyOf(1, "old")))
	thaw := a.freeze(a.status().Postgres)
	ctx, cancel := context.WithTimeout(a.ctx(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.SetSync(ctx, anyOf(1, "new")), context.DeadlineExceeded)
	thaw()
	view, err := a.SyncView(a.ctx())
	require.NoError(t, err)
	require.True(t, view.Setting.Equal(anyOf(1, "new")))
	a.requireSettled(view)
}
