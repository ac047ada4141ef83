package dcstest

import (
	"fmt"
	"time"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// Kind says what a call through a Faulty store does.
type Kind string

const (
	KindGet          Kind = "get"
	KindList         Kind = "list"
	KindCommit       Kind = "commit"
	KindNewSession   Kind = "new session"
	KindRenew        Kind = "renew"
	KindCloseSession Kind = "close session"
	KindWatch        Kind = "watch"  // a watch is opened
	KindUpdate       Kind = "update" // a watch delivers
)

// Call is what an Injector is told of a call.
type Call struct {
	Kind Kind
	// Key is the key of a get, the prefix of a list, a watch and its updates, and
	// the keys of a commit in short.
	Key     string
	Txn     dcs.Txn       // of a commit; not to be changed
	Session dcs.SessionID // of a renewal or the close of a session
	N       int           // it is the N-th of its kind through this store, counted from 1
}

// Writes reports whether the call can change something at the store, so that
// its outcome can be unknown.
func (c Call) Writes() bool {
	switch c.Kind {
	case KindCommit, KindNewSession, KindRenew, KindCloseSession:
		return true
	default:
		return false
	}
}

// Takes reports whether the call is a commit that writes key.
func (c Call) Takes(key string) bool { return c.operates(key, false) }

// Deletes reports whether the call is a commit that deletes key.
func (c Call) Deletes(key string) bool { return c.operates(key, true) }

func (c Call) operates(key string, deletes bool) bool {
	for _, op := range c.Txn.Then {
		if op.Key == key && op.Delete == deletes {
			return true
		}
	}
	return false
}

func (c Call) object() string {
	switch c.Kind {
	case KindCommit:
		return outcome.Keys(c.Txn)
	case KindRenew, KindCloseSession:
		return string(c.Session)
	default:
		return c.Key
	}
}

// String names the call: "commit of /a/leader".
func (c Call) String() string {
	if object := c.object(); object != "" {
		return fmt.Sprintf("%s of %s", c.Kind, object)
	}
	return string(c.Kind)
}

// Fault is what happens to one call. The zero value is: nothing. What is set
// takes place in the order of the fields.
//
// A request is on its own once it is under way: it arrives even if its caller
// has given up meanwhile, as long as the store is not closed. A caller whose
// context ends while it waits is told so: for a write that the outcome is
// unknown.
//
// For an update of a watch, Hold and Delay keep it back (what is newer by then
// is delivered soon after), Lose and Swallow drop it, and Fail and Answer put
// an Update with that error in its place.
type Fault struct {
	// Fail is what the caller hears at once; nothing is sent. For a write it
	// should wrap dcs.ErrUnavailable, which says just that.
	Fail error
	// Lose makes the request vanish.
	Lose bool
	// Hold keeps the request back until it is closed. Requests that are held
	// arrive in the order in which they were made.
	Hold <-chan struct{}
	// Delay is how much later the request arrives.
	Delay time.Duration
	// Twice makes the request arrive twice. The reply is that to the first.
	Twice bool
	// Done is called when the request has been carried out, before anything
	// happens to the reply.
	Done func()
	// Answer takes the place of the reply. For a write it should wrap
	// dcs.ErrAmbiguous: what the caller hears must not be more than is true.
	Answer error
	// Swallow makes the reply vanish.
	Swallow bool
	// ReplyDelay is how much later the reply arrives.
	ReplyDelay time.Duration
}

func (f Fault) none() bool {
	return f.Fail == nil && !f.Lose && f.Hold == nil && f.Delay <= 0 && !f.Twice &&
		f.Done == nil && f.Answer == nil && !f.Swallow && f.ReplyDelay <= 0
}

// Injector decides what happens to the calls through a Faulty store. It is
// asked about one call at a time, in the order in which they are made, and must
// neither block nor call the store.
type Injector interface {
	Inject(c Call) Fault
}

// InjectorFunc is a function as an Injector.
type InjectorFunc func(Call) Fault

// Inject calls f.
func (f InjectorFunc) Inject(c Call) Fault { return f(c) }

// Always does the same to every call.
func Always(f Fault) Injector { return InjectorFunc(func(Call) Fault { return f }) }

// OnNth does f to the n-th call, counted from 1, of those that match.
func OnNth(n int, match func(Call) bool, f Fault) Injector {
	return InjectorFunc(func(c Call) Fault {
		if !match(c) {
			return Fault{}
		}
		n--
		if n != 0 {
			return Fault{}
		}
		return f
	})
}

// FirstOf asks one Injector after the other, until one of them does something.
func FirstOf(injectors ...Injector) Injector {
	return InjectorFunc(func(c Call) Fault {
		for _, in := range injectors {
			if f := in.Inject(c); !f.none() {
				return f
			}
		}
		return Fault{}
	})
}
