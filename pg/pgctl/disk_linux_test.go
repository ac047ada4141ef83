package pgctl_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/internal/testbed"
	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// namespacesVariable says that a test runs in namespaces of its own, see mayMount.
const namespacesVariable = "PGCTL_TEST_NAMESPACES"

// mayMount reports whether the test may mount file systems. Who is not root runs it
// once more, in a user namespace in which he may, and is told false: the test has been
// run.
func mayMount(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 || os.Getenv(namespacesVariable) != "" {
		return true
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespacesVariable+"=1")
	const capSysAdmin = 21
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{capSysAdmin},
	}
	out, err := cmd.CombinedOutput()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		testbed.Skipf(t, "no user namespace can be made here, and only root may mount a file system: %v", err)
	}
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "it has not been skipped there")
	return false
}

// small mounts a file system of some megabytes.
func small(t *testing.T, path string, megabytes int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(path, 0o755))
	if err := syscall.Mount("pgctl-test", path, "tmpfs", 0, "mode=755,size="+strconv.Itoa(megabytes)+"m"); err != nil {
		testbed.Skipf(t, "a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(path, syscall.MNT_DETACH)) })
}

func TestFaultOfAFullDisk(t *testing.T) {
	t.Parallel()
	if !mayMount(t) {
		return
	}
	a := newPrimary(t, "a", quick)
	b := newNode(t, "b", quick, func(cfg *pgctl.Config) {
		disk := filepath.Join(filepath.Dir(cfg.DataDir), "disk")
		small(t, disk, 12)
		cfg.DataDir = filepath.Join(disk, "data")
	})
	requireFault(t, b.Init(b.ctx()), pg.ErrDiskFull, b.cfg.DataDir)
	_, err := b.OnDisk(b.ctx())
	require.True(t, errors.Is(err, pg.ErrIncompleteCopy) || errors.Is(err, pg.ErrNoData), "what initdb has left is not started: %v", err)
	require.Error(t, b.StartStandby(b.ctx(), pg.Upstream{}))
	require.NoError(t, os.RemoveAll(b.cfg.DataDir))

	_, err = b.Clone(b.ctx(), a.up("b"))
	requireFault(t, err, pg.ErrDiskFull, b.cfg.DataDir)
	require.NoDirExists(t, b.cfg.DataDir+".new", "the room is given back")
	require.NotContains(t, err.Error(), a.cfg.ReplicationPassword)

	// No room for the controller's own notes.
	c := newNode(t, "c", quick, func(cfg *pgctl.Config) {
		small(t, cfg.StateDir, 1)
	})
	full := filepath.Join(c.cfg.StateDir, "full")
	_ = os.WriteFile(full, make([]byte, 2<<20), 0o600) // as far as it goes
	_, err = c.Clone(c.ctx(), a.up("c"))
	requireFault(t, err, pg.ErrDiskFull, c.cfg.StateDir)
	require.NoError(t, os.Remove(full))
	_, err = c.Clone(c.ctx(), a.up("c"))
	require.NoError(t, err)
}

// The disk stands still: sessions are given, reads are answered, and nothing is
// written. One session hangs, not one for each check.
func TestSelfCheckOfAFrozenDisk(t *testing.T) {
	t.Parallel()
	var disk string
	a := newPrimary(t, "a", quick, func(cfg *pgctl.Config) {
		disk = filepath.Join(filepath.Dir(cfg.DataDir), "disk")
		loop(t, disk)
		cfg.DataDir = filepath.Join(disk, "data")
		cfg.SelfCheckTimeout = 300 * time.Millisecond
	})
	require.NoError(t, a.SelfCheck(a.ctx()))
	run := func(flag string) error { return exec.Command("fsfreeze", flag, disk).Run() }
	require.NoError(t, run("-f"))
	thawed := false
	thaw := func() {
		if !thawed {
			thawed = true
			require.NoError(t, run("-u"))
		}
	}
	t.Cleanup(thaw)
	require.ErrorIs(t, a.SelfCheck(a.ctx()), context.DeadlineExceeded)
	for range 3 {
		require.ErrorContains(t, a.SelfCheck(a.ctx()), "has not come back")
	}
	require.Equal(t, pg.HealthAlive, a.status().Health, "it answers what it need not write for")
	thaw()
	a.await("it writes again", func() bool { return a.SelfCheck(a.ctx()) == nil })
}

// loop mounts a file system that can be frozen; the test is skipped where that is not
// allowed.
func loop(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(path, 0o755))
	image := path + ".img"
	for _, command := range []string{"truncate -s 300M " + image, "mkfs.ext4 -q -F " + image, "mount -o loop " + image + " " + path, "chmod 755 " + path} {
		argv := strings.Fields(command)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			testbed.Skipf(t, "a file system of its own cannot be mounted here: %s: %v: %s", command, err, bytes.TrimSpace(out))
		}
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(path, syscall.MNT_DETACH)) })
}
