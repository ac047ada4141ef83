package pgctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile replaces path by data so that after a crash it is the old file or
// the new one: temporary file beside it, fsync, rename, fsync of the directory.
// The file belongs to the server's user, mode 0600.
func (a account) writeFile(path string, data []byte) (err error) {
	defer a.effects.begin("write " + filepath.Base(path))()
	temporary := path + ".tmp"
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, fileFault(path, err)), removeIfExists(temporary))
		}
	}()
	if err := removeIfExists(temporary); err != nil {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // a file of the configured directories
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := a.own(temporary); err != nil {
		return err
	}
	if err := a.effects.run("rename "+filepath.Base(temporary), func() error { return os.Rename(temporary, path) }); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeDir makes a directory of the server's user. One that exists is left as it
// is.
func (a account) makeDir(path string, mode fs.FileMode) error {
	defer a.effects.begin("make " + filepath.Base(path))()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // parents must be searchable by the server's user
		return fmt.Errorf("make the parent of %s: %w", path, fileFault(filepath.Dir(path), err))
	}
	err := os.Mkdir(path, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make directory %s: %w", path, fileFault(path, err))
	}
	if err := a.own(path); err != nil {
		return fmt.Errorf("give directory %s to user %s: %w", path, a.name, err)
	}
	return nil
}

// syncDir makes renames and removals in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path) //nolint:gosec // a file of the configured directories
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("fsync directory %s: %w", path, err)
	}
	return nil
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeDurably removes a file, if there is one, and makes that durable.
func (a account) removeDurably(path string) error {
	defer a.effects.begin("remove " + filepath.Base(path))()
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// exists reports whether there is something at path; an error is "unknown".
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// isEmptyDir reports whether path is absent or a directory without entries.
func isEmptyDir(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}

// rename moves a directory, durably if both names lie in one.
func (a account) rename(from, to string) error {
	defer a.effects.begin("rename " + filepath.Base(from) + " to " + filepath.Base(to))()
	if err := os.Rename(from, to); err != nil {
		return fileFault(from, err)
	}
	return syncDir(filepath.Dir(to))
}

// removeAll removes a directory and everything in it.
func (a account) removeAll(path string) error {
	defer a.effects.begin("remove " + filepath.Base(path))()
	return os.RemoveAll(path)
}

// emptyDir removes everything in a directory but not itself.
func (a account) emptyDir(path string) error {
	defer a.effects.begin("empty " + filepath.Base(path))()
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(path, entry.Name())); err != nil {
			return err
		}
	}
	return syncDir(path)
}

// copyFile copies a small file, if it exists, with the owner and mode of
// writeFile.
func (a account) copyFile(to, from string) error {
	data, err := os.ReadFile(from) //nolint:gosec // a file of the configured directories
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.writeFile(to, data)
}

// note is a small JSON file of the state directory; its absence means something
// too.
type note[T any] struct {
	account account
	path    string
}

// read returns the content and whether there is one.
func (n note[T]) read() (value T, found bool, err error) {
	data, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return value, false, fmt.Errorf("read %s: %w: move it away if it is damaged, after a look at what it was for", n.path, err)
	}
	return value, true, nil
}

func (n note[T]) write(value T) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", n.path, err)
	}
	return n.account.writeFile(n.path, append(data, '\n'))
}

func (n note[T]) remove() error { return n.account.removeDurably(n.path) }
