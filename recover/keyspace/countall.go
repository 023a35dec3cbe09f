package keyspace

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxTxnOps is how many operations etcd takes in one transaction by default
// (--max-txn-ops).
const maxTxnOps = 128

// txner is a Getter that can put several reads into one request; clientv3.KV
// is one.
type txner interface {
	Txn(ctx context.Context) clientv3.Txn
}

// CountAll tells how many keys each of the ranges holds at the pinned
// revision, as Count does for one. It asks for many in one request, because a
// request costs etcd far more than a small count. A server that takes fewer
// operations at a time, or none but Kubernetes' own, is asked in smaller
// groups or singly. It is an error for a Source that is not pinned.
func (s *Live) CountAll(ctx context.Context, ranges []Range) ([]int64, error) {
	if s.rev == 0 {
		return nil, errors.New("counting many ranges needs a pinned revision")
	}
	kv, _ := s.kv.(txner)
	if s.opt.Kine {
		kv = nil
	}
	counts := make([]int64, 0, len(ranges))
	for most := maxTxnOps; len(counts) < len(ranges); {
		rest := ranges[len(counts):]
		if kv == nil || most <= 1 || len(rest) == 1 {
			n, err := s.Count(ctx, rest[0])
			if err != nil {
				return nil, err
			}
			counts = append(counts, n)
			continue
		}
		got, err := s.countTxn(ctx, kv, rest[:min(most, len(rest))])
		switch {
		case errors.Is(err, rpctypes.ErrTooManyOps):
			most = min(most, len(rest)) / 2
		case noTxn(err):
			kv = nil
		case err != nil:
			return nil, err
		default:
			counts = append(counts, got...)
		}
	}
	return counts, nil
}

// countTxn asks in one transaction. Every operation is count-only: etcd before
// 3.5.5 dies of a read-only transaction that reads keys when its context ends
// (https://github.com/etcd-io/etcd/issues/14110); a count does not look at it.
// etcd checks all revisions before it reads, and does not compact between.
func (s *Live) countTxn(ctx context.Context, kv txner, ranges []Range) ([]int64, error) {
	limited, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	ops := make([]clientv3.Op, len(ranges))
	for i, r := range ranges {
		opts := []clientv3.OpOption{clientv3.WithRev(s.rev), clientv3.WithCountOnly()}
		if s.opt.Serializable {
			opts = append(opts, clientv3.WithSerializable())
		}
		if r.End != "" {
			opts = append(opts, clientv3.WithRange(r.End))
		}
		ops[i] = clientv3.OpGet(r.Start, opts...)
	}
	resp, err := kv.Txn(limited).Then(ops...).Commit()
	if err != nil {
		return nil, s.readError(ctx, s.rev, err)
	}
	counts := make([]int64, len(ranges))
	if len(resp.Responses) != len(ranges) {
		return nil, fmt.Errorf("%d answers to %d counts", len(resp.Responses), len(ranges))
	}
	for i, r := range resp.Responses {
		if r.GetResponseRange() == nil {
			return nil, errors.New("an answer to a count is none")
		}
		counts[i] = r.GetResponseRange().Count
	}
	return counts, nil
}

// noTxn recognises a server that takes only the transactions that Kubernetes
// makes: kine (its pkg/server, ErrNotSupported).
func noTxn(err error) bool {
	return err != nil && (status.Code(err) == codes.Unimplemented || strings.Contains(err.Error(), "unsupported operations"))
}

// CountAll counts one range after the other.
func (s *File) CountAll(ctx context.Context, ranges []Range) ([]int64, error) {
	counts := make([]int64, len(ranges))
	for i, r := range ranges {
		n, err := s.Count(ctx, r)
		if err != nil {
			return nil, err
		}
		counts[i] = n
	}
	return counts, nil
}
