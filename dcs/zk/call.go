package zk

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-zookeeper/zk"

	"github.com/pghad/pghad/dcs"
	"github.com/pghad/pghad/dcs/internal/outcome"
)

// call says what is being done, for the wording of its error.
type call struct {
	name, object string
	read         bool
	bound        bool // it goes through the connection of a session
}

// beforeSending is the error of a call that need not be begun.
func (c call) beforeSending(ctx, store context.Context) error {
	switch {
	case store.Err() != nil:
		return fmt.Errorf("%s %s: %w", c.name, c.object, dcs.ErrClosed)
	case c.read:
		return outcome.Read(ctx, c.name, c.object)
	default:
		return outcome.NotSent(ctx, c.name, c.object)
	}
}

// explain turns what the client said into an error of package dcs. What was not
// sent yet has not been done, whatever the client said about something before.
func (c call) explain(ctx, store context.Context, sent bool, err error) error {
	proof := verdict(err)
	switch {
	case errors.Is(proof, dcs.ErrSessionLost) && !c.bound,
		errors.Is(proof, dcs.ErrConflict),
		errors.Is(proof, dcs.ErrAmbiguous) && (c.read || !sent):
		proof = dcs.ErrUnavailable
	}
	unavailable := errors.Is(proof, dcs.ErrUnavailable)
	interrupted := unavailable || errors.Is(proof, dcs.ErrAmbiguous)
	cause := outcome.Cause(ctx)
	switch {
	case unavailable && store.Err() != nil:
		proof = dcs.ErrClosed
	case interrupted && cause != nil && c.read:
		return fmt.Errorf("%s %s: %w (%s)", c.name, c.object, cause, words(err))
	case interrupted && cause != nil:
		return fmt.Errorf("%s %s: %w: %w (%s)", c.name, c.object, proof, cause, words(err))
	}
	return fmt.Errorf("%s %s: %w: %s", c.name, c.object, proof, words(err))
}

// words are those of err, and what a person can do about it. A server takes any
// user and any password, and then finds that a node is for others.
func words(err error) string {
	if errors.Is(err, zk.ErrNoAuth) {
		return err.Error() + ": check the user name and the password, and to whom the ACLs of the nodes permit what"
	}
	return err.Error()
}

// What is said here, beside what the client says.
var (
	errNoAnswer     = errors.New("no answer so far")
	errNoConnection = errors.New("no connection to ZooKeeper so far")
	errLinkEnded    = errors.New("the connection has ended")
	errShortened    = errors.New("a member of the ensemble has shortened the session")
	errNodeDeleted  = errors.New("the node of the session has been deleted")
)

// verdicts is what each answer proves about a write. An answer that is not
// listed proves nothing. Noteworthy absences:
//
//   - zk.ErrConnectionClosed and zk.ErrClosing are what the client says of all
//     requests whose answer it will not get, sent or not.
//   - "operation timeout", "api error" and the system errors are not said of
//     writes that were refused before they were proposed.
//   - zk.ErrShortBuffer is also said of an answer that cannot be understood.
var verdicts = []struct{ said, proof error }{
	// A check, a creation or a deletion within a transaction did not fit.
	{zk.ErrNoNode, dcs.ErrConflict},
	{zk.ErrNodeExists, dcs.ErrConflict},
	{zk.ErrBadVersion, dcs.ErrConflict},
	// Refused by the leader before it is proposed, as all that follows. Somebody
	// else has put nodes below ours:
	{zk.ErrNotEmpty, dcs.ErrUnavailable},
	{zk.ErrNoChildrenForEphemerals, dcs.ErrUnavailable},
	// The session:
	{zk.ErrSessionExpired, dcs.ErrSessionLost},
	{errShortened, dcs.ErrSessionLost},
	{errNodeDeleted, dcs.ErrSessionLost},
	{zk.ErrSessionMoved, dcs.ErrUnavailable},
	// Permissions, quotas, and members that take no writes:
	{zk.ErrNoAuth, dcs.ErrUnavailable},
	{zk.ErrAuthFailed, dcs.ErrUnavailable},
	{errNotReadOnly, dcs.ErrUnavailable},
	{errEphemeralOnLocalSession, dcs.ErrUnavailable},
	{errSaslRequired, dcs.ErrUnavailable},
	{errQuotaExceeded, dcs.ErrUnavailable},
	{errThrottled, dcs.ErrUnavailable},
	// Requests that never can be carried out:
	{zk.ErrInvalidACL, dcs.ErrInvalid},
	{zk.ErrInvalidPath, dcs.ErrInvalid},
	{zk.ErrInvalidFlags, dcs.ErrInvalid},
	{zk.ErrBadArguments, dcs.ErrInvalid},
	// Said by the client, and here, of what has not been sent:
	{zk.ErrNoServer, dcs.ErrUnavailable},
	{errLinkEnded, dcs.ErrUnavailable},
}

// Answers that the client has no names for.
var (
	errNotReadOnly             = codeError(-119)
	errEphemeralOnLocalSession = codeError(-120)
	errSaslRequired            = codeError(-124)
	errQuotaExceeded           = codeError(-125)
	errThrottled               = codeError(-127)
)

// codeError is an answer by its number.
type codeError int

func (e codeError) Error() string { return fmt.Sprintf("unknown error: %d", int(e)) }

// verdict says what err proves about a write that has been handed to the client;
// nil says that it is done.
func verdict(err error) error {
	if err == nil {
		return nil
	}
	for _, v := range verdicts {
		// The client makes the errors without names anew each time.
		if errors.Is(err, v.said) || err.Error() == v.said.Error() {
			return v.proof
		}
	}
	return dcs.ErrAmbiguous
}
