package census_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/census"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

const zooFile = "../../testdata/zoo-1.36/snapshot.db.zst"

// start runs a real etcd.
func start(t *testing.T, opt sandbox.Options) *clientv3.Client {
	t.Helper()
	opt.Mode, opt.NoFsync = sandbox.InProcess, true
	_, client := lab.Box(t, opt)
	return client
}

func pin(t *testing.T, kv keyspace.Getter) *keyspace.Live {
	t.Helper()
	src, err := keyspace.Pin(t.Context(), kv, prefix, keyspace.Options{Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// allKeys reads all keys of a source.
func allKeys(t *testing.T, src keyspace.Source) (all []string) {
	t.Helper()
	err := src.Scan(t.Context(), keyspace.Prefix(prefix), true, func(kv *mvccpb.KeyValue) error {
		all = append(all, string(kv.Key))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// learned is a catalog with the CRDs of a store.
func learned(t *testing.T, src keyspace.Source) *codec.Catalog {
	t.Helper()
	c := codec.NewCatalog()
	err := src.Scan(t.Context(), keyspace.Prefix(crds), false, func(kv *mvccpb.KeyValue) error {
		_, err := c.AddCRD(kv.Value)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// requests counts what an etcd client is asked: transactions, and other
// requests.
type requests struct {
	clientv3.KV
	reads, txns int
	values      bool
}

func (r *requests) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r.reads++
	if op := clientv3.OpGet(key, opts...); !op.IsKeysOnly() && !op.IsCountOnly() {
		r.values = true
	}
	return r.KV.Get(ctx, key, opts...)
}

func (r *requests) Txn(ctx context.Context) clientv3.Txn {
	r.txns++
	return r.KV.Txn(ctx)
}

// TestZoo counts a real cluster with and without what its CRDs say, live and
// in the snapshot, and reads no value.
func TestZoo(t *testing.T) {
	t.Parallel()
	client := start(t, sandbox.Options{Snapshot: zooFile})
	kv := &requests{KV: client}
	live := pin(t, kv)
	all := allKeys(t, live)
	for name, catalog := range map[string]*codec.Catalog{"with CRDs": learned(t, live), "without": codec.NewCatalog()} {
		*kv = requests{KV: client}
		got := take(t, census.Request{Source: live, Reader: reader(catalog)})
		compare(t, catalog, got, all)
		t.Logf("%s: %d cells, %d ranges in %d transactions, %d other requests, %d searched", name, len(got.Cells), got.Ranges, kv.txns, kv.reads, got.Searched)
		if kv.values || kv.txns == 0 || int64(kv.txns) > got.Rounds+got.Ranges/128 || got.Searched > 100 || got.Revision != live.Revision() {
			t.Errorf("%s: %+v, values read: %v, %d transactions", name, got, kv.values, kv.txns)
		}
		compare(t, catalog, take(t, census.Request{Source: live, Reader: reader(catalog), Whole: true}), all)
	}
	after, err := client.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || after.Header.Revision != live.Revision() || after.Count != int64(len(all)) {
		t.Errorf("counting changed the store: %v, %v", after, err)
	}
}

// TestIncident counts a snapshot.
func TestIncident(t *testing.T) {
	t.Parallel()
	path, err := sandbox.FixtureFile(t.Context(), sandbox.Runaway30k, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	src, catalog := keyspace.FromFile(f), codec.NewCatalog()
	compare(t, catalog, take(t, census.Request{Source: src, Reader: reader(catalog)}), allKeys(t, src))
}

// meddler does something to the store before every transaction from the
// second on.
type meddler struct {
	*clientv3.Client
	txns int
	do   func(n int)
}

func (m *meddler) Txn(ctx context.Context) clientv3.Txn {
	if m.txns++; m.txns > 1 {
		m.do(m.txns)
	}
	return m.Client.Txn(ctx)
}

// busy is a store with pods in two namespaces.
func busy(t *testing.T) *meddler {
	t.Helper()
	client := start(t, sandbox.Options{})
	for _, ns := range []string{"a", "b"} {
		keys := []string{prefix + "namespaces/" + ns}
		for i := range 90 {
			keys = append(keys, fmt.Sprintf("%spods/%s/%03d", prefix, ns, i))
		}
		var ops []clientv3.Op
		for _, key := range keys {
			ops = append(ops, clientv3.OpPut(key, "x"))
		}
		if _, err := client.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	return &meddler{Client: client}
}

// TestChangesWhileCounting: everything belongs to the pinned revision.
func TestChangesWhileCounting(t *testing.T) {
	t.Parallel()
	kv := busy(t)
	kv.do = func(n int) {
		if _, err := kv.Put(t.Context(), fmt.Sprintf("%spods/a/new-%d", prefix, n), "x"); err != nil {
			t.Error(err)
		}
		if _, err := kv.Delete(t.Context(), fmt.Sprintf("%spods/b/%03d", prefix, n)); err != nil {
			t.Error(err)
		}
	}
	src := pin(t, kv)
	all := allKeys(t, src)
	got := take(t, census.Request{Source: src, Reader: reader(codec.NewCatalog())})
	compare(t, codec.NewCatalog(), got, all)
	if now := pin(t, kv).Revision(); now <= src.Revision() || kv.txns < 2 {
		t.Errorf("nothing was changed in %d transactions", kv.txns)
	}
}

// TestCompactionWhileCounting: a lost revision is an error, not a wrong count.
func TestCompactionWhileCounting(t *testing.T) {
	t.Parallel()
	kv := busy(t)
	kv.do = func(n int) {
		resp, err := kv.Put(t.Context(), prefix+"pods/a/new", "x")
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := kv.Compact(t.Context(), resp.Header.Revision); err != nil {
			t.Error(err)
		}
	}
	src := pin(t, kv)
	_, err := census.Take(t.Context(), census.Request{Source: src, Reader: reader(codec.NewCatalog())})
	var compacted *keyspace.CompactedError
	if !errors.As(err, &compacted) || compacted.Revision != src.Revision() {
		t.Errorf("%v, want CompactedError of revision %d", err, src.Revision())
	}
}
