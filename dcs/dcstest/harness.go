package dcstest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pghad/pghad/dcs"
)

// Traits is what a backend admits about itself.
type Traits struct {
	// MinTTL is the shortest TTL that a session can be asked for; zero means
	// that any positive one is possible.
	MinTTL time.Duration
	// MaxTTL is the longest; zero means that an hour is possible, and that the
	// limit is not tested.
	MaxTTL time.Duration
	// Linger is the longest that a dead session's keys outlive its TTL,
	// including the time until a watch tells of it.
	Linger time.Duration
	// MaxValue is a size in bytes that a value can certainly have; zero means
	// 256 KiB. Ten times as much must be refused.
	MaxValue int
	// MaxTxnKeys is how many keys one transaction can certainly write; zero
	// means 64. That ten times as many are refused is tested if it is given.
	MaxTxnKeys int

	limitsKeys bool // MaxTxnKeys was given
}

// minLockTTL is a TTL within which a lock can be renewed on a loaded machine.
const minLockTTL = 6 * time.Second

// longTTL is meant not to pass during a case.
const longTTL = time.Hour

func (tr Traits) withDefaults() Traits {
	if tr.MaxValue == 0 {
		tr.MaxValue = 256 << 10
	}
	tr.limitsKeys = tr.MaxTxnKeys > 0
	if !tr.limitsKeys {
		tr.MaxTxnKeys = 64
	}
	return tr
}

// clamp brings a TTL into what the backend can grant.
func (tr Traits) clamp(ttl time.Duration) time.Duration {
	ttl = max(ttl, tr.MinTTL)
	if tr.MaxTTL > 0 {
		ttl = min(ttl, tr.MaxTTL)
	}
	return ttl
}

// Cluster is one backend under test. It may implement some of the abilities
// below.
type Cluster interface {
	// Client opens a connection, which the suite closes, and says by which
	// clock its user lives. Each case has names of its own, and uses one several
	// times. A goroutine that Client starts for itself, not for the store, must
	// shed the labels of package runtime/pprof: by them the suite finds what a
	// store has left.
	Client(tb testing.TB, name string) (dcs.Store, clock.Clock)
	// True is the clock that assertions about time are made by.
	True() clock.Clock
}

// Partitioner can cut the clients of one name off: nothing passes between them
// and any server, while their connections look open.
type Partitioner interface {
	Partition(client string)
	// Heal ends that. What was under way may arrive after all.
	Heal(client string)
}

// ReplyDropper can let the requests of the clients of one name pass, and drop
// what is answered.
type ReplyDropper interface {
	// DropReplies returns a channel that is closed when the answer to a call has
	// been dropped which the client's user made afterwards: the call surely has
	// been carried out.
	DropReplies(client string) <-chan struct{}
	// Heal ends that. What was dropped must not be sent again.
	Heal(client string)
}

// Pauser can make the whole backend stand still with all its connections open,
// as machines do that are suspended.
type Pauser interface {
	Pause() error
	Resume() error
}

// LeaderKiller can make the server that decides crash.
type LeaderKiller interface {
	// KillLeader kills it. What is left elects another one; if none is left,
	// KillLeader starts it again. It need not wait for that.
	KillLeader(ctx context.Context) error
	// Restore starts all servers that were killed and returns when all serve.
	Restore(ctx context.Context) error
}

// FollowerKiller can make a server crash that does not decide.
type FollowerKiller interface {
	KillFollower(ctx context.Context) error
	// Restore starts all servers that were killed and returns when all serve.
	Restore(ctx context.Context) error
}

// SessionExpirer can end a session as an operator would, at once.
type SessionExpirer interface {
	Expire(ctx context.Context, id dcs.SessionID) error
}

// Compacter can make the backend forget its history.
type Compacter interface {
	Compact(ctx context.Context) error
}

// Harness is how the suite gets at a backend, of which C is the type.
type Harness[C Cluster] struct {
	// New is called once for each case, inside Leaf, and cleans up by
	// t.Cleanup. It may return the same backend each time. Required.
	New    func(t *testing.T) C
	Traits Traits
	// Leaf runs the body of one case; nil means directly. It exists because
	// subtests cannot be made inside a synctest bubble: see Bubble.
	Leaf func(t *testing.T, body func(t *testing.T))
	// Lock competes for a lock that is made of the store; see Contender. Nil: no
	// locks are tested.
	Lock func(ctx context.Context, c Contender) error

	// For tests of the suite.
	only     []string      // the cases to run, as Group/Case; nil means all
	patience time.Duration // zero means patience
}

// Contender is one of several that want to hold the same lock.
type Contender struct {
	Name  string
	Store dcs.Store
	Clock clock.Clock // by which the contender lives
	Key   string      // of the lock
	TTL   time.Duration

	// Work is what is protected. Harness.Lock calls it whenever it holds the
	// lock, with the fencing token, waits for it, gives the lock up and begins
	// anew, until its own context ends; then it returns nil, or why the lock
	// could not be given up. Work returns soon after its context has ended, which
	// must be early enough: nobody else may hold the lock while Work runs. If
	// Work returns before that, the lock is to be given up.
	Work func(ctx context.Context, token dcs.Revision) error
}

// Bubble is a Leaf that runs each case in a synctest bubble of its own. It is
// for backends without sockets, which thereby also prove that they leave no
// goroutine behind.
func Bubble(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, body)
}

// RealTimeSlack is how late things may come on a loaded machine; a backend in
// real time adds it to its Linger.
const RealTimeSlack = 10 * time.Second

// ability is something that a case needs a Cluster for.
type ability struct {
	name     string
	of       func(cluster any) bool
	disturbs bool // whoever else uses the backend at the same time
}

var (
	canPartition = newAbility[Partitioner]("Partitioner", false)
	canDrop      = newAbility[ReplyDropper]("ReplyDropper", false)
	canPause     = newAbility[Pauser]("Pauser", true)
	canKill      = newAbility[LeaderKiller]("LeaderKiller", true)
	canKillOther = newAbility[FollowerKiller]("FollowerKiller", true)
	canExpire    = newAbility[SessionExpirer]("SessionExpirer", false)
	canCompact   = newAbility[Compacter]("Compacter", true)
)

func newAbility[T any](name string, disturbs bool) ability {
	return ability{name: name, disturbs: disturbs, of: func(cluster any) bool {
		_, ok := cluster.(T)
		return ok
	}}
}
