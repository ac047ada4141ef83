package testbed

import (
	"fmt"
	"os"
	"path/filepath"
)

// MakeDir makes a temporary directory that servers of another user can search,
// as each folder above their data must be. The caller removes it.
func MakeDir(prefix string) (string, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	if dir, err = filepath.Abs(dir); err == nil {
		err = searchable(dir)
	}
	if err != nil {
		return "", fmt.Errorf("directory %s: %w", dir, err)
	}
	return dir, nil
}

// searchable opens dir, and looks whether what is above it is open.
func searchable(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // to be searched by another user; what is secret in it has modes of its own
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for above := filepath.Dir(dir); ; above = filepath.Dir(above) {
		info, err := os.Stat(above)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("%s cannot be searched by the user that PostgreSQL runs as; set TMPDIR to a directory that can", above)
		}
		if above == filepath.Dir(above) {
			return nil
		}
	}
}

// Dir makes a temporary directory for a test, as MakeDir does, and removes it at
// cleanup.
func Dir(tb TB) string {
	tb.Helper()
	dir, err := MakeDir("pghad-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}
