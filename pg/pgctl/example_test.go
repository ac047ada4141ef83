package pgctl_test

import (
	"context"
	"fmt"
	"log"

	"github.com/pghad/pghad/pg"
	"github.com/pghad/pghad/pg/pgctl"
)

// A standby of a running primary, from nothing: clone, name what its own
// synchronous setting will be should it ever be promoted, start.
func ExampleController_Clone() { //nolint:testableexamples // it needs a primary elsewhere
	ctx := context.Background()
	server, err := pgctl.New(pgctl.Config{
		DataDir:             "/var/lib/postgresql/pghad/data",
		StateDir:            "/var/lib/postgresql/pghad/state",
		ListenHost:          "10.0.0.2",
		ReplicationPassword: "secret",
		HBA:                 []string{"host all all 10.0.0.0/8 scram-sha-256"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // nothing is lost

	primary := pg.Upstream{Host: "10.0.0.1", Port: 5432, Name: "node2.1"}
	floor, err := server.Clone(ctx, primary)
	if err != nil {
		log.Fatal(err) //nolint:gocritic // an example ends here
	}
	fmt.Println("this copy counts from", floor)
	if err := server.SetSync(ctx, pg.SyncSetting{Method: pg.SyncAny, K: 1, Names: []string{"node1.1", "node3.1"}}); err != nil {
		log.Fatal(err)
	}
	if err := server.StartStandby(ctx, primary); err != nil {
		log.Fatal(err)
	}
}

// The end of a server is an event, not the result of a poll.
func ExampleController_WaitChange() { //nolint:testableexamples // it needs a server
	watch := func(ctx context.Context, server *pgctl.Controller) error {
		status, err := server.Status(ctx)
		for err == nil {
			if status.Process == pg.ProcessCrashed {
				return fmt.Errorf("PostgreSQL has crashed, %s", status.Err)
			}
			if _, err = server.WaitChange(ctx, status.Generation); err == nil {
				status, err = server.Status(ctx)
			}
		}
		return err
	}
	_ = watch
}
