package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// everyError is each error that rpctypes knows, as a server sends it.
func everyError() map[error]verdict {
	return map[error]verdict{
		rpctypes.ErrGRPCEmptyKey:                fatal,
		rpctypes.ErrGRPCKeyNotFound:             fatal,
		rpctypes.ErrGRPCValueProvided:           fatal,
		rpctypes.ErrGRPCLeaseProvided:           fatal,
		rpctypes.ErrGRPCTooManyOps:              fatal,
		rpctypes.ErrGRPCDuplicateKey:            fatal,
		rpctypes.ErrGRPCInvalidClientAPIVersion: fatal,
		rpctypes.ErrGRPCInvalidSortOption:       fatal,
		rpctypes.ErrGRPCCompacted:               fatal,
		rpctypes.ErrGRPCFutureRev:               fatal,
		rpctypes.ErrGRPCNoSpace:                 noSpace,
		rpctypes.ErrGRPCLeaseNotFound:           notApplied,
		rpctypes.ErrGRPCLeaseExist:              fatal,
		rpctypes.ErrGRPCLeaseTTLTooLarge:        fatal,
		rpctypes.ErrGRPCWatchCanceled:           ambiguous,

		// Those about members and downgrades answer nothing that we send.
		rpctypes.ErrGRPCMemberExist:                   ambiguous,
		rpctypes.ErrGRPCPeerURLExist:                  ambiguous,
		rpctypes.ErrGRPCMemberNotEnoughStarted:        ambiguous,
		rpctypes.ErrGRPCMemberBadURLs:                 fatal,
		rpctypes.ErrGRPCMemberNotFound:                ambiguous,
		rpctypes.ErrGRPCMemberNotLearner:              ambiguous,
		rpctypes.ErrGRPCLearnerNotReady:               ambiguous,
		rpctypes.ErrGRPCTooManyLearners:               ambiguous,
		rpctypes.ErrGRPCClusterIDMismatch:             ambiguous,
		rpctypes.ErrGRPCBadLeaderTransferee:           ambiguous,
		rpctypes.ErrGRPCWrongDowngradeVersionFormat:   fatal,
		rpctypes.ErrGRPCInvalidDowngradeTargetVersion: fatal,
		rpctypes.ErrGRPCClusterVersionUnavailable:     ambiguous,
		rpctypes.ErrGRPCDowngradeInProcess:            ambiguous,
		rpctypes.ErrGRPCNoInflightDowngrade:           ambiguous,

		rpctypes.ErrGRPCRequestTooLarge:        fatal,
		rpctypes.ErrGRPCRequestTooManyRequests: notApplied,
		rpctypes.ErrGRPCCorrupt:                corrupt,
		rpctypes.ErrGRPCNotCapable:             notApplied,
		rpctypes.ErrGRPCNotSupportedForLearner: notApplied,
		rpctypes.ErrGRPCNoLeader:               notApplied,

		rpctypes.ErrGRPCRootUserNotExist:     denied,
		rpctypes.ErrGRPCRootRoleNotExist:     denied,
		rpctypes.ErrGRPCUserAlreadyExist:     denied,
		rpctypes.ErrGRPCUserEmpty:            denied,
		rpctypes.ErrGRPCUserNotFound:         denied,
		rpctypes.ErrGRPCRoleAlreadyExist:     ambiguous,
		rpctypes.ErrGRPCRoleNotFound:         denied,
		rpctypes.ErrGRPCRoleEmpty:            denied,
		rpctypes.ErrGRPCAuthFailed:           denied,
		rpctypes.ErrGRPCPermissionNotGiven:   fatal,
		rpctypes.ErrGRPCPermissionDenied:     denied,
		rpctypes.ErrGRPCRoleNotGranted:       denied,
		rpctypes.ErrGRPCPermissionNotGranted: denied,
		rpctypes.ErrGRPCAuthNotEnabled:       denied,
		rpctypes.ErrGRPCInvalidAuthToken:     denied,
		rpctypes.ErrGRPCInvalidAuthMgmt:      denied,
		rpctypes.ErrGRPCAuthOldRevision:      notApplied,

		rpctypes.ErrGRPCNotLeader:                  ambiguous,
		rpctypes.ErrGRPCLeaderChanged:              ambiguous,
		rpctypes.ErrGRPCStopped:                    ambiguous,
		rpctypes.ErrGRPCTimeout:                    ambiguous,
		rpctypes.ErrGRPCTimeoutDueToLeaderFail:     ambiguous,
		rpctypes.ErrGRPCTimeoutDueToConnectionLost: ambiguous,
		rpctypes.ErrGRPCTimeoutWaitAppliedIndex:    ambiguous,
		rpctypes.ErrGRPCUnhealthy:                  ambiguous,
		rpctypes.ErrGRPCCanceled:                   ambiguous,
		rpctypes.ErrGRPCDeadlineExceeded:           ambiguous,
	}
}

// TestClassify looks at each error as the server sends it, as the client makes
// it, and wrapped: the verdict is the same.
func TestClassify(t *testing.T) {
	t.Parallel()
	for err, want := range everyError() {
		for how, err := range map[string]error{
			"sent": err, "by the client": rpctypes.Error(err), "wrapped": fmt.Errorf("grant a lease: %w", err),
			"by the client, wrapped": fmt.Errorf("grant a lease: %w", rpctypes.Error(err)),
		} {
			if got := classify(err); got != want {
				t.Errorf("%v, %s: verdict %d, want %d", err, how, got, want)
			}
		}
	}
	// On the wire etcd's own overload has another code (v3rpc/util.go).
	if got := classify(status.Error(codes.Unknown, "etcdserver: too many requests")); got != notApplied {
		t.Errorf("too many requests with code Unknown: verdict %d", got)
	}
	for _, err := range []error{context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF, errors.New("something")} {
		if got := classify(err); got != ambiguous {
			t.Errorf("%v: verdict %d, want ambiguous", err, got)
		}
	}
}

// TestClassifyCodes looks at every code that gRPC has, with a text of no etcd.
func TestClassifyCodes(t *testing.T) {
	t.Parallel()
	certain := map[codes.Code]verdict{
		codes.InvalidArgument: fatal, codes.Unimplemented: fatal, codes.PermissionDenied: denied, codes.Unauthenticated: denied,
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if got := classify(status.Error(code, "some text")); got != certain[code] {
			t.Errorf("%s: verdict %d, want %d", code, got, certain[code])
		}
	}
}

// TestSilent: what a store without a leader says is no answer, and an overload
// is one.
func TestSilent(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		context.DeadlineExceeded: true, rpctypes.ErrNoLeader: true, rpctypes.ErrTimeout: true, rpctypes.ErrLeaderChanged: true,
		status.Error(codes.Unavailable, "connection refused"): true,
		rpctypes.ErrTooManyRequests:                           false, rpctypes.ErrCorrupt: false, rpctypes.ErrPermissionDenied: false,
	} {
		if got := silent(err); got != want {
			t.Errorf("%v: silent %v, want %v", err, got, want)
		}
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fails func(n int) bool
		stops int // at this step, 0: never
	}{
		{"never", func(int) bool { return false }, 0},
		{"always", func(int) bool { return true }, 10},
		{"every second", func(n int) bool { return n%2 == 0 }, 0},
		{"two of three", func(n int) bool { return n%3 != 0 }, 40},
		{"bad in the middle", func(n int) bool { return n > 100 && n%3 != 0 }, 131},
		{"nine in a row once", func(n int) bool { return n < 10 }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBudget(Options{MaxFailed: 10, Window: 40, MaxShare: 0.5})
			stopped := 0
			for n := 1; n <= 1000 && stopped == 0; n++ {
				if err := b.add(tt.fails(n), "why"); err != nil {
					stopped = n
				}
			}
			if stopped != tt.stops {
				t.Errorf("stopped at %d, want %d", stopped, tt.stops)
			}
		})
	}
}
