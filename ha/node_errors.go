package ha

import "errors"

// The errors of elections and nodes to branch on, by errors.Is.
var (
	// ErrForeignData says that the data directory belongs to another cluster.
	// Nothing has been changed.
	ErrForeignData = errors.New("data directory of another cluster")
	// ErrPledged says that the node is bound to a newer election.
	ErrPledged = errors.New("bound to another election")
	// ErrRolledBack says that the local data is behind a position that this
	// node has voted with: a disk was restored or lost writes.
	ErrRolledBack = errors.New("data was rolled back")
	// ErrResigned is the cause of a term that its holder has ended because its
	// server cannot serve.
	ErrResigned = errors.New("resigned")
)
