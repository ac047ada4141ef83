package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pghad/pghad/dcs"
)

// file keeps a state. It is replaced as a whole: a crash leaves the old one or the
// new one.
type file struct{ path string }

// lock waits until nobody else has the file. The operating system unlocks what a
// process had that has died.
func (f file) lock(ctx context.Context) (unlock func(), err error) {
	if ctx.Err() != nil {
		return nil, f.waited(ctx)
	}
	l, err := os.OpenFile(f.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the file: %w", err)
	}
	release := func() { _ = l.Close() }
	locked := make(chan error)
	go func() {
		err := flock(l) // soon: others have the file for moments
		select {
		case locked <- err:
		case <-ctx.Done():
			release()
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			release()
			return nil, fmt.Errorf("lock %s: %w", l.Name(), err)
		}
		return release, nil
	case <-ctx.Done():
		return nil, f.waited(ctx)
	}
}

func (f file) waited(ctx context.Context) error {
	return fmt.Errorf("wait for %s: %w: %w", f.path, ctx.Err(), context.Cause(ctx))
}

func flock(l *os.File) error {
	for {
		err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err //nolint:wrapcheck // by the caller
		}
	}
}

func (f file) read() (*state, error) {
	st := &state{Keys: map[string]*entry{}, Sessions: map[dcs.SessionID]*alive{}}
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	if err := json.Unmarshal(text, st); err != nil {
		return nil, fmt.Errorf("read the state in %s: %w", f.path, err)
	}
	return st, nil
}

// write replaces the file. Its error says whether that may have happened.
func (f file) write(st *state) error {
	text, err := json.Marshal(st)
	if err == nil {
		err = writeSynced(f.path+".new", text)
	}
	if err == nil {
		err = os.Rename(f.path+".new", f.path)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", dcs.ErrUnavailable, err)
	}
	// The new file is there. That it is there after a power cut, only this proves.
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("%w: %w", dcs.ErrAmbiguous, err)
	}
	return nil
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the path is the user's
	if err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path) //nolint:gosec // the path is the user's
	if err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	if err = errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}
