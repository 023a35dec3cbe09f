package alive_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/codec"
	"github.com/etcd-rescue/etcd-rescue/recover/alive"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/snapshots/sandbox"
)

const (
	ip   = "masterleases/10.0.0.1"
	own  = "leases/kube-system/apiserver-aaaa"
	kcm  = "leases/kube-system/kube-controller-manager"
	sche = "leases/kube-system/kube-scheduler"
)

func start() time.Time { return time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC) }

// world is an etcd, a clock that stands still, and a Watch of what lies below
// a prefix of its own.
type world struct {
	t      *testing.T
	client *clientv3.Client
	src    keyspace.Source
	prefix string
	clock  time.Time
	watch  *alive.Watch
}

func newClient(t *testing.T, opt sandbox.Options) *clientv3.Client {
	t.Helper()
	opt.Mode, opt.NoFsync = sandbox.InProcess, true
	box, err := sandbox.Start(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close() })
	client, err := box.Client(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func newWorld(t *testing.T, client *clientv3.Client, prefix string) *world {
	w := &world{t: t, client: client, prefix: prefix, clock: start()}
	w.src = keyspace.Current(client, keyspace.Options{Timeout: 10 * time.Second})
	w.watch = alive.New(&codec.Reader{Catalog: codec.NewCatalog(), Prefix: prefix}, func() time.Time { return w.clock })
	return w
}

func (w *world) put(key, value string) {
	w.t.Helper()
	if _, err := w.client.Put(w.t.Context(), w.prefix+key, value); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) del(key string) {
	w.t.Helper()
	if _, err := w.client.Delete(w.t.Context(), w.prefix+key); err != nil {
		w.t.Fatal(err)
	}
}

// lease puts a Lease that was renewed so long ago.
func (w *world) lease(key, host string, age time.Duration) {
	w.t.Helper()
	w.put(key, leaseOf(key, host, w.clock.Add(-age).Format("2006-01-02T15:04:05.000000Z"), alive.Server))
}

func leaseOf(key, host, renewed, identity string) string {
	holder := host
	if host != "" {
		holder += "_11111111-0000-0000-0000-000000000000"
	}
	value, _ := json.Marshal(map[string]any{
		"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
		"metadata": map[string]any{
			"name": key[strings.LastIndex(key, "/")+1:], "namespace": "kube-system",
			"labels": map[string]string{"apiserver.kubernetes.io/identity": identity, "kubernetes.io/hostname": host},
		},
		"spec": map[string]any{"holderIdentity": holder, "renewTime": renewed},
	})
	return string(value)
}

func (w *world) look() alive.View {
	w.t.Helper()
	v, err := w.watch.Look(w.t.Context(), w.src)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// after passes time, with a Look every 10 s.
func (w *world) after(d time.Duration) alive.View {
	w.t.Helper()
	for ; d > 10*time.Second; d -= 10 * time.Second {
		w.clock = w.clock.Add(10 * time.Second)
		w.look()
	}
	w.clock = w.clock.Add(d)
	return w.look()
}

// TestLook holds what is said of each situation, in one line.
func TestLook(t *testing.T) {
	t.Parallel()
	client := newClient(t, sandbox.Options{})
	const notSeen = "its lease is there; whether it moves is not seen yet"
	tests := []struct {
		name string
		do   func(*world) alive.View
		want string
	}{
		{"an empty store", func(w *world) alive.View { return w.look() }, "nothing (no API server has a lease)"},
		{"a masterlease once", func(w *world) alive.View {
			w.put(ip, "x")
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (it has no Lease)"},
		{"a masterlease that moves", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			w.put(ip, "y")
			return w.after(10 * time.Second)
		}, "kube-apiserver 10.0.0.1; perhaps kube-controller-manager (it has no Lease)"},
		{"a masterlease that stands still, not long enough", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			return w.after(29 * time.Second)
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (it has no Lease)"},
		{"a masterlease that stands still", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			return w.after(30 * time.Second)
		}, "nothing (no API server renews its lease; kube-apiserver 10.0.0.1: its lease has not moved for 30s)"},
		{"a masterlease that stopped moving", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			w.put(ip, "y")
			w.after(10 * time.Second)
			return w.after(30 * time.Second)
		}, "nothing (no API server renews its lease; kube-apiserver 10.0.0.1: its lease has not moved for 30s)"},
		{"silence that nobody watched", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			w.clock = w.clock.Add(time.Hour) // etcd was away meanwhile
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (it has no Lease)"},
		{"a clock that goes back", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			w.clock = w.clock.Add(-time.Hour)
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (it has no Lease)"},
		{"a masterlease that ran out", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			w.del(ip)
			return w.after(time.Second)
		}, "nothing (no API server renews its lease; kube-apiserver 10.0.0.1: its masterlease has run out)"},
		{"a masterlease that came back", func(w *world) alive.View {
			w.put(ip, "x")
			w.look()
			w.del(ip)
			w.after(time.Second)
			w.put(ip, "x")
			return w.after(time.Second)
		}, "kube-apiserver 10.0.0.1; perhaps kube-controller-manager (it has no Lease)"},
		{"one of two ran out", func(w *world) alive.View {
			w.put(ip, "x")
			w.put("masterleases/10.0.0.2", "x")
			w.look()
			w.del(ip)
			w.put("masterleases/10.0.0.2", "y")
			return w.after(time.Second)
		}, "kube-apiserver 10.0.0.2; perhaps kube-controller-manager (it has no Lease)"},
		{"a healthy cluster at one Look", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(own, "cp-0", 3*time.Second)
			w.lease(kcm, "cp-0", 2*time.Second)
			w.lease(sche, "cp-1", time.Second)
			return w.look()
		}, "kube-apiserver 10.0.0.1; kube-controller-manager (cp-0, renewed 2s ago); kube-scheduler (cp-1, renewed 1s ago)"},
		{"an old cluster whose manager renews", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(kcm, "cp-0", 2*time.Second)
			return w.look()
		}, "kube-apiserver 10.0.0.1; kube-controller-manager (cp-0, renewed 2s ago)"},
		{"an old cluster of two", func(w *world) alive.View {
			w.put(ip, "x")
			w.put("masterleases/10.0.0.2", "x")
			w.lease(kcm, "cp-0", 2*time.Second)
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1, 10.0.0.2 (" + notSeen + "); kube-controller-manager (cp-0, renewed 2s ago)"},
		{"a store just restored", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(own, "cp-0", time.Hour)
			w.lease(kcm, "cp-0", time.Hour)
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (cp-0, renewed 60m ago, by its own clock)"},
		{"a store restored a while ago", func(w *world) alive.View {
			w.lease(own, "cp-0", time.Hour)
			w.lease(kcm, "cp-0", time.Hour)
			return w.look()
		}, "nothing (no API server renews its lease; kube-apiserver cp-0: last renewed 60m ago, by its own clock)"},
		{"a restored store from the future", func(w *world) alive.View {
			w.lease(own, "cp-0", -time.Hour)
			return w.look()
		}, "nothing (no API server renews its lease; kube-apiserver cp-0: last renewed 60m in the future: a clock is wrong)"},
		{"one of three servers gone for a minute", func(w *world) alive.View {
			w.put(ip, "x")
			w.put("masterleases/10.0.0.2", "x")
			w.lease(own, "cp-0", time.Minute)
			w.lease(own+"b", "cp-1", 5*time.Second)
			w.lease(own+"c", "cp-2", 9*time.Second)
			w.lease(kcm, "cp-2", 0)
			return w.look()
		}, "kube-apiserver 10.0.0.1, 10.0.0.2; kube-controller-manager (cp-2, renewed 0s ago)"},
		{"a server whose clock is an hour behind", func(w *world) alive.View {
			w.put(ip, "x")
			w.put("masterleases/10.0.0.2", "x")
			w.lease(own, "cp-0", time.Hour)
			w.lease(own+"b", "cp-1", 5*time.Second)
			w.lease(kcm, "cp-1", 0)
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1, 10.0.0.2 (" + notSeen + "); kube-controller-manager (cp-1, renewed 0s ago)"},
		{"servers without masterleases", func(w *world) alive.View {
			w.lease(own, "cp-0", time.Hour)
			w.lease(own+"b", "cp-1", 5*time.Second)
			w.lease(kcm, "cp-1", 0)
			return w.look()
		}, "kube-apiserver cp-1; kube-controller-manager (cp-1, renewed 0s ago)"},
		{"a manager that stopped under a living server", func(w *world) alive.View {
			w.lease(kcm, "cp-0", 0)
			w.put(ip, "x")
			w.look()
			for i := range 4 {
				w.put(ip, fmt.Sprint(i))
				w.after(10 * time.Second)
			}
			return w.look()
		}, "kube-apiserver 10.0.0.1; not kube-controller-manager (cp-0, its lease has not moved for 40s)"},
		{"a manager that stopped a moment ago", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(own, "cp-0", 0)
			w.lease(kcm, "cp-0", 31*time.Second)
			return w.look()
		}, "kube-apiserver 10.0.0.1; perhaps kube-controller-manager (cp-0, renewed 31s ago, by its own clock)"},
		{"a manager that gave up", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(own, "cp-0", 0)
			w.lease(kcm, "", 0)
			return w.look()
		}, "kube-apiserver 10.0.0.1; perhaps kube-controller-manager (its Lease was given up)"},
		{"a manager a little ahead of its time", func(w *world) alive.View {
			w.lease(kcm, "cp-0", -30*time.Second)
			return w.look()
		}, "perhaps kube-apiserver (something serves kube-controller-manager); kube-controller-manager (cp-0, renewed 0s ago)"},
		{"a manager far ahead of its time", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(kcm, "cp-0", -time.Hour)
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (cp-0, renewed 60m in the future: a clock is wrong)"},
		{"another clock, but it moves", func(w *world) alive.View {
			w.lease(own, "cp-0", time.Hour)
			w.lease(kcm, "cp-0", time.Hour)
			w.look()
			w.lease(own, "cp-0", time.Hour-time.Second)
			w.lease(kcm, "cp-0", time.Hour-time.Second)
			return w.after(time.Second)
		}, "kube-apiserver cp-0; kube-controller-manager (cp-0, its lease moved 0s ago)"},
		{"another server's identity", func(w *world) alive.View {
			w.put(own, leaseOf(own, "cp-0", w.clock.Format(time.RFC3339), "sample-apiserver"))
			return w.look()
		}, "nothing (no API server has a lease)"},
		{"Leases that nobody can read", func(w *world) alive.View {
			w.put(own, "k8s:enc:aescbc:v1:key1:secret")
			w.put(kcm, "\x00\x01")
			return w.look()
		}, "perhaps kube-apiserver apiserver-aaaa (its Lease cannot be read); perhaps kube-controller-manager (kube-controller-manager, its Lease cannot be read)"},
		{"Leases that nobody can read, but that move", func(w *world) alive.View {
			w.put(own, "k8s:enc:aescbc:v1:key1:secret")
			w.put(kcm, "\x00\x01")
			w.look()
			w.put(own, "k8s:enc:aescbc:v1:key1:other")
			w.put(kcm, "\x00\x02")
			return w.after(5 * time.Second)
		}, "kube-apiserver apiserver-aaaa; kube-controller-manager (kube-controller-manager, its lease moved 0s ago)"},
		{"Leases of the wrong shape", func(w *world) alive.View {
			w.put(kcm, `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"kube-controller-manager"},"spec":["x"]}`)
			w.put(ip, "x")
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.1 (" + notSeen + "); perhaps kube-controller-manager (its Lease was given up)"},
		{"a frozen etcd, nothing left", func(w *world) alive.View {
			w.watch.Frozen = "etcd takes no writes"
			return w.look()
		}, "perhaps kube-apiserver (etcd takes no writes, so that leases run out); perhaps kube-controller-manager (it has no Lease)"},
		{"a frozen etcd", func(w *world) alive.View {
			w.put(ip, "x")
			w.lease(own, "cp-0", time.Hour)
			w.lease(kcm, "cp-0", time.Hour)
			w.look()
			w.watch.Frozen = "etcd takes no writes"
			w.del(ip)
			return w.after(time.Minute)
		}, "perhaps kube-apiserver 10.0.0.1, cp-0 (its masterlease has run out, but etcd takes no writes); " +
			"perhaps kube-controller-manager (cp-0, renewed 61m ago, by its own clock, but etcd takes no writes)"},
		{"more servers than a line holds", func(w *world) alive.View {
			for i := range 7 {
				w.put(fmt.Sprintf("masterleases/10.0.0.%d", i), "x")
			}
			return w.look()
		}, "perhaps kube-apiserver 10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 2 more (" + notSeen + "); perhaps kube-controller-manager (it has no Lease)"},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := test.do(newWorld(t, client, fmt.Sprintf("/case%d/", i)))
			if got := v.String(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if dead := strings.HasPrefix(test.want, "nothing"); v.Server() == dead || v.Manager() != (!dead && !strings.Contains(test.want, "not kube-c")) {
				t.Errorf("Server %t, Manager %t for %s", v.Server(), v.Manager(), test.want)
			}
			if got, want := v.Certain(), strings.HasPrefix(test.want, "kube-apiserver"); got != want {
				t.Errorf("Certain is %t, want %t", got, want)
			}
		})
	}
}

// TestLookBounded holds that a store full of such keys costs no more.
func TestLookBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newClient(t, sandbox.Options{}), "/registry/")
	long := strings.Repeat("x", 1000)
	var ops []clientv3.Op
	for i := range 60 {
		ops = append(ops, clientv3.OpPut(w.prefix+fmt.Sprintf("masterleases/%03d%s", i, long), "x"), clientv3.OpPut(w.prefix+fmt.Sprintf("masterleases/a%03d", i), "x"))
	}
	if _, err := w.client.Txn(t.Context()).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	v := w.look()
	if len(v.Servers) != 100 || len(v.Servers[0].Name) != 253 {
		t.Errorf("%d servers, the first with a name of %d bytes; want 100 and 253", len(v.Servers), len(v.Servers[0].Name))
	}
	if _, err := w.client.Delete(t.Context(), w.prefix+"masterleases/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if v := w.after(time.Second); len(v.Servers) != 100 || v.Server() {
		t.Errorf("%d servers, alive %t; want 100 that are gone", len(v.Servers), v.Server())
	}
}

// TestLookFails holds that an error of reading says at what, and changes
// nothing.
func TestLookFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, newClient(t, sandbox.Options{}), "/registry/")
	w.put(ip, "x")
	w.look()
	good := w.src
	for n, want := range []string{"masterleases", "the API servers' Leases", "Leases of kube-controller-manager"} {
		w.src = &failing{Source: good, good: n}
		_, err := w.watch.Look(t.Context(), w.src)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), want) {
			t.Errorf("request %d failed: %v, want one about %s", n+1, err, want)
		}
	}
	w.src = good
	w.put(ip, "y")
	if v := w.after(10 * time.Second); !v.Certain() {
		t.Errorf("after failed Looks: %s", v)
	}
}

// failing fails after so many good requests.
type failing struct {
	keyspace.Source
	good int
}

func (f *failing) fail() bool {
	f.good--
	return f.good < 0
}

func (f *failing) Scan(ctx context.Context, r keyspace.Range, keysOnly bool, fn func(*mvccpb.KeyValue) error) error {
	if f.fail() {
		return os.ErrDeadlineExceeded
	}
	return f.Source.Scan(ctx, r, keysOnly, fn)
}

func (f *failing) GetAll(ctx context.Context, keys []string) (map[string]*mvccpb.KeyValue, error) {
	if f.fail() {
		return nil, os.ErrDeadlineExceeded
	}
	return f.Source.GetAll(ctx, keys)
}

// TestJSON holds the names of fields and states.
func TestJSON(t *testing.T) {
	t.Parallel()
	v := alive.View{Servers: []alive.Component{{Kind: alive.Server, Name: "10.0.0.1", State: alive.Alive, Why: "renewed 2s ago", Seen: start()}},
		Managers: []alive.Component{{Kind: alive.Manager, State: alive.Unknown, Why: "it has no Lease"}}, Schedulers: []alive.Component{}}
	got, err := json.Marshal(v)
	want := `{"servers":[{"kind":"kube-apiserver","name":"10.0.0.1","state":"alive","why":"renewed 2s ago","seen":"2026-11-22T15:00:00Z"}],` +
		`"managers":[{"kind":"kube-controller-manager","state":"unknown","why":"it has no Lease"}],"schedulers":[]}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}
