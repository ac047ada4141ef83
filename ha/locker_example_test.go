package ha_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
)

// Two nodes want the same lock. The holder writes under its fencing token, so
// that its write cannot land any more when somebody else holds the lock,
// whatever its clock says.
func ExampleLocker() {
	cluster := memory.New(memory.Config{}) // package dcs/etcd or dcs/zk in earnest
	defer cluster.Close()
	ctx := context.Background()

	locker := func(name string) *ha.Locker {
		l, err := ha.NewLocker(ha.LockerConfig{Store: cluster.Client(name)})
		if err != nil {
			log.Fatal(err)
		}
		return l
	}
	a, b := locker("a"), locker("b")
	defer a.Close(ctx) //nolint:errcheck // an example
	defer b.Close(ctx) //nolint:errcheck // an example

	lease, err := a.TryAcquire(ctx, "/service/demo/leader", []byte("a"))
	fmt.Println("a:", err)

	_, err = b.TryAcquire(ctx, "/service/demo/leader", []byte("b"))
	var held *ha.HeldError
	fmt.Println("b:", errors.As(err, &held), "the holder is", string(held.Holder.Value))

	write := func(ls *ha.Lease, value string) error {
		if err := ls.Check(); err != nil { // ask right before the step
			return err
		}
		_, err := cluster.Client("any").Commit(ctx, dcs.Txn{
			If:   []dcs.Guard{ls.Guard()},
			Then: []dcs.Op{{Key: "/service/demo/timeline", Value: []byte(value)}},
		})
		return err
	}
	fmt.Println("a writes:", write(lease, "1"))

	_ = lease.Release(ctx)
	next, err := b.TryAcquire(ctx, "/service/demo/leader", []byte("b"))
	fmt.Println("b:", err, "with a greater token:", next.Token() > lease.Token())
	fmt.Println("a writes:", write(lease, "2"))

	// Output:
	// a: <nil>
	// b: true the holder is a
	// a writes: <nil>
	// b: <nil> with a greater token: true
	// a writes: lock /service/demo/leader: lease released
}

// Hold runs work for as long as the lock is held, and never lets go of the lock
// before the work has returned.
func ExampleLocker_Hold() {
	cluster := memory.New(memory.Config{})
	l, err := ha.NewLocker(ha.LockerConfig{Store: cluster.Client("a")})
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()
	defer l.Close(context.Background()) //nolint:errcheck // an example

	ctx, cancel := context.WithCancel(context.Background())
	err = l.Hold(ctx, "/service/demo/leader", []byte("a"), func(ctx context.Context, ls *ha.Lease) error {
		fmt.Println("leading")
		cancel() // somebody wants it to stop
		<-ctx.Done()
		fmt.Println("still held:", ls.Check() == nil)
		return nil
	})
	_, free := l.Holder(context.Background(), "/service/demo/leader")
	fmt.Println(err, "and free:", errors.Is(free, dcs.ErrNotFound))

	// Output:
	// leading
	// still held: true
	// <nil> and free: true
}
