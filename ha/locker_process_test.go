package ha_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/internal/testbed"
)

// holderEnv tells TestLockerHolderProcess that it is the process to be stopped,
// and where the store is.
const holderEnv = "PGHAD_TEST_LOCK_HOLDER"

// TestLockerProcessStopped stops a real process that holds a lock, as SIGSTOP or
// a hypervisor does, for longer than the TTL. When it goes on the lock is
// another's: its first question says so, and its write is refused.
func TestLockerProcessStopped(t *testing.T) {
	t.Parallel()
	for _, backend := range []struct {
		name  string
		start func(t *testing.T) (address string, connect lockConnect)
	}{
		{"etcd", func(t *testing.T) (string, lockConnect) {
			t.Helper()
			address := testbed.StartEtcd(t).Endpoints()[0]
			return address, func(ctx context.Context) (dcs.Store, error) { return openEtcd(ctx, address) }
		}},
		{"zookeeper", func(t *testing.T) (string, lockConnect) {
			t.Helper()
			address := testbed.StartZooKeeper(t).Address()
			return address, func(ctx context.Context) (dcs.Store, error) { return openZooKeeper(ctx, address) }
		}},
	} {
		t.Run(backend.name, func(t *testing.T) {
			t.Parallel()
			address, connect := backend.start(t)
			b := newLockBench(t, connect, "Stopped")
			p := startHolder(b, backend.name+" "+address)
			require.Equal(t, "holds it", p.next(b))
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
			other, _ := b.node(patient)
			lease := b.acquire(other, "b")
			_, err := io.WriteString(p.stdin, "go on\n")
			require.NoError(t, err)
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
			require.Equal(t, "expired: true", p.next(b))
			require.Equal(t, "write refused: true", p.next(b))
			require.Equal(t, "released: true", p.next(b))
			b.shows(lease)
			b.renewed(lease, 1)
		})
	}
}

// holderProcess is a process that holds the lock.
type holderProcess struct {
	cmd   *exec.Cmd
	stdin io.Writer
	lines *bufio.Scanner
}

func startHolder(b *lockBench, store string) *holderProcess {
	b.t.Helper()
	cmd := exec.CommandContext(b.ctx, os.Args[0], "-test.run=^TestLockerHolderProcess$")
	cmd.Env = append(os.Environ(), holderEnv+"="+store+" "+b.key)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(b.t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(b.t, err)
	require.NoError(b.t, cmd.Start())
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill() // also while it is stopped
		_ = cmd.Wait()
	})
	return &holderProcess{cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
}

// holderSays begins the lines that are for TestLockerProcessStopped.
const holderSays = "holder: "

// next is the next thing that the process says.
func (p *holderProcess) next(b *lockBench) string {
	b.t.Helper()
	for p.lines.Scan() {
		if text, ok := strings.CutPrefix(p.lines.Text(), holderSays); ok {
			return text
		}
		b.t.Log(p.lines.Text())
	}
	require.FailNow(b.t, "the process has ended")
	return ""
}

// TestLockerHolderProcess is the process of TestLockerProcessStopped.
func TestLockerHolderProcess(t *testing.T) {
	where := strings.Fields(os.Getenv(holderEnv))
	if len(where) != 3 {
		t.Skip("only as a process of TestLockerProcessStopped")
	}
	open := map[string]func(context.Context, ...string) (dcs.Store, error){"etcd": openEtcd, "zookeeper": openZooKeeper}[where[0]]
	store, err := open(t.Context(), where[1])
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	cfg := brief
	cfg.Store = store
	l, err := ha.NewLocker(cfg)
	require.NoError(t, err)
	defer func() { _ = l.Close(context.Background()) }() // the test may be over

	lease, err := l.Acquire(t.Context(), where[2], []byte("a"))
	require.NoError(t, err)
	say := func(format string, args ...any) {
		_, err := fmt.Fprintf(os.Stdout, "\n"+holderSays+format+"\n", args...)
		require.NoError(t, err)
	}
	say("holds it")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	require.NoError(t, err)
	say("expired: %t", errors.Is(lease.Check(), ha.ErrExpired))
	_, err = store.Commit(t.Context(), dcs.Txn{If: []dcs.Guard{lease.Guard()}, Then: []dcs.Op{{Key: where[2] + "-record"}}})
	say("write refused: %t", errors.Is(err, dcs.ErrConflict))
	say("released: %t", lease.Release(t.Context()) == nil)
}
