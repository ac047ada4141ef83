package pgctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pghad/pghad/pg"
)

// minVersion is the oldest major version that is supported: 13 has the wait
// event by which a fence is proven, and pg_rewind --no-ensure-shutdown.
const minVersion = 13

// binaries are the programs of PostgreSQL that a controller runs.
var binaries = []string{"postgres", "initdb", "pg_controldata", "pg_rewind", "pg_basebackup"}

// FindBinDir returns the directory of the newest PostgreSQL of this machine:
// /usr/lib/postgresql/*/bin (Debian), /usr/pgsql-*/bin (Red Hat), or where
// postgres is found in PATH.
func FindBinDir() (string, error) {
	var dirs []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for PostgreSQL in %s: %w", pattern, err)
		}
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	best, bestVersion := "", 0
	for _, dir := range dirs {
		version, err := Version(dir)
		if err == nil && version > bestVersion && checkBinaries(dir) == nil {
			best, bestVersion = dir, version
		}
	}
	if best == "" {
		return "", errors.New("no PostgreSQL server found in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin or PATH: install one, or set BinDir to the directory of its programs")
	}
	return best, nil
}

// Version returns the version of the PostgreSQL in binDir in the form of
// server_version_num: 150018 for 15.18. Of a development version (19devel) the
// second part is zero.
func Version(binDir string) (int, error) {
	path := filepath.Join(binDir, "postgres")
	out, err := exec.CommandContext(context.Background(), path, "--version").Output() //nolint:gosec // a program of the configured PostgreSQL
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return 0, fmt.Errorf("version of %s: %w", path, err)
	}
	return version, nil
}

// parseVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)".
func parseVersion(text string) (int, error) {
	fields := strings.Fields(text)
	i := slices.Index(fields, "(PostgreSQL)")
	if i < 0 || i+1 >= len(fields) {
		return 0, fmt.Errorf("%q does not name a version of PostgreSQL", strings.TrimSpace(text))
	}
	major, rest := leadingNumber(fields[i+1])
	if major == 0 {
		return 0, fmt.Errorf("%q does not name a version of PostgreSQL", strings.TrimSpace(text))
	}
	minor := 0
	if strings.HasPrefix(rest, ".") {
		minor, _ = leadingNumber(rest[1:])
	}
	return major*10000 + minor, nil
}

func leadingNumber(s string) (n int, rest string) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.Atoi(s[:digits])
	if err != nil {
		return 0, s
	}
	return n, s[digits:]
}

func checkBinaries(dir string) error {
	for _, name := range binaries {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("program %s of PostgreSQL: %w: set BinDir to the directory of PostgreSQL's programs", name, err)
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s is not a program: set BinDir to the directory of PostgreSQL's programs", filepath.Join(dir, name))
		}
	}
	return nil
}

// toolError is a program of PostgreSQL that ended with an error.
type toolError struct {
	tool   string
	output string // standard output and error, as printed
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

// run executes a program of PostgreSQL as the server's user, with stdin, and
// returns its output. When ctx ends, the program and all that it started are
// killed before run returns.
func (c *Controller) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(c.cfg.BinDir, name), args...) //nolint:gosec // a program of the configured PostgreSQL; the whole process group is killed below, not only the child
	cmd.Env = c.env("LC_ALL=C", "LANGUAGE=C")
	cmd.Dir = "/"
	cmd.SysProcAttr = c.cfg.account.attributes()
	cmd.WaitDelay = toolPipeDelay
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := context.Cause(ctx); err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
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

// majorOfData returns the content of PG_VERSION, "15".
func majorOfData(dataDir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION")) //nolint:gosec // a file of the configured directories
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("data directory %s: %w", dataDir, pg.ErrNoData)
	}
	if err != nil {
		return "", fmt.Errorf("read the version of data directory %s: %w", dataDir, err)
	}
	return strings.TrimSpace(string(text)), nil
}
