package keyspace_test

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// compact drops all revisions but the present one.
func (s *store) compact() {
	s.t.Helper()
	s.put(prefix+"somewhere", "else")
	_, rev := s.unary(keyspace.Range{Start: prefix})
	if _, err := s.Compact(s.t.Context(), rev); err != nil {
		s.t.Fatal(err)
	}
}

// TestCompactionEndsTheRead: the revision is lost in the middle of a long
// read. It fails; it never goes on with a newer one.
func TestCompactionEndsTheRead(t *testing.T) {
	t.Parallel()
	for _, at := range []int{1, 99, 100, 101, 205} {
		t.Run(fmt.Sprintf("at key %d", at), func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Options{})
			r := s.fill(prefix+"pods/a/", 600, sized(20_000))
			all, _ := s.unary(r)
			src := s.pin(s)
			var got []entry
			err := src.Scan(t.Context(), r, false, func(kv *mvccpb.KeyValue) error {
				if got = append(got, entryOf(kv)); len(got) == at {
					s.compact()
				}
				return nil
			})
			wantCompacted(t, "Scan", err, src.Revision())
			if len(got) < at || len(got) == len(all) {
				t.Errorf("%d keys of %d were read", len(got), len(all))
			}
			if diff := difference(all[:len(got)], got); diff != "" {
				t.Errorf("keys were skipped or changed (-want +got):\n%s", diff)
			}
		})
	}
}

func wantCompacted(t *testing.T, call string, err error, rev int64) {
	t.Helper()
	var compacted *keyspace.CompactedError
	if !errors.As(err, &compacted) || compacted.Revision != rev {
		t.Errorf("%s: %v, want CompactedError of revision %d", call, err, rev)
	}
}

func TestEveryCallReportsCompaction(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	r := s.fill(prefix+"pods/a/", 3, sized(1))
	src := s.pin(s)
	s.compact()
	key := prefix + "pods/a/00001"
	none := func(*mvccpb.KeyValue) error { t.Error("a key was yielded"); return nil }
	ctx := t.Context()
	_, countErr := src.Count(ctx, r)
	_, getErr := src.Get(ctx, key)
	_, allErr := src.GetAll(ctx, []string{key})
	_, uidErr := keyspace.ClusterUID(ctx, src, prefix)
	for call, err := range map[string]error{
		"Scan": src.Scan(ctx, r, false, none), "Scan for keys": src.Scan(ctx, r, true, none),
		"Scan of one key": src.Scan(ctx, keyspace.Range{Start: key}, false, none),
		"Count":           countErr, "Get": getErr, "GetAll": allErr, "ClusterUID": uidErr,
	} {
		wantCompacted(t, call, err, src.Revision())
	}
	if kv, err := s.pin(s).Get(ctx, key); err != nil || kv == nil {
		t.Errorf("a new source reads %v, %v", kv, err)
	}
}

var errEnough = errors.New("enough")

func TestErrorOfTheCallerEndsTheScan(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.fill(prefix+"pods/a/", 600, sized(20_000))
	values := map[string]string{}
	for i := range 300 {
		values[fmt.Sprintf("%spods/a/%05d", prefix, i)] = "x"
	}
	sources := map[string]keyspace.Source{"live": s.pin(s), "file": made(t, values)}
	for name, src := range sources {
		for _, at := range []int{1, 99, 100, 101, 250} {
			for _, keysOnly := range []bool{false, true} {
				seen := 0
				err := src.Scan(t.Context(), keyspace.Prefix(prefix), keysOnly, func(*mvccpb.KeyValue) error {
					if seen++; seen == at {
						return errEnough
					}
					return nil
				})
				if err != errEnough || seen != at {
					t.Errorf("%s, at %d, keys only %v: %v after %d keys; want the caller's own error", name, at, keysOnly, err, seen)
				}
			}
		}
		one := keyspace.Range{Start: prefix + "pods/a/00001"}
		if err := src.Scan(t.Context(), one, false, func(*mvccpb.KeyValue) error { return errEnough }); err != errEnough {
			t.Errorf("%s, one key: %v", name, err)
		}
	}
}

func TestCancelEndsTheScan(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Options{})
	s.fill(prefix+"pods/a/", 600, sized(20_000))
	sources := map[string]keyspace.Source{"live": s.pin(s), "file": keyspace.FromFile(zoo(t))}
	for name, src := range sources {
		ctx, cancel := context.WithCancel(t.Context())
		seen := 0
		err := src.Scan(ctx, keyspace.Prefix(prefix), false, func(*mvccpb.KeyValue) error {
			if seen++; seen == 5 {
				cancel()
			}
			return nil
		})
		// What the client was given already may still be yielded.
		if !errors.Is(err, context.Canceled) || seen > 250 {
			t.Errorf("%s: %v after %d keys, want context.Canceled", name, err, seen)
		}
		if _, err := src.GetAll(ctx, []string{prefix + "pods/a/00001"}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: GetAll: %v, want context.Canceled", name, err)
		}
	}
}

// manyKeys is how many keys an endless store has.
const manyKeys = 1_000_000

// endless is a store whose end no test reaches, and which can fall silent: what
// no real server does on demand.
type endless struct {
	calls    int
	silentAt int // from this call on there is no answer
	err      error
}

func (e *endless) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if e.calls++; e.silentAt > 0 && e.calls >= e.silentAt {
		if e.err != nil {
			return nil, e.err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resp := &clientv3.GetResponse{Header: &pb.ResponseHeader{Revision: 7}}
	op := clientv3.OpGet(key, opts...)
	if op.RangeBytes() == nil {
		return resp, nil
	}
	nth := func(i int) string { return fmt.Sprintf("%s%06d", prefix, i) }
	from := sort.Search(manyKeys, func(i int) bool { return nth(i) >= key })
	to := sort.Search(manyKeys, func(i int) bool { return nth(i) >= string(op.RangeBytes()) })
	resp.Count = int64(to - from)
	resp.More = resp.Count > op.Limit()
	for i := from; i < to && i < from+int(op.Limit()); i++ {
		resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(nth(i)), Value: make([]byte, 20_000)})
	}
	return resp, nil
}

// TestNothingIsLeftRunning: whatever ends a scan, its reader ends with it. The
// bubble of synctest fails when a goroutine stays.
func TestNothingIsLeftRunning(t *testing.T) {
	t.Parallel()
	errBroken := errors.New("broken")
	tests := []struct {
		name  string
		store endless
		fn    func(n int, cancel func()) error
		want  error
	}{
		{"the caller has enough", endless{}, func(n int, _ func()) error {
			if n == 150 {
				return errEnough
			}
			return nil
		}, errEnough},
		{"the caller has enough while the store is silent", endless{silentAt: 3}, func(int, func()) error { return errEnough }, errEnough},
		{"cancelled", endless{}, func(n int, cancel func()) error {
			if n == 150 {
				cancel()
			}
			return nil
		}, context.Canceled},
		{"cancelled while the store is silent", endless{silentAt: 4}, func(n int, cancel func()) error {
			if n == 150 {
				cancel()
			}
			return nil
		}, context.Canceled},
		{"the store falls silent", endless{silentAt: 4}, func(int, func()) error { return nil }, context.DeadlineExceeded},
		{"the store breaks", endless{silentAt: 4, err: errBroken}, func(int, func()) error { return nil }, errBroken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { checkStops(t, &tt.store, tt.fn, tt.want) })
		})
	}
}

func checkStops(t *testing.T, store *endless, fn func(int, func()) error, want error) {
	// Nobody else ends this context: the scan has to end its reader itself.
	ctx, cancel := context.WithCancel(context.Background())
	src, err := keyspace.Pin(ctx, store, prefix, keyspace.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	began, n := time.Now(), 0
	err = src.Scan(ctx, keyspace.Prefix(prefix), false, func(*mvccpb.KeyValue) error {
		n++
		return fn(n, cancel)
	})
	if !errors.Is(err, want) {
		t.Errorf("after %d keys: %v, want %v", n, err, want)
	}
	if waited := time.Since(began); waited != 0 && want != context.DeadlineExceeded || waited > time.Minute {
		t.Errorf("it took %s of the bubble's time", waited)
	}
	synctest.Wait()
	calls := store.calls
	synctest.Wait()
	if store.calls != calls || calls > 6 {
		t.Errorf("%d requests, then %d: the reader goes on", calls, store.calls)
	}
}
