package keyspace_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// txns notes the sizes of transactions, and refuses those that are too large.
type txns struct {
	*clientv3.Client
	most  int   // operations in one, 0 for any number
	err   error // of every one
	sizes []int
	gets  int
}

func (x *txns) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	x.gets++
	return x.Client.Get(ctx, key, opts...)
}

func (x *txns) Txn(ctx context.Context) clientv3.Txn { return &txn{Txn: x.Client.Txn(ctx), of: x} }

type txn struct {
	clientv3.Txn
	of  *txns
	ops []clientv3.Op
}

func (x *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	x.Txn, x.ops = x.Txn.Then(ops...), ops
	return x
}

func (x *txn) Commit() (*clientv3.TxnResponse, error) {
	x.of.sizes = append(x.of.sizes, len(x.ops))
	for _, op := range x.ops {
		// Reading keys in a transaction is dangerous: see countTxn.
		if !op.IsCountOnly() || op.Rev() == 0 {
			return nil, fmt.Errorf("a transaction reads %q at revision %d", op.KeyBytes(), op.Rev())
		}
	}
	if x.of.most > 0 && len(x.ops) > x.of.most {
		return nil, rpctypes.ErrTooManyOps
	}
	if x.of.err != nil {
		return nil, x.of.err
	}
	return x.Txn.Commit()
}

// TestCountAll gives what Count gives, in as few requests as the server takes.
func TestCountAll(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.fill(prefix+"pods/a/", 300, sized(1))
	ranges := []keyspace.Range{keyspace.Prefix(prefix), {Start: prefix + "pods/a/00007"}, {Start: prefix + "pods/a/none"}, everything()}
	for i := range 296 {
		ranges = append(ranges, keyspace.Range{Start: fmt.Sprintf("%spods/a/%05d", prefix, i/2), End: fmt.Sprintf("%spods/a/%05d", prefix, i)})
	}
	kine := status.Error(codes.InvalidArgument, "etcdserver: unsupported operations in txn request")
	tests := []struct {
		name  string
		kv    *txns
		sizes []int
		gets  int
	}{
		{"etcd", &txns{}, []int{128, 128, 44}, 0},
		{"a lower limit", &txns{most: 70}, []int{128, 64, 64, 64, 64, 44}, 0},
		{"a limit of one", &txns{most: 1}, []int{128, 64, 32, 16, 8, 4, 2}, 300},
		{"kine", &txns{err: kine}, []int{128}, 300},
		{"no transactions", &txns{err: status.Error(codes.Unimplemented, "unknown method Txn")}, []int{128}, 300},
	}
	s.unchangedAfter()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.kv.Client = s.Client
			src := s.pin(tt.kv)
			tt.kv.gets = 0
			got, err := src.CountAll(t.Context(), ranges)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(tt.kv.sizes, tt.sizes) || tt.kv.gets != tt.gets {
				t.Errorf("transactions of %d and %d single requests, want %d and %d", tt.kv.sizes, tt.kv.gets, tt.sizes, tt.gets)
			}
			sameCounts(t, src, ranges, got)
		})
	}
	single := s.pin(&recorder{Getter: s})
	got, err := single.CountAll(t.Context(), ranges)
	if err != nil {
		t.Fatal(err)
	}
	sameCounts(t, single, ranges, got)
}

func sameCounts(t *testing.T, src keyspace.Source, ranges []keyspace.Range, got []int64) {
	t.Helper()
	for i, r := range ranges {
		if n, err := src.Count(t.Context(), r); err != nil || len(got) != len(ranges) || got[i] != n {
			t.Fatalf("%d counts; of %q: Count gives %d, %v", len(got), r, n, err)
		}
	}
}

func TestCountAllOfAFile(t *testing.T) {
	t.Parallel()
	src := made(t, map[string]string{prefix + "pods/a/1": "x", prefix + "pods/a/2": "x", prefix + "pods/b/1": "x"})
	got, err := src.CountAll(t.Context(), []keyspace.Range{keyspace.Prefix(prefix), keyspace.Prefix(prefix + "pods/a/"), keyspace.Prefix(prefix + "none/")})
	if err != nil || !slices.Equal(got, []int64{3, 2, 0}) {
		t.Errorf("%d, %v", got, err)
	}
}

func TestCountAllFails(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	ranges := []keyspace.Range{s.fill(prefix+"pods/a/", 3, sized(1)), keyspace.Prefix(prefix + "pods/b/")}
	if _, err := keyspace.Current(s, keyspace.Options{Timeout: timeout}).CountAll(t.Context(), ranges); err == nil || err.Error() != "counting many ranges needs a pinned revision" {
		t.Errorf("without a revision: %v", err)
	}
	src := s.pin(s)
	s.compact()
	_, err := src.CountAll(t.Context(), ranges)
	wantCompacted(t, "CountAll", err, src.Revision())
	broken := &txns{Client: s.Client, err: errEnough}
	if got, err := s.pin(broken).CountAll(t.Context(), ranges); !errors.Is(err, errEnough) || got != nil {
		t.Errorf("with a broken connection: %d, %v", got, err)
	}
}
