// Lock holds a lock and counts under its fencing token. Start it twice, with
// different names, and stop the holder in any way you like: see README.md.
//
//	go run ./examples/lock -etcd http://127.0.0.1:2379 -name a
//	go run ./examples/lock -zookeeper 127.0.0.1:2181 -name a
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/etcd"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/dcs/zk"
	"github.com/pghad/pghad/ha"
)

func main() {
	name := flag.String("name", "a", "what others see of the holder")
	endpoint := flag.String("etcd", "", "client URL of etcd")
	server := flag.String("zookeeper", "", "host:port of ZooKeeper; without both the store is in memory, which only this process has")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, err := open(ctx, *endpoint, *server)
	if err == nil {
		err = errors.Join(run(ctx, store, *name, os.Stdout), store.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // stop has nothing to do any more
	}
}

func open(ctx context.Context, endpoint, server string) (dcs.Store, error) {
	switch {
	case endpoint != "":
		return etcd.Open(ctx, etcd.Config{Endpoints: []string{endpoint}})
	case server != "":
		return zk.Open(ctx, zk.Config{Servers: []string{server}})
	default:
		return memory.New(memory.Config{}).Client("memory"), nil
	}
}

// run holds the lock as often as it can, until ctx ends.
func run(ctx context.Context, store dcs.Store, name string, out io.Writer) error {
	locker, err := ha.NewLocker(ha.LockerConfig{Store: store})
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		err := locker.Hold(ctx, "/example/demo/lock", []byte(name), func(ctx context.Context, lease *ha.Lease) error {
			for ctx.Err() == nil {
				n, err := count(ctx, store, lease)
				fmt.Fprintf(out, "%s counts %d under token %d, error: %v\n", name, n, lease.Token(), err)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
			return context.Cause(ctx)
		})
		fmt.Fprintf(out, "%s does not hold the lock any more: %v\n", name, err)
	}
	return locker.Close(context.WithoutCancel(ctx))
}

const countKey = "/example/demo/count"

// count adds one to a number. The write is carried out only if the lock still is
// the lease's, whatever this process believes, and nobody else has written.
func count(ctx context.Context, store dcs.Store, lease *ha.Lease) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	kv, err := store.Get(ctx, countKey)
	if err != nil && !errors.Is(err, dcs.ErrNotFound) {
		return 0, err
	}
	n, _ := strconv.Atoi(string(kv.Value)) // 0 before the first
	_, err = store.Commit(ctx, dcs.Txn{
		If:   []dcs.Guard{lease.Guard(), dcs.At(countKey, kv.Revision)},
		Then: []dcs.Op{{Key: countKey, Value: []byte(strconv.Itoa(n + 1))}},
	})
	return n + 1, err
}
