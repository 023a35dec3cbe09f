package keyspace_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-rescue/etcd-rescue/recover/keyspace"
	"github.com/etcd-rescue/etcd-rescue/recover/keyspace/fakekine"
)

// kine is a server that behaves like one, with the zoo and more put into it
// in an order that is not that of the keys.
type kine struct {
	server *fakekine.Server
	*clientv3.Client
	t    *testing.T
	want []entry // below the prefix
}

func startKine(t *testing.T, v fakekine.Version) *kine {
	t.Helper()
	server, err := fakekine.Start(v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return fillKine(t, server, server.URL())
}

func fillKine(t *testing.T, server *fakekine.Server, url string) *kine {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	k := &kine{server: server, Client: client, t: t}
	values := map[string]string{}
	for _, e := range scan(t, keyspace.FromFile(zoo(t)), keyspace.Prefix(prefix), false) {
		values[e.Key] = e.Value
	}
	for i := range 400 {
		values[fmt.Sprintf("%spods/many/p%03d", prefix, i*7%400)] = strings.Repeat("x", i)
	}
	values[prefix+"clusterroles/a_b"], values[prefix+"clusterroles/a-b"] = "1", "2"
	keys := slices.Sorted(maps.Keys(values))
	slices.Reverse(keys)
	for _, key := range keys {
		k.create(key, values[key])
	}
	for _, e := range k.below("/") {
		if strings.HasPrefix(e.Key, prefix) {
			k.want = append(k.want, e)
		}
	}
	if want := len(values) + 1; len(k.want) != want { // and kine's own health key
		t.Fatalf("kine holds %d keys, want %d", len(k.want), want)
	}
	return k
}

func (k *kine) create(key, value string) {
	k.t.Helper()
	resp, err := k.Txn(k.t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil || !resp.Succeeded {
		k.t.Fatalf("create %s: %v", key, err)
	}
}

// below is a whole prefix in one request, sorted here.
func (k *kine) below(dir string) (all []entry) {
	k.t.Helper()
	resp, err := k.Client.Get(k.t.Context(), dir, clientv3.WithPrefix())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		all = append(all, entryOf(kv))
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.Key, b.Key) })
	return all
}

func (k *kine) pin() *keyspace.Live {
	k.t.Helper()
	src, err := keyspace.Pin(k.t.Context(), k.Client, prefix, keyspace.Options{Timeout: timeout, Kine: true})
	if err != nil {
		k.t.Fatal(err)
	}
	return src
}

// in is what a range should give.
func (k *kine) in(r keyspace.Range) (all []entry) {
	for _, e := range k.want {
		if (r.End == "" && e.Key == r.Start) || (r.End != "" && e.Key >= r.Start && (e.Key < r.End || r.End == "\x00")) {
			all = append(all, e)
		}
	}
	return all
}

func eachKine(t *testing.T, test func(t *testing.T, k *kine)) {
	t.Parallel()
	for _, v := range []fakekine.Version{fakekine.V011, fakekine.V013, fakekine.V017} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			test(t, startKine(t, v))
		})
	}
}

// TestKineRanges reads ranges that are right on kine and such that are not.
func TestKineRanges(t *testing.T) { eachKine(t, kineRanges) }

func kineRanges(t *testing.T, k *kine) {
	src, pods := k.pin(), prefix+"pods/"
	// What is written later belongs to another revision.
	k.create(pods+"many/later", "x")
	ranges := map[string]keyspace.Range{
		"everything":            everything(),
		"the prefix":            keyspace.Prefix(prefix),
		"a resource":            keyspace.Prefix(pods),
		"a namespace":           keyspace.Prefix(pods + "many/"),
		"nothing there":         keyspace.Prefix(prefix + "nothing/"),
		"a beginning of a name": {Start: pods + "many/p1", End: pods + "many/p2"},
		"the end of a list":     {Start: pods + "many/p399\x00", End: prefix + "pods0"},
		"several namespaces":    {Start: pods + "k", End: pods + "n"},
		"several resources":     {Start: prefix + "n", End: prefix + "pods/many/p100"},
		"between namespaces":    {Start: pods + "many0", End: pods + "many1"},
		"before the prefix":     {Start: "\x00", End: prefix},
		"behind the prefix":     {Start: "/registry0", End: "\x00"},
		"from a key on":         {Start: pods, End: "\x00"},
		"like another":          keyspace.Prefix(prefix + "clusterroles/a_"),
		"one key":               {Start: prefix + "clusterroles/a_b"},
		"one absent key":        {Start: prefix + "clusterroles/a_c"},
	}
	for name, r := range ranges {
		want := k.in(r)
		if diff := difference(want, scan(t, src, r, false)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := difference(withoutValues(want), withoutLeases(scan(t, src, r, true))); diff != "" {
			t.Errorf("%s, keys only (-want +got):\n%s", name, diff)
		}
		if n, err := src.Count(t.Context(), r); err != nil || n != int64(len(want)) {
			t.Errorf("%s: counted %d, %v, want %d", name, n, err, len(want))
		}
	}
}

func withoutLeases(all []entry) (bare []entry) {
	for _, e := range all {
		e.Lease = 0
		bare = append(bare, e)
	}
	return bare
}

// TestKineGet asks for keys that old versions mistake for each other.
func TestKineGet(t *testing.T) { eachKine(t, kineGet) }

func kineGet(t *testing.T, k *kine) {
	roles := prefix + "clusterroles/"
	keys := []string{roles + "A-B", roles + "A_B", roles + "a-b", roles + "a_b", roles + "a_c"}
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("%spods/many/p%03d", prefix, i*10))
	}
	keys = append(keys, prefix+"pods/many/p999")
	want := among(k.want, keys)
	for name, src := range map[string]*keyspace.Live{
		"pinned": k.pin(), "current": keyspace.Current(k.Client, keyspace.Options{Timeout: timeout, Kine: true}),
	} {
		for _, part := range [][]string{keys, keys[:5], keys[5:7], nil} {
			got, err := src.GetAll(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(among(k.want, part), entries(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		for _, key := range keys {
			kv, err := src.Get(t.Context(), key)
			if e, there := want[key]; err != nil || there != (kv != nil) || (there && entryOf(kv) != e) {
				t.Errorf("%s: %s: %v, %v", name, key, kv, err)
			}
		}
	}
}

// TestKineHistory reads the past of a key that was changed.
func TestKineHistory(t *testing.T) { eachKine(t, kineHistory) }

func kineHistory(t *testing.T, k *kine) {
	key := prefix + "configmaps/past/c"
	var want []int64
	change := func(rev int64, then clientv3.Op) int64 {
		resp, err := k.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).Then(then).Else(clientv3.OpGet(key)).Commit()
		if err != nil || !resp.Succeeded {
			t.Fatalf("change at %d: %v", rev, err)
		}
		want = append([]int64{resp.Header.Revision}, want...)
		return resp.Header.Revision
	}
	rev := change(0, clientv3.OpPut(key, "1"))
	rev = change(rev, clientv3.OpPut(key, "2"))
	change(rev, clientv3.OpPut(key, "3"))
	var got []int64
	_, err := k.pin().History(t.Context(), key, 0, func(v keyspace.Version) error { got = append(got, v.ModRevision); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for value, rev := range map[string]int64{"1": want[2], "2": want[1], "3": want[0]} {
		src, err := keyspace.PinAt(t.Context(), k, prefix, rev, keyspace.Options{Timeout: timeout, Kine: true})
		if err != nil {
			t.Fatal(err)
		}
		if all := scan(t, src, keyspace.Prefix(prefix+"configmaps/past/"), false); src.Revision() != rev || len(all) != 1 || all[0].Value != value {
			t.Errorf("at %d: %v at %d, want %q", rev, all, src.Revision(), value)
		}
	}
}

// TestKineMismatch loses a key from a list: the count tells.
func TestKineMismatch(t *testing.T) {
	eachKine(t, func(t *testing.T, k *kine) {
		k.server.Lose(prefix + "pods/many/p200")
		src := k.pin()
		for _, r := range []keyspace.Range{keyspace.Prefix(prefix + "pods/many/"), keyspace.Prefix(prefix)} {
			err := src.Scan(t.Context(), r, false, func(*mvccpb.KeyValue) error { return nil })
			var bad *keyspace.KineError
			if !errors.As(err, &bad) || !strings.Contains(bad.Text, "it listed") {
				t.Errorf("%v gave the error %v", r, err)
			}
		}
		// Whoever has seen enough does not wait for the count.
		stop := errors.New("enough")
		if err := src.Scan(t.Context(), keyspace.Prefix(prefix), false, func(*mvccpb.KeyValue) error { return stop }); err != stop {
			t.Errorf("got %v", err)
		}
	})
}

// shuffled is a kine that answers every list with the pages of another order.
type shuffled struct{ keyspace.Getter }

func (s shuffled) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := s.Getter.Get(ctx, key, opts...)
	if err == nil {
		slices.Reverse(resp.Kvs)
	}
	return resp, err
}

// TestKineOrder does not pass on keys in an order that callers do not expect.
func TestKineOrder(t *testing.T) {
	t.Parallel()
	k := startKine(t, fakekine.V017)
	src, err := keyspace.Pin(t.Context(), shuffled{k.Client}, prefix, keyspace.Options{Timeout: timeout, Kine: true})
	if err != nil {
		t.Fatal(err)
	}
	err = src.Scan(t.Context(), keyspace.Prefix(prefix), false, func(*mvccpb.KeyValue) error { return nil })
	var bad *keyspace.KineError
	if !errors.As(err, &bad) || !strings.Contains(bad.Text, "order") {
		t.Errorf("got %v", err)
	}
}
