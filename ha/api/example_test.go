package api_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/api"
	"github.com/pghad/pghad/ha/quorum"
)

// follower is a node that follows the primary of term 7. In earnest it is an
// *ha.Node.
type follower struct{ self quorum.Member }

func (f follower) Promise(_ context.Context, ask ha.PromiseRequest) (ha.Promise, error) {
	if ask.Term != 7 {
		return ha.Promise{Member: f.self, Why: "this node follows term 7"}, nil
	}
	return ha.Promise{Given: true, Member: f.self}, nil
}

// A primary asks a member for a promise. Both show and demand the same
// password, here over a line that does not leave the machine.
func Example() {
	if err := example(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// term 7: true  <nil>
	// term 8: false this node follows term 7 <nil>
}

func example() error {
	ctx := context.Background()
	credentials, err := api.OpenCredentials(api.CredentialsConfig{Username: "pghad", Password: "secret"})
	if err != nil {
		return err
	}
	defer credentials.Close()

	// The member.
	b := quorum.Member{Node: "b", Incarnation: "2"}
	server, err := api.Listen(ctx, api.ServerConfig{Address: "127.0.0.1:0", Credentials: credentials})
	if err != nil {
		return err
	}
	handler, err := api.NewHandler(api.HandlerConfig{Promiser: follower{self: b}, Credentials: credentials})
	if err != nil {
		return errors.Join(err, server.Close(ctx))
	}
	served := make(chan error)
	go func() { served <- server.Serve(handler) }()
	peer := ha.Peer{Name: "b", APIURL: api.URL(server.Addr().String(), credentials.Encrypted())}

	// The primary. In ha.NodeConfig.Peers the client is asked by the node itself.
	client := api.NewClient(api.ClientConfig{Credentials: credentials})
	defer client.Close()
	for _, term := range []uint64{7, 8} {
		promise, err := client.AskPromise(ctx, peer, ha.PromiseRequest{
			Cluster: "/service/orders/", Term: term, Nonce: "nonce",
			Primary: quorum.Member{Node: "a", Incarnation: "1"}, Member: b, For: 10 * time.Second,
		})
		fmt.Printf("term %d: %t %s %v\n", term, promise.Given, promise.Why, err)
	}
	return errors.Join(server.Close(ctx), <-served)
}
