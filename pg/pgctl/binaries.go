package pgctl

import (
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
var binaries = []string{"postgres", "initdb", "pg_rewind", "pg_basebackup"}

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
		return "", &pg.FaultError{
			Kind: pg.ErrBinaries, Remedy: "install a server, or set BinDir to the directory of its programs",
			Err: errors.New("no PostgreSQL server found in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin or PATH"),
		}
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
		return 0, &pg.FaultError{Kind: pg.ErrBinaries, Path: path, Err: fmt.Errorf("ask it for its version: %w", err), Remedy: binariesRemedy}
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return 0, &pg.FaultError{Kind: pg.ErrBinaries, Path: path, Err: err, Remedy: binariesRemedy}
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
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
			err = errors.New("it is not a program")
		}
		if err != nil {
			return &pg.FaultError{Kind: pg.ErrBinaries, Path: path, Err: err, Remedy: binariesRemedy}
		}
	}
	return nil
}

const binariesRemedy = "set BinDir to the directory of PostgreSQL's programs, server and client"

// majorOfData returns the content of PG_VERSION, "15". An absent or empty directory
// is pg.ErrNoData, one that holds other things pg.ErrNotData.
func majorOfData(dataDir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION")) //nolint:gosec // a file of the configured directories
	if errors.Is(err, os.ErrNotExist) {
		empty, err := isEmptyDir(dataDir)
		if err != nil {
			return "", fmt.Errorf("data directory %s: %w", dataDir, fileFault(dataDir, err))
		}
		if !empty {
			return "", &pg.FaultError{Kind: pg.ErrNotData, Path: dataDir, Err: errors.New("it is not empty and has no PG_VERSION"), Remedy: notDataRemedy}
		}
		return "", fmt.Errorf("data directory %s: %w", dataDir, pg.ErrNoData)
	}
	if err != nil {
		return "", fmt.Errorf("read the version of data directory %s: %w", dataDir, fileFault(dataDir, err))
	}
	return strings.TrimSpace(string(text)), nil
}

const notDataRemedy = "set DataDir to the data directory, or move away what is there"
