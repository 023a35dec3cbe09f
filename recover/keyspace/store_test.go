package keyspace_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const (
	prefix  = "/registry/"
	zooFile = "../../testdata/zoo-1.36/snapshot.db.zst"
	timeout = 30 * time.Second
)

// entry is a KeyValue that can be compared.
type entry struct {
	Key, Value                         string
	CreateRevision, ModRevision, Lease int64
	Version                            int64
}

func entryOf(kv *mvccpb.KeyValue) entry {
	return entry{string(kv.Key), string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Lease, kv.Version}
}

// difference shows where two reads differ. cmp is asked only then: it is slow
// on thousands of keys.
func difference(want, got []entry) string {
	if slices.Equal(want, got) {
		return ""
	}
	return cmp.Diff(want, got)
}

// withoutValue is what a scan for keys only gives.
func (e entry) withoutValue() entry {
	e.Value, e.Lease = "", 0
	return e
}

func withoutValues(all []entry) []entry {
	var bare []entry
	for _, e := range all {
		bare = append(bare, e.withoutValue())
	}
	return bare
}

// store is a real etcd.
type store struct {
	*clientv3.Client
	t *testing.T
}

func start(t *testing.T, opt sandbox.Options) *store {
	t.Helper()
	opt.Mode, opt.NoFsync = sandbox.InProcess, true
	_, client := lab.Box(t, opt)
	return &store{client, t}
}

// runaway keeps the first n pods of the incident, and what is around them.
func runaway(n int) sandbox.Options {
	taken := map[string]bool{}
	return sandbox.Options{Fixture: sandbox.Runaway30k, Keep: func(key string) bool {
		if !strings.HasPrefix(key, prefix+"pods/") {
			return true
		}
		if len(taken) < n {
			taken[key] = true
		}
		return taken[key]
	}}
}

// fill writes n keys below dir and returns their range.
func (s *store) fill(dir string, n int, value func(i int) string) keyspace.Range {
	s.t.Helper()
	ops, weight := []clientv3.Op{}, 0
	for i := range n {
		v := value(i)
		ops, weight = append(ops, clientv3.OpPut(fmt.Sprintf("%s%05d", dir, i), v)), weight+len(v)
		// etcd takes up to 128 operations and 1.5 MiB at a time.
		if i < n-1 && len(ops) < 128 && weight+len(value(i+1)) < 1<<20 {
			continue
		}
		if _, err := s.Txn(s.t.Context()).Then(ops...).Commit(); err != nil {
			s.t.Fatal(err)
		}
		ops, weight = nil, 0
	}
	return keyspace.Prefix(dir)
}

func (s *store) put(key, value string) {
	s.t.Helper()
	if _, err := s.Put(s.t.Context(), key, value); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) pin(kv keyspace.Getter) *keyspace.Live {
	s.t.Helper()
	src, err := keyspace.Pin(s.t.Context(), kv, prefix, keyspace.Options{Timeout: timeout})
	if err != nil {
		s.t.Fatal(err)
	}
	return src
}

// unary reads a range in one request, and the revision of the answer.
func (s *store) unary(r keyspace.Range) ([]entry, int64) {
	s.t.Helper()
	var opts []clientv3.OpOption
	if r.End != "" {
		opts = append(opts, clientv3.WithRange(r.End))
	}
	resp, err := s.Get(s.t.Context(), r.Start, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []entry
	for _, kv := range resp.Kvs {
		all = append(all, entryOf(kv))
	}
	return all, resp.Header.Revision
}

// everything is the range of all keys.
func everything() keyspace.Range { return keyspace.Range{Start: "\x00", End: "\x00"} }

// unchangedAfter asserts at the end of the test that nothing was written.
func (s *store) unchangedAfter() {
	s.t.Helper()
	before, revBefore := s.unary(everything())
	s.t.Cleanup(func() {
		resp, err := s.Get(context.Background(), everything().Start, clientv3.WithFromKey())
		if err != nil {
			s.t.Fatal(err)
		}
		var after []entry
		for _, kv := range resp.Kvs {
			after = append(after, entryOf(kv))
		}
		if resp.Header.Revision != revBefore {
			s.t.Errorf("reading moved the revision from %d to %d", revBefore, resp.Header.Revision)
		}
		if diff := difference(before, after); diff != "" {
			s.t.Errorf("reading changed the store (-before +after):\n%s", diff)
		}
	})
}

func scan(t *testing.T, src keyspace.Source, r keyspace.Range, keysOnly bool) []entry {
	t.Helper()
	var all []entry
	err := src.Scan(t.Context(), r, keysOnly, func(kv *mvccpb.KeyValue) error {
		all = append(all, entryOf(kv))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// recorder notes the requests that are made of a store, and their answers.
type recorder struct {
	keyspace.Getter
	mu    sync.Mutex
	calls []call
}

type call struct {
	op                clientv3.Op
	keys, gotBytes    int
	smallest, largest int // bytes of a key and its value
}

func (r *recorder) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := r.Getter.Get(ctx, key, opts...)
	c := call{op: clientv3.OpGet(key, opts...)}
	if err == nil {
		c.keys = len(resp.Kvs)
		for _, kv := range resp.Kvs {
			size := len(kv.Key) + len(kv.Value)
			if c.gotBytes == 0 {
				c.smallest = size
			}
			c.gotBytes += size
			c.smallest, c.largest = min(c.smallest, size), max(c.largest, size)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
	return resp, err
}

// taken returns the calls since the last time.
func (r *recorder) taken() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func openFile(t *testing.T, path string) *snapshots.File {
	t.Helper()
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// zoo opens the snapshot of a real cluster.
func zoo(t *testing.T) *snapshots.File {
	t.Helper()
	in, err := os.Open(zooFile)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	path := filepath.Join(t.TempDir(), "zoo.db")
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, z); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return openFile(t, path)
}

// made is a file with the given keys and values.
func made(t *testing.T, values map[string]string) *keyspace.File {
	t.Helper()
	a, err := snapshots.CreateArchive(filepath.Join(t.TempDir(), "made.db"), snapshots.ArchiveInfo{})
	if err != nil {
		t.Fatal(err)
	}
	var kvs []*mvccpb.KeyValue
	for key, value := range values {
		kvs = append(kvs, &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: 1, ModRevision: 1, Version: 1})
	}
	if err := a.Append(0, kvs, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return keyspace.FromFile(openFile(t, a.Path()))
}
