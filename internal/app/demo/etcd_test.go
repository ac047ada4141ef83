package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/internal/testbed"
)

// patience bounds the wait for events that come within seconds.
const patience = 30 * time.Second

// TestMain is also the program that the tests start: as the child that is etcd,
// and as a demo that starts one and dies.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "demo-etcd" {
		os.Exit(exitCode(etcdMain(os.Args[2:])))
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
	return RunEtcd(context.Background(), EtcdOptions{Dir: *dir, ClientURL: *url, Grace: 100 * time.Millisecond})
}

// startAndDie starts etcd, and a process that works in the directory, and ends
// without ending them. It prints the address of etcd once that serves.
func startAndDie(dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	e, err := startEtcd(program, dir)
	if err != nil {
		return err
	}
	sleeper := exec.Command("sleep", "1000")
	sleeper.Dir = filepath.Join(dir, "etcd")
	if err := sleeper.Start(); err != nil {
		return err
	}
	store, err := etcd.Open(context.Background(), etcd.Config{Endpoints: []string{e.url}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return until(ctx, 10*time.Millisecond, "etcd", func(ctx context.Context) error {
		_, err := store.List(ctx, "/")
		return err
	})
}

func TestEtcdSweepsWhenTheDemoDies(t *testing.T) {
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

func TestEtcdWantsItsFlags(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, RunEtcd(t.Context(), EtcdOptions{}), "it needs --dir and --client-url")
}
