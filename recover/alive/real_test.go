package alive_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

// TestLookReadsLittle holds that a Look makes three requests and reads the
// keys that it is about.
func TestLookReadsLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newClient(t, sandbox.Options{Fixture: sandbox.Runaway30k}), "/registry/")
	counted := &counting{Source: w.src}
	w.src = counted
	w.look()
	if counted.calls != 3 || counted.keys > 5 {
		t.Errorf("%d requests for %d keys; want 3, for at most 5", counted.calls, counted.keys)
	}
}

// counting counts requests and what they answer.
type counting struct {
	keyspace.Source
	calls, keys int
}

func (c *counting) Scan(ctx context.Context, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	c.calls++
	return c.Source.Scan(ctx, r, keysOnly, func(kv *mvccpb.KeyValue) error {
		c.keys++
		return fn(kv)
	})
}

func (c *counting) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	c.calls++
	kvs, err := c.Source.GetAll(ctx, keys)
	c.keys += len(kvs)
	return kvs, err
}

// TestRealLeases reads the Leases that a kube-apiserver, a
// kube-controller-manager and a scheduler wrote, at the time they were renewed
// and later.
func TestRealLeases(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]sandbox.Options{
		"runaway": {Fixture: sandbox.Runaway30k, Keep: withoutPods},
		"zoo":     {Snapshot: "../../testdata/zoo-1.36/snapshot.db.zst"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, newClient(t, opt), "/registry/")
			// Another server's masterlease would run out within seconds.
			if _, err := w.client.Delete(t.Context(), w.prefix+"masterleases/", clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
			v := w.look()
			if len(v.Servers) != 1 || v.Servers[0].Name == "" || v.Server() {
				t.Fatalf("got %+v, want one server, gone", v)
			}
			w.clock = renewed(t, w)
			w.put("masterleases/192.168.7.11", "x")
			// Neither had a leader; a Lease is a Lease.
			identity, err := w.client.Get(t.Context(), w.prefix+"leases/kube-system/apiserver-", clientv3.WithPrefix())
			if err != nil || len(identity.Kvs) != 1 {
				t.Fatal(identity, err)
			}
			w.put(kcm, string(identity.Kvs[0].Value))
			v = w.look()
			if got, want := v.String(), "kube-apiserver 192.168.7.11; kube-controller-manager (apiserver-"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, ", renewed 0s ago)") {
				t.Errorf("when it was renewed: %s, want %s…", got, want)
			}
			w.del("masterleases/192.168.7.11")
			w.clock = w.clock.Add(time.Hour)
			if v = w.look(); v.Server() || v.Manager() {
				t.Errorf("an hour later: %s", v)
			}
		})
	}
}

func withoutPods(key string) bool {
	return !strings.HasPrefix(key, "/registry/pods/") && !strings.HasPrefix(key, "/registry/events/")
}

// renewed is when the API server renewed its identity Lease.
func renewed(t *testing.T, w *world) time.Time {
	t.Helper()
	w.clock = start().AddDate(10, 0, 0)
	v := w.look()
	if v.Servers[0].Seen.IsZero() {
		t.Fatalf("no renewal in %+v", v)
	}
	return v.Servers[0].Seen
}
