package dcs_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
)

// A record that two nodes write is read, changed, and written under the
// revision that was read.
func ExampleCompareAndSwap() {
	ctx := context.Background()
	cluster := memory.New(memory.Config{})
	defer cluster.Close()
	a, b := cluster.Client("a"), cluster.Client("b")

	rev, err := dcs.Create(ctx, a, "/service/main/config", []byte("ttl: 10"), "")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := dcs.CompareAndSwap(ctx, b, "/service/main/config", rev, []byte("ttl: 20"), ""); err != nil {
		fmt.Println(err)
		return
	}
	_, err = dcs.CompareAndSwap(ctx, a, "/service/main/config", rev, []byte("ttl: 30"), "")
	fmt.Println("a comes too late:", errors.Is(err, dcs.ErrConflict))
	// Output: a comes too late: true
}

// A key under a session disappears with it. What its holder writes elsewhere is
// guarded by the key's creation, so that a former holder writes nothing.
func ExampleHeld() {
	ctx := context.Background()
	cluster := memory.New(memory.Config{})
	defer cluster.Close()
	store := cluster.Client("a")

	session, err := store.NewSession(ctx, 10*time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := dcs.Create(ctx, store, "/service/main/leader", []byte("a"), session.ID())
	if err != nil {
		fmt.Println(err)
		return
	}
	write := dcs.Txn{
		If:   []dcs.Guard{dcs.Held("/service/main/leader", token)},
		Then: []dcs.Op{{Key: "/service/main/timeline", Value: []byte("3")}},
	}
	_, err = store.Commit(ctx, write)
	fmt.Println("as the holder:", err)

	cluster.Expire(session.ID())
	_, err = store.Commit(ctx, write)
	fmt.Println("as a former holder:", errors.Is(err, dcs.ErrConflict))
	// Output:
	// as the holder: <nil>
	// as a former holder: true
}
