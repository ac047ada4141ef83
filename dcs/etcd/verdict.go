package etcd

import (
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pghad/pghad/dcs"
)

// verdict is what an answer means.
type verdict struct {
	// proof is what the answer proves about a write, as an error of package dcs.
	proof error
	// advice is what a person can do about it; empty if nothing.
	advice string
}

// verdicts is everything that an etcd server answers to a call that it has not
// carried out, or of which it does not know. What is not in it proves nothing
// about a write, as little as what proxies and gRPC itself make up.
//
// The proof is for every version from 3.4 on. "Refused" means: before the request
// is proposed to the members, or when it is applied and found not to be allowed.
var verdicts = table([]ruling{
	// Refused: an operation binds a key to a lease that is not there, or the call
	// is about such a lease.
	{verdict{dcs.ErrSessionLost, ""}, []error{rpctypes.ErrGRPCLeaseNotFound}},

	// Refused: no server would take this.
	{verdict{dcs.ErrInvalid, ""}, []error{
		rpctypes.ErrGRPCEmptyKey,
		rpctypes.ErrGRPCDuplicateKey,
		rpctypes.ErrGRPCTooManyOps,
		rpctypes.ErrGRPCRequestTooLarge,
		rpctypes.ErrGRPCLeaseTTLTooLarge,
		rpctypes.ErrGRPCValueProvided,
		rpctypes.ErrGRPCLeaseProvided,
		rpctypes.ErrGRPCInvalidSortOption,
		rpctypes.ErrGRPCInvalidClientAPIVersion,
	}},

	// Refused: not here, or not now.
	{verdict{dcs.ErrUnavailable, ""}, []error{
		rpctypes.ErrGRPCNoLeader, // for a stream also later, but a renewal is no write
		rpctypes.ErrGRPCRequestTooManyRequests,
		errProposalDropped, // there is no leader, or it hands over its office, or has too much to do
	}},
	{verdict{dcs.ErrUnavailable, "the cluster is of a version that is too old, or still starting"}, []error{rpctypes.ErrGRPCNotCapable}},
	{verdict{dcs.ErrUnavailable, "leave the learner out of the endpoints"}, []error{rpctypes.ErrGRPCNotSupportedForLearner}},

	// Refused: for who asks.
	{verdict{dcs.ErrUnavailable, "check the user name and the password"}, []error{rpctypes.ErrGRPCAuthFailed}},
	{verdict{dcs.ErrUnavailable, "etcd's authentication is enabled: configure a user name and a password"}, []error{rpctypes.ErrGRPCUserEmpty}},
	{verdict{dcs.ErrUnavailable, "the user has been deleted, create it again"}, []error{rpctypes.ErrGRPCUserNotFound}},
	{verdict{dcs.ErrUnavailable, "grant a role of the user to read and write the prefix of the cluster's keys"}, []error{rpctypes.ErrGRPCPermissionDenied}},
	// A new login is tried once, see login.refused.
	{verdict{dcs.ErrUnavailable, ""}, []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision}},
	{verdict{dcs.ErrUnavailable, ""}, []error{rpctypes.ErrGRPCAuthNotEnabled}}, // said to logins only, where it is no error

	// Unknown: said both before and after a write has been carried out, the one
	// that filled the database.
	{verdict{dcs.ErrAmbiguous, "etcd's database is full: compact and defragment it, then disarm the alarm"}, []error{rpctypes.ErrGRPCNoSpace}},
	// Unknown: said after the write was proposed, which may still be accepted.
	{verdict{dcs.ErrAmbiguous, ""}, []error{
		rpctypes.ErrGRPCStopped,
		rpctypes.ErrGRPCLeaderChanged,
		rpctypes.ErrGRPCNotLeader,
		rpctypes.ErrGRPCTimeout,
		rpctypes.ErrGRPCTimeoutDueToLeaderFail,
		rpctypes.ErrGRPCTimeoutDueToConnectionLost,
		rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
		rpctypes.ErrGRPCCanceled,
		rpctypes.ErrGRPCDeadlineExceeded,
		rpctypes.ErrGRPCUnhealthy,
	}},
	{verdict{dcs.ErrAmbiguous, "a member has found its data to differ from the others': replace it"}, []error{rpctypes.ErrGRPCCorrupt}},
	// Unknown: the lease was granted to an earlier attempt with its number, which
	// nobody makes here.
	{verdict{dcs.ErrAmbiguous, ""}, []error{rpctypes.ErrGRPCLeaseExist}},

	// Answers to calls that are not made here. Should one come nevertheless, it
	// proves nothing.
	{verdict{dcs.ErrAmbiguous, ""}, []error{
		rpctypes.ErrGRPCKeyNotFound,
		rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev, rpctypes.ErrGRPCWatchCanceled,
		rpctypes.ErrGRPCMemberExist, rpctypes.ErrGRPCPeerURLExist, rpctypes.ErrGRPCMemberNotEnoughStarted,
		rpctypes.ErrGRPCMemberBadURLs, rpctypes.ErrGRPCMemberNotFound, rpctypes.ErrGRPCMemberNotLearner,
		rpctypes.ErrGRPCLearnerNotReady, rpctypes.ErrGRPCTooManyLearners, rpctypes.ErrGRPCClusterIDMismatch,
		rpctypes.ErrGRPCRootUserNotExist, rpctypes.ErrGRPCRootRoleNotExist, rpctypes.ErrGRPCUserAlreadyExist,
		rpctypes.ErrGRPCRoleAlreadyExist, rpctypes.ErrGRPCRoleNotFound, rpctypes.ErrGRPCRoleEmpty,
		rpctypes.ErrGRPCPermissionNotGiven, rpctypes.ErrGRPCRoleNotGranted, rpctypes.ErrGRPCPermissionNotGranted,
		rpctypes.ErrGRPCInvalidAuthMgmt, rpctypes.ErrGRPCBadLeaderTransferee,
		rpctypes.ErrGRPCWrongDowngradeVersionFormat, rpctypes.ErrGRPCInvalidDowngradeTargetVersion,
		rpctypes.ErrGRPCClusterVersionUnavailable, rpctypes.ErrGRPCDowngradeInProcess, rpctypes.ErrGRPCNoInflightDowngrade,
	}},
})

// errProposalDropped is what etcd passes on of its consensus library: the
// request was not even appended to the log of the member that was asked.
var errProposalDropped = status.Error(codes.Unknown, "raft proposal dropped")

// ruling gives the same verdict on several answers.
type ruling struct {
	verdict verdict
	answers []error
}

// table turns rulings around: from the server's words to the verdict.
func table(rulings []ruling) map[string]verdict {
	verdicts := map[string]verdict{}
	for _, r := range rulings {
		for _, answer := range r.answers {
			verdicts[rpctypes.ErrorDesc(answer)] = r.verdict
		}
	}
	return verdicts
}

// judge says what err means. Of a request that was not handed to a connection it
// is clear, whatever the error: it surely was not carried out.
func judge(err error, sent bool) verdict {
	if v, ok := verdicts[rpctypes.ErrorDesc(err)]; ok {
		return v
	}
	if tooLarge(err) {
		return verdict{proof: dcs.ErrInvalid}
	}
	if !sent {
		return verdict{proof: dcs.ErrUnavailable}
	}
	return verdict{proof: dcs.ErrAmbiguous}
}

// tooLarge reports whether err says that a request is too large: in etcd's
// words, or in those of gRPC on either side, which refuses a message before it is
// handled.
func tooLarge(err error) bool {
	s, ok := status.FromError(err)
	return ok && (s.Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooLarge) ||
		s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max"))
}
