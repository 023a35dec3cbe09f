//go:build servers

package app

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcd-rescue/etcd-rescue/snapshots"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox/lab"
)

// TestRealKine does the same in kine over SQLite.
func TestRealKine(t *testing.T) {
	for _, name := range lab.Kines() {
		t.Run(name, func(t *testing.T) { startKine(t, name).core() })
	}
}

// TestRealKineDeletesEvents: they hang on leases, which kine looks none up of.
func TestRealKineDeletesEvents(t *testing.T) {
	for _, name := range lab.Kines() {
		t.Run(name, func(t *testing.T) {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{lab.Kine(t, name)}, Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			const event = "/registry/events/team/leased"
			lease, err := client.Grant(t.Context(), 3600)
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range map[string]string{
				"/registry/namespaces/kube-system": `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","uid":"11111111-0000-0000-0000-000000000000"}}`,
				"/registry/namespaces/team":        `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"team","uid":"33333333-0000-0000-0000-000000000000"}}`,
				event:                              `{"apiVersion":"v1","kind":"Event","metadata":{"name":"leased","namespace":"team","uid":"22222222-0000-0000-0000-000000000000"}}`,
			} {
				put := clientv3.OpPut(key, value)
				if key == event {
					put = clientv3.OpPut(key, value, clientv3.WithLease(lease.ID))
				}
				resp, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(put).Commit()
				if err != nil {
					t.Fatal(err)
				}
				mustSee(t, client, resp.Header.Revision)
			}
			f := newForeign(t, client, "")
			r := f.shell.run(exitDone, executed("delete", "events", "-n", "team", "--max-deletes", "1")...)
			if now := f.everything(); now.keys[event] != nil {
				t.Fatal("the event is there")
			}
			f.shell.run(exitDone, "undo", find(t, r.out, `^archive: (.*)$`), "--with-leased", "--execute", "--yes", "--rate", "max")
			if kv := f.everything().keys[event]; kv == nil || kv.Lease != 3600 || string(kv.Value) != string(f.before.keys[event].Value) {
				t.Errorf("put back is %v", kv)
			}
		})
	}
}

// startKine fills a kine, which cannot be restored from a snapshot, as an API
// server does.
func startKine(t *testing.T, name string) *foreign {
	t.Helper()
	path := mustIncident(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{lab.Kine(t, name)}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	file, err := snapshots.Open(path, snapshots.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	work, fail := make(chan *mvccpb.KeyValue), make(chan error, 1)
	var workers sync.WaitGroup
	var newest atomic.Int64
	for range 4 {
		workers.Go(func() { createAll(t.Context(), client, work, &newest, fail) })
	}
	err = file.Scan(t.Context(), "/registry/", "/registry0", 0, func(kv *mvccpb.KeyValue) error {
		work <- &mvccpb.KeyValue{Key: []byte(string(kv.Key)), Value: []byte(string(kv.Value))}
		return nil
	})
	close(work)
	workers.Wait()
	close(fail)
	if failed := <-fail; err != nil || failed != nil {
		t.Fatalf("fill kine: %v, %v", err, failed)
	}
	mustSee(t, client, newest.Load())
	return newForeign(t, client, path)
}

// mustSee waits until a read sees a revision: kine on SQLite may answer from
// just before a change that it has acknowledged.
func mustSee(t *testing.T, client *clientv3.Client, rev int64) {
	t.Helper()
	for {
		resp, err := client.Get(t.Context(), "/registry/namespaces/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Revision >= rev {
			return
		}
	}
}

// createAll creates keys in the shape that kine knows, and raises newest to
// the revision of the last one.
func createAll(ctx context.Context, client *clientv3.Client, work <-chan *mvccpb.KeyValue, newest *atomic.Int64, fail chan<- error) {
	for kv := range work {
		key := string(kv.Key)
		resp, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, string(kv.Value))).Commit()
		if err != nil {
			select {
			case fail <- err:
			default:
			}
			continue
		}
		for old := newest.Load(); resp.Header.Revision > old && !newest.CompareAndSwap(old, resp.Header.Revision); old = newest.Load() {
		}
	}
}
