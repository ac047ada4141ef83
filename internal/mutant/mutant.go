// Package mutant plants defects into the code under test: a patch in a folder of
// test data is one defect, and go's -overlay builds with it. A test that must
// find the defect shows thereby that it can.
package mutant

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mutant is a defect, as its patch file tells: lines that begin with #, of which
// those of the form "# Name: value" are its header, and a unified diff with paths
// that begin with a/ and b/, from the module's root.
type Mutant struct {
	Name   string // of the file, without .patch
	Header map[string][]string
	files  []filePatch
}

// Read reads a patch file.
func Read(path string) (*Mutant, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the caller's test data
	if err != nil {
		return nil, fmt.Errorf("read the patch of a mutant: %w", err)
	}
	m := &Mutant{Name: strings.TrimSuffix(filepath.Base(path), ".patch"), Header: map[string][]string{}}
	body := string(text)
	for strings.HasPrefix(body, "#") {
		var line string
		line, body, _ = strings.Cut(body, "\n")
		if name, value, ok := strings.Cut(strings.TrimPrefix(line, "# "), ": "); ok && !strings.Contains(name, " ") {
			m.Header[name] = append(m.Header[name], value)
		}
	}
	if m.files, err = parse(body); err != nil {
		return nil, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	return m, nil
}

// Overlay writes the patched files to dir, and beside them what go's -overlay
// takes, whose path it returns. The paths of the patch begin at root.
func (m *Mutant) Overlay(dir, root string) (string, error) {
	replace := map[string]string{}
	for n, f := range m.files {
		path, err := filepath.Abs(filepath.Join(root, f.path))
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		source, err := os.ReadFile(path) //nolint:gosec // a file of this module
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		patched, err := f.apply(string(source))
		if err != nil {
			return "", fmt.Errorf("the patch of mutant %s does not apply any more: plant the same defect in the code as it is now: %w", m.Name, err)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d-%s", n, filepath.Base(path)))
		if err := os.WriteFile(replace[path], []byte(patched), 0o600); err != nil { //nolint:gosec // into the caller's directory
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return "", fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	return overlay, nil
}

// filePatch is what a patch does to one file.
type filePatch struct {
	path  string
	hunks []change
}

// change replaces whole lines.
type change struct{ before, after string }

// parse reads a unified diff with paths that begin with a/ and b/.
func parse(text string) ([]filePatch, error) {
	var files []filePatch
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "--- a/"):
			files = append(files, filePatch{path: strings.TrimSpace(strings.TrimPrefix(line, "--- a/"))})
			continue
		case strings.HasPrefix(line, "+++ b/"):
			continue
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("patch: %q before the first file", line)
		}
		f := &files[len(files)-1]
		if strings.HasPrefix(line, "@@ ") {
			f.hunks = append(f.hunks, change{})
			continue
		}
		if len(f.hunks) == 0 {
			return nil, fmt.Errorf("patch of %s: %q before the first hunk", f.path, line)
		}
		hunk := &f.hunks[len(f.hunks)-1]
		switch line[0] {
		case ' ':
			hunk.before, hunk.after = hunk.before+line[1:], hunk.after+line[1:]
		case '-':
			hunk.before += line[1:]
		case '+':
			hunk.after += line[1:]
		default:
			return nil, fmt.Errorf("patch of %s: %q is no line of a unified diff", f.path, line)
		}
	}
	if len(files) == 0 {
		return nil, errors.New("patch: no file")
	}
	return files, nil
}

// apply carries the hunks out. Where a hunk belongs is told by the lines that it
// shows, not by their numbers: they must be in the file, and only once.
func (f filePatch) apply(source string) (string, error) {
	for n, hunk := range f.hunks {
		if hunk.before == "" || hunk.before == hunk.after {
			return "", fmt.Errorf("%s: hunk %d changes nothing, or does not say where", f.path, n+1)
		}
		switch found := strings.Count("\n"+source, "\n"+hunk.before); found {
		case 1:
			at := strings.Index("\n"+source, "\n"+hunk.before)
			source = source[:at] + hunk.after + source[at+len(hunk.before):]
		case 0:
			return "", fmt.Errorf("%s: the lines of hunk %d are not there:\n%s", f.path, n+1, hunk.before)
		default:
			return "", fmt.Errorf("%s: the lines of hunk %d are there %d times:\n%s", f.path, n+1, found, hunk.before)
		}
	}
	return source, nil
}
