package ha_test

import (
	"context"
	"fmt"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/memory"
	"github.com/pghad/pghad/ha"
	"github.com/pghad/pghad/ha/quorum"
	"github.com/pghad/pghad/ha/record"
)

// An operator needs nothing but the store of the cluster.
func ExampleOperator() {
	ctx := context.Background()
	cluster := memory.New(memory.Config{})
	defer cluster.Close()
	store := cluster.Client("operator")
	keys, err := record.NewKeys("service", "orders")
	if err != nil {
		fmt.Println(err)
		return
	}
	// What the nodes of a cluster would have written.
	a := quorum.Member{Node: "a", Incarnation: "1"}
	_, err = dcs.Put(ctx, store, keys.Quorum(), record.Encode(record.Quorum{
		Format: record.Format, Version: 1, Nonce: "n", Config: quorum.Config{Mode: quorum.ModeQuorum, Primary: a},
	}))
	if err != nil {
		fmt.Println(err)
		return
	}

	operator, err := ha.NewOperator(ha.OperatorConfig{Store: store, Keys: keys})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := operator.EnableMaintenance(ctx, "jo"); err != nil {
		fmt.Println(err)
		return
	}
	state, err := operator.Maintenance(ctx)
	fmt.Println(state.On(), state.Primary, state.Absent(), err)

	_, err = operator.ScheduleSwitchover(ctx, ha.SwitchoverRequest{To: "b", By: "jo"})
	fmt.Println(err)
	// Output:
	// true a [a] <nil>
	// switchover refused: nobody holds `leader`
}
