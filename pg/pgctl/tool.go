package pgctl

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// tool is a program that works on the data directory while no server runs: one of
// PostgreSQL's, or the user's.
type tool struct {
	argv  []string
	stdin string
	// line, if set, is called with each line of output, as it comes.
	line func(string)
}

// toolError is a program that ended with an error.
type toolError struct {
	tool   string
	output string // the last of its standard output and error, as printed
	err    error
}

func (e *toolError) Error() string {
	if line := lastLine(e.output); line != "" {
		return fmt.Sprintf("%s: %s (%v)", e.tool, strings.TrimPrefix(line, e.tool+": "), e.err)
	}
	return fmt.Sprintf("%s: %v", e.tool, e.err)
}

func (e *toolError) Unwrap() error { return e.err }

// lastLine returns the last line of a tool's output that says what went wrong:
// lines with "error:" or "fatal:" before hints and progress.
func lastLine(output string) string {
	lines := strings.FieldsFunc(output, func(r rune) bool { return r == '\n' || r == '\r' })
	last := ""
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		if strings.Contains(lower, "error:") || strings.Contains(lower, "fatal:") || strings.Contains(lower, "panic:") {
			return line
		}
		if last == "" {
			last = line
		}
	}
	return last
}

// run executes a program of PostgreSQL, see runTool.
func (c *Controller) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return c.runTool(ctx, tool{argv: append([]string{filepath.Join(c.cfg.BinDir, name)}, args...), stdin: stdin})
}

// runTool executes a program as the server's user and returns the last of its
// output. When ctx ends, the program and all that it started are killed before
// runTool returns. When this process is killed, the kernel kills the program: what
// it writes must not meet what the next controller does. What is left all the same
// keeps the next controller away, because it holds the lock.
func (c *Controller) runTool(ctx context.Context, t tool) (string, error) {
	name := filepath.Base(t.argv[0])
	defer c.cfg.Effects.begin("run " + name)()
	cmd := exec.Command(t.argv[0], t.argv[1:]...) //nolint:gosec // a program of the configured PostgreSQL, or of the configuration; the whole process group is killed below, not only the child
	cmd.Env = c.env("LC_ALL=C", "LANGUAGE=C")
	cmd.Dir = "/"
	cmd.SysProcAttr = c.cfg.account.attributes()
	if c.lock != nil {
		cmd.ExtraFiles = []*os.File{c.lock}
	}
	dieWithParent(cmd.SysProcAttr)
	cmd.WaitDelay = toolPipeDelay
	if t.stdin != "" {
		cmd.Stdin = strings.NewReader(t.stdin)
	}
	output := &tail{line: t.line}
	cmd.Stdout, cmd.Stderr = output, output
	if err := context.Cause(ctx); err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	runtime.LockOSThread() // the thread that starts the child is its parent for the kernel
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd.Process.Pid) })
	err := cmd.Wait()
	if !stop() || err != nil {
		killGroup(cmd.Process.Pid) // nothing that it started may write on
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return output.String(), fmt.Errorf("run %s: %w", name, cause)
	}
	if err != nil {
		return output.String(), &toolError{tool: name, output: output.String(), err: err}
	}
	return output.String(), nil
}

// inheritedLock is the descriptor by which a program holds the controller's lock.
const inheritedLock = 3

// tail keeps the end of what is written to it, and hands on its lines.
type tail struct {
	line   func(string)
	kept   bytes.Buffer
	broken bytes.Buffer // a line that has not ended
}

const tailSize = 64 << 10

// Write implements io.Writer.
func (t *tail) Write(data []byte) (int, error) {
	t.kept.Write(data)
	if t.kept.Len() > 2*tailSize {
		t.kept.Next(t.kept.Len() - tailSize)
	}
	if t.line == nil {
		return len(data), nil
	}
	for rest := data; len(rest) > 0; {
		end := bytes.IndexAny(rest, "\r\n")
		if end < 0 {
			t.broken.Write(rest)
			break
		}
		t.broken.Write(rest[:end])
		t.line(t.broken.String())
		t.broken.Reset()
		rest = rest[end+1:]
	}
	return len(data), nil
}

func (t *tail) String() string { return t.kept.String() }
