package guard_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/guard"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds every wait of these tests; it is reached only by a failure.
const patience = 60 * time.Second

// soon is a deadline that a test waits for, later one before which it does
// something that takes no time but on a busy machine, and never one that it does
// not reach.
const (
	soon  = guard.Duration(300 * time.Millisecond)
	later = guard.Duration(2 * time.Second)
	never = guard.Duration(time.Hour)
)

// noSleep keeps the race detector from holding up the end of a program.
const noSleep = "GORACE=atexit_sleep_ms=0"

// program is a running program of a test.
type program struct {
	tb     testing.TB
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	log    string // its standard error
	exited chan struct{}
	err    error // how; to be read once exited is closed
}

// startProgram starts the test binary in a role; uid below zero is this user.
func startProgram(tb testing.TB, role string, o order, uid int) *program {
	tb.Helper()
	p := &program{tb: tb, cmd: exec.Command(executable(tb)), log: filepath.Join(tb.TempDir(), role+".log"), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), noSleep, roleVariable+"="+role, orderVariable+"="+text(tb, o))
	p.cmd.Dir = "/"
	stderr, err := os.Create(p.log)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, stderr.Close()) }()
	p.cmd.Stderr = stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid >= 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	out, writer, err := os.Pipe()
	require.NoError(tb, err)
	p.cmd.Stdout = writer
	require.NoError(tb, p.cmd.Start())
	require.NoError(tb, writer.Close())
	p.lines = bufio.NewScanner(out)
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	tb.Cleanup(func() {
		p.kill()
		require.NoError(tb, out.Close())
		if tb.Failed() {
			log, _ := os.ReadFile(p.log)
			tb.Logf("%s said:\n%s", role, log)
		}
	})
	return p
}

// executable is the test binary, where every user may run it.
func executable(tb testing.TB) string {
	tb.Helper()
	self, err := os.Executable()
	require.NoError(tb, err)
	if os.Geteuid() != 0 {
		return self
	}
	dir, err := os.MkdirTemp("", "guard") //nolint:usetesting // other users must get through
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(dir)) })
	require.NoError(tb, os.Chmod(dir, 0o755))
	copied := filepath.Join(dir, "guard.test")
	require.NoError(tb, os.Link(self, copied)) // both are temporary files
	return copied
}

func text(tb testing.TB, o order) string {
	tb.Helper()
	data, err := json.Marshal(o) //nolint:musttag // a test's own way
	require.NoError(tb, err)
	return string(data)
}

// await reads the program's output up to a line.
func (p *program) await(prefix string) {
	p.tb.Helper()
	for p.lines.Scan() {
		if strings.HasPrefix(p.lines.Text(), prefix) {
			return
		}
		require.NotContains(p.tb, p.lines.Text(), "error:")
	}
	p.tb.Fatalf("the program has ended and not said %q: %v", prefix, p.lines.Err())
}

func (p *program) signal(s syscall.Signal) {
	p.tb.Helper()
	require.NoError(p.tb, p.cmd.Process.Signal(s))
}

// freeze stops the program where it stands, and waits until it does.
func (p *program) freeze() {
	p.tb.Helper()
	p.signal(syscall.SIGSTOP)
	require.Eventually(p.tb, func() bool { return stateOf(p.cmd.Process.Pid) == "T" }, patience, time.Millisecond)
}

func (p *program) thaw() {
	p.tb.Helper()
	p.signal(syscall.SIGCONT)
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// code waits for the end of the program and returns its exit code.
func (p *program) code() int {
	p.tb.Helper()
	select {
	case <-p.exited:
		exit := (*exec.ExitError)(nil)
		if p.err != nil && !errors.As(p.err, &exit) {
			require.NoError(p.tb, p.err)
		}
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		require.FailNow(p.tb, "the program does not end")
		return 0
	}
}

// stateOf is the letter of a process's state, empty if there is no process.
func stateOf(pid int) string {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	return string(bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])[0])
}

// lives reports whether there is a process that is no zombie.
func lives(pid int) bool { state := stateOf(pid); return state != "" && state != "Z" }

// host is a guard with its server.
type host struct {
	*program
	dir    string
	socket string
	server string // its log
}

// startGuard starts a guard that waits for its agent.
func startGuard(tb testing.TB, edit ...func(*setup)) *host {
	tb.Helper()
	dir, err := os.MkdirTemp("", "guard") //nolint:usetesting // other users must get through, and the socket's path is short
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(dir)) })
	require.NoError(tb, os.Chmod(dir, 0o755))
	h := &host{dir: dir, socket: filepath.Join(dir, "guard", "socket"), server: filepath.Join(dir, "server.log")}
	cfg := setup{Socket: h.socket, KillAfter: 300 * time.Millisecond, Patience: patience}
	for _, change := range edit {
		change(&cfg)
	}
	h.program = startProgram(tb, "guard", order{Guard: cfg}, -1)
	h.await("ready")
	return h
}

func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	h.tb.Cleanup(cancel)
	return ctx
}

// dial connects an agent. The former one may just be about to be forgotten.
func (h *host) dial() *guard.Client {
	h.tb.Helper()
	var client *guard.Client
	require.Eventually(h.tb, func() bool {
		var err error
		client, err = guard.Dial(h.ctx(), h.socket)
		if !errors.Is(err, guard.ErrBusy) {
			require.NoError(h.tb, err)
		}
		return err == nil
	}, patience, time.Millisecond)
	h.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// order is how the server is started; a left of zero: not writable.
func (h *host) order(what string, left guard.Duration) guard.Start {
	h.tb.Helper()
	start := guard.Start{
		Argv: []string{executable(h.tb), "a server"},
		Env:  append(os.Environ(), noSleep, roleVariable+"=server", orderVariable+"="+text(h.tb, order{What: what})),
		Log:  h.server,
	}
	if left != 0 {
		start.Deadline = &guard.Deadline{Left: left}
	}
	return start
}

// start starts a server and returns its process id when it is up, with so much
// left from then on; zero: not writable.
func (h *host) start(client *guard.Client, what string, left guard.Duration) int {
	h.tb.Helper()
	from := guard.Duration(0)
	if left != 0 {
		from = never
	}
	pid, err := client.Start(h.ctx(), h.order(what, from))
	require.NoError(h.tb, err)
	h.tb.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	h.awaitServer("ready")
	if left != 0 {
		_, err = client.SetDeadline(h.ctx(), guard.Deadline{Left: left})
		require.NoError(h.tb, err)
	}
	return pid
}

// awaitServer waits until the server has said something.
func (h *host) awaitServer(what string) {
	h.tb.Helper()
	require.Eventually(h.tb, func() bool { return strings.Contains(h.said(), what) }, patience, 2*time.Millisecond, what)
}

func (h *host) said() string {
	said, err := os.ReadFile(h.server)
	if err != nil {
		return ""
	}
	return string(said)
}

// orphans are the processes that the server has left to nobody.
func (h *host) orphans() []int {
	h.tb.Helper()
	var pids []int
	for line := range strings.Lines(h.said()) {
		if word, number, _ := strings.Cut(strings.TrimSpace(line), " "); word == "orphan" {
			pid, err := strconv.Atoi(number)
			require.NoError(h.tb, err)
			pids = append(pids, pid)
			h.tb.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
	}
	return pids
}

// awaitGone checks that nothing is left when the guard has ended.
func (h *host) awaitGone(server int, orphans ...int) {
	h.tb.Helper()
	h.code()
	for _, pid := range append(orphans, server) {
		require.False(h.tb, lives(pid), "process %d", pid)
	}
	require.NoFileExists(h.tb, h.socket)
}

// requireEvents checks what an agent hears until the guard ends.
func requireEvents(tb testing.TB, client *guard.Client, want ...guard.EventKind) {
	tb.Helper()
	var got []guard.EventKind
	for {
		select {
		case event, open := <-client.Events():
			if !open {
				require.Equal(tb, want, got)
				return
			}
			got = append(got, event.Kind)
		case <-time.After(patience):
			require.FailNow(tb, "the guard does not end", "heard so far: %v", got)
		}
	}
}

func TestDeadlinePasses(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	require.Equal(t, guard.StateIdle, client.Hello().Status.State)
	require.Equal(t, h.cmd.Process.Pid, client.Pid())
	pid := h.start(client, "", soon)
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	require.Equal(t, 2, h.code(), "the server's own exit code")
	h.awaitGone(pid)
	require.Contains(t, h.said(), "signal quit")
	_, err := client.Status(h.ctx())
	require.ErrorIs(t, err, guard.ErrLost)
	_, err = guard.Dial(h.ctx(), h.socket)
	require.ErrorIs(t, err, guard.ErrNoGuard)
}

// A server that takes no signal, and what it has left behind, get another one.
func TestNothingOutlivesTheDeadline(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "stubborn, orphans", soon)
	orphans := h.orphans()
	require.Len(t, orphans, 3)
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	require.Equal(t, 128+int(syscall.SIGKILL), h.code())
	h.awaitGone(pid, orphans...)
	require.Contains(t, h.said(), "signal quit", "it was asked first")
}

func TestDeadlineIsMovedOn(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	at := guard.Now()
	for _, left := range []guard.Duration{later, never} {
		status, err := client.SetDeadline(h.ctx(), guard.Deadline{Left: left, At: &at})
		require.NoError(t, err)
		require.Equal(t, guard.StateRunning, status.State)
		require.True(t, status.Writable)
		require.LessOrEqual(t, status.Left, left)
	}
	passes := at.Add(time.Duration(later))
	require.Eventually(t, func() bool { return passes.Reached(guard.Now()) }, patience, time.Millisecond)
	require.True(t, lives(pid))
	status, err := client.Status(h.ctx())
	require.NoError(t, err)
	require.Greater(t, status.Left, never/2)
	require.NoError(t, client.Stop(h.ctx(), guard.StopFast))
	requireEvents(t, client, guard.EventExited, guard.EventGone)
	require.Equal(t, 0, h.code())
}

// What an agent says late is worth what is left of it.
func TestStaleDeadline(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	long := guard.Now().Add(-time.Minute)
	late := &guard.Deadline{Left: guard.Duration(time.Minute), At: &long}
	start := h.order("", 0)
	start.Deadline = late
	_, err := client.Start(h.ctx(), start)
	require.ErrorIs(t, err, guard.ErrPassed, "nothing is started with it")
	pid := h.start(client, "", never)
	_, err = client.SetDeadline(h.ctx(), *late)
	require.NoError(t, err)
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	h.awaitGone(pid)
}

func TestRevoked(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	status, err := client.SetDeadline(h.ctx(), guard.Deadline{})
	require.NoError(t, err)
	require.Equal(t, guard.StateStopping, status.State)
	_, err = client.SetDeadline(h.ctx(), guard.Deadline{Left: never})
	require.Error(t, err, "it is final")
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	h.awaitGone(pid)
}

// A standby has no deadline, and there is nothing to revoke.
func TestNotWritable(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", 0)
	status, err := client.SetDeadline(h.ctx(), guard.Deadline{})
	require.NoError(t, err)
	require.False(t, status.Writable)
	require.Equal(t, guard.StateRunning, status.State)
	require.NoError(t, client.Close())
	client = h.dial()
	require.Equal(t, guard.Status{State: guard.StateRunning, Pid: pid}, client.Hello().Status)
	_, err = client.SetDeadline(h.ctx(), guard.Deadline{Left: soon})
	require.NoError(t, err, "it was declared writable")
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	h.awaitGone(pid)
}

// Agents die, freeze and hang: the server is gone at the deadline that they gave.
func TestAgentFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*program){
		"killed": func(agent *program) { agent.kill() },
		"frozen": func(agent *program) { agent.freeze() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startGuard(t)
			client := h.dial()
			pid := h.start(client, "orphans", never)
			orphans := h.orphans()
			require.NoError(t, client.Close())
			agent := startProgram(t, "agent", order{
				Guard: setup{Socket: h.socket}, Left: time.Duration(later), Every: 100 * time.Millisecond,
			}, -1)
			for range 25 { // longer than one deadline
				agent.await("moved")
			}
			require.True(t, lives(pid))
			fail(agent)
			h.awaitGone(pid, orphans...)
			log, err := os.ReadFile(h.log)
			require.NoError(t, err)
			require.Contains(t, string(log), "the deadline has passed")
			if name == "frozen" {
				agent.thaw()
				require.NotZero(t, agent.code(), "it is told")
			}
		})
	}
}

func TestAgentComesBack(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	require.NoError(t, client.Close())
	agent := startProgram(t, "agent", order{Guard: setup{Socket: h.socket}, Left: time.Hour, Every: time.Millisecond}, -1)
	for range 3 {
		agent.await("moved")
	}
	agent.kill()
	client = h.dial()
	found := client.Hello().Status
	require.Equal(t, pid, found.Pid)
	require.Equal(t, guard.StateRunning, found.State)
	require.True(t, found.Writable)
	require.Greater(t, found.Left, never/2)
	require.True(t, lives(pid))
	require.NotContains(t, h.said(), "signal")
}

// The kernel stops the server when its guard dies.
func TestGuardIsKilled(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	h.kill()
	<-client.Done()
	require.Eventually(t, func() bool { return !lives(pid) }, patience, time.Millisecond)
	require.Contains(t, h.said(), "signal quit")
	_, err := guard.Dial(h.ctx(), h.socket)
	require.ErrorIs(t, err, guard.ErrNoGuard)
	// The next one takes its place.
	next := startProgram(t, "guard", order{Guard: setup{Socket: h.socket}}, -1)
	next.await("ready")
}

// Guard and agent stand still as on a frozen machine. What the agent wants
// afterwards comes too late.
func TestFrozenMachine(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	_, err := client.SetDeadline(h.ctx(), guard.Deadline{Left: later})
	require.NoError(t, err)
	passes := guard.Now().Add(time.Duration(later))
	h.freeze()
	require.Eventually(t, func() bool { return passes.Reached(guard.Now()) }, patience, time.Millisecond)
	require.True(t, lives(pid), "only a watchdog helps meanwhile")
	moved := make(chan error, 1)
	go func() {
		_, err := client.SetDeadline(context.Background(), guard.Deadline{Left: never})
		moved <- err
	}()
	h.thaw()
	require.Error(t, <-moved)
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	h.awaitGone(pid)
}

func TestOneAgentAtATime(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	for range 3 {
		_, err := guard.Dial(h.ctx(), h.socket)
		require.ErrorIs(t, err, guard.ErrBusy)
	}
	status, err := client.Status(h.ctx())
	require.NoError(t, err, "the first one is served on")
	require.Equal(t, pid, status.Pid)
	_, err = client.Start(h.ctx(), h.order("", 0))
	require.ErrorIs(t, err, guard.ErrState, "and has its server")
	require.NoError(t, client.Close())
	h.dial()
}

func TestWrongUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		testbed.Skipf(t, "only root can be somebody else")
	}
	const nobody = 65534
	h := startGuard(t)
	client := h.dial()
	h.start(client, "", never)
	stranger := func() string {
		p := startProgram(t, "stranger", order{Guard: setup{Socket: h.socket}}, nobody)
		require.True(t, p.lines.Scan())
		require.NotZero(t, p.code())
		return p.lines.Text()
	}
	require.Contains(t, stranger(), "permission denied", "by the file system")
	require.NoError(t, os.Chmod(h.dir+"/guard", 0o755))
	require.Contains(t, stranger(), "permission denied", "by the socket's mode")
	require.NoError(t, os.Chmod(h.socket, 0o666))
	require.Contains(t, stranger(), "this guard serves user 0", "by the kernel's word")
	_, err := client.Status(h.ctx())
	require.NoError(t, err)
}

// An agent does not talk to whoever has put a socket there.
func TestWrongGuard(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		testbed.Skipf(t, "only root can be somebody else")
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "guard") //nolint:usetesting // other users must get through
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Mkdir(dir+"/guard", 0o700))
	require.NoError(t, os.Chown(dir+"/guard", nobody, nobody))
	socket := dir + "/guard/socket"
	impostor := startProgram(t, "guard", order{Guard: setup{Socket: socket, Patience: patience}}, nobody)
	impostor.await("ready")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = guard.Dial(ctx, socket)
	require.ErrorIs(t, err, guard.ErrDenied)
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", never)
	require.NoError(t, client.Close())
	for name, garbage := range map[string]string{
		"no JSON":         "GET / HTTP/1.1\r\n\r\n",
		"binary":          "\x00\xff\x16\x03\x01\n",
		"no request":      "{}\n",
		"unknown field":   `{"id":1,"deadline":{"left":"1ns","soft":true}}` + "\n",
		"too long a line": strings.Repeat("x", 1<<20+1),
		"deeply nested":   strings.Repeat("[", 1<<16) + "\n",
	} {
		conn := h.raw()
		_, _ = conn.Write([]byte(garbage)) // the guard may have had enough before its end
		answer := bufio.NewScanner(conn)
		require.True(t, answer.Scan(), name)
		require.Contains(t, answer.Text(), `"code":"request"`, name)
		require.False(t, answer.Scan(), name)
		require.NoError(t, conn.Close())
	}
	conn := h.raw()
	_, err := conn.Write([]byte(`{"id":1,"deadline":{"left":"1ns"}`))
	require.NoError(t, err)
	require.NoError(t, conn.Close(), "half a request is none")
	found := h.dial().Hello().Status
	require.Equal(t, pid, found.Pid)
	require.Equal(t, guard.StateRunning, found.State)
	require.Greater(t, found.Left, never/2)
}

// raw connects somebody who does not know the protocol.
func (h *host) raw() net.Conn {
	h.tb.Helper()
	var conn net.Conn
	require.Eventually(h.tb, func() bool {
		var err error
		conn, err = net.Dial("unix", h.socket)
		require.NoError(h.tb, err)
		require.NoError(h.tb, conn.SetDeadline(time.Now().Add(patience)))
		hello := make([]byte, 8)
		_, err = conn.Read(hello)
		require.NoError(h.tb, err)
		if string(hello) == `{"hello"` {
			for hello[0] != '\n' {
				_, err = conn.Read(hello[:1])
				require.NoError(h.tb, err)
			}
			return true
		}
		require.NoError(h.tb, conn.Close()) // the one before is about to be forgotten
		return false
	}, patience, time.Millisecond)
	return conn
}

// An agent that does not read is cut off and holds nothing up.
func TestAgentThatDoesNotRead(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "", later)
	require.NoError(t, client.Close())
	conn := h.raw()
	defer conn.Close() //nolint:errcheck // the guard has closed it
	for {
		if _, err := conn.Write([]byte(`{"id":1,"status":{}}` + "\n")); err != nil {
			break
		}
	}
	h.awaitGone(pid)
}

func TestServerEndsByItself(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "orphans", never)
	orphans := h.orphans()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	requireEvents(t, client, guard.EventExited, guard.EventGone)
	h.awaitGone(pid, orphans...)
}

func TestStopIsHardened(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "stubborn", never)
	require.NoError(t, client.Stop(h.ctx(), guard.StopFast))
	h.awaitServer("signal interrupt")
	status, err := client.Status(h.ctx())
	require.NoError(t, err)
	require.Equal(t, guard.StateStopping, status.State, "as long as it takes")
	require.NoError(t, client.Stop(h.ctx(), guard.StopImmediate))
	requireEvents(t, client, guard.EventExited, guard.EventGone)
	h.awaitGone(pid)
}

// A deadline holds while a server shuts down, too.
func TestDeadlineOfAServerThatStops(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	pid := h.start(client, "stubborn", later)
	require.NoError(t, client.Stop(h.ctx(), guard.StopFast))
	requireEvents(t, client, guard.EventPassed, guard.EventExited, guard.EventGone)
	h.awaitGone(pid)
}

func TestGuardIsSignalled(t *testing.T) {
	t.Parallel()
	for s, want := range map[syscall.Signal]int{syscall.SIGTERM: 0, syscall.SIGINT: 0, syscall.SIGQUIT: 2} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			h := startGuard(t)
			pid := h.start(h.dial(), "", 0)
			h.signal(syscall.SIGHUP)
			h.awaitServer("signal hangup")
			h.signal(s)
			require.Equal(t, want, h.code())
			h.awaitGone(pid)
		})
	}
}

func TestZombiesAreReaped(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	pid := h.start(h.dial(), "zombies", 0)
	require.Eventually(t, func() bool {
		children := childrenOf(t, h.cmd.Process.Pid)
		return len(children) == 1 && children[0] == pid
	}, patience, 5*time.Millisecond, "only the server is left, not even a zombie of the others")
}

// childrenOf are the children of a process, zombies too.
func childrenOf(tb testing.TB, parent int) []int {
	tb.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(tb, err)
	var pids []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var pid int
		_, err = fmt.Sscan(string(stat), &pid)
		require.NoError(tb, err)
		if string(bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])[1]) == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestGuardWithoutAServerEnds(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	_, err := client.SetDeadline(h.ctx(), guard.Deadline{Left: never})
	require.ErrorIs(t, err, guard.ErrState)
	require.ErrorIs(t, client.Stop(h.ctx(), guard.StopFast), guard.ErrState)
	require.NoError(t, client.Close())
	require.Zero(t, h.code(), "with its agent")
	h = startGuard(t, func(cfg *setup) { cfg.Patience = time.Millisecond })
	require.Zero(t, h.code(), "without one")
	h = startGuard(t)
	h.signal(syscall.SIGTERM)
	require.Zero(t, h.code())
}

func TestServerCannotBeStarted(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	client := h.dial()
	for want, edit := range map[string]func(*guard.Start){
		"no such file":   func(s *guard.Start) { s.Argv[0] = "/nowhere/postgres" },
		"server's log":   func(s *guard.Start) { s.Log = "/nowhere/log" },
		"symbolic links": func(s *guard.Start) { s.Log = h.dir + "/link" },
	} {
		require.NoError(t, os.RemoveAll(h.dir+"/link"))
		require.NoError(t, os.Symlink(h.server, h.dir+"/link"))
		start := h.order("", never)
		edit(&start)
		_, err := client.Start(h.ctx(), start)
		require.ErrorIs(t, err, guard.ErrStart)
		require.ErrorContains(t, err, want)
	}
	status, err := client.Status(h.ctx())
	require.NoError(t, err)
	require.Equal(t, guard.Status{State: guard.StateIdle}, status)
	h.start(client, "", 0)
}

func TestCredentialAndLog(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		testbed.Skipf(t, "only root can start a server as somebody else")
	}
	const nobody = 65534
	h := startGuard(t)
	require.NoError(t, os.WriteFile(h.server, []byte("what was there\n"), 0o600))
	start := h.order("", never)
	start.Credential = &guard.Credential{UID: nobody, GID: nobody}
	pid, err := h.dial().Start(h.ctx(), start)
	require.NoError(t, err)
	h.awaitServer("ready")
	require.True(t, strings.HasPrefix(h.said(), "what was there\n"))
	log, err := os.Stat(h.server)
	require.NoError(t, err)
	process, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	require.NoError(t, err)
	for _, info := range []os.FileInfo{log, process} {
		stat, ok := info.Sys().(*syscall.Stat_t)
		require.True(t, ok)
		require.EqualValues(t, nobody, stat.Uid, info.Name())
	}
	h.kill() // it gets its signal although it runs as somebody else
	h.awaitServer("signal quit")
	require.Eventually(t, func() bool { return !lives(pid) }, patience, time.Millisecond)
}

func TestSocketIsForOneGuardOfOneUser(t *testing.T) {
	t.Parallel()
	h := startGuard(t)
	require.Contains(t, refusal(t, setup{Socket: h.socket}), "another guard has this socket")
	require.Contains(t, refusal(t, setup{Socket: "socket"}), "absolute path")
	require.Contains(t, refusal(t, setup{Socket: h.dir + "/socket"}), "chmod it to 0700")
	require.Contains(t, refusal(t, setup{}), "neither a server to start nor a socket")
	if os.Geteuid() == 0 {
		require.NoError(t, os.Mkdir(h.dir+"/other", 0o700))
		require.NoError(t, os.Chown(h.dir+"/other", 1, 1))
		require.Contains(t, refusal(t, setup{Socket: h.dir + "/other/socket"}), "belongs to user 1")
	}
	info, err := os.Stat(h.socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// refusal is what a guard says that does not come up.
func refusal(t *testing.T, cfg setup) string {
	t.Helper()
	p := startProgram(t, "guard", order{Guard: cfg}, -1)
	require.True(t, p.lines.Scan())
	require.NotZero(t, p.code())
	return p.lines.Text()
}

// The guard starts what it is configured with, and needs no agent.
func TestRunWithoutAnAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := &host{program: &program{tb: t}, dir: dir, server: filepath.Join(dir, "server.log")}
	start := h.order("orphans", later)
	h.program = startProgram(t, "guard", order{Guard: setup{Start: &start, KillAfter: 100 * time.Millisecond}}, -1)
	h.await("ready")
	h.awaitServer("ready")
	orphans := h.orphans()
	require.Equal(t, 2, h.code())
	for _, pid := range orphans {
		require.False(t, lives(pid))
	}
}

// A file stands for the watchdog device: it is fed while the server is writable,
// and disarmed when nothing of the server is left.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	device := filepath.Join(t.TempDir(), "watchdog")
	require.NoError(t, os.WriteFile(device, nil, 0o600))
	fed := func() string {
		text, err := os.ReadFile(device)
		require.NoError(t, err)
		return string(text)
	}
	h := startGuard(t, func(cfg *setup) { cfg.Watchdog = guard.WatchdogConfig{Device: device, Timeout: time.Second} })
	client := h.dial()
	pid := h.start(client, "stubborn, orphans", 0)
	orphans := h.orphans()
	at := guard.Now()
	_, err := client.SetDeadline(h.ctx(), guard.Deadline{Left: 1, At: &at})
	require.ErrorIs(t, err, guard.ErrPassed)
	require.Empty(t, fed(), "a standby needs none")
	_, err = client.SetDeadline(h.ctx(), guard.Deadline{Left: later})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(fed()) > 3 }, patience, time.Millisecond)
	require.Equal(t, strings.Repeat(".", len(fed())), fed())
	h.awaitGone(pid, orphans...)
	require.Equal(t, "V", strings.Trim(fed(), "."))
	require.True(t, strings.HasSuffix(fed(), "V"))
}

func TestWatchdogThatCannotBeArmed(t *testing.T) {
	t.Parallel()
	h := startGuard(t, func(cfg *setup) {
		cfg.Watchdog = guard.WatchdogConfig{Device: "/nowhere/watchdog", Timeout: 3 * time.Second}
	})
	client := h.dial()
	_, err := client.Start(h.ctx(), h.order("", never))
	require.ErrorIs(t, err, guard.ErrWatchdog, "it is not started writable without")
	pid := h.start(client, "", 0)
	_, err = client.SetDeadline(h.ctx(), guard.Deadline{Left: guard.Duration(2 * time.Second)})
	require.ErrorContains(t, err, "shorter timeout")
	_, err = client.SetDeadline(h.ctx(), guard.Deadline{Left: never})
	require.ErrorIs(t, err, guard.ErrWatchdog)
	found, err := client.Status(h.ctx())
	require.NoError(t, err)
	require.Equal(t, guard.Status{State: guard.StateRunning, Pid: pid}, found)
}

// A guard whose log does not take anything any more stops its server all the same.
func TestLogThatIsStuck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := &host{program: &program{tb: t}, dir: dir, server: filepath.Join(dir, "server.log")}
	start := h.order("", later)
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer reader.Close() //nolint:errcheck // read only
	defer writer.Close() //nolint:errcheck // it is full
	require.NoError(t, writer.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = writer.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the pipe is full")
	guarded := exec.Command(executable(t))
	guarded.Env = append(os.Environ(), noSleep, roleVariable+"=guard", orderVariable+"="+text(t, order{Guard: setup{Start: &start}}))
	guarded.Stderr = writer
	require.NoError(t, guarded.Start())
	t.Cleanup(func() { _ = guarded.Process.Kill() })
	ended := make(chan error, 1)
	go func() { ended <- guarded.Wait() }()
	select {
	case <-ended: //nolint:errcheck // a test that is over
		require.Equal(t, 2, guarded.ProcessState.ExitCode())
	case <-time.After(patience):
		require.Fail(t, "it waits for its log")
	}
}
