package zk_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/zk"
)

// A lock is a key under a session. Whoever uses it in earnest uses ha.Locker,
// which knows for how long.
func ExampleOpen() {
	ctx := context.Background()
	store, err := zk.Open(ctx, zk.Config{
		Servers:  []string{"zk1.example.com", "zk2.example.com", "zk3.example.com:2281"},
		Chroot:   "/pghad",
		Username: "pghad",
		Password: "secret",
		TLS:      &tls.Config{MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = store.Close() }()
	session, err := store.NewSession(ctx, 10*time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := dcs.Create(ctx, store, "/service/main/leader", []byte("me"), session.ID())
	fmt.Println(token, err)
}
