package keyspace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// etcd is a real one.
func etcd(t *testing.T) *clientv3.Client {
	t.Helper()
	_, client := lab.Box(t, sandbox.Options{Mode: sandbox.InProcess, NoFsync: true})
	return client
}

// putAll puts keys, as many at once as etcd takes.
func putAll(t *testing.T, client *clientv3.Client, keys []string) {
	t.Helper()
	for part := range slices.Chunk(keys, 128) {
		var ops []clientv3.Op
		for _, key := range part {
			ops = append(ops, clientv3.OpPut(key, "1"))
		}
		if _, err := client.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// counted counts what answers cost.
type counted struct {
	Getter
	requests, visits int64
}

func (c *counted) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := c.Getter.Get(ctx, key, opts...)
	if err == nil {
		c.requests++
		c.visits += resp.Count
	}
	return resp, err
}

// pinned is a source whose pages hold limit keys.
func pinned(t *testing.T, kv Getter, limit int) *Live {
	t.Helper()
	s, err := Pin(t.Context(), kv, "/", Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	s.size = func(bool) *pageSize { return &pageSize{most: limit, limit: limit} }
	return s
}

// unary is what one read of r at a revision gives.
func unary(t *testing.T, client *clientv3.Client, r Range, rev int64) (keys []string) {
	t.Helper()
	resp, err := client.Get(t.Context(), r.Start, clientv3.WithRange(r.End), clientv3.WithRev(rev))
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		keys = append(keys, fmt.Sprintf("%s %d", kv.Key, kv.ModRevision))
	}
	return keys
}

// scanned is what a scan gives; fn is told how many there are after each.
func scanned(t *testing.T, s *Live, r Range, fn func(n int)) (keys []string, err error) {
	err = s.Scan(t.Context(), r, false, func(kv *mvccpb.KeyValue) error {
		keys = append(keys, fmt.Sprintf("%s %d", kv.Key, kv.ModRevision))
		fn(len(keys))
		return nil
	})
	return keys, err
}

// placed moves a random key set below a dir of its own.
func placed(m maker, i, most int) (dir string, keys []string) {
	dir = fmt.Sprintf("/%05d%s", i, []string{"", "/", "/pods/", "\xff", "\x00"}[m.IntN(5)])
	return dir, m.keys(dir, most)
}

// TestRandomShapesOfEtcd compares scans of a real etcd with single reads,
// while others write.
func TestRandomShapesOfEtcd(t *testing.T) {
	t.Parallel()
	shapes := 2000
	if testing.Short() {
		shapes = 200
	}
	client := etcd(t)
	var all []string
	for i := range shapes {
		_, keys := placed(newMaker(uint64(i)), i, 60)
		all = append(all, keys...)
	}
	putAll(t, client, all)
	kv := &counted{Getter: client}
	s := pinned(t, kv, minPage)
	stop := writer(t, client, all)
	defer stop()
	var keys, pages int64
	*kv = counted{Getter: client}
	for i := range shapes {
		m := newMaker(uint64(i))
		dir, below := placed(m, i, 60)
		r, limit := m.rangeOver(dir, below), minPage+m.below(30)
		s.size = func(bool) *pageSize { return &pageSize{most: limit, limit: limit} }
		want := unary(t, client, r, s.rev)
		got, err := scanned(t, s, r, func(int) {})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("shape %d, %q in pages of %d: %d keys, want %d, %v", i, r, limit, len(got), len(want), err)
		}
		keys, pages = keys+int64(len(want)), pages+int64(len(want)/limit+1)
	}
	t.Logf("%d keys: %.2f visits a key, %.2f requests a full page", keys, float64(kv.visits)/float64(keys), float64(kv.requests)/float64(pages))
	if kv.visits > 8*keys || kv.requests > 3*pages {
		t.Errorf("%d keys took %d visits and %d requests, where full pages take %d", keys, kv.visits, kv.requests, pages)
	}
}

// writer changes, deletes and adds keys until it is stopped.
func writer(t *testing.T, client *clientv3.Client, keys []string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(done)
		m := newMaker(99)
		for i := 0; ; i++ {
			key := keys[m.IntN(len(keys))]
			_, err := client.Txn(ctx).Then(clientv3.OpPut(key, "2"), clientv3.OpPut(key+m.word("0a\x00~", 3), "3"), clientv3.OpDelete(key+"-")).Commit()
			if i == 0 {
				close(first)
			}
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	<-first
	return func() { cancel(); <-done }
}

// TestCompactionDuringRandomShapes: the scan gives all, or it fails; what it
// gave until then is the beginning.
func TestCompactionDuringRandomShapes(t *testing.T) {
	t.Parallel()
	client := etcd(t)
	whole, lost := 0, 0
	for i := range 150 {
		m := newMaker(uint64(i))
		dir, keys := placed(m, i, 150)
		putAll(t, client, keys)
		s := pinned(t, client, minPage+m.below(10))
		r := Range{dir, after(dir)}
		want := unary(t, client, r, s.rev)
		at := 1 + m.IntN(len(want))
		got, err := scanned(t, s, r, func(n int) {
			if n != at {
				return
			}
			resp, err := client.Put(t.Context(), keys[0], "2")
			if err == nil {
				_, err = client.Compact(t.Context(), resp.Header.Revision)
			}
			if err != nil {
				t.Error(err)
			}
		})
		var compacted *CompactedError
		switch {
		case err == nil && slices.Equal(got, want):
			whole++
		case errors.As(err, &compacted) && compacted.Revision == s.rev && len(got) >= at && slices.Equal(got, want[:len(got)]):
			lost++
		default:
			t.Fatalf("shape %d: %d keys of %d, %v", i, len(got), len(want), err)
		}
	}
	if whole == 0 || lost == 0 {
		t.Errorf("%d scans were whole, and %d lost their revision; there should be both", whole, lost)
	}
}
