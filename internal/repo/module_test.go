package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// module is the import path that the rules write as ".".
const module = "github.com/pghad/pghad"

// listed is what the rules need to know of a package, as go list prints it.
type listed struct {
	ImportPath string   `json:"ImportPath"`
	Name       string   `json:"Name"`
	Dir        string   `json:"Dir"`
	GoFiles    []string `json:"GoFiles"`
	Imports    []string `json:"Imports"` // direct, without tests
	Deps       []string `json:"Deps"`    // direct and indirect, without tests
}

// root returns the directory of the module, and reads all its directories on
// the way: go test caches a result by the files that the test itself has
// opened, and what go list and go doc open it does not see.
func root(t *testing.T) string {
	t.Helper()
	top, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since its directory was read
		}
		if err == nil && entry.IsDir() && path != top && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "bin") {
			return fs.SkipDir
		}
		return err
	})
	require.NoError(t, err)
	return top
}

// list returns all packages of the module as they are built for goos, sorted by
// import path. Packages that do not compile are listed too.
func list(t *testing.T, goos string) []listed {
	t.Helper()
	out := runGo(t, goos, "list", "-e", "-json=ImportPath,Name,Dir,GoFiles,Imports,Deps", "./...")
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		packages = append(packages, p)
	}
	require.NotEmpty(t, packages)
	return packages
}

// runGo runs a go command at the module's root for goos on amd64, without cgo,
// so that the answer is the same on every machine.
func runGo(t *testing.T, goos string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off", "PWD="+cmd.Dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s\n%s", strings.Join(args, " "), &stderr)
	return out
}
