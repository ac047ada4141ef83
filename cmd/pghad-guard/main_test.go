package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/guard"
)

// patience bounds every wait of these tests; it is reached only by a failure.
const patience = 60 * time.Second

// mostMemory is what a guard may take, in kB.
const mostMemory = 6 << 10

var built string // the directory that build has made

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pghad-guard")
	if err != nil {
		return "", err
	}
	built = dir
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(output)))
	}
	return filepath.Join(dir, "pghad-guard"), nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built) // a temporary directory
	}
	os.Exit(code)
}

// program is the guard as it is released.
func program(tb testing.TB) string {
	tb.Helper()
	if runtime.GOOS != "linux" {
		tb.Skip("NOT TESTED: the guard needs Linux")
	}
	path, err := build()
	require.NoError(tb, err)
	return path
}

func socketPath(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "guard") //nolint:usetesting // a socket's path is short
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(dir)) })
	return filepath.Join(dir, "guard", "socket")
}

// command runs the guard's program to its end.
func command(tb testing.TB, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(tb), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(tb, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// background runs it until the test ends, and waits until it has said something.
func background(tb testing.TB, until string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(program(tb), args...)
	out, writer, err := os.Pipe()
	require.NoError(tb, err)
	cmd.Stdout, cmd.Stderr = writer, writer
	require.NoError(tb, cmd.Start())
	require.NoError(tb, writer.Close())
	lines := bufio.NewScanner(out)
	said := ""
	for !strings.Contains(said, until) && lines.Scan() {
		said = lines.Text()
	}
	require.Contains(tb, said, until)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, out) // so that it never waits for a reader
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		<-drained
		require.NoError(tb, out.Close())
	})
	return cmd
}

func TestProgramIsStatic(t *testing.T) {
	t.Parallel()
	file, err := elf.Open(program(t))
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // read only
	libraries, err := file.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries)
	for _, part := range file.Progs {
		require.NotEqual(t, elf.PT_INTERP, part.Type)
	}
}

func TestRunHasTheExitCodeOfItsServer(t *testing.T) {
	t.Parallel()
	for want, script := range map[int]string{0: "exit 0", 7: "exit 7", 137: "kill -9 $$"} {
		code, _, stderr := command(t, "run", "--kill-after", "100ms", "--", "/bin/sh", "-c", script)
		require.Equal(t, want, code, stderr)
	}
	code, _, stderr := command(t, "run", "--deadline", "100ms", "--", "/bin/sleep", "1000")
	require.Equal(t, 131, code, "SIGQUIT")
	require.Contains(t, stderr, "the deadline has passed")
	code, _, stderr = command(t, "run", "--", "/nowhere/postgres")
	require.Equal(t, exitRefused, code)
	require.Contains(t, stderr, "/nowhere/postgres")
}

func TestServerIsToldByCommands(t *testing.T) {
	t.Parallel()
	socket := socketPath(t)
	log := filepath.Join(t.TempDir(), "log")
	running := background(t, "is started", "run", "--socket", socket, "--log", log, "--kill-after", "100ms", "--", "/bin/sh", "-c", "trap 'echo asked; exit 5' INT; echo ready; while :; do sleep 0.02; done")
	require.Eventually(t, func() bool {
		said, err := os.ReadFile(log)
		return err == nil && len(said) > 0
	}, patience, time.Millisecond, "the server is up")
	code, stdout, stderr := command(t, "status", "--socket", socket)
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "running, guard "+strconv.Itoa(running.Process.Pid)+", server ")
	require.NotContains(t, stdout, "writable")
	code, stdout, stderr = command(t, "deadline", "--socket", socket, "1h")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "writable for 59m59")
	code, _, stderr = command(t, "stop", "--socket", socket)
	require.Zero(t, code, stderr)
	_ = running.Wait()
	require.Equal(t, 5, running.ProcessState.ExitCode())
	said, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "ready\nasked\n", string(said))
	for _, args := range [][]string{{"status"}, {"deadline", "1s"}, {"stop"}} {
		args = append(args[:1], append([]string{"--socket", socket}, args[1:]...)...)
		code, _, stderr = command(t, args...)
		require.Equal(t, exitFailed, code, args)
		require.Contains(t, stderr, "no guard is there")
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	socket := socketPath(t)
	background(t, "ready", "serve", "--socket", socket)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := guard.Dial(ctx, socket)
	require.NoError(t, err)
	code, _, stderr := command(t, "status", "--socket", socket)
	require.Equal(t, exitRefused, code)
	require.Contains(t, stderr, "another agent")
	require.NoError(t, client.Close())
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{},
		{"watch"},
		{"run"},
		{"run", "--deadline", "soon", "--", "x"},
		{"serve"},
		{"serve", "--socket", "/x/y", "postgres"},
		{"deadline"},
		{"deadline", "--socket", "x", "10"},
		{"stop", "smart"},
		{"status", "now"},
		{"status", "--sockets"},
	} {
		code, _, stderr := command(t, args...)
		require.Equal(t, exitUsage, code, args)
		require.NotEmpty(t, stderr, args)
	}
	code, stdout, _ := command(t, "help")
	require.Zero(t, code)
	require.Contains(t, stdout, "pghad-guard run")
	code, _, stderr := command(t, "run", "-h")
	require.Zero(t, code)
	require.Contains(t, stderr, "-watchdog")
	code, _, stderr = command(t, "run", "--watchdog-timeout", "1500ms", "--", "/bin/true")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "whole seconds")
}

// held is a guard whose deadline is moved on.
type held struct {
	tb     testing.TB
	ctx    context.Context
	client *guard.Client
	pid    int
}

func hold(tb testing.TB) *held {
	tb.Helper()
	socket := socketPath(tb)
	cmd := background(tb, "ready", "serve", "--socket", socket)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	client, err := guard.Dial(ctx, socket)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = client.Close() })
	_, err = client.Start(ctx, guard.Start{Argv: []string{"/bin/sleep", "1000"}, Env: os.Environ(), Deadline: &guard.Deadline{Left: guard.Duration(patience)}})
	require.NoError(tb, err)
	return &held{tb: tb, ctx: ctx, client: client, pid: cmd.Process.Pid}
}

func (h *held) move() {
	at := guard.Now()
	_, err := h.client.SetDeadline(h.ctx, guard.Deadline{Left: guard.Duration(patience), At: &at})
	require.NoError(h.tb, err)
}

// memory is VmRSS in kB.
func (h *held) memory() int {
	h.tb.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.pid), "status"))
	require.NoError(h.tb, err)
	for line := range strings.Lines(string(status)) {
		if value, is := strings.CutPrefix(line, "VmRSS:"); is {
			kilobytes, err := strconv.Atoi(strings.Fields(value)[0])
			require.NoError(h.tb, err)
			return kilobytes
		}
	}
	require.Fail(h.tb, "the kernel does not say how much memory it takes")
	return 0
}

func TestMemory(t *testing.T) {
	t.Parallel()
	h := hold(t)
	for range 2000 { // more than half an hour's
		h.move()
	}
	require.Less(t, h.memory(), mostMemory)
	require.NoError(t, h.client.Stop(h.ctx, guard.StopImmediate))
	<-h.client.Done()
}

// BenchmarkDeadline shows what moving a deadline takes, and the guard's memory
// afterwards.
func BenchmarkDeadline(b *testing.B) {
	h := hold(b)
	for b.Loop() {
		h.move()
	}
	b.ReportMetric(float64(h.memory()), "VmRSS-kB")
	require.NoError(b, h.client.Stop(h.ctx, guard.StopImmediate))
	<-h.client.Done()
}
