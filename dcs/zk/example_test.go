package zk_test

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/pghad/pghad/dcs/zk"
)

// Opening connects to nothing; what is wrong with the configuration is said at
// once, and whether the ensemble can be reached by the first call.
func ExampleOpen() {
	store, err := zk.Open(context.Background(), zk.Config{
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
	fmt.Println("closed:", store.Close())
	// Output: closed: <nil>
}
