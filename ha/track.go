package ha

import "context"

// track lets the quorum tracker do its ready steps.
func (n *Node) track(context.Context, look) (bool, error) { return false, nil }
