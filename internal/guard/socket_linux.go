package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// acceptPause is the pause after a connection that could not be accepted, for
// example because no file descriptor was left.
const acceptPause = 100 * time.Millisecond

// The lock of a guard that has just ended is tried again so often.
const (
	lockTries = 25
	lockPause = 10 * time.Millisecond
)

// socket is where agents connect.
type socket struct {
	path      string
	listener  *net.UnixListener
	lock      *os.File
	connected chan *net.UnixConn
	closing   sync.Once
}

// listen opens the socket, for this user only, and begins to accept connections
// until quit is closed.
func listen(path string, quit <-chan struct{}) (*socket, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("socket %s: give an absolute path", path)
	}
	if err := ownDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	// The lock is ours, so a socket that is there is one of a guard that was killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("socket of a former guard: %w", err), lock.Close())
	}
	before := syscall.Umask(0o177)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(before)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the socket for agents: %w", err), lock.Close())
	}
	s := &socket{path: path, listener: listener, lock: lock, connected: make(chan *net.UnixConn)}
	go s.accept(quit)
	return s, nil
}

// ownDirectory makes the directory of the socket, or checks that nobody else can
// get at what is in it.
func ownDirectory(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the directory of the socket: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("directory of the socket: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir() || !ok:
		return fmt.Errorf("%s is not a directory: the socket needs one of its own", dir)
	case int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("directory %s belongs to user %d and the guard runs as %d: give the socket a directory of the guard's user", dir, stat.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("directory %s has mode %04o: others could get at the socket, chmod it to 0700", dir, info.Mode().Perm())
	}
	return nil
}

// lockFile keeps other guards away from a socket for the life of this one. Who has
// heard the end of a guard may be faster than the kernel, which has not taken back
// everything of it yet.
func lockFile(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // a file beside the socket
	if err != nil {
		return nil, fmt.Errorf("lock the socket: %w", err)
	}
	for range lockTries {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return lock, nil
		}
		time.Sleep(lockPause)
	}
	return nil, errors.Join(fmt.Errorf("lock %s: another guard has this socket: %w", path, err), lock.Close())
}

func (s *socket) accept(quit <-chan struct{}) {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		select {
		case s.connected <- conn:
		case <-quit:
			_ = conn.Close() // nobody is there to serve it
			return
		}
	}
}

// close removes the socket. The file of the lock stays: whoever removed it could
// take away the next guard's.
func (s *socket) close() {
	s.closing.Do(func() {
		_ = s.listener.Close() // removes the socket's file
		_ = s.lock.Close()
	})
}
