package ha

import (
	"context"
	"time"

	"github.com/pghad/pghad/ha/quorum"
)

// Peers asks other nodes directly, without the store. Package ha/api has an
// implementation over HTTP.
type Peers interface {
	// AskPromise asks one node for a promise. An error, silence included, is
	// not an answer. It returns when ctx ends.
	AskPromise(ctx context.Context, peer Peer, ask PromiseRequest) (Promise, error)
}

// Peer is where a node can be asked.
type Peer struct {
	Name   string
	APIURL string // as the node has published it
}

// PromiseRequest is what a primary asks of a member of its quorum: are you with
// me, unfenced, and will you stay so for a while?
type PromiseRequest struct {
	Cluster string        `json:"cluster"` // prefix of its keys, see record.Keys
	Term    uint64        `json:"term"`
	Nonce   string        `json:"nonce"` // of the term's election
	Primary quorum.Member `json:"primary"`
	Member  quorum.Member `json:"member"` // the life that is asked; another one does not answer for it
	For     time.Duration `json:"for"`    // nanoseconds, counted by the member from when it promises
}

// Promise is the answer of a member.
type Promise struct {
	Given  bool          `json:"given"`
	Member quorum.Member `json:"member"`
	Why    string        `json:"why,omitempty"` // why not
}
