package apply

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// verdict is what an error says about a transaction.
type verdict int

const (
	ambiguous  verdict = iota // it may have been applied: read
	notApplied                // it was refused before it could be: try again
	fatal                     // it was refused, and trying again cannot help
	corrupt                   // like fatal, for every other key as well: the CORRUPT alarm
	denied                    // like fatal, for every other key as well: no permission
	noSpace                   // the NOSPACE alarm; a put may have been applied all the same
)

// classify follows what etcd does with a proposal (server/etcdserver/v3_server.go,
// v3rpc/util.go, apply/corrupt.go, apply/auth.go): what is raised before a
// transaction is applied, or instead of it, is certain. Whatever else there is
// may come after it was applied.
func classify(err error) verdict {
	code, known := answerOf(err)
	switch {
	case oneOf(known, rpctypes.ErrGRPCCorrupt):
		return corrupt
	case oneOf(known, rpctypes.ErrGRPCNoSpace):
		return noSpace
	case oneOf(known, rpctypes.ErrGRPCRequestTooManyRequests, rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNotCapable,
		// The next member that the client asks may be no learner.
		rpctypes.ErrGRPCNotSupportedForLearner,
		// The client takes a new token by itself.
		rpctypes.ErrGRPCAuthOldRevision,
		// The next attempt takes a new lease.
		rpctypes.ErrGRPCLeaseNotFound):
		return notApplied
	case oneOf(known, authErrors()...), code == codes.PermissionDenied, code == codes.Unauthenticated:
		return denied
	case oneOf(known, refusals()...), code == codes.InvalidArgument, code == codes.Unimplemented:
		return fatal
	}
	return ambiguous
}

// authErrors are about who asks, so every other key is refused as well.
func authErrors() []error {
	return []error{
		rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCRoleNotFound, rpctypes.ErrGRPCRoleEmpty,
		rpctypes.ErrGRPCAuthFailed, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCRoleNotGranted, rpctypes.ErrGRPCPermissionNotGranted, rpctypes.ErrGRPCAuthNotEnabled,
		rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCInvalidAuthMgmt, rpctypes.ErrGRPCRootUserNotExist,
		rpctypes.ErrGRPCRootRoleNotExist, rpctypes.ErrGRPCUserAlreadyExist,
	}
}

// refusals are certain although their codes leave it open.
func refusals() []error {
	return []error{
		rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev, rpctypes.ErrGRPCLeaseExist, rpctypes.ErrGRPCLeaseTTLTooLarge,
	}
}

func oneOf(known error, errs ...error) bool {
	return known != nil && slices.ContainsFunc(errs, func(e error) bool { return rpctypes.Error(e) == known })
}

// answerOf finds the answer of a server, or of gRPC on this side, in err,
// however it is wrapped. known is etcd's own error, nil if it is none.
func answerOf(err error) (code codes.Code, known error) {
	var own rpctypes.EtcdError
	if errors.As(err, &own) {
		return own.Code(), own
	}
	var answer interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &answer) {
		return codes.OK, nil
	}
	s := answer.GRPCStatus()
	if errors.As(rpctypes.Error(s.Err()), &own) {
		return own.Code(), own
	}
	return s.Code(), nil
}

// silent tells whether err means that nobody who could decide has answered.
func silent(err error) bool {
	_, known := answerOf(err)
	return classify(err) == ambiguous || oneOf(known, rpctypes.ErrGRPCNoLeader)
}

// transient tells whether err comes from a store that may answer better soon.
func transient(err error) bool {
	code, _ := answerOf(err)
	if code == codes.OK && !errors.Is(err, context.DeadlineExceeded) {
		return false // not about the store at all
	}
	v := classify(err)
	return v == ambiguous || v == notApplied
}
