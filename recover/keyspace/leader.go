package keyspace

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// NoLeaderError says that a read which needs a leader got no answer in time,
// or was told that there is no leader. A Serializable source may still read
// what one member holds.
type NoLeaderError struct{ Err error }

func (e *NoLeaderError) Error() string { return e.Err.Error() }

// Unwrap returns what the client said.
func (e *NoLeaderError) Unwrap() error { return e.Err }

// readError explains why a read at revision rev failed. ctx is the caller's,
// without the limit of the one request.
func (s *Live) readError(ctx context.Context, rev int64, err error) error {
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("etcd gave no answer within %s: %w", s.opt.Timeout, err)
	}
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return &CompactedError{Revision: rev}
	case ctx.Err() != nil || s.opt.Serializable || s.opt.Kine:
		return err
	case wantsLeader(err):
		return &NoLeaderError{err}
	}
	return err
}

// wantsLeader recognises what a member without a leader answers, and that it
// does not answer at all: it waits for one (etcd server/etcdserver/
// v3_server.go, linearizableReadLoop).
func wantsLeader(err error) bool {
	for _, e := range []error{
		context.DeadlineExceeded, rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, rpctypes.ErrLeaderChanged,
		rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrTimeoutWaitAppliedIndex,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
