package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds the wait for events that come within seconds.
const patience = 30 * time.Second

// TestMain is also the program that the tests start: as the children of a demo,
// and as a demo that starts them and dies.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "demo-etcd" {
		os.Exit(exitCode(etcdMain(os.Args[2:])))
	}
	if len(os.Args) > 2 && os.Args[1] == "demo" && os.Args[2] == "sweep" {
		os.Exit(exitCode(sweepMain(os.Args[3:])))
	}
	if dir := os.Getenv("PGHAD_TEST_DIE_IN"); dir != "" {
		os.Exit(exitCode(startAndDie(dir)))
	}
	os.Exit(m.Run())
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func etcdMain(args []string) error {
	flags := flag.NewFlagSet("demo-etcd", flag.ContinueOnError)
	dir, url := flags.String("dir", "", ""), flags.String("client-url", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return RunEtcd(context.Background(), EtcdOptions{Dir: *dir, ClientURL: *url})
}

func sweepMain(args []string) error {
	flags := flag.NewFlagSet("sweep", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return RunSweep(context.Background(), SweepOptions{Dir: *dir, Grace: 100 * time.Millisecond})
}

// startAndDie starts the children of a demo, freezes its etcd and another process
// that works in the directory, and ends without ending them.
func startAndDie(dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if _, err := startSweeper(program, dir); err != nil {
		return err
	}
	e, err := newEmbeddedEtcd(program, dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Start(ctx); err != nil {
		return err
	}
	sleeper := exec.Command("sleep", "1000")
	sleeper.Dir = e.folder()
	if err := sleeper.Start(); err != nil {
		return err
	}
	if err := sleeper.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return e.Pause()
}

func TestEverythingIsSweptWhenTheDemoDies(t *testing.T) {
	t.Parallel()
	dir := testbed.Dir(t)
	program, err := os.Executable()
	require.NoError(t, err)
	demo := exec.Command(program)
	demo.Env = append(os.Environ(), "PGHAD_TEST_DIE_IN="+dir)
	output, err := demo.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	}, patience, 10*time.Millisecond, "the directory is removed")
	require.NoError(t, testbed.Sweep(t.Context(), dir), "and nothing works in it any more")
}

// What was written before is there again, at the same address, whether etcd was
// killed or stood still.
func TestEtcdComesBack(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	require.NoError(t, err)
	e, err := newEmbeddedEtcd(program, testbed.Dir(t))
	require.NoError(t, err)
	require.NoError(t, e.Kill(), "nothing runs yet")
	require.NoError(t, e.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, e.Kill()) })
	store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{e.url}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	_, err = store.Commit(t.Context(), dcs.Txn{Then: []dcs.Op{{Key: "/k", Value: []byte("v")}}})
	require.NoError(t, err)

	require.NoError(t, e.Kill())
	require.Error(t, testbed.EtcdHealth(t.Context(), e.url))
	require.NoError(t, e.Start(t.Context()))
	kv, err := store.Get(t.Context(), "/k")
	require.NoError(t, err)
	require.Equal(t, "v", string(kv.Value))

	require.NoError(t, e.Pause())
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, testbed.EtcdHealth(soon, e.url), context.DeadlineExceeded, "it accepts, and does not answer")
	require.NoError(t, e.Resume())
	require.NoError(t, e.AwaitServing(t.Context()))
	require.NoError(t, e.Pause())
	require.NoError(t, e.Kill(), "also while it stands still")
}

func TestChildrenWantTheirFlags(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, RunEtcd(t.Context(), EtcdOptions{}), "it needs --dir and --client-url")
	require.ErrorContains(t, RunSweep(t.Context(), SweepOptions{}), "it needs --dir")
}
